"""Running a sweep on this machine: find what is complete, share the rest among workers, show it, mirror it.

One worker runs in this process. Several run in processes of their own (lensbench.sweep.processes).
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from lensbench.stopping import STOPPING, handled
from lensbench.sweep.processes import run_in_processes
from lensbench.sweep.progress import board, weight
from lensbench.sweep.quiet import quiet
from lensbench.sweep.study import Study
from lensbench.sweep.sweep import Cell, Sweep, cells
from lensbench.sweep.worker import (
    RunCell,
    Session,
    adopt,
    cell_lock,
    check_writable,
    no_room,
    real_run_cell,
    take_turns,
)

if TYPE_CHECKING:
    from rich.console import Console


class Mirror(Protocol):
    """Where complete cells are shown: see lensbench.tracking."""

    def mirror(self, directory: Path, levels: dict[str, Any]) -> None: ...
    def close(self, status: str) -> None: ...


class StoppedError(Exception):
    """A signal ended the sweep; `kept` of `total` cells are complete."""

    def __init__(self, number: int, kept: int, total: int) -> None:
        super().__init__(f"interrupted by {signal.Signals(number).name}: {kept} of {total} cells are complete and kept")
        self.exit_code = 128 + number
        self.kept, self.total = kept, total


def work(
    sweep: Sweep,
    runs: Path,
    *,
    console: Console,
    workers: int = 1,
    run_cell: RunCell | None = None,
    open_mirror: Callable[[Path, Sweep], Mirror] | None = None,
) -> Session:
    """Run every cell of the sweep that is not complete in `runs`, the largest of each seed first.

    A cell that fails is recorded (`error.txt`) and the others go on; it is tried again by the next call. A cell left
    half done by an earlier process goes on from its last resume point, or from nothing where there is none.

    Args:
        workers: processes to run cells in; 1 is this process.
        run_cell: what runs a cell, for one worker; lensbench.sweep.cell.run_cell when None.
        open_mirror: opens the tracker that complete cells are shown in; None for no tracking.

    Raises OSError when `runs` cannot be written or is full, StoppedError on SIGINT, SIGTERM, SIGHUP or SIGUSR1: the
    first is heeded after the training step that is under way, whose state is kept; a second stops at once.
    """
    assert workers == 1 or run_cell is None, "other processes run real cells"
    quiet()
    check_writable(runs)
    every = cells(sweep)
    session, todo = Session(), list(every)
    tracking = _Tracking(runs, sweep, open_mirror, console)

    def mirror(cell: Cell) -> None:
        tracking.mirror(runs / cell.id, cell)

    with _signals() as received:
        try:
            study = _open_study(runs, sweep, every)
            for cell in every:
                with cell_lock(runs, cell) as mine:
                    if mine and adopt(study, runs, cell):
                        session.complete.append(cell.id)
                        todo.remove(cell)
            if session.complete:
                console.print(f"{len(session.complete)} of {len(every)} cells are complete already", highlight=False)
            for cell in every:
                if cell.id in session.complete:
                    mirror(cell)
            costs = {cell.id: weight(cell.experiment) for cell in every}
            seeds = list(dict.fromkeys(cell.levels["seed"] for cell in every))
            # The largest first: what does not fit in memory says so at once, and the workers end together.
            todo.sort(key=lambda cell: (seeds.index(cell.levels["seed"]), -costs[cell.id]))
            with board(console, {cell.id: costs[cell.id] for cell in todo}, len(every), workers) as shown:
                shown.estimate.pace += [seconds / costs[cell_id] for cell_id, seconds in study.seconds().items()]
                tracking.say = shown.say
                if workers == 1:
                    take_turns(study, runs, todo, session, shown.lanes[0], run_cell or real_run_cell(), mirror)
                elif todo:
                    run_in_processes(sweep, runs, todo, session, shown, mirror, workers)
            tracking.close("FINISHED" if len(session.complete) == len(every) else "FAILED")
        except (KeyboardInterrupt, SystemExit):
            # libraries turn a signal into SystemExit of their own accord; any exit inside a cell ends the sweep
            tracking.close("KILLED")
            kept = sum((runs / cell.id / "records.parquet").exists() for cell in every)
            raise StoppedError(received[0] if received else signal.SIGTERM, kept, len(every)) from None
        except Exception as error:
            if full := no_room(error, runs):
                raise full from error
            raise
    return session


def _open_study(runs: Path, sweep: Sweep, every: list[Cell]) -> Study:
    import sqlalchemy.exc

    try:
        return Study(runs, sweep, every)
    except sqlalchemy.exc.DatabaseError as error:
        raise ValueError(f"{runs / 'sweeps.db'} cannot be used ({error.orig}); move it away and run again") from error


class _Tracking:
    """The tracker, opened when first needed; its failure is one line, never the sweep's."""

    def __init__(
        self, runs: Path, sweep: Sweep, open_mirror: Callable[[Path, Sweep], Mirror] | None, console: Console
    ) -> None:
        self.runs, self.sweep, self.open_mirror = runs, sweep, open_mirror
        self.say: Callable[[str], None] = lambda line: console.print(line, highlight=False, markup=False)
        self.tracker: Mirror | None = None

    def mirror(self, directory: Path, cell: Cell) -> None:
        """Show a complete cell in the tracker."""
        if self.open_mirror is None:
            return
        try:
            if self.tracker is None:
                self.tracker = self.open_mirror(self.runs, self.sweep)
            self.tracker.mirror(directory, cell.levels)
        except Exception as error:
            self._give_up(error)

    def close(self, status: str) -> None:
        """Close the sweep's run."""
        try:
            if self.tracker is not None:
                self.tracker.close(status)
        except Exception as error:
            self._give_up(error)

    def _give_up(self, error: Exception) -> None:
        first = (str(error).splitlines() or [""])[0]
        self.say(f"tracking stopped ({type(error).__name__}: {first}); the next run mirrors what is missing")
        self.open_mirror = self.tracker = None


@contextmanager
def _signals() -> Iterator[list[int]]:
    """The signals that ask to stop raise KeyboardInterrupt in the block; yields the list of those received."""
    received: list[int] = []

    def handler(number: int, frame: object) -> None:
        received.append(number)
        raise KeyboardInterrupt

    with handled(STOPPING, handler):
        yield received
