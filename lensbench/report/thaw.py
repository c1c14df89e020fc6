"""Frozen results back into cells: a sweep that was begun on one machine goes on on another, or in another checkout.

A thawed cell has what decides that it is complete and what a report reads: its experiment, outcomes and records, the
records last. It has no checkpoint and no picture.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from lensbench.publishing import publish_text
from lensbench.report.checks import problems
from lensbench.report.freeze import Frozen, named
from lensbench.sweep import claims
from lensbench.sweep.cellfiles import read_cell, write_cell

if TYPE_CHECKING:
    import pandas as pd

    from lensbench.experiment import Experiment
    from lensbench.sweep.sweep import Cell


def thaw(frozen: Frozen, cells: Iterable[Cell], runs: Path) -> tuple[list[str], list[str]]:
    """Write the frozen cells that `runs` lacks there; the ids of those, and of those that were complete already.

    `cells` are the sweep's. Raises ValueError, before anything is written, where the frozen records are not of the
    experiments beside them, none of the sweep's cells is frozen, a frozen cell could not be read as one, or a worker
    runs one that would be written.
    """
    if wrong := problems(frozen, allow_mixed=True, allow_missing=True):
        raise ValueError("; ".join(wrong))
    every = list(cells)
    tables = _tables(frozen)
    frozen_ones = {cell.id: ones for cell in every if (ones := _frozen_ones(cell, frozen, tables))}
    if not frozen_ones:
        raise ValueError("none of the sweep's cells is among the frozen ones: the recipe has changed since")
    versions = frozen.provenance.get("versions", {})
    wanted = [cell for cell in every if cell.id in frozen_ones]
    there = [cell.id for cell in wanted if all(_is_whole(runs / cell.id, one[0]) for one in frozen_ones[cell.id])]
    lacking = [cell for cell in wanted if cell.id not in there]
    if running := [cell.id for cell in lacking if claims.is_run(runs / cell.id)]:
        raise ValueError(
            f"{len(running)} of the cells are being run ({', '.join(running[:3])}): thaw when they have ended, "
            "or stop their workers first"
        )
    for cell in lacking:
        with _claimed(runs / cell.id) as directory:
            publish_text(directory / "experiment.json", cell.experiment.model_dump_json(indent=1) + "\n")
            publish_text(directory / "versions.json", json.dumps(versions) + "\n")
            for experiment, records, outcomes in frozen_ones[cell.id]:
                write_cell(directory, experiment, records, outcomes)
    return [cell.id for cell in lacking], there


def _tables(frozen: Frozen) -> dict[str, tuple[pd.DataFrame, pd.DataFrame]]:
    """The records and outcomes of each frozen cell."""
    results = frozen.results
    added = ["sweep", *results.factors]  # what collecting put beside a cell's own columns
    records, outcomes = (
        dict(list(frame.drop(columns=added, errors="ignore").groupby("cell", sort=False)))
        for frame in (results.records, results.outcomes)
    )
    return {str(name): (table, outcomes.get(name, results.outcomes.iloc[:0])) for name, table in records.items()}


def _frozen_ones(
    cell: Cell, frozen: Frozen, tables: Mapping[str, tuple[pd.DataFrame, pd.DataFrame]]
) -> list[tuple[Experiment, pd.DataFrame, pd.DataFrame]]:
    """Those of the cell's evaluations that are frozen, with their records and outcomes."""
    found = []
    for place in cell.evaluations:
        name = named(place.experiment, frozen.schema)
        if name not in tables:
            continue
        records, outcomes = (_of_evaluation(frame, place) for frame in tables[name])
        if "evaluation_hash" in records and (records["evaluation_hash"] == "").all():
            continue  # its training is frozen, with another evaluation
        found.append((place.experiment, records, outcomes))
    return found


@contextmanager
def _claimed(directory: Path) -> Iterator[Path]:
    """The cell's directory, through a claim: no worker has it meanwhile. ValueError where one does."""
    directory.mkdir(parents=True, exist_ok=True)
    claim = claims.take_free(directory)
    if claim is None:
        raise ValueError(f"{directory}: a worker has just begun this cell; thaw when it has ended")
    try:
        yield claim.directory
    except BaseException:
        claim.end("stopped")
        raise
    claim.end("complete")


def _of_evaluation(frame: pd.DataFrame, place: Cell) -> pd.DataFrame:
    """The rows of a cell that are of this evaluation, and those of its training, each once."""
    if "evaluation_hash" not in frame:
        return frame
    of_training = frame["evaluation_hash"] == ""
    mine = frame[(frame["evaluation_hash"] == place.experiment.evaluation_hash()) | of_training]
    return mine.drop_duplicates(["metric", "prompt_form", "step"]) if of_training.any() else mine


def _is_whole(directory: Path, experiment: Experiment) -> bool:
    """Whether the training and this evaluation of it are there and can be read."""
    try:
        read_cell(directory, experiment)
    except ValueError:
        return False
    return True
