"""A cell as a step of the Slurm job that its worker is: one process or several on each of the job's nodes.

The worker (lensbench.sweep.slurm) is the job's own shell; `srun` starts the processes that train together, see
lensbench.ranks, and hands on what the first of them reports, a JSON object a line.
"""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from lensbench import ranks
from lensbench.experiment import Evaluation, Experiment
from lensbench.stopping import STOPPING, handled
from lensbench.sweep.launch import carry_out, task_of
from lensbench.sweep.processes import GRACE_SECONDS
from lensbench.sweep.progress import Progress
from lensbench.sweep.quiet import quiet

OPTIONS = "LENSBENCH_SRUN"  # in a worker's environment: srun's options for the step of a cell
LONGEST_LINE = 500  # of text in an event: srun keeps lines whole up to a thousand characters
MARK = "lensbench-event "  # srun puts the output of all processes together


def asked() -> bool:
    """Whether this process is a worker whose cells are steps of its job."""
    return bool(os.environ.get(OPTIONS)) and ranks.place() is None


def run_in_step(
    experiment: Experiment,
    directory: Path,
    *,
    cache: Path,
    report: Callable[[Progress], None],
    evaluations: Sequence[Evaluation] = (),
) -> None:
    """Run a cell by srun, in the processes that the job has been given for it.

    Raises ValueError and OSError as `run_cell` does, RuntimeError for any other end, KeyboardInterrupt when a signal
    asked to stop: the processes then keep their state after the step that is under way.
    """
    command = ["srun", "--kill-on-bad-exit=1", "--unbuffered", *shlex.split(os.environ[OPTIONS])]
    task = task_of(experiment, directory, cache, evaluations)
    received: list[int] = []
    failures: list[dict[str, Any]] = []
    # In a group of its own: Ctrl-C and what Slurm sends to the worker's group are passed on, once, by `stop`.
    process = subprocess.Popen(
        [*command, sys.executable, "-P", "-m", "lensbench.sweep.srun"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        errors="replace",
        start_new_session=True,
    )

    def stop(number: int, frame: object) -> None:
        if received:
            process.kill()  # srun's end is the step's
            return
        received.append(number)
        if number != signal.SIGTERM:  # which Slurm sends to the step itself, and srun would kill it for
            process.send_signal(signal.SIGUSR1)
        timer = threading.Timer(GRACE_SECONDS, process.kill)
        timer.daemon = True
        timer.start()

    assert process.stdin is not None
    assert process.stdout is not None
    with handled(STOPPING, stop):
        try:
            with contextlib.suppress(BrokenPipeError), process.stdin:  # its end is noticed below
                json.dump(task, process.stdin)
            for line in process.stdout:
                event = _event(line)
                if event is None:
                    print(line, end="", flush=True)
                elif event["event"] == "report":
                    report(Progress(**event["progress"]))
                else:
                    failures.append(event)
            code = process.wait()
        finally:
            process.kill()
            process.wait()
            process.stdout.close()
    if received:
        signal.raise_signal(received[0])
        raise KeyboardInterrupt
    if code:
        _raise(failures, code)


def _event(line: str) -> dict[str, Any] | None:
    # Another process's words may stand before it in the line.
    _, mark, text = line.partition(MARK)
    if not mark:
        return None
    try:
        found: dict[str, Any] = json.loads(text)
    except ValueError:
        return None
    return found


def _raise(failures: list[dict[str, Any]], code: int) -> None:
    said = next((failure for failure in failures if not failure["lost"]), None)
    if said is None:
        raise ValueError(
            f"the processes of the step ended with {ranks.cause_of_death(code)}, without a word; run again to go on "
            "from the last resume point"
        )
    if said["kind"] == "OSError":
        raise OSError(said["errno"], said["line"]) if said["errno"] else OSError(said["line"])
    raise ValueError(said["line"]) if said["kind"] == "ValueError" else RuntimeError(said["line"])


def _child() -> int:
    quiet()
    task = json.load(sys.stdin)

    def write(event: str, **values: Any) -> None:
        sys.stderr.write(values.pop("traceback", ""))  # into the job's log
        sys.stdout.write(f"{MARK}{json.dumps({'event': event} | values)}\n")
        sys.stdout.flush()

    return carry_out(task, write, LONGEST_LINE)


if __name__ == "__main__":
    sys.exit(_child())
