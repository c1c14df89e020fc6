"""How a sweep stands, read from the directories of its cells: whoever runs them, and on which machines.

Nothing here needs the sweep's storage or a worker: `lensbench status` works while the server is away.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from lensbench.records import RECORDS
from lensbench.sweep import cellfiles, claims
from lensbench.sweep.cellfiles import why_unfinished
from lensbench.sweep.design import ARM_PREFIX, Cell
from lensbench.sweep.progress import Estimate, Progress, weight

Standing = Literal["done", "running", "waiting", "failed", "cancelled"]
STANDINGS: tuple[Standing, ...] = ("done", "running", "waiting", "failed", "cancelled")
PACED = 20  # complete cells whose time is read, at most
TRACEBACK_LINES = 3  # that are shown of a cell that is left alone


@dataclass(frozen=True)
class CellStatus:
    """How one cell stands."""

    cell: Cell
    standing: Standing
    reason: str = ""  # why it failed, or what is to be said of a running or waiting one
    traceback: tuple[str, ...] = ()  # its last lines
    failures: int = 0
    tried: int = 0  # claims so far
    host: str = ""
    pid: int = 0
    since: float = 0.0  # when the running attempt began, seconds since the epoch
    beat: float = 0.0  # when it was last heard of
    progress: Progress | None = None

    def as_json(self) -> dict[str, Any]:
        """All of it, as plain values."""
        running = self.standing == "running"
        now = {"host": self.host, "pid": self.pid, "since": self.since, "heartbeat": self.beat}
        stage = vars(self.progress) if self.progress else {}
        told = {"cell": self.cell.id, "levels": self.cell.levels, "standing": self.standing, "reason": self.reason}
        return told | {"failures": self.failures, "attempts": self.tried} | (now | stage if running else {})


def standings(cells: Iterable[Cell], runs: Path, tries: int = claims.TRIES) -> list[CellStatus]:
    """How every cell stands. A cell that has failed fewer than `tries` times is one that the next worker takes."""
    there = {path.name for path in runs.iterdir()} if runs.is_dir() else set()
    return [
        _standing(cell, runs / cell.id, tries) if cell.id in there else CellStatus(cell, "waiting") for cell in cells
    ]


def _standing(cell: Cell, directory: Path, tries: int) -> CellStatus:
    if cellfiles.is_complete(directory, cell):
        return CellStatus(cell, "done")
    found = claims.state(directory)
    common: dict[str, Any] = {"failures": found.failures, "tried": found.number}
    if found.held:
        holder = found.holder or {}
        beat = found.beat or 0.0
        reason = ""
        if claims.holder_is_gone(directory, found):
            reason = "its process has ended: the next worker takes it"
        elif time.time() - beat > claims.LIMIT * claims.beat_seconds():
            reason = "not heard of for long: another worker will take it"
        where: dict[str, Any] = {"host": str(holder.get("host", "?")), "pid": int(holder.get("pid", 0))}
        progress = Progress(**found.progress) if found.progress else None
        since = float(holder.get("since", beat))
        return CellStatus(cell, "running", reason, **common, **where, since=since, beat=beat, progress=progress)
    if found.cancelled:
        return CellStatus(cell, "cancelled", **common)
    if found.failures:
        error = directory / "error.txt"
        why = found.reason if not error.exists() else why_unfinished(directory).removeprefix("failed: ")
        lines = error.read_text(errors="replace").rstrip().splitlines() if error.exists() else []
        left_alone = found.failures >= tries
        shown = tuple(lines[-TRACEBACK_LINES:]) if left_alone else ()
        return CellStatus(cell, "failed" if left_alone else "waiting", why, shown, **common)
    reason = "begun; goes on where it stopped" if found.number > 0 else ""
    if cellfiles.is_trained(directory):
        missing = sum(not cellfiles.is_evaluated(directory, place.experiment) for place in cell.evaluations)
        reason = f"trained; {missing} of {len(cell.evaluations)} evaluations to make"
    return CellStatus(cell, "waiting", reason, **common)


def by_arm(every: Sequence[CellStatus]) -> dict[str, dict[Standing, int]]:
    """How many cells of each arm stand how."""
    out: dict[str, dict[Standing, int]] = {}
    for status in every:
        levels = status.cell.levels
        named = [f"{name.rpartition('.')[2]}={level}" for name, level in levels.items() if name.startswith(ARM_PREFIX)]
        arm = str(levels["captions.set"]) if len(named) == 1 else " ".join(named)
        counts = out.setdefault(arm, dict.fromkeys(STANDINGS, 0))
        counts[status.standing] += 1
    return out


def seconds_left(every: Sequence[CellStatus], runs: Path) -> float | None:
    """Seconds until the cells that run or wait are done, with as many workers as run now; None when unknown."""
    todo = [status for status in every if status.standing in ("running", "waiting")]
    if not todo:
        return 0.0
    estimate = Estimate({status.cell.id: weight(status.cell.experiment) for status in todo})
    done = [status.cell for status in every if status.standing == "done"]
    estimate.pace = [pace for cell in done[-PACED:] if (pace := _pace(cell, runs / cell.id)) is not None]
    now = time.time()
    running = {
        status.cell.id: (now - status.since, status.progress.share_of_cell())
        for status in todo
        if status.standing == "running" and status.progress
    }
    workers = sum(status.standing == "running" for status in todo)
    return estimate.sweep_left(running, max(1, workers))


def _pace(cell: Cell, directory: Path) -> float | None:
    # Seconds per unit of weight. The report's reader checks a whole table: here two columns of it are enough.
    import pyarrow.parquet

    seconds = 0.0
    for folder in (directory, cellfiles.evaluation_folder(directory, cell.experiment)):
        try:
            path = folder / RECORDS.file
            table = pyarrow.parquet.read_table(path, columns=["metric", "value"]).to_pydict()
        except Exception:  # pyarrow has no one class for a corrupt file
            return None
        found = zip(table["metric"], table["value"], strict=True)
        seconds += sum(value for metric, value in found if metric == "cell_seconds")
    return seconds / weight(cell.experiment) if seconds else None


def as_json(name: str, every: Sequence[CellStatus], runs: Path) -> str:
    """All of it for programs."""
    counts = {standing: sum(status.standing == standing for status in every) for standing in STANDINGS}
    told: dict[str, Any] = {"sweep": name, "cells": len(every)} | dict(counts.items())
    told |= {"seconds_left": seconds_left(every, runs), "of": [status.as_json() for status in every]}
    return json.dumps(told, indent=1)
