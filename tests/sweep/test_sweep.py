"""A sweep as a value: what it refuses, the order of its cells, and that nothing missing is averaged over."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pydantic import ValidationError

from lensbench.commands.sweeps import prepared
from lensbench.data.corpus import open_corpus
from lensbench.experiment import Experiment, FolderCorpus, one_line
from lensbench.records import OUTCOMES, RECORDS
from lensbench.report.grid import arrange
from lensbench.sweep import cellfiles
from lensbench.sweep.sweep import Cell, Sweep, cells, collect, load
from tests.rows import blank

ARMS = ("alt", "brief", "detailed")


def sweep_of(factors: dict[str, tuple[Any, ...]], base: Experiment | None = None, **changes: Any) -> Sweep:
    reference = {
        dotted: next(iter(levels), None) for dotted, levels in factors.items() if dotted.startswith("captions.")
    }
    return Sweep(**({"name": "s", "base": base or Experiment(), "factors": factors, "reference": reference} | changes))


def write_cell(runs: Path, cell: Cell, value: float = 0.5, **changes: Any) -> Path:
    """A complete cell's two tables, with one GenEval number and four outcomes."""
    directory = runs / cell.id
    directory.mkdir(parents=True, exist_ok=True)
    row: dict[str, Any] = blank(RECORDS) | {
        "prompt_form": "short",
        "metric": "geneval",
        "value": value,
        "n": 4,
        "judge_digest": "j",
        "extractor": "",
        "prompts_digest": "p",
        "commit": "c",
        "hardware": "h",
    }
    outcome = blank(OUTCOMES) | {"metric": "geneval", "prompt_form": "short", "value": value}
    for place in cell.evaluations:
        records = pd.DataFrame([row | changes, row | changes | {"metric": "train_seconds"}])
        cellfiles.write_cell(directory, place.experiment, records, pd.DataFrame([outcome] * 4))
    return cellfiles.evaluation_folder(directory, cell.experiment)


factor_sets = st.fixed_dictionaries(
    {
        "captions.set": st.lists(st.sampled_from(ARMS), min_size=1, max_size=3, unique=True).map(tuple),
        "seed": st.lists(st.integers(0, 9), min_size=1, max_size=3, unique=True).map(tuple),
        "model.depth": st.lists(st.integers(1, 6), min_size=1, max_size=2, unique=True).map(tuple),
    },
    optional={"images": st.lists(st.integers(8, 64), min_size=1, max_size=2, unique=True).map(tuple)},
)


@settings(max_examples=30, deadline=None)
@given(factors=factor_sets, order=st.randoms(use_true_random=False))
def test_cells_are_the_product_each_once_in_an_order_that_pairs_any_prefix(factors: dict, order: Any) -> None:
    names = list(factors)
    order.shuffle(names)
    every = cells(sweep_of({name: factors[name] for name in names}))
    size = 1
    for levels in factors.values():
        size *= len(levels)
    assert len(every) == len({cell.id for cell in every}) == size
    arms = len(factors["captions.set"])
    for start in range(0, size, arms):  # the arms of one scale and seed stand together
        block = every[start : start + arms]
        assert {cell.levels["captions.set"] for cell in block} == set(factors["captions.set"])
        rest = [{k: v for k, v in cell.levels.items() if k != "captions.set"} for cell in block]
        assert all(other == rest[0] for other in rest)
    seeds = [cell.levels["seed"] for cell in every]
    assert list(dict.fromkeys(seeds)) == list(factors["seed"])
    assert all(seeds.count(s) * len(set(seeds)) == size for s in seeds)
    assert [s for i, s in enumerate(seeds) if i == 0 or seeds[i - 1] != s] == list(factors["seed"])  # outermost


