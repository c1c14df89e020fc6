"""Running a sweep: take the next cell that is not complete, run it here, go on whatever happens to it.

Any number of workers may run one sweep at once, on directories they share: each holds its cell's lock while it runs
it, and the one that finds nothing left waits for the others, ready to redo a cell whose process died.
"""

from __future__ import annotations

import errno
import os
import shutil
import signal
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from lensbench.sweep import cellfiles
from lensbench.sweep.progress import Display, Report, display, duration, weight
from lensbench.sweep.quiet import quiet
from lensbench.sweep.study import Study, file_lock
from lensbench.sweep.sweep import Cell, Sweep, cells

if TYPE_CHECKING:
    from rich.console import Console

    from lensbench.experiment import Experiment

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)  # every further cell would fail as well


class RunCell(Protocol):
    """Train and score one experiment into `directory`, `records.parquet` last and atomically.

    `cache` is a directory that cells share.
    """

    def __call__(self, experiment: Experiment, directory: Path, *, cache: Path, report: Report) -> None: ...


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


@dataclass
class Session:
    """What one call of `work` did."""

    complete: list[str] = field(default_factory=list)  # cell ids, found or made
    failed: dict[str, str] = field(default_factory=dict)  # cell id -> the last line of its error


def work(
    sweep: Sweep,
    runs: Path,
    *,
    console: Console,
    run_cell: RunCell | None = None,
    open_mirror: Callable[[Path, Sweep], Mirror] | None = None,
) -> Session:
    """Run every cell of the sweep that is not complete in `runs`.

    A cell that fails is recorded (`error.txt`) and the others go on; it is tried again by the next call. A cell left
    half done by an earlier process is redone from nothing.

    Args:
        run_cell: what runs a cell; lensbench.sweep.cell.run_cell when None.
        open_mirror: opens the tracker that complete cells are shown in; None for no tracking.

    Raises OSError when `runs` cannot be written or is full, StoppedError on SIGINT, SIGTERM or SIGHUP.
    """
    quiet()
    check_writable(runs)
    every = cells(sweep)
    session, todo = Session(), list(every)
    tracking = _Tracking(runs, sweep, open_mirror, console)
    with _signals() as received:
        try:
            study = _open_study(runs, sweep, every)
            for cell in every:
                with _cell_lock(runs, cell) as mine:
                    if mine and _adopt(study, runs, cell):
                        session.complete.append(cell.id)
                        todo.remove(cell)
            if session.complete:
                console.print(f"{len(session.complete)} of {len(every)} cells are complete already", highlight=False)
            for cell in every:
                if cell.id in session.complete:
                    tracking.mirror(runs / cell.id, cell)
            with display(console, {cell.id: weight(cell.experiment) for cell in todo}, len(every)) as show:
                pace = {cell.id: weight(cell.experiment) for cell in every}
                show.estimate.pace += [seconds / pace[cell_id] for cell_id, seconds in study.seconds().items()]
                tracking.say = show.say
                _take_turns(study, runs, todo, session, show, run_cell or _real_run_cell(), tracking)
            tracking.close("FINISHED" if len(session.complete) == len(every) else "FAILED")
        except (KeyboardInterrupt, SystemExit):
            # libraries turn a signal into SystemExit of their own accord; any exit inside a cell ends the sweep
            tracking.close("KILLED")
            kept = sum((runs / cell.id / "records.parquet").exists() for cell in every)
            raise StoppedError(received[0] if received else signal.SIGTERM, kept, len(every)) from None
        except Exception as error:
            if full := _no_room(error, runs):
                raise full from error
            raise
    return session


def _take_turns(
    study: Study,
    runs: Path,
    todo: list[Cell],
    session: Session,
    show: Display,
    run_cell: RunCell,
    tracking: _Tracking,
) -> None:
    began = time.time()
    waiting = False
    while todo:
        taken = False
        for cell in list(todo):
            with _cell_lock(runs, cell) as mine:
                if not mine:
                    continue
                taken, waiting = True, False
                todo.remove(cell)
                directory = runs / cell.id
                error = directory / "error.txt"
                if _adopt(study, runs, cell):
                    session.complete.append(cell.id)
                    show.end(f"{cell.label()}: complete, by another process", cell.id, None)
                elif error.exists() and error.stat().st_mtime > began:
                    session.failed[cell.id] = cellfiles.why_unfinished(directory)
                    show.end(f"{cell.label()}: {session.failed[cell.id]}, in another process", cell.id, None)
                else:
                    _run_one(study, directory, cell, session, show, run_cell)
            if cell.id in session.complete:
                tracking.mirror(runs / cell.id, cell)
        if todo and not taken:
            if not waiting:
                show.say(f"waiting for {len(todo)} cell(s) that other processes are running")
                waiting = True
            time.sleep(0.5)


