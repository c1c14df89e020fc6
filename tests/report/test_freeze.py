"""Frozen results: what is refused, what is stale, and that nothing but the frozen files is needed."""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from rich.console import Console
from typer.testing import CliRunner

from lensbench.commands.results import app
from lensbench.experiment import Experiment
from lensbench.report.build import build, rebuild
from lensbench.report.captions import of_experiments
from lensbench.report.checks import against_recipe, problems, refuse_collected
from lensbench.report.freeze import _versions, captions_from, captions_told, changes, open_frozen
from lensbench.sweep.sweep import Sweep, cells

FROZEN = Path(__file__).parent / "frozen"
BASE = Experiment().replace(
    {
        "images": 200,
        "which_images": "first",
        "training.steps": 600,
        "evaluation.prompts_per_task": 3,
        "evaluation.images_per_task": 6,
    }
)


def sweep(base: Experiment = BASE, **factors: tuple) -> Sweep:
    given = {"captions.set": ("alt", "detailed"), "model.depth": (2, 4), "seed": (0, 1)}
    given |= {name.replace("__", "."): levels for name, levels in factors.items()}
    return Sweep(name="golden", base=base, factors=given, reference={"captions.set": "alt"})


@pytest.fixture
def folder(tmp_path) -> Path:
    return Path(shutil.copytree(FROZEN, tmp_path / "golden"))


def edit_records(folder: Path, change) -> None:
    path = folder / "records.parquet"
    change(pd.read_parquet(path)).to_parquet(path, index=False)


def test_a_whole_result_has_no_problems():
    frozen = open_frozen(FROZEN)
    assert problems(frozen) == []
    assert against_recipe(frozen, cells(sweep())) == []


def test_a_missing_cell_is_refused(folder):
    gone = open_frozen(folder).results.records["cell"].iloc[0]
    edit_records(folder, lambda records: records[records["cell"] != gone])
    assert [line for line in problems(open_frozen(folder)) if gone in line and "missing (no record)" in line]
    assert problems(open_frozen(folder), allow_missing=True) == []


def test_several_commits_are_refused_unless_allowed(folder):
    def other(records):
        return records.assign(commit=np.where(records["seed"] == 1, "fedcba654321", records["commit"]))

    edit_records(folder, other)
    (line,) = problems(open_frozen(folder))
    assert "2 commits (abc1234def56, fedcba654321)" in line
    assert problems(open_frozen(folder), allow_mixed=True) == []
    done = CliRunner().invoke(app, ["build", str(folder)])
    assert isinstance(done.exception, ValueError)
    assert CliRunner().invoke(app, ["build", str(folder), "--allow-mixed"]).exit_code == 0


def test_scores_that_are_not_those_of_the_judged_images_are_refused(folder):
    def half(records):
        first = (records["cell"] == records["cell"].iloc[0]) & records["metric"].str.startswith("geneval.")
        return records.assign(value=np.where(first, records["value"] / 2 + 0.1, records["value"]))

    edit_records(folder, half)
    (line,) = problems(open_frozen(folder))
    assert line.startswith("the scores of 1 cell (")
    done = CliRunner().invoke(app, ["build", str(folder)])
    assert "are not those of the judged images" in str(done.exception)


def test_judged_images_that_are_gone_are_missed(folder):
    path = folder / "outcomes.parquet"
    outcomes = pd.read_parquet(path)
    outcomes.drop(outcomes.index[outcomes["metric"] == "geneval"][0]).to_parquet(path, index=False)
    (line,) = problems(open_frozen(folder))
    assert line.startswith("the scores of 1 cell (")


@pytest.mark.parametrize("name", ["records.parquet", "outcomes.parquet"])
def test_a_file_or_a_column_that_is_gone_is_named(folder, name):
    path = folder / name
    pd.read_parquet(path).drop(columns="value").to_parquet(path, index=False)
    with pytest.raises(ValueError, match=rf": {name} lacks the columns value; freeze the results again"):
        open_frozen(folder)
    path.unlink()
    with pytest.raises(ValueError, match=rf": {name} is missing; freeze the results again"):
        open_frozen(folder)