@settings(max_examples=20, deadline=None)
@given(factors=factor_sets)
def test_a_cell_is_the_base_with_its_levels(factors: dict) -> None:
    base = Experiment(name="base", images=99)
    for cell in cells(sweep_of(factors, base)):
        assert cell.experiment.hash() == base.replace(cell.levels).hash()
        assert cell.id == cell.experiment.cell_id()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"factors": {"captions.set": ARMS, "model.dept": (2,)}}, ["factors", "model.dept"]),
        ({"factors": {"captions.set": ARMS, "model": (2,)}}, ["model"]),
        (
            {"factors": {"captions.set": ARMS, "evaluation": ({"guidance": 2.0},)}},
            ["evaluation as a whole is no factor"],
        ),
        ({"factors": {"seed": (0,)}}, ["captions.set must be a factor"]),
        ({"factors": {"captions.set": ()}}, ["captions.set has no levels"]),
        ({"factors": {"captions.set": ("alt", "alt")}}, ["captions.set", "'alt' twice"]),
        ({"factors": {"captions.set": ARMS, "seed": (1, "1")}}, ["same experiment", "seed=1"]),
        ({"factors": {"captions.set": ("alt", "poetic")}}, ["poetic", "alt, brief, detailed"]),
        ({"factors": {"captions.set": ARMS, "model.depth": (2, 0)}}, ["model.depth", "given 0"]),
        ({"factors": {"captions.set": ARMS, "model.patch_size": (4, 5)}}, ["model.patch_size=5", "24"]),
        ({"factors": {"captions.set": ("alt",), "captions.present": (0.5,)}}, ["present"]),
        ({"reference": {"captions.set": "dose"}}, ["reference", "captions.set='dose'", "alt, brief, detailed"]),
        ({"reference": {}}, ["no reference level for captions.set"]),
        ({"reference": {"captions.set": "alt", "images": 4}}, ["images is not a factor"]),
        ({"reference": {"captions.set": "alt", "seed": 0}}, ["seed is not a factor that can be compared"]),
        ({"name": "No Slug"}, ["name"]),
        ({"question": "?"}, ["question"]),
    ],
)
def test_a_sweep_that_makes_no_sense_is_refused_in_one_line(changes: dict, words: list[str]) -> None:
    with pytest.raises(ValidationError) as caught:
        sweep_of(**({"factors": {"captions.set": ARMS, "seed": (0,)}} | changes))
    line = one_line(caught.value)
    assert "\n" not in line
    for word in words:
        assert word in line


def test_the_arms_of_a_folder_have_the_same_images() -> None:
    base = Experiment(corpus=FolderCorpus(path=Path("x"), caption_sets=("alt", "detailed")))
    sweep_of({"captions.set": ("alt", "detailed")}, base)
    with pytest.raises(ValidationError, match=r"captions\.set='brief'"):
        sweep_of({"captions.set": ARMS}, base)


def project(folder: Path, sweep_text: str, experiment_text: str = "") -> Path:
    for name, text in (("sweeps", sweep_text), ("experiments", experiment_text)):
        (folder / name).mkdir(parents=True)
        (folder / name / f"{'q' if name == 'sweeps' else 'base'}.py").write_text(text)
    return folder / "sweeps" / "q.py"


SWEEP = """
from experiments.base import experiment
from lensbench.sweep.sweep import Sweep
sweep = Sweep(name="q", base=experiment, factors={"captions.set": ("alt",)}, reference={"captions.set": "alt"})
"""
BASE = "from lensbench.experiment import Experiment\nexperiment = Experiment(images=%d)\n"


def test_a_sweep_file_imports_the_experiments_beside_it_and_no_other_projects(tmp_path: Path) -> None:
    first = project(tmp_path / "a", SWEEP, BASE % 11)
    second = project(tmp_path / "b", SWEEP, BASE % 22)
    assert load(first).base.images == 11
    assert load(second).base.images == 22


@pytest.mark.parametrize(
    ("sweep_text", "base_text", "words"),
    [
        ("x = 1\n", "", ["q.py", "no `sweep`", "sweep = Sweep(...)"]),
        ("sweep = 3\n", "", ["q.py", "`sweep` is a int"]),
        ("\n\nsweep = 1 / 0\n", "", ["q.py:3", "ZeroDivisionError"]),
        ("a = (\n", "", ["q.py:1", "SyntaxError"]),
        (SWEEP, "\nraise RuntimeError('first\\nsecond')\n", ["base.py:2", "RuntimeError: first"]),
        (SWEEP.replace('("alt",)', '("alt", "poetic")'), BASE % 5, ["q.py:4", "factors", "poetic"]),
        (SWEEP.replace("base=experiment", "base=experiment.replace({'no.such': 1})"), BASE % 5, ["q.py:4", "no.such"]),
        ("import sys; sys.exit('bye')\n", "", ["q.py:1", "bye"]),
    ],
)
def test_a_sweep_file_that_does_not_load_says_where_in_one_line(
    tmp_path: Path, sweep_text: str, base_text: str, words: list[str]
) -> None:
    path = project(tmp_path, sweep_text, base_text)
    with pytest.raises(ValueError, match="py") as caught:
        load(path)
    assert type(caught.value) is ValueError
    assert "\n" not in str(caught.value)
    for word in words:
        assert word in str(caught.value)


def test_a_missing_sweep_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"nowhere\.py: no such sweep file"):
        load(tmp_path / "nowhere.py")


