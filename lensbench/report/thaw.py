"""Frozen results back into cells: a sweep that was begun on one machine goes on on another, or in another checkout.

A thawed cell has what decides that it is complete and what a report reads: its experiment, outcomes and records, the
records last. It has no checkpoint and no picture.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from lensbench.publishing import publish_text
from lensbench.records import OUTCOMES, RECORDS, write
from lensbench.report.checks import problems
from lensbench.report.freeze import Frozen
from lensbench.sweep.cellfiles import read_cell

if TYPE_CHECKING:
    from lensbench.sweep.sweep import Cell


def thaw(frozen: Frozen, cells: Iterable[Cell], runs: Path) -> tuple[list[str], list[str]]:
    """Write the frozen cells that `runs` lacks there; the ids of those, and of those that were complete already.

    `cells` are the sweep's. Raises ValueError, before anything is written, where the frozen records are not of the
    experiments beside them, none of the sweep's cells is frozen, or a frozen cell could not be read as one.
    """
    if wrong := problems(frozen, allow_mixed=True, allow_missing=True):
        raise ValueError("; ".join(wrong))
    results = frozen.results
    added = ["sweep", *results.factors]  # what collecting put beside a cell's own columns
    records, outcomes = (
        dict(list(frame.drop(columns=added, errors="ignore").groupby("cell", sort=False)))
        for frame in (results.records, results.outcomes)
    )
    wanted = [cell for cell in cells if cell.id in records]
    if not wanted:
        raise ValueError("none of the sweep's cells is among the frozen ones: the recipe has changed since")
    versions = frozen.provenance.get("versions", {})
    written, there = [], []
    for cell in wanted:
        directory = runs / cell.id
        if _complete(directory, cell):
            there.append(cell.id)
            continue
        directory.mkdir(parents=True, exist_ok=True)
        publish_text(directory / "experiment.json", cell.experiment.model_dump_json(indent=1) + "\n")
        publish_text(directory / "versions.json", json.dumps(versions) + "\n")
        if cell.id in outcomes:
            write(outcomes[cell.id], directory / OUTCOMES.file, OUTCOMES)
        write(records[cell.id], directory / RECORDS.file, RECORDS)
        written.append(cell.id)
    return written, there


def _complete(directory: Path, cell: Cell) -> bool:
    try:
        read_cell(directory, cell.experiment)
    except ValueError:
        return False
    return True