@pytest.mark.parametrize("name", ["records.parquet", "outcomes.parquet", "experiments.json", "captions.json"])
def test_a_frozen_file_that_was_changed_is_named_whatever_the_tables_say(folder, name):
    files = ("records.parquet", "outcomes.parquet", "experiments.json", "captions.json")
    told = json.loads((folder / "provenance.json").read_text())
    told["files"] = {file: hashlib.sha256((folder / file).read_bytes()).hexdigest() for file in files}
    (folder / "provenance.json").write_text(json.dumps(told))
    assert problems(open_frozen(folder)) == []
    if name.endswith(".json"):
        (folder / name).write_text((folder / name).read_text() + "\n")
    else:
        frame = pd.read_parquet(folder / name)  # a number and words that nothing else is counted from
        distances = {"value": frame["value"].where(frame["metric"] != "fd_shapes", 0.5)}
        frame.assign(**distances if name == "records.parquet" else {"reason": "other"}).to_parquet(folder / name)
    rebuild(folder, Console(quiet=True))
    (line,) = problems(open_frozen(folder))
    assert line == f"not as frozen: {name}; take the committed files again, or freeze again"


@pytest.mark.parametrize("metric", ["validation_loss", "shapes_alignment", "geneval", "geneval.colors"])
def test_a_score_that_its_images_do_not_give_is_found(folder, metric):
    edit_records(
        folder,
        lambda records: records.assign(value=records["value"].where(records["metric"] != metric, 0.5)),
    )
    (line,) = problems(open_frozen(folder))
    assert line.startswith("the scores of 8 cells (")


def test_values_that_are_no_numbers_and_a_provenance_that_says_nothing_are_told_in_a_line(folder):
    edit_records(folder, lambda records: records.assign(value=records["value"].astype(str)))
    with pytest.raises(
        ValueError, match=r"records\.parquet: the column value holds no numbers; freeze the results again$"
    ):
        open_frozen(folder)
    (folder / "provenance.json").write_text("{}")
    shutil.copyfile(FROZEN / "records.parquet", folder / "records.parquet")
    with pytest.raises(ValueError, match=r"provenance\.json: it does not say 'sweep'; freeze the results again$"):
        open_frozen(folder)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        (
            "experiments.json",
            '{"base": {"model": 3}, "cells": {"a": {"parameters": 1, "changes": {"model.depth": 2}}}}',
        ),
        ("experiments.json", '{"base": {}, "cells": {"a": 5}}'),
        ("experiments.json", '{"cells": {"a": {"parameters": 1, "changes": {}}}}'),
        ("captions.json", '{"sets": 5}'),
    ],
)
def test_json_of_another_form_is_told_in_a_line(folder, name, text):
    (folder / name).write_text(text)
    with pytest.raises(ValueError, match=rf"{name}: not what a freeze writes; [^\n]*$"):
        open_frozen(folder)


@pytest.mark.parametrize("error", [ValueError("that no table expects"), KeyboardInterrupt("that no table expects")])
def test_a_report_that_cannot_be_written_leaves_what_was_frozen(folder, tmp_path, monkeypatch, error):
    def broken(*given):
        raise error

    rebuild(folder, Console(quiet=True))
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    results = open_frozen(FROZEN).results
    other = replace(results, records=results.records.assign(hardware="another"))
    monkeypatch.setattr("lensbench.report.build.all_tables", broken)
    for place in (folder, tmp_path / "empty"):
        with pytest.raises(type(error), match="no table expects"):
            build(other, place, tmp_path / "runs", Console(quiet=True))
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
    assert not list((tmp_path / "empty").iterdir())


def test_records_of_another_experiment_are_stale(folder):
    def other(records):
        first = records["cell"] == records["cell"].iloc[0]
        return records.assign(experiment_hash=np.where(first, "0" * 64, records["experiment_hash"]))

    edit_records(folder, other)
    (line,) = problems(open_frozen(folder), allow_mixed=True, allow_missing=True)
    assert line.startswith("stale: the records of 1 cell (")


def test_a_changed_experiment_is_stale(folder):
    told = json.loads((folder / "experiments.json").read_text())
    told["base"]["training"]["steps"] = 601
    (folder / "experiments.json").write_text(json.dumps(told))
    (line,) = problems(open_frozen(folder))
    assert line.startswith("stale: the records of 8 cells (")


def test_a_changed_recipe_is_stale_and_says_which_field():
    frozen = open_frozen(FROZEN)
    (line,) = against_recipe(frozen, cells(sweep(BASE.replace({"training.learning_rate": 0.001}))))
    assert line.startswith("stale: the recipe of 8 cells (")
    assert line.endswith("has changed since: training.learning_rate")


