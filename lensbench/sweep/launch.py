"""A cell in several processes of this machine, which train it together: see lensbench.ranks.

Each runs the whole cell (lensbench.sweep.cell.run_cell) as one of torchrun's would, and writes what it does, a JSON
object a line, into one pipe. This process starts them, passes on what the first reports and the signals that it gets,
and ends all of them when one fails.
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
import traceback
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any

from lensbench import ranks
from lensbench.experiment import Evaluation, Experiment
from lensbench.stopping import STOPPING, handled
from lensbench.sweep.processes import GRACE_SECONDS, cores
from lensbench.sweep.progress import Progress
from lensbench.sweep.quiet import quiet

LINGER_SECONDS = 10.0  # that the others have to end by themselves once one has failed


def run_in_processes(
    experiment: Experiment,
    directory: Path,
    *,
    cache: Path,
    report: Callable[[Progress], None],
    evaluations: Sequence[Evaluation] = (),
) -> None:
    """Run a cell in `training.devices` processes, which share the cores that this one may use.

    Raises ValueError and OSError as `run_cell` does, RuntimeError for any other end of a process, KeyboardInterrupt
    when a signal asked to stop: the first is heeded after the step that is under way, a second one at once.
    """
    count = experiment.training.devices
    reading, writing = os.pipe()
    task = task_of(experiment, directory, cache, evaluations)
    crew = _Crew()
    with handled(STOPPING, crew.stop):
        try:
            with os.fdopen(reading) as events:
                try:
                    with ranks.meeting_point() as (listener, port):
                        for rank in range(count):
                            inherited = (writing, listener.fileno()) if rank == 0 else (writing,)
                            told = _threads(count) | ranks.environment(rank, count, listener, port)
                            crew.start(task | {"events": writing}, os.environ | told, inherited)
                finally:
                    os.close(writing)  # so that the pipe ends when the last process does
                for line in events:
                    event = json.loads(line)
                    if event["event"] == "report":
                        report(Progress(**event["progress"]))
                    else:
                        crew.failures.append(event)
            crew.wait()
        finally:
            crew.close()
    if crew.asked:
        signal.raise_signal(crew.asked)
        raise KeyboardInterrupt
    crew.raise_failure()


def task_of(experiment: Experiment, directory: Path, cache: Path, evaluations: Sequence[Evaluation]) -> dict[str, Any]:
    """A cell as JSON, for `carry_out` in another process."""
    return {
        "experiment": experiment.model_dump(mode="json"),
        "evaluations": [evaluation.model_dump(mode="json") for evaluation in evaluations],
        "directory": str(directory),
        "cache": str(cache),
    }


class _Crew:
    """The processes, each with its output, and what became of them."""

    def __init__(self) -> None:
        self.processes: list[tuple[subprocess.Popen[str], IO[str]]] = []
        self.watchers: list[threading.Thread] = []
        self.failures: list[dict[str, Any]] = []  # what the processes said, the first first
        self.ended: list[tuple[int, int]] = []  # (rank, exit code) of those that failed, the first first
        self.asked = 0  # the signal that asked to stop

    def start(self, task: dict[str, Any], environment: dict[str, str], inherited: tuple[int, ...]) -> None:
        output = tempfile.TemporaryFile("w+", errors="replace")  # noqa: SIM115 - closed by `close`
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "lensbench.sweep.launch"],
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=output,
            pass_fds=inherited,
            env=environment,
            text=True,
        )
        self.processes.append((process, output))
        assert process.stdin is not None
        with contextlib.suppress(BrokenPipeError), process.stdin:  # its end is noticed as any other
            json.dump(task, process.stdin)
        watcher = threading.Thread(target=self._watch, args=(len(self.processes) - 1, process), daemon=True)
        watcher.start()
        self.watchers.append(watcher)

    def _watch(self, rank: int, process: subprocess.Popen[str]) -> None:
        code = process.wait()
        if code and not self.asked:
            self.ended.append((rank, code))
            # The others cannot go on, but may not know: a GPU's wait for a process that is gone has no end.
            timer = threading.Timer(LINGER_SECONDS, self.kill)
            timer.daemon = True
            timer.start()

    def stop(self, number: int, frame: object) -> None:
        """The handler of a signal: the first asks all to stop, a second one ends them."""
        if self.asked:
            self.kill()
            return
        self.asked = number
        for process, _ in self.processes:
            process.terminate()
        timer = threading.Timer(GRACE_SECONDS, self.kill)
        timer.daemon = True
        timer.start()

    def kill(self) -> None:
        for process, _ in self.processes:
            process.kill()

    def wait(self) -> None:
        for watcher in self.watchers:
            watcher.join()

    def close(self) -> None:
        self.kill()
        for process, output in self.processes:
            process.wait()
            output.close()

    def raise_failure(self) -> None:
        """Raise what the first process to fail of itself died of, if any did."""
        if not self.ended:
            return
        said = next((failure for failure in self.failures if not failure["lost"]), None)
        count = len(self.processes)
        if said is None:
            # Those that said that they had lost another came after it: it was killed.
            rank, code = min(self.ended, key=lambda end: end[1] >= 0)
            raise ValueError(
                f"process {rank} of the {count} that train together ended with {ranks.cause_of_death(code)}, without a "
                "word; run again to go on from the last resume point"
            )
        where = f"(process {said['rank']} of {count})"
        if said["kind"] == "OSError":
            raise OSError(said["errno"], f"{said['line']} {where}") if said["errno"] else OSError(said["line"])
        if said["kind"] == "ValueError":
            raise ValueError(said["line"])
        raise RuntimeError(f"{said['line']} {where}\n{said['traceback']}")


def _threads(count: int) -> dict[str, str]:
    threads = str(max(1, int(os.environ.get("OMP_NUM_THREADS") or cores()) // count))
    return {"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads}


def _child() -> int:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent too, which decides
    quiet()
    task = json.load(sys.stdin)
    place = ranks.place()
    assert place is not None

    def write(event: str, **values: Any) -> None:
        try:
            os.write(task["events"], (json.dumps({"event": event, "rank": place.rank} | values) + "\n").encode())
        except BrokenPipeError:  # the parent is gone
            raise SystemExit(1) from None

    return carry_out(task, write)


def carry_out(task: dict[str, Any], write: Callable[..., None], longest: int = 1000) -> int:
    """Run the cell of a task in this process, telling `write` how far it is and how it failed; the exit code."""
    try:
        from lensbench.sweep.cell import run_cell

        run_cell(
            Experiment.model_validate(task["experiment"]),
            Path(task["directory"]),
            cache=Path(task["cache"]),
            report=lambda progress: write("report", progress=asdict(progress)),
            evaluations=[Evaluation.model_validate(told) for told in task["evaluations"]],
        )
    except Exception as error:
        kind = "OSError" if isinstance(error, OSError) else "ValueError" if type(error) is ValueError else "other"
        number = error.errno if isinstance(error, OSError) else None
        line = (error.strerror if isinstance(error, OSError) and error.strerror else str(error)) or type(error).__name__
        lost, shown = isinstance(error, ranks.PeerLostError), traceback.format_exc()
        write("failed", kind=kind, errno=number, line=line[:longest], lost=lost, traceback=shown[-2 * longest :])
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(_child())
