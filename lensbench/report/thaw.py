"""Frozen results back into cells: a sweep that was begun on one machine goes on on another, or in another checkout.

A thawed cell has what decides that it is complete and what a report reads: its experiment, outcomes and records, the
records last. It has no checkpoint and no picture.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from lensbench.publishing import publish, publish_text
from lensbench.report.freeze import Frozen, sha256
from lensbench.sweep.cellfiles import read_outcomes, read_records

if TYPE_CHECKING:
    import pandas as pd

    from lensbench.sweep.sweep import Cell


def thaw(frozen: Frozen, cells: Iterable[Cell], runs: Path) -> tuple[list[str], list[str]]:
    """Write the frozen cells that `runs` lacks there; the ids of those, and of those that were there already.

    `cells` are the sweep's. Raises ValueError, before anything is written, where a frozen cell is of another
    experiment than the sweep's file has now, or none of the sweep's cells is frozen.
    """
    results = frozen.results
    kept = {str(cell) for cell in results.records["cell"].unique()}
    wanted = [cell for cell in cells if cell.id in kept]
    if not wanted:
        raise ValueError("none of the sweep's cells is among the frozen ones: the recipe has changed since")
    for cell in wanted:
        if sha256(frozen.sciences.get(cell.id, {})) != cell.experiment.hash():
            raise ValueError(
                f"cell {cell.id} [{cell.label()}] was frozen as another experiment: freeze the sweep again"
            )
    added = ["sweep", *results.factors]  # what collecting put beside a cell's own columns
    records, outcomes = (
        dict(list(frame.drop(columns=added, errors="ignore").groupby("cell", sort=False)))
        for frame in (results.records, results.outcomes)
    )
    versions = {name: found[0] for name, found in frozen.provenance.get("versions", {}).items() if len(found) == 1}
    written, there = [], []
    for cell in wanted:
        directory = runs / cell.id
        if (directory / "records.parquet").exists():
            there.append(cell.id)
            continue
        directory.mkdir(parents=True, exist_ok=True)
        publish_text(directory / "experiment.json", cell.experiment.model_dump_json(indent=1) + "\n")
        if versions:
            publish_text(directory / "versions.json", json.dumps(versions) + "\n")
        if cell.id in outcomes:
            _write(outcomes[cell.id], directory / "outcomes.parquet")
        _write(records[cell.id], directory / "records.parquet")
        read_outcomes(directory, cell.experiment, read_records(directory, cell.experiment))
        written.append(cell.id)
    return written, there


def _write(frame: pd.DataFrame, path: Path) -> None:
    partial = path.with_suffix(".partial")
    frame.to_parquet(partial, index=False)
    publish(partial, path)