def test_cells_that_came_and_went_are_named():
    lines = against_recipe(open_frozen(FROZEN), cells(sweep(model__depth=(2, 6))))
    assert [line.partition("(")[0] for line in lines] == ["4 cells ", "4 cells "]
    assert lines[0].endswith("of the frozen result are not in the sweep")
    assert lines[1].endswith("of the sweep are not in the frozen result")


def test_collected_results_with_missing_cells_are_not_frozen():
    results = open_frozen(FROZEN).results
    gone = replace(results, missing=[{"cell": "0" * 12, "reason": "not run"}])
    with pytest.raises(ValueError, match=r"golden: 1 cell \(000000000000\) missing \(not run\): nothing is frozen"):
        refuse_collected(gone, "golden")
    refuse_collected(gone, "golden", allow_missing=True)


def test_building_twice_gives_the_same_bytes(folder, tmp_path):
    written = rebuild(folder, Console(quiet=True))
    first = {path: path.read_bytes() for path in written}
    other = Path(shutil.copytree(FROZEN, tmp_path / "elsewhere"))
    again = rebuild(other, Console(quiet=True))
    assert [path.relative_to(folder) for path in written] == [path.relative_to(other) for path in again]
    assert [name for name, other in zip(written, again, strict=True) if first[name] != other.read_bytes()] == []


def test_a_users_own_files_stay(folder):
    (folder / "notes.md").write_text("mine")
    (folder / "mine.tex").write_text("mine too")
    rebuild(folder, Console(quiet=True))
    (folder / "old.tex").write_text("% Generated by lensbench; changes will be lost.\n")
    (folder / "old.csv").write_text("of an earlier report")
    rebuild(folder, Console(quiet=True))
    assert {"notes.md", "mine.tex"} <= {path.name for path in folder.iterdir()}
    assert not {"old.tex", "old.csv"} & {path.name for path in folder.iterdir()}


def test_caption_statistics_are_frozen_without_loss():
    report = of_experiments([BASE.replace({"captions.set": name, "images": 60}) for name in ("alt", "detailed")])
    again = captions_from(json.loads(json.dumps(captions_told(report))))
    assert again.about == report.about
    for name, one in report.found.items():
        kept = again.found[name]
        assert kept.words.counts.tolist() == one.words.counts.tolist()
        plain = ("captions", "distinct", "vocabulary", "word_lists", "accuracy", "window")
        assert [getattr(kept, key) for key in plain] == [getattr(one, key) for key in plain]


def test_changes_between_experiments_are_named_by_field():
    before, after = BASE, BASE.replace({"model.depth": 6, "captions.max_words": 5})
    found = changes(before.science(), after.science())
    assert found == {"model.depth": 6, "captions.max_words": 5}


def test_the_frozen_provenance_says_where_the_numbers_come_from():
    told = open_frozen(FROZEN).provenance
    assert told["commit"] == ["abc1234def56"]
    assert told["dirty"] is False
    assert told["hardware"] == ["Test CPU, 2 cores"]
    assert told["cost"]["train_seconds"] > 0
    assert {"versions", "captioners", "corpus_digest", "captions_digest"} <= told.keys()


@pytest.mark.parametrize("hidden", ["\x1b[2J", "\x07", "\x7f", "\x9b2J"])
def test_provenance_that_steers_a_terminal_is_refused(hidden: str, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(FROZEN, tmp_path / "golden"))
    told = json.loads((folder / "provenance.json").read_text())
    (folder / "provenance.json").write_text(json.dumps(told | {"sweep": f"a{hidden}b"}, ensure_ascii=hidden < "\x7f"))
    with pytest.raises(ValueError, match=r"provenance.json: holds characters that steer a terminal") as caught:
        open_frozen(folder)
    assert hidden not in str(caught.value)


@pytest.mark.parametrize("column", ["captions.set", "hardware"])
def test_records_that_steer_a_terminal_are_refused(folder: Path, column: str) -> None:
    edit_records(
        folder, lambda records: records.assign(**{column: records[column].replace(regex="^.", value="\x1b[2J")})
    )
    with pytest.raises(
        ValueError, match=rf"records.parquet: {column} holds characters that steer a terminal"
    ) as caught:
        open_frozen(folder)
    assert "\x1b" not in str(caught.value)


def test_versions_that_cannot_be_read_say_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "cell").mkdir()
    (tmp_path / "cell" / "versions.json").write_text("{")
    with pytest.raises(ValueError, match=r"versions.json: no JSON .*; delete it, and the report does without"):
        _versions(tmp_path, ["cell"])