def _run_one(study: Study, directory: Path, cell: Cell, session: Session, show: Display, run_cell: RunCell) -> None:
    # The caller holds the cell's lock.
    number = study.start(cell.id)
    began = time.monotonic()
    try:
        clear(directory)
        show.begin(cell)
        run_cell(cell.experiment, directory, cache=directory.parent / "cache", report=show.report)
        records = cellfiles.read_records(directory, cell.experiment)
        metric, score = cellfiles.main_score(records)
    except (KeyboardInterrupt, SystemExit):
        with suppress(Exception):  # the next run marks it failed if this does not
            study.fail(number, "interrupted")
        raise
    except Exception as error:
        with suppress(OSError):
            (directory / "error.txt").write_text(traceback.format_exc())
        with suppress(Exception):
            study.fail(number, f"{type(error).__name__}: {error}")
        if _no_room(error, directory):
            raise
        session.failed[cell.id] = cellfiles.why_unfinished(directory)
        show.end(f"{cell.label()}: {session.failed[cell.id]} ({directory / 'error.txt'})", cell.id, None)
        return
    session.complete.append(cell.id)
    study.complete(number, score)
    seconds = time.monotonic() - began
    show.end(f"{cell.label()}: {metric} {score:.3f}, {duration(seconds)}", cell.id, seconds)


def clear(directory: Path) -> None:
    """Empty a cell's directory of an earlier attempt, its lock excepted."""
    for entry in directory.iterdir():
        if entry.name == ".lock":
            continue
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink()


def check_writable(directory: Path) -> None:
    """Make `directory` and try to write in it. OSError, saying what to do, when that cannot be done."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=directory) as probe:
            probe.write(bytes(4096))
            probe.flush()
    except OSError as error:
        reason = "a file of that name is in the way" if isinstance(error, FileExistsError) else error.strerror
        hint = "free some space" if error.errno in NO_ROOM else "choose a directory that you can write"
        raise OSError(error.errno, f"cannot write in {directory}: {reason}; {hint}") from error


def _adopt(study: Study, runs: Path, cell: Cell) -> bool:
    # Whether the cell's directory is complete; the study is then made to agree. The caller holds the cell's lock.
    if not (runs / cell.id / "records.parquet").exists():
        return False
    try:
        records = cellfiles.read_records(runs / cell.id, cell.experiment)
    except ValueError:  # corrupt: as good as absent
        return False
    study.adopt(cell.id, cellfiles.main_score(records)[1])
    return True


@contextmanager
def _cell_lock(runs: Path, cell: Cell) -> Iterator[bool]:
    directory = runs / cell.id
    directory.mkdir(exist_ok=True)
    with file_lock(directory / ".lock", wait=False) as mine:
        yield mine


def _open_study(runs: Path, sweep: Sweep, every: list[Cell]) -> Study:
    import sqlalchemy.exc

    try:
        return Study(runs, sweep, every)
    except sqlalchemy.exc.DatabaseError as error:
        raise ValueError(f"{runs / 'sweeps.db'} cannot be used ({error.orig}); move it away and run again") from error


def _real_run_cell() -> RunCell:
    from lensbench.sweep.cell import run_cell

    return run_cell


def _no_room(error: BaseException, directory: Path) -> OSError | None:
    # Writers wrap a full disk in errors of their own (torch: RuntimeError, safetensors: SafetensorError).
    seen: BaseException | None = error
    while seen is not None:
        number = seen.errno if isinstance(seen, OSError) else None
        if number in NO_ROOM or "No space left on device" in str(seen) or "disk is full" in str(seen):
            break
        seen = seen.__cause__ or seen.__context__
    else:
        if shutil.disk_usage(directory).free > 2**16:
            return None
        number = errno.ENOSPC
    number = number or errno.ENOSPC
    return OSError(
        number,
        f"cannot write in {directory}: {os.strerror(number)}; free some space and run the same command again: "
        "complete cells are kept",
    )


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
    """SIGINT, SIGTERM and SIGHUP raise KeyboardInterrupt in the block; yields the list of those received."""
    received: list[int] = []

    def handler(number: int, frame: object) -> None:
        received.append(number)
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():  # only the main thread may set handlers
        yield received
        return
    before = {number: signal.signal(number, handler) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    try:
        yield received
    finally:
        for number, old in before.items():
            signal.signal(number, old)
