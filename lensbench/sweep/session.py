"""Running a sweep on this machine: find what is complete, share the rest among workers, show it, mirror it.

One worker runs in this process. Several run in processes of their own (lensbench.sweep.processes).
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from lensbench.stopping import STOPPING, handled
from lensbench.sweep import claims
from lensbench.sweep.cellfiles import is_complete
from lensbench.sweep.processes import run_in_processes
from lensbench.sweep.progress import board, weight
from lensbench.sweep.quiet import quiet
from lensbench.sweep.storage import address, shown
from lensbench.sweep.study import Study
from lensbench.sweep.sweep import Cell, Sweep, cells
from lensbench.sweep.worker import (
    RunCell,
    Session,
    adopt,
    check_writable,
    no_room,
    real_run_cell,
    take_turns,
)

if TYPE_CHECKING:
    from rich.console import Console


class Mirror(Protocol):
    """What shows the cells as they go, beside the sweep: see lensbench.tracking."""

    def look(self) -> None: ...
    def close(self) -> None: ...


# Starts to show the cells of a sweep in a directory; it is given what says a line.
OpenMirror = Callable[[Path, Sweep, Callable[[str], None]], Mirror]


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
    open_mirror: OpenMirror | None = None,
    storage: str | None = None,
    tries: int = claims.TRIES,
    isolate: bool = False,
) -> Session:
    """Run every cell of the sweep that is not complete in `runs`, the largest of each seed first.

    A cell that fails is recorded (`error.txt`) and the others go on; it is tried again by the next call, until it has
    failed `tries` times. A cell left half done by an earlier process goes on from its last resume point, or from
    nothing where there is none.

    Args:
        workers: processes to run cells in; 1 is this process.
        run_cell: what runs a cell, for one worker; lensbench.sweep.cell.run_cell when None.
        open_mirror: starts to show the cells in a tracker (lensbench.tracking.starter); None for no tracking.
        storage: where the queue is kept (lensbench.sweep.storage.address); None for the environment's or SQLite.
        isolate: every cell in a fresh process.

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
        tracking.look()

    with _signals() as received:
        try:
            study = _open_study(runs, sweep, every, storage, tracking.say)
            tracking.start()
            for cell in every:
                if not claims.state(runs / cell.id).held and adopt(study, runs, cell):
                    session.complete.append(cell.id)
                    todo.remove(cell)
            if session.complete:
                console.print(f"{len(session.complete)} of {len(every)} cells are complete already", highlight=False)
            costs = {cell.id: weight(cell.experiment) for cell in every}
            seeds = list(dict.fromkeys(cell.levels["seed"] for cell in every))
            # The largest first: what does not fit in memory says so at once, and the workers end together.
            todo.sort(key=lambda cell: (seeds.index(cell.levels["seed"]), -costs[cell.id]))
            with board(console, {cell.id: costs[cell.id] for cell in todo}, len(every), workers) as showing:
                showing.estimate.pace += [seconds / costs[cell_id] for cell_id, seconds in study.seconds().items()]
                tracking.say = showing.say
                if todo and workers == 1 and not isolate:
                    study.patiently.say = showing.say
                    run = run_cell or real_run_cell()
                    take_turns(study, runs, todo, session, showing.lanes[0], run, mirror, tries=tries)
                elif todo:
                    run_in_processes(
                        sweep,
                        runs,
                        todo,
                        session,
                        showing,
                        mirror,
                        workers,
                        storage=storage,
                        tries=tries,
                        isolate=isolate,
                    )
        except (KeyboardInterrupt, SystemExit):
            # libraries turn a signal into SystemExit of their own accord; any exit inside a cell ends the sweep
            kept = sum(is_complete(runs / cell.id, cell) for cell in every)
            raise StoppedError(received[-1] if received else signal.SIGTERM, kept, len(every)) from None
        except Exception as error:
            if full := no_room(error, runs):
                raise full from error
            raise
        finally:
            tracking.close()
    return session


def _open_study(runs: Path, sweep: Sweep, every: list[Cell], storage: str | None, say: Callable[[str], None]) -> Study:
    import sqlalchemy.exc

    try:
        return Study(runs, sweep, every, storage, say)
    except sqlalchemy.exc.DatabaseError as error:
        where = shown(address(storage, runs))
        raise ValueError(f"the storage {where} cannot be used ({error.orig}); move it away and run again") from error


class _Tracking:
    """What shows the cells beside the sweep; its failure is one line, never the sweep's."""

    def __init__(self, runs: Path, sweep: Sweep, open_mirror: OpenMirror | None, console: Console) -> None:
        self.runs, self.sweep, self.open_mirror = runs, sweep, open_mirror
        self.say: Callable[[str], None] = lambda line: console.print(line, highlight=False, markup=False)
        self.mirror: Mirror | None = None

    def start(self) -> None:
        """Show the cells from now on."""
        if self.open_mirror is not None:
            try:
                self.mirror = self.open_mirror(self.runs, self.sweep, lambda line: self.say(line))
            except OSError as error:
                self.say(f"tracking: not started ({error}); lensbench track sync sends everything later")

    def look(self) -> None:
        """There is something new."""
        if self.mirror is not None:
            self.mirror.look()

    def close(self) -> None:
        """Send the rest and end; a signal cuts it short, for the next run sends what is left."""
        if self.mirror is not None:
            with suppress(KeyboardInterrupt):
                self.mirror.close()


@contextmanager
def _signals() -> Iterator[list[int]]:
    """The signals that ask to stop raise KeyboardInterrupt in the block; yields the list of those received."""
    received: list[int] = []

    def handler(number: int, frame: object) -> None:
        received.append(number)
        raise KeyboardInterrupt

    with handled(STOPPING, handler):
        yield received
