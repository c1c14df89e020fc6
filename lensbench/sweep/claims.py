"""Who runs a cell: numbered claims in the cell's own directory, which every worker on every machine sees.

A cell may be wanted by several workers, of one sweep or of two that share it. Claim n+1 can be made only when claim n
has ended, or its holder is dead, or has not beaten for so long that it counts as dead; and only by one worker, because
a claim appears by renaming a folder that is not empty, which fails where one is.

Its holder works through a link inside its claim, `.claims/<n>/<cell id>`, and through nothing else. Whoever takes the
cell away removes that link first. So a worker that was suspended, lost its cell and wakes up resolves none of its
paths any more: it can neither publish nor change a file. What it held open then is another file than the one its
successor reads, for the successor copies the files that may be open. If it publishes before the link is gone, the
successor, which looks for records after it has removed the link, finds the cell complete. And records appear by a hard
link, which fails where records are. So a cell is completed once, whatever the timing.

Death is noticed at once on the machine of the holder, for the kernel gives up the lock that it holds on its claim.
From other machines it is noticed by heartbeats: the holder touches its claim, and a watcher for whom the time of that
file has stayed the same for `LIMIT` beats of the watcher's own clock calls it dead; clocks need not agree.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
import socket
import threading
import time
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal, get_args

from lensbench.publishing import publish

CLAIMS = ".claims"  # in a cell's directory: a folder a claim, by its number
HOLDER, ENDED, BEAT = "holder.json", "ended.json", "beat.json"
CANCELLED = "cancelled"  # a file among the claims: nobody may take the cell
FORGIVEN = "forgiven"  # a file among the claims: the failures up to the claim whose number it holds do not count
TRIES = 3  # failures after which a cell is left alone
TRIES_VARIABLE = "LENSBENCH_TRIES"  # in the environment: another number
LIMIT = 6  # beats that may be missed

End = Literal["complete", "failed", "died", "stopped", "cancelled"]


def beat_seconds() -> float:
    """Between two heartbeats; LENSBENCH_HEARTBEAT_SECONDS says otherwise, the same for all workers of a sweep."""
    return float(os.environ.get("LENSBENCH_HEARTBEAT_SECONDS", "20"))


class ClaimLostError(Exception):
    """Another worker has taken the cell away, because this one did not beat for too long."""


@dataclass(frozen=True)
class State:
    """What the claims of a cell say."""

    number: int = 0  # of the last claim; 0: none has been made
    holder: dict[str, Any] | None = None  # host, pid, kernel, since, sweep of the last claim
    end: End | None = None  # how it ended; None while it is held
    reason: str = ""  # of the last try that failed or died
    failures: int = 0  # tries since the last success or retry that failed, or whose process died and had not got on
    cancelled: bool = False
    beat: float | None = None  # when the holder last beat, in seconds since the epoch
    progress: dict[str, Any] | None = None  # what it last said: stage, done, total, note

    @property
    def held(self) -> bool:
        """Whether there is a holder, dead or alive."""
        return self.number > 0 and self.end is None


def state(cell: Path) -> State:
    """The state of a cell's directory, which need not exist."""
    folder = cell / CLAIMS
    try:
        names = os.listdir(folder)
    except (FileNotFoundError, NotADirectoryError):
        return State()
    numbers = sorted(int(name) for name in names if name.isdigit())
    cancelled = CANCELLED in names
    if not numbers:
        return State(cancelled=cancelled)
    forgiven = 0
    if FORGIVEN in names:
        with suppress(OSError, ValueError):
            forgiven = int((folder / FORGIVEN).read_text())
    failures, reason = 0, ""
    for number in reversed(numbers):  # back to the last success
        said = _ended(folder / str(number))
        if number <= forgiven or (said and said["end"] == "complete"):
            break
        if said and said["end"] in ("failed", "died"):
            reason = reason or said["reason"]
        # A machine that is taken away again and again does no harm to a training that gets on each time.
        failures += bool(said and (said["end"] == "failed" or (said["end"] == "died" and not said["got_on"])))
    last = folder / str(numbers[-1])
    end = _ended(last)
    beat = None
    with suppress(OSError):
        beat = (last / HOLDER).stat().st_mtime
    return State(
        number=numbers[-1],
        holder=_read(last / HOLDER),
        end=end["end"] if end else None,
        reason=reason,
        failures=failures,
        cancelled=cancelled,
        beat=beat,
        progress=_read(last / BEAT),
    )


