"""Frozen results back into cells: the sweep goes on where it was frozen, with the very numbers."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from lensbench.records import OUTCOME_KEY, OUTCOMES, RECORDS, read
from lensbench.report.checks import against_recipe
from lensbench.report.freeze import Frozen, freeze, open_frozen
from lensbench.report.thaw import thaw
from lensbench.sweep import claims
from lensbench.sweep.cellfiles import is_evaluated
from lensbench.sweep.sweep import Sweep, cells, collect
from tests.report.test_freeze import BASE, FROZEN, edit_records, sweep


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return Path(shutil.copytree(FROZEN, tmp_path / "golden"))


def test_thawed_cells_are_complete_and_freeze_to_the_same(tmp_path: Path) -> None:
    every = cells(sweep())
    written, there = thaw(open_frozen(FROZEN), every, tmp_path / "runs")
    assert (written, there) == ([cell.id for cell in every], [])
    found = collect(sweep(), tmp_path / "runs")
    assert found.complete
    freeze(found, tmp_path / "again", tmp_path / "runs", every)
    for schema in (RECORDS, OUTCOMES):
        name = schema.file
        before, after = (read(folder / name, schema, frozen=True) for folder in (FROZEN, tmp_path / "again"))
        keys = ("captions.set", "model.depth", "seed", *OUTCOME_KEY[1:])
        order = [name for name in keys if name in before]
        same = sorted(set(before) - {"cell", "experiment_hash"})  # a cell was named by its evaluation too
        before, after = (frame.sort_values(order, ignore_index=True)[same] for frame in (before, after))
        pd.testing.assert_frame_equal(after, before)
    again, before = open_frozen(tmp_path / "again"), open_frozen(FROZEN)
    assert (before.schema, again.schema) == (1, 2)
    assert [*again.sciences.values()] == [*before.sciences.values()]
    assert again.provenance["versions"] == before.provenance["versions"]


def test_cells_that_are_there_stay_and_a_larger_sweep_has_more_to_run(tmp_path: Path) -> None:
    more = sweep(seed=(0, 1, 2))
    first = cells(more)[0]
    (tmp_path / first.id).mkdir()
    (tmp_path / first.id / "records.parquet").write_text("cut off")
    written, there = thaw(open_frozen(FROZEN), cells(more), tmp_path)
    assert (len(written), there) == (8, []), "what cannot be read is no cell"
    stamp = (tmp_path / first.id / "records.parquet").stat().st_mtime_ns
    written, there = thaw(open_frozen(FROZEN), cells(more), tmp_path)
    assert (written, len(there)) == ([], 8)
    assert (tmp_path / first.id / "records.parquet").stat().st_mtime_ns == stamp
    assert [row["reason"] for row in collect(more, tmp_path).missing if row["seed"] == 2] == ["not run"] * 4


def test_a_frozen_evaluation_is_thawed_as_itself_alone(tmp_path: Path) -> None:
    of_two = sweep()
    guidance = BASE.evaluation.guidance
    of_two = of_two.model_copy(update={"factors": {**of_two.factors, "evaluation.guidance": (1.25, guidance)}})
    written, _ = thaw(open_frozen(FROZEN), cells(of_two), tmp_path / "runs")
    assert written == [cell.id for cell in cells(of_two)]
    found = collect(of_two, tmp_path / "runs")
    assert {(row["evaluation.guidance"], row["reason"]) for row in found.missing} == {
        (1.25, "trained, not scored"),
        (guidance, "trained, not scored"),
    }
    assert not [
        cell for cell in cells(of_two) if is_evaluated(tmp_path / "runs" / cell.id, cell.evaluations[0].experiment)
    ]
    assert thaw(open_frozen(FROZEN), cells(of_two), tmp_path / "runs") == ([], written)
    again = freeze_of(sweep(), tmp_path)  # of records whose evaluations have hashes
    assert against_recipe(again, cells(sweep())) == []
    more = of_two.model_copy(update={"factors": {**of_two.factors, "evaluation.guidance": (guidance, 1.25)}})
    (line,) = against_recipe(again, cells(more))
    assert line.startswith("stale: the evaluations of 8 cells (")
    written, _ = thaw(again, cells(of_two), tmp_path / "more")
    assert written == [cell.id for cell in cells(of_two)]
    assert collect(sweep(), tmp_path / "more").complete
    other = of_two.model_copy(update={"factors": {**of_two.factors, "evaluation.guidance": (1.25,)}})
    with pytest.raises(ValueError, match="the recipe has changed since"):
        thaw(again, cells(other), tmp_path / "others")
    assert not (tmp_path / "others").exists()


def freeze_of(what: Sweep, tmp_path: Path) -> Frozen:
    """The sweep as it is in tmp_path / "runs", frozen by this version."""
    freeze(collect(what, tmp_path / "runs"), tmp_path / "now", tmp_path / "runs", cells(what))
    return open_frozen(tmp_path / "now")


def test_a_cell_that_is_being_run_is_not_written_into(tmp_path: Path) -> None:
    every = cells(sweep())
    running = tmp_path / every[2].id
    running.mkdir()
    claim = claims.take(running, claims.state(running))
    assert claim is not None
    with pytest.raises(ValueError, match=rf"1 of the cells are being run \({every[2].id}\)"):
        thaw(open_frozen(FROZEN), every, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [running.name], "nothing is written"
    claim.end("stopped")
    written, _ = thaw(open_frozen(FROZEN), every, tmp_path)
    assert written == [cell.id for cell in every]
    assert claims.state(running).end == "complete"


def test_versions_of_several_machines_stay_several(tmp_path: Path, folder: Path) -> None:
    told = json.loads((folder / "provenance.json").read_text()) | {"versions": {"torch": ["2.12.0", "2.13.0"]}}
    (folder / "provenance.json").write_text(json.dumps(told))
    every = cells(sweep())
    thaw(open_frozen(folder), every, tmp_path / "runs")
    freeze(collect(sweep(), tmp_path / "runs"), tmp_path / "again", tmp_path / "runs", every)
    assert open_frozen(tmp_path / "again").provenance["versions"] == told["versions"]


def empty_outcomes(folder: Path) -> None:
    pd.read_parquet(folder / "outcomes.parquet").iloc[:0].to_parquet(folder / "outcomes.parquet")


def without_geneval(records: pd.DataFrame) -> pd.DataFrame:
    return records[~records["metric"].str.startswith("geneval")]


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda f: (f / "experiments.json").unlink(), "nothing says what the records are of"),
        (lambda f: edit_records(f, lambda r: r.assign(experiment_hash="0" * 64)), "of another experiment"),
        (lambda f: empty_outcomes(f), "not those of the judged images"),
        (lambda f: (empty_outcomes(f), edit_records(f, without_geneval)), "not those of the judged images"),
    ],
)
def test_what_is_not_whole_is_not_thawed(tmp_path: Path, folder: Path, spoil: Any, words: str) -> None:
    spoil(folder)
    with pytest.raises(ValueError, match=words):
        thaw(open_frozen(folder), cells(sweep()), tmp_path / "runs")
    assert not (tmp_path / "runs").exists()


def test_another_recipe_gets_no_cells(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="the recipe has changed since") as caught:
        thaw(open_frozen(FROZEN), cells(sweep(BASE.replace({"images": 201}))), tmp_path)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())
