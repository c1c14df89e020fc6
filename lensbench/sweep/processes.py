"""Workers in processes of their own, which share this machine's cores or GPUs.

Small models gain: two cells with one core each train faster than one after the other with two. Every process is a full
worker (lensbench.sweep.worker) that writes what it does, a JSON object a line, into one pipe; this module starts
them, reads the pipe and stops them. Whichever process dies, its cell's claim goes with it and another takes the cell.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from lensbench.stopping import STOPPING, handled
from lensbench.sweep import cellfiles, claims
from lensbench.sweep.progress import Progress
from lensbench.sweep.quiet import quiet
from lensbench.sweep.storage import VARIABLE
from lensbench.sweep.study import Study
from lensbench.sweep.sweep import Cell, Sweep, cells
from lensbench.sweep.worker import Session, no_room, real_run_cell, take_turns

if TYPE_CHECKING:
    from lensbench.sweep.progress import Board

MOST_WORKERS = 8  # on one machine without a GPU, unless asked for more: each holds a corpus and a model
GRACE_SECONDS = 120.0  # for a worker that is asked to stop to write the state of its training
LAME_STARTS = 3  # fresh processes in a row that end before they have done anything, and no more is started
LONGEST_LINE = 1000  # of text in an event: writes of up to 4,096 bytes into a pipe do not mix


def cores() -> int:
    """The cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def gpus() -> list[str]:
    """The visible NVIDIA GPUs, as CUDA_VISIBLE_DEVICES names them."""
    if not any(Path("/dev").glob("nvidia[0-9]*")):
        return []  # without importing torch
    import torch

    names = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
    return [names[n] if n < len(names) and names[n] else str(n) for n in range(torch.cuda.device_count())]


def default_workers(n_cells: int) -> int:
    """A worker a GPU or, without one, a core; the same however many of the cells are already complete."""
    return max(1, min(n_cells, len(gpus()) or min(cores(), MOST_WORKERS)))


def run_in_processes(
    sweep: Sweep,
    runs: Path,
    todo: list[Cell],
    session: Session,
    board: Board,
    completed: Callable[[Cell], None],
    workers: int,
    *,
    storage: str | None = None,
    tries: int = claims.TRIES,
    isolate: bool = False,
) -> None:
    """Run the cells of `todo` in at most `workers` processes; `completed` is told of each that gets complete.

    Each process has its share of the cores, whether or not all `workers` are needed: the number of threads changes
    the last digits, and a sweep that is continued must give the digits of one that was not. With `isolate` a process
    runs one cell, and a fresh one the next.

    Raises OSError when the disk is full. No process outlives the call.
    """
    task = {"sweep": sweep.model_dump(mode="json"), "runs": str(runs), "tries": tries, "most": 1 if isolate else None}
    idle = 0
    while todo and idle < LAME_STARTS:
        before = len(todo)
        begun = _round(task, runs, todo, session, board, completed, workers, storage)
        if not isolate:
            break
        idle = 0 if begun or len(todo) < before else idle + 1
    for cell in todo:
        session.failed[cell.id] = cellfiles.why_unfinished(runs / cell.id)


def _round(
    task: dict[str, Any],
    runs: Path,
    todo: list[Cell],
    session: Session,
    board: Board,
    completed: Callable[[Cell], None],
    workers: int,
    storage: str | None,
) -> int:
    # Start processes and follow them to their end; how many cells they have begun.
    reading, writing = os.pipe()
    children: list[tuple[subprocess.Popen[str], IO[str]]] = []
    killed: set[int] = set()
    try:
        with os.fdopen(reading) as events:
            try:
                try:
                    for lane in range(min(workers, len(todo))):
                        ids = [cell.id for cell in todo]
                        children.append(_start(task | {"todo": ids, "lane": lane}, workers, writing, storage))
                finally:
                    os.close(writing)  # so that the pipe ends when the last child does
                begun = _follow(events, runs, todo, session, board, completed)
            except BaseException:
                # Heard to the end: a child that nobody hears takes its parent for gone and ends within its step.
                with _heard(events):
                    killed |= _stop([child for child, _ in children], board.say)
                raise
        for lane, (child, output) in enumerate(children):
            if child.wait() != 0:
                output.seek(0)
                last = (output.read().strip().splitlines() or ["no message"])[-1]
                board.say(f"worker {lane + 1} ended early with exit code {child.returncode}: {last}")
        return begun
    finally:
        killed |= _stop([child for child, _ in children], board.say)
        for cell in todo if killed else ():
            claims.excuse(runs / cell.id, killed)
        for _, output in children:
            output.close()


