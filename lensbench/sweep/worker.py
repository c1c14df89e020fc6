"""A worker: take the next cell that is not complete, run it here, go on whatever happens to it.

Any number of workers may run one sweep at once, on directories they share: each holds its cell's lock while it runs
it, and the one that finds nothing left waits for the others, ready to redo a cell whose process died.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from lensbench.locks import file_lock
from lensbench.sweep import cellfiles
from lensbench.sweep.progress import Display, Report, duration
from lensbench.sweep.study import Study
from lensbench.sweep.sweep import Cell
from lensbench.training import files

if TYPE_CHECKING:
    from lensbench.experiment import Experiment

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)  # every further cell would fail as well
NO_ROOM_WORDS = re.compile(r"No space left on device|disk is full|\d+ requested and \d+ written")


class RunCell(Protocol):
    """Train and score one experiment into `directory`, `records.parquet` last and atomically.

    `cache` is a directory that cells share.
    """

    def __call__(self, experiment: Experiment, directory: Path, *, cache: Path, report: Report) -> None: ...


@dataclass
class Session:
    """Which cells a worker, or several, found complete, made complete and could not."""

    complete: list[str] = field(default_factory=list)  # cell ids, found or made
    failed: dict[str, str] = field(default_factory=dict)  # cell id -> the last line of its error


def take_turns(
    study: Study,
    runs: Path,
    todo: list[Cell],
    session: Session,
    show: Display,
    run_cell: RunCell,
    completed: Callable[[Cell], None] = lambda cell: None,
) -> None:
    """Run the cells of `todo` that no other worker has, until none is left; `completed` is told of each that is."""
    began = time.time()
    waiting = False
    while todo:
        taken = False
        for cell in list(todo):
            with cell_lock(runs, cell) as mine:
                if not mine:
                    continue
                taken, waiting = True, False
                todo.remove(cell)
                directory = runs / cell.id
                error = directory / "error.txt"
                if adopt(study, runs, cell):
                    session.complete.append(cell.id)
                    show.end(f"{cell.label()}: complete, by another process", cell.id, None)
                elif error.exists() and error.stat().st_mtime > began:
                    session.failed[cell.id] = cellfiles.why_unfinished(directory)
                    show.end(f"{cell.label()}: {session.failed[cell.id]}, in another process", cell.id, None)
                else:
                    _run_one(study, directory, cell, session, show, run_cell)
            if cell.id in session.complete:
                completed(cell)
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
        if no_room(error, directory):
            raise
        session.failed[cell.id] = cellfiles.why_unfinished(directory)
        show.end(f"{cell.label()}: {session.failed[cell.id]} ({directory / 'error.txt'})", cell.id, None)
        return
    session.complete.append(cell.id)
    study.complete(number, score)
    seconds = time.monotonic() - began
    show.end(f"{cell.label()}: {metric} {score:.3f}, {duration(seconds)}", cell.id, seconds)


def clear(directory: Path) -> None:
    """Empty a cell's directory of an earlier attempt, but for its lock and what training can go on from."""
    for entry in directory.iterdir():
        if entry.name in (".lock", *files.ALL):
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


def adopt(study: Study, runs: Path, cell: Cell) -> bool:
    """Whether the cell's directory is complete; the study then agrees. The caller holds the cell's lock."""
    if not (runs / cell.id / "records.parquet").exists():
        return False
    try:
        records = cellfiles.read_records(runs / cell.id, cell.experiment)
    except ValueError:  # corrupt: as good as absent
        return False
    study.adopt(cell.id, cellfiles.main_score(records)[1])
    return True


@contextmanager
def cell_lock(runs: Path, cell: Cell) -> Iterator[bool]:
    """Hold the lock of a cell's directory, made if need be; yields False when another process has it."""
    directory = runs / cell.id
    directory.mkdir(exist_ok=True)
    with file_lock(directory / ".lock", wait=False) as mine:
        yield mine


def real_run_cell() -> RunCell:
    """Train and score for real; imported when it is needed, for it brings torch."""
    from lensbench.sweep.cell import run_cell

    return run_cell


def no_room(error: BaseException, directory: Path) -> OSError | None:
    """The error, in one line, if it comes of a full disk; else None."""
    # Writers wrap a full disk in errors of their own: torch in a RuntimeError, safetensors in a SafetensorError, numpy
    # in an OSError without a number.
    seen: BaseException | None = error
    while seen is not None:
        number = seen.errno if isinstance(seen, OSError) else None
        if number in NO_ROOM or NO_ROOM_WORDS.search(str(seen)):
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
