"""Frozen results back into cells: the sweep goes on where it was frozen, with the very numbers."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from lensbench.report.freeze import freeze, open_frozen
from lensbench.report.thaw import thaw
from lensbench.sweep.sweep import cells, collect
from tests.report.test_freeze import BASE, FROZEN, sweep


def test_thawed_cells_are_complete_and_freeze_to_the_same(tmp_path: Path) -> None:
    every = cells(sweep())
    written, there = thaw(open_frozen(FROZEN), every, tmp_path / "runs")
    assert (written, there) == ([cell.id for cell in every], [])
    found = collect(sweep(), tmp_path / "runs")
    assert found.complete
    freeze(found, tmp_path / "again", tmp_path / "runs", every)
    for name in ("records.parquet", "outcomes.parquet"):
        before, after = (pd.read_parquet(folder / name) for folder in (FROZEN, tmp_path / "again"))
        order = [c for c in ("cell", "metric", "prompt_form", "step", "task", "prompt_index", "sample") if c in before]
        before, after = (frame.sort_values(order, ignore_index=True)[sorted(before)] for frame in (before, after))
        pd.testing.assert_frame_equal(after, before)
    assert open_frozen(tmp_path / "again").sciences == open_frozen(FROZEN).sciences


def test_cells_that_are_there_stay_and_a_larger_sweep_has_more_to_run(tmp_path: Path) -> None:
    more = sweep(seed=(0, 1, 2))
    first = cells(more)[0]
    (tmp_path / first.id).mkdir()
    (tmp_path / first.id / "records.parquet").write_text("trained here")
    written, there = thaw(open_frozen(FROZEN), cells(more), tmp_path)
    assert there == [first.id]
    assert (tmp_path / first.id / "records.parquet").read_text() == "trained here"
    assert len(written) == 7
    assert [row["reason"] for row in collect(more, tmp_path).missing if row["seed"] == 2] == ["not run"] * 4


def test_another_recipe_gets_no_cells(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="the recipe has changed since") as caught:
        thaw(open_frozen(FROZEN), cells(sweep(BASE.replace({"images": 201}))), tmp_path)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())