class Watcher:
    """Knows which holders are dead, from having looked at their claims before."""

    def __init__(self, limit: float | None = None) -> None:
        self.limit = LIMIT * beat_seconds() if limit is None else limit
        self.seen: dict[
            tuple[Path, int], tuple[int, float]
        ] = {}  # claim -> time of its file, when it was first seen so

    def dead(self, cell: Path, found: State) -> Literal["gone", "silent"] | None:
        """Whether the holder's process has ended ("gone"), or has not beaten for too long; None when it may live."""
        path = cell / CLAIMS / str(found.number) / HOLDER
        try:
            beaten = path.stat().st_mtime_ns
        except OSError:
            return None
        if holder_is_gone(cell, found):
            return "gone"
        now = time.monotonic()
        last, since = self.seen.get((cell, found.number), (0, now))
        if last != beaten:
            self.seen[cell, found.number] = beaten, now
            return None
        return "silent" if now - since > self.limit else None


class Claim:
    """A cell that this process may work on, in `directory`, until `end` or until another takes it away."""

    def __init__(self, cell: Path, number: int, lock: IO[str]) -> None:
        self.cell, self.number, self.lock = cell, number, lock
        self.folder = cell / CLAIMS / str(number)
        self.directory = self.folder / cell.name

    def lost(self) -> bool:
        """Whether another worker has taken the cell away."""
        return not self.directory.is_symlink()  # a woken process may have made a folder of that name, which is none

    def beat(self, progress: dict[str, Any] | None = None) -> None:
        """Say that this process lives, and how far the cell is. ClaimLostError when the cell is another's."""
        if self.lost():
            raise ClaimLostError(f"another worker has taken {self.cell.name}")
        with suppress(OSError):  # a full disk: the touch below needs no room
            if progress is not None:
                _write(self.folder / BEAT, progress)
        with suppress(FileNotFoundError):
            os.utime(self.folder / HOLDER)

    def cancelled(self) -> bool:
        """Whether someone has asked for the cell to be stopped."""
        return (self.cell / CLAIMS / CANCELLED).exists()

    def end(self, how: End, reason: str = "") -> None:
        """Give the cell up. ClaimLostError when it is another's already."""
        try:
            if self.lost():
                raise ClaimLostError(f"another worker has taken {self.cell.name}")
            said = {"end": how, "reason": reason[:500], "got_on": False, "when": time.time()}
            _write(self.folder / ENDED, said)
            self.directory.unlink(missing_ok=True)
        finally:
            self.lock.close()


def is_run(cell: Path) -> bool:
    """Whether somebody holds the cell who is not known to be gone."""
    found = state(cell)
    return found.held and not holder_is_gone(cell, found)


def take_free(cell: Path) -> Claim | None:
    """Claim a cell that nobody holds, or a process that is gone. None where somebody does, or was faster."""
    found = state(cell)
    gone = "gone" if found.held and holder_is_gone(cell, found) else None
    return None if found.held and not gone else take(cell, found, gone)


def take(cell: Path, found: State, dead: str | None = None, about: dict[str, Any] | None = None) -> Claim | None:
    """Claim a cell whose last claim, as `found`, has ended or whose holder is `dead`. None when another was faster.

    `about` is told of the holder, beside its host and process.
    """
    assert dead or not found.held
    number = found.number + 1
    claims = cell / CLAIMS
    claims.mkdir(parents=True, exist_ok=True)
    mine = claims / f"new-{uuid.uuid4().hex}"
    mine.mkdir()
    lock = (mine / HOLDER).open("w")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        holder = {"host": socket.gethostname(), "pid": os.getpid(), "kernel": kernel(), "since": time.time()}
        holder["threads"] = os.environ.get("OMP_NUM_THREADS", "")
        json.dump(holder | {"resumed_at": _resume_step(cell)} | (about or {}), lock)
        lock.flush()
        (mine / cell.name).symlink_to(Path("../.."), target_is_directory=True)
        os.rename(mine, claims / str(number))
    except OSError as error:
        lock.close()
        shutil.rmtree(mine, ignore_errors=True)
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
            return None
        raise
    claim = Claim(cell, number, lock)
    # Of every claim before, for whoever made the last one may have been stopped before it had done this.
    for name in os.listdir(claims):
        if name.isdigit() and int(name) < number:
            with suppress(IsADirectoryError):
                (claims / name / cell.name).unlink(missing_ok=True)
    if dead:
        _bury(claim, found, dead)
    return claim


def _bury(claim: Claim, found: State, dead: str) -> None:
    folder, holder = claim.folder.with_name(str(found.number)), found.holder or {}
    if not (folder / ENDED).exists():
        how = "ended without a word" if dead == "gone" else "was not heard of for too long"
        reason = f"its process {holder.get('pid', '?')} on {holder.get('host', '?')} {how}"
        got_on = _resume_step(claim.cell) > int(holder.get("resumed_at", 0))
        _write(folder / ENDED, {"end": "died", "reason": reason, "got_on": got_on, "when": time.time()})
    for path in claim.folder.parent.glob("new-*"):
        if time.time() - path.stat().st_mtime > 3600:
            shutil.rmtree(path, ignore_errors=True)  # of a process that died while it claimed
    if dead == "silent":  # it may wake up with files open; by our own link, for we may be shut out ourselves by then
        for path in claim.directory.rglob("*.partial"):
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
        for path in claim.directory.iterdir():
            if path.is_file() and not path.is_symlink():
                fresh = path.with_name(f".{path.name}.fresh")
                shutil.copy2(path, fresh)
                os.replace(fresh, path)


