"""A worker: take the next cell that is not complete, run it here, go on whatever happens to it.

Any number of workers may run one sweep at once, or sweeps that share cells, on directories they share: each holds its
cell's claim (lensbench.sweep.claims) while it runs it, and the one that finds nothing left waits for the others, ready
to redo a cell whose process died.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol

from lensbench import spool
from lensbench.records import RECORDS
from lensbench.sweep import cellfiles, claims, cost
from lensbench.sweep.progress import Display, Progress, Report, duration
from lensbench.sweep.study import Study
from lensbench.sweep.sweep import Cell
from lensbench.training import files

if TYPE_CHECKING:
    from lensbench.experiment import Evaluation, Experiment

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)  # every further cell would fail as well
NO_ROOM_WORDS = re.compile(r"No space left on device|disk is full|\d+ requested and \d+ written")


class RunCell(Protocol):
    """Train an experiment in `directory` and make its `evaluations` there: see lensbench.sweep.cellfiles.

    `cache` is a directory that cells share.
    """

    def __call__(
        self,
        experiment: Experiment,
        directory: Path,
        *,
        cache: Path,
        report: Report,
        evaluations: Sequence[Evaluation] = (),
    ) -> None: ...


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
    *,
    tries: int = claims.TRIES,
    most: int | None = None,
) -> None:
    """Run the cells of `todo` that no other worker has, until none is left; `completed` is told of each that is.

    A cell that fails is not tried again by this call, one that has failed `tries` times not at all, nor one that is
    cancelled. With `most` the call ends when it has run so many cells.
    """
    before = {cell.id: claims.state(runs / cell.id).number for cell in todo}
    watcher, waiting, ran = claims.Watcher(), False, 0
    while todo:
        taken = False
        for cell in list(todo):
            outcome = _turn(study, runs, cell, session, show, run_cell, watcher, before[cell.id], tries)
            if outcome == "busy":
                continue
            taken, waiting = True, False
            if outcome == "over":
                todo.remove(cell)
            else:
                ran += 1
                if cell.id in session.complete or cell.id in session.failed:
                    todo.remove(cell)
            if cell.id in session.complete:
                completed(cell)
            if ran == most:
                return
        if todo and not taken:
            if not waiting:
                show.say(_waiting(runs, todo))
                waiting = True
            time.sleep(min(0.5, claims.beat_seconds()))


def _waiting(runs: Path, todo: list[Cell]) -> str:
    """What is waited for, in words. Of another machine, or of before a restart, death is noticed by silence alone."""
    holders = [claims.state(runs / cell.id).holder or {} for cell in todo]
    unseen = [holder for holder in holders if holder and holder.get("kernel") != claims.kernel()]
    if not unseen:
        return f"waiting for {len(todo)} cell(s) that other processes are running"
    hosts = ", ".join(sorted({str(holder.get("host", "?")) for holder in unseen}))
    silence = claims.LIMIT * claims.beat_seconds()
    return (
        f"{len(unseen)} cell(s) are held by processes on {hosts} (another machine, or this one before a restart): each "
        f"is taken over when it was silent for {silence:.0f} s"
    )


def _turn(
    study: Study,
    runs: Path,
    cell: Cell,
    session: Session,
    show: Display,
    run_cell: RunCell,
    watcher: claims.Watcher,
    before: int,
    tries: int,
) -> Literal["busy", "over", "ran"]:
    # One cell: another worker has it, it is over for this session, or it has been run here.
    directory = runs / cell.id
    directory.mkdir(exist_ok=True)
    found = claims.state(directory)
    dead = watcher.dead(directory, found) if found.held else None
    if found.held and not dead:
        return "busy"
    if not found.held and adopt(study, runs, cell):
        session.complete.append(cell.id)
        show.end(f"{cell.label()}: complete, by another process", cell.id, None)
        return "over"
    why = None
    if found.end == "failed" and found.number > before:
        why = f"{cellfiles.why_unfinished(directory)}, in another process"
    elif found.cancelled:
        why = "cancelled: lensbench retry queues it again"
    elif found.failures >= tries:
        why = f"{_last_failure(directory, found)}; {found.failures} tries: lensbench retry queues it again"
    if why and not dead:
        session.failed[cell.id] = why
        show.end(f"{cell.label()}: {why}", cell.id, None)
        return "over"
    claim = claims.take(directory, found, dead)
    if claim is None:
        return "busy"
    try:
        if dead:  # its death may have been one too many, or it may have published before
            if adopt(study, runs, cell):
                claim.end("complete")
                session.complete.append(cell.id)
                show.end(f"{cell.label()}: complete, by another process", cell.id, None)
                return "over"
            again = claims.state(directory)
            if again.failures >= tries or again.cancelled:
                claim.end("cancelled" if again.cancelled else "stopped")
                return "busy"  # the next look says why it is over
        _run_one(study, claim, cell, session, show, run_cell)
    except claims.ClaimLostError:
        show.say(f"{cell.label()}: another worker has taken it, because this one was suspended for too long")
    return "ran"


def _last_failure(directory: Path, found: claims.State) -> str:
    return cellfiles.why_unfinished(directory) if (directory / "error.txt").exists() else f"failed: {found.reason}"


def _run_one(study: Study, claim: claims.Claim, cell: Cell, session: Session, show: Display, run_cell: RunCell) -> None:
    # Everything is done by the claim's own path: see lensbench.sweep.claims. ClaimLostError when the cell is another's.
    trial = study.start(cell.id, claim.number)
    began = time.monotonic()
    heart = claims.Heart()

    def report(progress: Progress) -> None:
        heart.latest = asdict(progress)
        if heart.lost:
            raise claims.ClaimLostError(f"another worker has taken {cell.id}")
        show.report(progress)

    try:
        clear(claim.directory)
        show.begin(cell)
        for line in cellfiles.remove_damaged(claim.directory, [place.experiment for place in cell.evaluations]):
            show.report(Progress("scoring", 0, 1, line, lasting=True))
        claim.beat()
        with claims.beating(claim, heart):
            cache = claim.cell.parent / "cache"
            wanted = [place.experiment.evaluation for place in cell.evaluations]
            run_cell(cell.experiment, claim.directory, cache=cache, report=report, evaluations=wanted)
        records = cellfiles.read_records(claim.cell, cell.experiment)
        metric, score = cellfiles.main_score(records)
    except (KeyboardInterrupt, SystemExit):
        how: claims.End = "cancelled" if heart.cancelled else "stopped"
        with suppress(Exception):  # the next run marks it failed if this does not
            claim.end(how)
        if not heart.cancelled:
            with suppress(Exception):
                study.fail(trial, "interrupted")
            raise
        study.fail(trial, how)
        session.failed[cell.id] = "cancelled: lensbench retry queues it again"
        show.end(f"{cell.label()}: {session.failed[cell.id]}", cell.id, None)
        return
    except Exception as error:
        if claim.lost():
            claim.lock.close()
            raise claims.ClaimLostError(f"another worker has taken {cell.id}") from error
        said = traceback.format_exc().replace(str(claim.directory), str(claim.cell))
        with suppress(OSError):
            (claim.directory / "error.txt").write_text(said)
        full = no_room(error, claim.cell)
        with suppress(OSError):
            claim.end("stopped" if full else "failed", said.strip().splitlines()[-1])
        with suppress(Exception):
            study.fail(trial, f"{type(error).__name__}: {error}")
        if full:
            raise full from error
        session.failed[cell.id] = cellfiles.why_unfinished(claim.cell)
        show.end(f"{cell.label()}: {session.failed[cell.id]} ({claim.cell / 'error.txt'})", cell.id, None)
        return
    with suppress(claims.ClaimLostError):  # it is complete, whoever says so
        claim.end("complete")
    session.complete.append(cell.id)
    study.complete(trial, score)
    seconds = time.monotonic() - began
    show.end(f"{cell.label()}: {metric} {score:.3f}, {duration(seconds)}", cell.id, seconds)


def clear(directory: Path) -> None:
    """Empty a cell's directory of an earlier attempt, but for its claims, its cost, its evaluations, and what training
    left or can go on from."""
    kept = [spool.NAME, cellfiles.EVALUATIONS, *files.ALL]
    if cellfiles.is_trained(directory):
        kept += [RECORDS.file, "experiment.json", "versions.json"]
    for entry in directory.iterdir():
        if entry.name.startswith(".") or entry.name in kept or entry.match(cost.FILES):
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
        full = error.errno in NO_ROOM and error.errno != errno.EROFS
        hint = "free some space" if full else "choose a directory that you can write"
        raise OSError(error.errno, f"cannot write in {directory}: {reason}; {hint}") from error


def adopt(study: Study, runs: Path, cell: Cell) -> bool:
    """Whether the cell's directory is complete; the study then agrees."""
    if not cellfiles.is_complete(runs / cell.id, cell):
        return False
    try:
        (_, records, _), *_ = cellfiles.read_complete(runs / cell.id, cell)
    except ValueError:  # corrupt: as good as absent
        return False
    study.adopt(cell.id, cellfiles.main_score(records)[1])
    return True


def real_run_cell() -> RunCell:
    """Trains and scores for real; imported when it is needed, for it brings torch."""
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
    what = "make it writable" if number == errno.EROFS else "free some space"
    return OSError(
        number,
        f"cannot write in {directory}: {os.strerror(number)}; {what} and run the same command again: complete cells "
        "are kept",
    )