def _start(
    task: dict[str, Any], workers: int, writing: int, storage: str | None
) -> tuple[subprocess.Popen[str], IO[str]]:
    threads = str(max(1, cores() // workers))
    environment = os.environ | {"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads}
    if storage:
        environment[VARIABLE] = storage  # not in the list of arguments: it may hold a password
    if devices := gpus():
        environment["CUDA_VISIBLE_DEVICES"] = devices[task["lane"] % len(devices)]
    output = tempfile.TemporaryFile("w+", errors="replace")  # noqa: SIM115 - closed by the caller
    child = subprocess.Popen(
        [sys.executable, "-P", "-m", "lensbench.sweep.processes"],
        stdin=subprocess.PIPE,
        stdout=output,
        stderr=output,
        pass_fds=[writing],
        env=environment,
        text=True,
    )
    assert child.stdin is not None
    with contextlib.suppress(BrokenPipeError), child.stdin:  # a child that could not start is reported by its exit
        json.dump(task | {"events": writing}, child.stdin)
    return child, output


def _follow(
    events: IO[str],
    runs: Path,
    todo: list[Cell],
    session: Session,
    board: Board,
    completed: Callable[[Cell], None],
) -> int:
    every, begun = {cell.id: cell for cell in todo}, 0
    waiting, said = dict(every), set[str]()
    for line in events:
        event = json.loads(line)
        lane = board.lanes[event["lane"]]
        match event["event"]:
            case "begin":
                begun += 1
                lane.begin(every[event["cell"]])  # one that failed elsewhere before this worker looked is tried again
            case "report":
                lane.report(Progress(**event["progress"]))
            case "end" if event["cell"] in waiting:  # each worker tells the end of every cell: the first is its own
                cell = waiting.pop(event["cell"])
                todo.remove(cell)
                lane.end(event["line"], cell.id, event["seconds"])
                if cellfiles.is_complete(runs / cell.id, cell):
                    session.complete.append(cell.id)
                    completed(cell)
                else:
                    session.failed[cell.id] = event["line"].removeprefix(f"{cell.label()}: ")
            case "say":
                if event["line"] not in said:  # workers that wait for the same say the same
                    board.say(event["line"])
                said.add(event["line"])
            case "full":
                raise OSError(event["errno"], event["line"])
    return begun


def _stop(children: list[subprocess.Popen[str]], say: Callable[[str], None]) -> set[int]:
    # A worker may be killed at any time: what it leaves is redone. Given the time, it keeps what it has trained.
    # The processes that had to be killed are returned.
    running = [child for child in children if child.poll() is None]
    for child in running:
        child.terminate()
    if running:
        say("stopping: what is being trained is kept; Ctrl-C again stops at once")
    try:
        until = time.monotonic() + GRACE_SECONDS
        for child in running:
            child.wait(max(0.0, until - time.monotonic()))
    except (KeyboardInterrupt, subprocess.TimeoutExpired):
        pass
    finally:
        for child in running:
            child.kill()
            child.wait()
    return {child.pid for child in running if child.returncode == -signal.SIGKILL}


@contextlib.contextmanager
def _heard(events: IO[str]) -> Iterator[None]:
    # What the children still say is read and dropped, so that none waits for room to say it.
    def hear() -> None:
        with contextlib.suppress(OSError, ValueError):  # closed meanwhile
            while os.read(events.fileno(), 65536):
                pass

    listener = threading.Thread(target=hear, daemon=True)
    listener.start()
    try:
        yield
    finally:
        listener.join(1.0)


class _Events:
    """The child's side: a `Display` that writes events. A parent that is gone ends the child."""

    def __init__(self, lane: int, descriptor: int) -> None:
        self.lane, self.descriptor = lane, descriptor

    def write(self, event: str, **values: Any) -> None:
        line = json.dumps({"lane": self.lane, "event": event} | values) + "\n"
        try:
            os.write(self.descriptor, line.encode())
        except BrokenPipeError:
            raise SystemExit(1) from None

    def begin(self, cell: Cell) -> None:
        self.write("begin", cell=cell.id)

    def report(self, progress: Progress) -> None:
        self.write("report", progress=asdict(progress))

    def end(self, line: str, cell_id: str, seconds: float | None) -> None:
        self.write("end", line=line[:LONGEST_LINE], cell=cell_id, seconds=seconds)

    def say(self, line: str) -> None:
        if not line.startswith("waiting for"):  # for a sister is nothing to tell
            self.write("say", line=line[:LONGEST_LINE])


def _child() -> int:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent too, which decides
    quiet()
    task = json.load(sys.stdin)
    runs, show = Path(task["runs"]), _Events(task["lane"], task["events"])
    sweep = Sweep.model_validate(task["sweep"])
    every = cells(sweep)
    by_id = {cell.id: cell for cell in every}
    received: list[int] = []

    def stop(number: int, frame: object) -> None:
        received.append(number)
        raise KeyboardInterrupt

    try:
        with handled(set(STOPPING) - {signal.SIGINT}, stop):
            study = Study(runs, sweep, every, say=show.say)
            todo = [by_id[cell_id] for cell_id in task["todo"]]
            limits = {"tries": task["tries"], "most": task["most"]}
            take_turns(study, runs, todo, Session(), show, real_run_cell(), **limits)
    except KeyboardInterrupt:
        return 128 + received[-1]
    except Exception as error:
        if full := no_room(error, runs):
            show.write("full", errno=full.errno, line=(full.strerror or "")[:LONGEST_LINE])
            return 1
        traceback.print_exc()
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(_child())