def test_collected_rows_carry_their_factor_levels(tmp_path: Path) -> None:
    sweep = sweep_of({"captions.set": ARMS, "model.depth": (2, 3), "seed": (0, 1)})
    for i, cell in enumerate(cells(sweep)):
        write_cell(tmp_path, cell, value=i / 10)
    results = collect(sweep, tmp_path)
    assert results.complete
    assert results.missing == results.notes == []
    assert results.reference == {"captions.set": "alt"}
    assert results.factors == {"captions.set": list(ARMS), "model.depth": [2, 3], "seed": [0, 1]}
    assert len(results.outcomes) == 4 * 12
    assert len(results.records) == 2 * 12, "a score and a fact each"
    for i, cell in enumerate(cells(sweep)):
        row = results.records[results.records["cell"] == cell.id].iloc[0]
        assert {dotted: row[dotted] for dotted in cell.levels} == cell.levels
        assert row["value"] == i / 10
        assert row["sweep"] == "s"


def test_the_seed_is_a_factor_even_of_a_sweep_that_does_not_vary_it(tmp_path: Path) -> None:
    sweep = sweep_of({"captions.set": ARMS}, Experiment(seed=7))
    assert collect(sweep, tmp_path).factors == {"captions.set": list(ARMS), "seed": [7]}


def test_every_kind_of_missing_cell_is_listed_with_its_reason(tmp_path: Path) -> None:
    sweep = sweep_of({"captions.set": ARMS, "seed": (0, 1, 2)})
    good, never, begun, failed, corrupt, other, columns, lost, empty = cells(sweep)
    write_cell(tmp_path, good)
    (tmp_path / begun.id).mkdir()
    (tmp_path / begun.id / "train.csv").write_text("step,loss\n1,2\n")
    (tmp_path / failed.id).mkdir()
    (tmp_path / failed.id / "error.txt").write_text("Traceback\n  File x\nValueError: the loss is no number\n")
    records = write_cell(tmp_path, corrupt) / "records.parquet"
    records.write_bytes(records.read_bytes()[:-40])
    path = write_cell(tmp_path, other) / "records.parquet"
    pd.read_parquet(path).assign(experiment_hash="0" * 64).to_parquet(path)
    path = write_cell(tmp_path, columns) / "records.parquet"
    pd.read_parquet(path).drop(columns="value").to_parquet(path)
    (write_cell(tmp_path, lost) / "outcomes.parquet").unlink()
    path = write_cell(tmp_path, empty) / "records.parquet"
    pd.read_parquet(path).iloc[:0].to_parquet(path)
    results = collect(sweep, tmp_path)
    assert not results.complete
    assert set(results.records["cell"]) == {good.id}
    reasons = {row["cell"]: row["reason"] for row in results.missing}
    assert reasons[never.id] == "not run"
    assert reasons[begun.id] == "not finished"
    assert reasons[failed.id] == "failed: ValueError: the loss is no number"
    assert reasons[corrupt.id] == "records.parquet is damaged: it is not what was written"
    assert reasons[other.id] == "records.parquet belongs to another experiment"
    assert reasons[columns.id] == "records.parquet lacks the columns value"
    assert reasons[lost.id] == "outcomes.parquet is missing"
    assert reasons[empty.id] == "records.parquet is empty"
    assert [row["captions.set"] for row in results.missing if row["cell"] == never.id] == ["brief"]


def test_cells_of_another_judge_are_not_averaged_with_the_rest(tmp_path: Path) -> None:
    sweep = sweep_of({"captions.set": ARMS})
    first, second, third = cells(sweep)
    write_cell(tmp_path, first)
    write_cell(tmp_path, second, judge_digest="another")
    write_cell(tmp_path, third, commit="d")
    results = collect(sweep, tmp_path)
    assert [row["cell"] for row in results.missing] == [second.id]
    assert "other judge" in results.missing[0]["reason"]
    assert results.notes == ["the cells do not share one commit: c, d"]


def test_a_report_says_what_was_chosen_by_hand_and_that_seeds_share_their_images(tmp_path: Path) -> None:
    told = {"by_hand": "steps, on the detailed arm", "which_images": "first"}
    base = Experiment().replace(told)
    factors = {"captions.set": ("alt", "detailed"), "seed": (0, 1)}
    made = Sweep(name="told", base=base, factors=factors, reference={"captions.set": "alt"})
    shared, by_hand = collect(made, tmp_path).notes
    assert shared == "every seed trains on the same images: no interval contains which images a data scale holds"
    assert by_hand == "chosen by hand: steps, on the detailed arm"
    drawn = made.model_copy(update={"base": base.replace({"which_images": "by_seed"})})
    assert collect(drawn, tmp_path).notes == [by_hand]
    one = made.model_copy(update={"factors": factors | {"seed": (0,)}})
    assert collect(one, tmp_path).notes == [by_hand]


