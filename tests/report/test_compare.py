"""Two sides compared: the differences, the flips in both directions, and what is refused."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from typer.testing import CliRunner

from lensbench.cli import app
from lensbench.report.changes import at_commit, changes_table, frame_changes
from lensbench.report.compare import differences, flips, flips_csv, flips_table, matched, refuse_otherwise
from lensbench.report.flipped import flipped_sheet
from lensbench.report.freeze import open_frozen
from lensbench.report.sides import open_sides
from lensbench.report.table import TOGETHER
from lensbench.report.thaw import thaw
from lensbench.sampling.image_sets import read_images
from lensbench.sweep.cellfiles import image_folder
from lensbench.sweep.sweep import cells, collect
from tests.report.test_freeze import FROZEN, sweep


@pytest.fixture
def folder(tmp_path) -> Path:
    return Path(shutil.copytree(FROZEN, tmp_path / "golden"))


def cell_of(outcomes: pd.DataFrame, **wanted) -> pd.Series:
    names = {"set": "captions.set", "depth": "model.depth"}
    rows = pd.Series(True, index=outcomes.index)
    for name, value in wanted.items():
        rows &= outcomes[names.get(name, name)] == value
    return rows


def flip(folder: Path, n: int, right: bool) -> None:
    """Make the first `n` wrong (or right) pictures of one arm right (or wrong)."""
    path = folder / "outcomes.parquet"
    outcomes = pd.read_parquet(path)
    mine = cell_of(outcomes, set="alt", depth=2, metric="geneval", prompt_form="short")
    chosen = outcomes[mine & (outcomes["value"] == float(not right))].index[:n]
    outcomes.loc[chosen, "value"] = float(right)
    outcomes.to_parquet(path, index=False)


def rows_of(table, **labels):
    names = [column.name for column in table.columns]
    return [
        dict(zip(names, row.cells, strict=True))
        for row in table.rows
        if all(row.cells[names.index(name)].value == value for name, value in labels.items())
    ]


def test_a_result_does_not_differ_from_itself():
    a, b = open_sides(FROZEN, FROZEN, Path("runs"))
    refuse_otherwise(a, b)
    both = matched(a, b)
    table = differences(a, b, both)
    assert {cell["difference"].value for cell in rows_of(table)} == {0.0}
    assert len(flips(both)) == 0
    assert flips_table(both).rows == ()
    # four arms and scales; two forms; six tasks and their mean, two scores by image, one of sets
    assert len(table.rows) == 4 * 2 * (7 + 2 + 1)


@pytest.mark.parametrize(("gained", "lost"), [(5, 0), (3, 4)])
def test_flips_are_counted_in_both_directions(folder, gained, lost):
    flip(folder, gained, True)
    other = Path(shutil.copytree(FROZEN, folder.parent / "other"))
    flip(other, lost, False)
    # `other` has lost some that `golden` has, and `golden` gained some: B minus A with A = other
    a, b = open_sides(other, folder, Path("runs"))
    both = matched(a, b)
    changed = flips(both)
    assert int(changed["gained"].sum()) == gained + lost
    assert len(changed) == gained + lost
    back = flips(matched(b, a))
    assert int((~back["gained"]).sum()) == gained + lost
    assert len(flips_csv(both).splitlines()) == 1 + gained + lost
    (mean,) = rows_of(differences(a, b, both), part="alt-text, depth 2", prompts="short", metric="geneval.mean")
    assert (mean["gained"].value, mean["lost"].value) == (gained + lost, 0)
    images = len(both[cell_rows(both)])
    assert mean["difference"].value == pytest.approx((gained + lost) / images)


def cell_rows(both: pd.DataFrame) -> pd.Series:
    return (both["part"] == "alt-text, depth 2") & (both["prompt_form"] == "short") & (both["metric"] == "geneval")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"judge_digest": ["f" * 64]}, "judge is"),
        ({"prompts_digest": ["f" * 64]}, "prompts is"),
        ({"evaluation": {"guidance": 9.0}}, "guidance is"),
        ({"evaluation": {"forms": ["short"]}}, "forms is"),
    ],
)
def test_what_was_scored_otherwise_is_refused_in_one_line(folder, change, words):
    path = folder / "provenance.json"
    told = json.loads(path.read_text())
    told["evaluation"] |= change.pop("evaluation", {})
    path.write_text(json.dumps(told | change))
    a, b = open_sides(FROZEN, folder, Path("runs"))
    with pytest.raises(ValueError, match=words) as caught:
        refuse_otherwise(a, b)
    assert "\n" not in str(caught.value)


def test_other_prompts_are_refused(folder):
    path = folder / "outcomes.parquet"
    outcomes = pd.read_parquet(path)
    outcomes.loc[outcomes["prompt_index"] == 1, "prompt"] = "another prompt"
    outcomes.to_parquet(path, index=False)
    a, b = open_sides(FROZEN, folder, Path("runs"))
    with pytest.raises(ValueError, match="judged on different prompts or samples"):
        refuse_otherwise(a, b)


def test_a_sweep_is_not_compared_with_a_folder(tmp_path):
    with pytest.raises(ValueError, match=r"is a frozen sweep and .* a folder of pictures: compare like with like"):
        open_sides(FROZEN, tmp_path, Path("runs"))


@pytest.fixture
def runs(tmp_path, drawn) -> Path:
    """The cells of the frozen result as a run leaves them."""
    folder = tmp_path / "runs"
    thaw(open_frozen(FROZEN), cells(sweep()), folder)
    drawn(collect(sweep(), folder), folder, evaluation=sweep().base.evaluation_hash())
    return folder


def cell_id(**wanted) -> str:
    names = {"set": "captions.set", "depth": "model.depth"}
    levels = {names.get(name, name): value for name, value in wanted.items()}
    (found,) = (cell.id for cell in cells(sweep()) if levels.items() <= cell.levels.items())
    return found


def test_cells_are_compared_with_their_pictures_side_by_side(runs, tmp_path):
    alt, detailed = (cell_id(set=name, depth=2, seed=0) for name in ("alt", "detailed"))
    a, b = open_sides(runs / alt, runs / detailed, runs)
    refuse_otherwise(a, b)
    both = matched(a, b)
    assert len(flips(both)) > 0
    sheet = flipped_sheet(a, b, both, tmp_path / "flipped.png")
    pixels = np.asarray(Image.open(sheet).convert("RGB")).reshape(-1, 3)
    evaluation = sweep().base.evaluation_hash()
    shades = {
        tuple(read_images(image_folder(runs, cell, evaluation, "geneval-short"))[0, 0, 0]) for cell in (alt, detailed)
    }
    assert shades <= {tuple(pixel) for pixel in np.unique(pixels, axis=0)}  # both cells' pictures are on it


def test_the_command_writes_tables_flips_and_pictures(runs, tmp_path):
    alt, detailed = (cell_id(set=name, depth=2, seed=0) for name in ("alt", "detailed"))
    out = tmp_path / "out"
    done = CliRunner().invoke(app, ["compare", str(runs / alt), str(runs / detailed), "--out", str(out)])
    assert done.exit_code == 0, done.output
    assert "pairs of pictures" in done.output
    assert {path.name for path in out.iterdir()} == {
        *("compare.md", "compare.csv", "flips.md", "flips.csv", "flipped_pictures.csv", "flipped.png")
    }


def git(folder: Path, *words: str) -> str:
    identity = ["-c", "user.name=t", "-c", "user.email=t@t"]
    return subprocess.run(
        ["git", *identity, "-C", str(folder), *words], capture_output=True, text=True, check=True
    ).stdout


def test_two_commits_are_told_apart_by_their_numbers(tmp_path):
    git(tmp_path, "init", "-q")
    folder = Path(shutil.copytree(FROZEN, tmp_path / "results" / "golden"))
    for step in (0, 1):
        if step:
            path = folder / "records.parquet"
            records = pd.read_parquet(path)
            changed = cell_of(records, set="detailed", depth=2, seed=0, metric="fd_shapes", prompt_form="short")
            records.loc[changed, "value"] *= 2
            records.to_parquet(path, index=False)
        git(tmp_path, "add", ".")
        git(tmp_path, "commit", "-q", "-m", f"{step}")
    old, new = (at_commit(folder, commit) for commit in ("HEAD~1", "HEAD"))
    assert frame_changes(old, new) == [f"records changed: 1 of {len(records)} (fd_shapes 1)"]
    table = changes_table(old, new, "HEAD~1 to HEAD", None)
    assert [[cell.value for cell in row.cells[:3]] for row in table.rows] == [
        ["scores", "2, detailed", "fd_shapes.short"]
    ]
    assert frame_changes(old, old) == []
    assert changes_table(old, old, "", None).rows == ()
    with pytest.raises(ValueError, match="git show: "):
        at_commit(folder, "nonsense")


def test_verdicts_at_other_guidances_are_compared_each_with_its_own(folder):
    path = folder / "outcomes.parquet"
    outcomes = pd.read_parquet(path)
    verdicts = outcomes[outcomes["metric"] == "geneval"]
    guided = [verdicts.assign(metric="geneval_guided", guidance=scale) for scale in (1.0, 4.0)]
    pd.concat([outcomes, *guided], ignore_index=True).to_parquet(path, index=False)
    other = Path(shutil.copytree(folder, folder.with_name("other")))
    changed = pd.read_parquet(other / "outcomes.parquet")
    changed.loc[changed["guidance"] == 4.0, "value"] = 1.0
    changed.to_parquet(other / "outcomes.parquet", index=False)
    a, b = open_sides(folder, other, Path("runs"))
    refuse_otherwise(a, b)
    table = differences(a, b, matched(a, b))
    at_one, at_four = (rows_of(table, metric=f"geneval_guided.{scale}") for scale in (1, 4))
    assert {row["metric"].text for row in at_four} == {"GenEval, guidance 4"}
    assert all(row["difference"].value == 0 for row in at_one)
    assert all(row["difference"].value > 0 and row["difference"].kind == TOGETHER for row in at_four)
    assert all(row["difference"].value == 0 for row in rows_of(table, metric="geneval.mean"))