def excuse(cell: Path, processes: set[int]) -> None:
    """Processes of this machine that were killed because a person asked have not failed."""
    found = state(cell)
    holder = found.holder or {}
    if found.held and holder.get("kernel") == kernel() and holder.get("pid") in processes:
        said = {"end": "stopped", "reason": "", "got_on": False, "when": time.time()}
        _write(cell / CLAIMS / str(found.number) / ENDED, said)


@contextmanager
def beating(claim: Claim, progress: Heart) -> Iterator[None]:
    """Beat in a thread while the block runs."""
    stop = threading.Event()

    def beat() -> None:
        while not stop.wait(beat_seconds()):
            try:
                claim.beat(progress.latest)
            except ClaimLostError:
                progress.lost = True
                return
            except OSError:  # the directory's server is away: whoever sees it in the meantime decides
                continue
            if claim.cancelled() and not progress.cancelled:
                progress.cancelled = True
                progress.on_cancel()

    thread = threading.Thread(target=beat, daemon=True, name="heartbeat")
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(timeout=5)


class Heart:
    """What the heartbeat tells and what it learns."""

    def __init__(self) -> None:
        self.latest: dict[str, Any] | None = None
        self.lost = self.cancelled = False

    def on_cancel(self) -> None:
        """Stop what is being trained as a signal would: after its step, with its state kept."""
        import signal

        os.kill(os.getpid(), signal.SIGTERM)


def cancel(cell: Path) -> None:
    """Nobody takes the cell from now on, and its holder stops at its next beat."""
    (cell / CLAIMS).mkdir(parents=True, exist_ok=True)
    (cell / CLAIMS / CANCELLED).touch()


def forgive(cell: Path) -> bool:
    """Let a cell be taken again that was cancelled or has failed too often. Whether there was anything to forgive."""
    found = state(cell)
    if not found.cancelled and not found.failures:
        return False
    (cell / CLAIMS / CANCELLED).unlink(missing_ok=True)
    partial = cell / CLAIMS / f"{FORGIVEN}.{uuid.uuid4().hex}"
    partial.write_text(str(found.number))
    publish(partial, cell / CLAIMS / FORGIVEN)
    return True


def holder_is_gone(cell: Path, found: State) -> bool:
    """Whether the holder's process has ended without ending its claim; False where that cannot be known from here."""
    if found.holder is None or found.holder.get("kernel") != kernel():
        return False
    path = cell / CLAIMS / str(found.number) / HOLDER
    # Its end may have been written between the look at its state and this one: then the claim is over, nobody died.
    return _unlocked(path) and not (path.parent / ENDED).exists()


def threads_beside(every: Iterable[Path]) -> int:
    """The threads of the processes that run any of these cells on this machine; 0 where none says."""
    for cell in every:
        found = state(cell)
        holder = found.holder or {}
        if found.held and holder.get("kernel") == kernel() and not holder_is_gone(cell, found):
            threads = str(holder.get("threads", ""))
            if threads.isdecimal() and int(threads):
                return int(threads)
    return 0


def kernel() -> str:
    """What processes share that see each other's locks for certain: a running kernel."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return f"{socket.gethostname()} {os.uname().version}"


def _unlocked(path: Path) -> bool:
    try:
        with path.open("r") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            return True
    except OSError:
        return False


def _resume_step(cell: Path) -> int:
    # How far the cell can go on from. What is trained to the end counts as further than any step; images that an
    # evaluation has kept, as further still.
    if (cell / "trained.json").exists():
        return 2**62 + sum(1 for _ in cell.glob("evaluations/*/images/*/*.npz"))
    return max((int(path.stem.removeprefix("step-")) for path in (cell / "resume").glob("step-*.json")), default=0)


def _ended(claim: Path) -> dict[str, Any] | None:
    """How a claim ended; None while it is held. It appears whole: one that cannot be read is damaged, and has ended."""
    said = _read(claim / ENDED)
    if said is None and not (claim / ENDED).exists():
        return None
    unknown = {"end": "stopped", "reason": "", "got_on": True}
    return unknown | (said if said and said.get("end") in get_args(End) else {})


def _read(path: Path) -> dict[str, Any] | None:
    try:
        said = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    return said if isinstance(said, dict) else None


def _write(path: Path, said: dict[str, Any]) -> None:
    partial = path.with_name(f"{path.name}.{uuid.uuid4().hex}")
    partial.write_text(json.dumps(said))
    os.replace(partial, path)