def test_nothing_run_gives_empty_tables_with_their_columns(tmp_path: Path) -> None:
    results = collect(sweep_of({"captions.set": ARMS}), tmp_path)
    assert len(results.missing) == 3
    assert results.records.empty
    assert {"sweep", "captions.set", "seed", *RECORDS.in_cell} == set(results.records.columns)
    assert {"sweep", "captions.set", "seed", *OUTCOMES.in_cell} == set(results.outcomes.columns)


def test_policies_are_factors_whose_levels_stand_in_tables(tmp_path: Path) -> None:
    factors = {
        "captions.set": ("0.2*alt+0.80*detailed", "detailed"),
        "captions.max_words": (None, 10),
        "captions.shuffled": (False, True),
    }
    sweep = sweep_of(factors, reference={**dict.fromkeys(factors), "captions.set": "0.80*detailed + 0.2*alt",
                                         "captions.shuffled": False})  # fmt: skip
    for cell in cells(sweep):
        write_cell(tmp_path, cell)
    results = collect(sweep, tmp_path)
    assert results.factors["captions.set"] == ["0.8*detailed+0.2*alt", "detailed"]
    assert results.factors["captions.max_words"] == ["none", "10"]
    assert results.reference == {
        "captions.set": "0.8*detailed+0.2*alt", "captions.max_words": "none", "captions.shuffled": False
    }  # fmt: skip
    results.records.to_parquet(tmp_path / "records.parquet")
    grid = arrange(results)
    assert grid.reference is not None
    assert grid.reference.label == "80 % detailed, 20 % alt-text"
    assert grid.arms[-1].label == "detailed, at most 10 words, shuffled"


def test_every_set_but_itself_is_matched_in_length() -> None:
    factors = {"captions.set": ("alt", "detailed"), "captions.length_matched_to": (None, "alt")}
    assert [tuple(cell.levels.values())[:2] for cell in cells(sweep_of(factors))] == [
        ("alt", "none"), ("detailed", "none"), ("detailed", "alt")
    ]  # fmt: skip
    with pytest.raises(ValidationError, match="same experiment"):
        sweep_of({**factors, "images": (4, "4")})


def test_images_that_lack_any_set_of_any_arm_leave_every_arm(tmp_path: Path) -> None:
    photos, sweep_file = tmp_path / "photos", tmp_path / "sweep.py"
    photos.mkdir()
    for i in range(12):
        Image.new("RGB", (8, 8), (20 * i, 9, 9)).save(photos / f"p{i}.png")
        for name in ("alt", "gpt", "long") if i > 2 else ("alt", "gpt", "long")[:i]:
            (photos / f"p{i}.{name}.txt").write_text(f"{name} of {i}")
    sweep_file.write_text("""
from lensbench.experiment import Captions, Experiment, FolderCorpus
from lensbench.sweep.sweep import Sweep
corpus = FolderCorpus(size_px=16, caption_sets=("alt", "gpt", "long"), detailed_prompts="gpt")
sweep = Sweep(name="mixed", base=Experiment(corpus=corpus, captions=Captions(set="alt")),
    factors={"captions.set": ("alt", "0.5*alt+0.5*gpt"), "captions.length_matched_to": (None, "long")},
    reference={"captions.set": "alt", "captions.length_matched_to": None})
""")
    sweep = prepared(sweep_file, photos)
    opened = open_corpus(sweep.base.corpus, 100)
    assert (opened.dropped, len(opened.train_keys) + len(opened.validation_keys)) == (3, 9)
    sweep_file.write_text(sweep_file.read_text().replace('"gpt", "long"), d', '"gpt"), d'))
    with pytest.raises(ValueError, match=r"length_matched_to='long'"):
        prepared(sweep_file, photos)


def test_a_shapes_sweep_on_photographs_asks_for_every_set_that_it_reads(tmp_path: Path) -> None:
    sweep_file = tmp_path / "sweep.py"
    for i in range(6):
        Image.new("RGB", (8, 8), (20 * i, 9, 9)).save(tmp_path / f"p{i}.png")
        for name in ("alt", "brief", "detailed")[: 2 if i == 0 else 3]:
            (tmp_path / f"p{i}.{name}.txt").write_text(f"{name} of {i}")
    sweep_file.write_text("""
from lensbench.experiment import Experiment
from lensbench.sweep.sweep import Sweep
sweep = Sweep(name="mixed", base=Experiment(), factors={"captions.set": ("alt", "0.5*alt+0.5*detailed"),
    "captions.length_matched_to": (None, "brief")},
    reference={"captions.set": "alt", "captions.length_matched_to": None})
""")
    corpus = prepared(sweep_file, tmp_path).base.corpus
    assert isinstance(corpus, FolderCorpus)
    assert sorted(corpus.caption_sets) == ["alt", "brief", "detailed"]
    assert open_corpus(corpus, 100).dropped == 1
