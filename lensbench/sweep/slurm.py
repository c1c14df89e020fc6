"""Workers as an array of Slurm jobs: submitted through submitit, requeued until no cell is left, followed by records.

A job of the array is one worker. Slurm warns it with SIGUSR1 before its time is over; it then keeps the state of its
training and has itself requeued, as it is when Slurm preempts it. What is done is told by the cells' directories alone:
without Slurm's accounting submitit cannot tell it. Everything that the jobs need lies in the runs directory, which must
be on a file system that the nodes share; their output is in its folder `slurm`.
"""

from __future__ import annotations

import contextlib
import io
import json
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lensbench.locks import file_lock
from lensbench.sweep import cellfiles
from lensbench.sweep.srun import OPTIONS
from lensbench.sweep.study import study_name
from lensbench.sweep.sweep import Cell, Sweep, cells

if TYPE_CHECKING:
    from collections.abc import Callable

    from rich.console import Console

FOLDER = "slurm"  # in the runs directory: what is submitted, and the jobs' output
NOTICE_SECONDS = 120  # of Slurm's warning before the end, which may come a minute earlier than that
MOST_WORKERS = 8  # unless asked for more
POLL_SECONDS = 1.0  # between looks at the runs directory
ASK_SECONDS = 10.0  # between questions to Slurm
QUESTIONS = 3  # of a worker without an answer, before it goes on without
TIME = re.compile(r"((?P<days>\d+)-)?(?P<rest>\d+(:\d+){0,2})")
# What a further option must not change, and what says it instead.
OWN = {
    "array": "--workers",
    "nodes": "--nodes-per-cell",
    "ntasks-per-node": "--processes-per-node",
    "ntasks": "--processes-per-node",
    "output": "--runs, in whose folder slurm the output lies",
    "error": "--runs, in whose folder slurm the output lies",
    "open-mode": "nothing: a requeued job appends to its output",
    "signal": "nothing: a worker is warned in time",
    "requeue": "nothing: a worker is requeued until no cell is left",
    "no-requeue": "nothing: a worker is requeued until no cell is left",
}


@dataclass(frozen=True)
class Request:
    """What a worker asks Slurm for; None leaves it to the cluster."""

    time: str = "1:00:00"  # as sbatch takes it; at its end a worker is requeued and goes on
    partition: str | None = None
    account: str | None = None
    gpus_per_node: int | None = None
    cpus_per_process: int = 1
    nodes_per_cell: int = 1
    processes_per_node: int = 1
    options: dict[str, str | bool] = field(default_factory=dict)  # any further one of sbatch, by its long name

    @property
    def notice_seconds(self) -> int:
        """How long before the end a worker is warned: a third of its time where that is little."""
        return min(NOTICE_SECONDS, seconds(self.time) // 3)

    @property
    def processes(self) -> int:
        """Processes that train one cell."""
        return self.nodes_per_cell * self.processes_per_node


def seconds(time: str) -> int:
    """A time limit as sbatch takes it: `90` (minutes), `1:30:00`, `2-12` (days and hours). ValueError for another."""
    found = TIME.fullmatch(time.strip())
    if found is None:
        raise ValueError(f"--time {time}: give minutes, HOURS:MINUTES:SECONDS or DAYS-HOURS, as sbatch takes it")
    days, numbers = found.group("days"), [int(number) for number in found.group("rest").split(":")]
    units = (3600, 60, 1) if days or len(numbers) == 3 else (60, 1)
    total = 86400 * int(days or 0) + sum(number * unit for number, unit in zip(numbers, units, strict=False))
    if total < 60:
        raise ValueError(f"--time {time}: a worker needs a minute at least")
    return total


def further_options(given: list[str]) -> dict[str, str | bool]:
    """`qos=high exclusive` as options of sbatch. ValueError for one that the launcher sets itself."""
    found: dict[str, str | bool] = {}
    for text in given:
        key, equals, value = text.lstrip("-").partition("=")
        key = key.strip().replace("_", "-")
        if not key:
            raise ValueError(f"--slurm {text!r}: give an option of sbatch by its long name, as in --slurm qos=high")
        if key in OWN:
            raise ValueError(f"--slurm {text}: sbatch's --{key} is set by {OWN[key]}")
        found[key] = value if equals else True
    return found


def submit(worker: Callable[[], Any], name: str, runs: Path, workers: int, request: Request) -> str:
    """Submit an array of jobs named `name` that each call `worker`; its job id.

    submitit keeps `worker` in a file; where a job is warned or requeued it calls `worker.checkpoint`.

    Raises ValueError, with Slurm's own words, where Slurm refuses the jobs.
    """
    from submitit import SlurmExecutor
    from submitit.core.utils import FailedJobError, FailedSubmissionError

    if shutil.which("sbatch") is None or shutil.which("srun") is None:
        raise ValueError("--launcher slurm: sbatch is not on this machine; run the command on a login node")
    folder = (runs / FOLDER).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    # In the job's own shell, and no step of the job: Slurm warns it, and cells of several nodes are its steps.
    executor = SlurmExecutor(folder=folder, max_num_timeout=10**6, python=f"exec {shlex.quote(sys.executable)}")
    executor.update_parameters(
        job_name=name,
        nodes=request.nodes_per_cell,
        ntasks_per_node=request.processes_per_node,
        cpus_per_task=request.cpus_per_process,
        array_parallelism=workers,
        use_srun=False,
        setup=_setup(request),
        additional_parameters=_sbatch_options(request),
        **{name: value for name in ("partition", "account", "gpus_per_node") if (value := getattr(request, name))},
    )
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said), executor.batch():
            jobs = [executor.submit(worker) for _ in range(workers)]
    except (FailedJobError, FailedSubmissionError) as error:
        lines = [line.removeprefix("sbatch: error: ").strip() for line in str(error).splitlines() if line.strip()]
        raise ValueError(f"Slurm refuses the jobs: {'; '.join(lines) or 'no message'}") from error
    return str(jobs[0].job_id).partition("_")[0]


def _sbatch_options(request: Request) -> dict[str, str | bool]:
    own: dict[str, str | bool] = {
        "time": request.time,
        "signal": f"B:USR1@{request.notice_seconds}",
        "requeue": True,
        "export": "ALL",  # where the queue is, and secrets: nothing of it is on a command line
    }
    return own | request.options


def _setup(request: Request) -> list[str]:
    threads = "${SLURM_CPUS_PER_TASK:-1}"
    lines = ["export SUBMITIT_PREEMPT_SIGNAL=USR1", f"export OMP_NUM_THREADS={threads} MKL_NUM_THREADS={threads}"]
    if request.processes > 1:
        options = [
            f"--nodes={request.nodes_per_cell}",
            f"--ntasks-per-node={request.processes_per_node}",
            f"--cpus-per-task={request.cpus_per_process}",
        ]
        lines.append(f"export {OPTIONS}={shlex.quote(' '.join(options))}")
    return lines


@dataclass(frozen=True)
class Array:
    """The jobs of a sweep, as this or an earlier command submitted them."""

    id: str
    workers: int
    found: bool  # submitted by an earlier command and still there


def array_of(sweep: Sweep, runs: Path, worker: Callable[[], Any], workers: int, request: Request) -> Array | None:
    """The sweep's array that is alive, or a new one of at most `workers`; None where every cell is complete.

    One sweep has one array at a time, however many commands ask for it at once.
    """
    every = cells(sweep)
    left = [cell for cell in every if not _complete(runs, cell)]
    if not left:
        return None
    (runs / FOLDER).mkdir(parents=True, exist_ok=True)
    note = runs / FOLDER / f"{study_name(sweep, every)}.json"
    with file_lock(runs / FOLDER / ".lock"):
        if note.exists():
            there = json.loads(note.read_text())
            if jobs(there["job"]) != {}:  # or Slurm does not answer: rather none than two
                return Array(there["job"], there["workers"], found=True)
        count = min(workers or MOST_WORKERS, len(left))
        array = Array(submit(worker, f"lensbench-{sweep.name}", runs, count, request), count, found=False)
        note.write_text(json.dumps({"job": array.id, "workers": array.workers}))
        return array


def jobs(array: str, timeout: float = 60) -> dict[str, int] | None:
    """How many jobs of an array are in each state, pending ones with Slurm's reason.

    {} when none is left, None without an answer.
    """
    command = ["squeue", "--noheader", "--array", f"--jobs={array}", "--format=%T %r"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout)
    except FileNotFoundError:
        raise ValueError("--launcher slurm: squeue is not on this machine; run the command on a login node") from None
    except subprocess.TimeoutExpired:
        return None
    if done.returncode and "Invalid job id" not in done.stderr:
        return None
    found: Counter[str] = Counter()
    for line in done.stdout.splitlines():
        state, _, reason = line.strip().partition(" ")
        if state in ("COMPLETED", "CANCELLED", "FAILED", "TIMEOUT", "NODE_FAIL"):
            continue
        found[f"pending ({reason})" if state == "PENDING" and reason != "None" else state.lower()] += 1
    return dict(found)


def is_ending(job: str) -> bool:
    """Whether Slurm is ending this job already. One that was cancelled would come back if it were requeued."""
    if shutil.which("squeue") is None:
        return False
    for _ in range(QUESTIONS):
        states = jobs(job, timeout=ASK_SECONDS)
        if states is not None:
            return not states or "completing" in states
        time.sleep(POLL_SECONDS)  # the signal that ends the job ends its question too
    return False


def follow(
    sweep: Sweep, runs: Path, array: Array, console: Console, completed: Callable[[Cell], None] = lambda cell: None
) -> list[Cell]:
    """Wait until every cell is complete or no job of the array is left, and show it; the cells that are not complete.

    `completed` is told of each cell that gets complete. Only records on disk tell what is.
    """
    from lensbench.sweep.progress import board, weight

    every = cells(sweep)
    left = [cell for cell in every if not _complete(runs, cell)]
    shown_state, asked = "", -ASK_SECONDS
    with board(console, {cell.id: weight(cell.experiment) for cell in left}, len(every)) as shown:
        (lane,) = shown.lanes
        while left:
            alive: dict[str, int] | None = None
            if time.monotonic() - asked >= ASK_SECONDS:
                alive, asked = jobs(array.id), time.monotonic()
                state = "Slurm does not answer" if alive is None else _in_words(alive)
                if state != shown_state:
                    shown.say(f"job {array.id}: {state}")
                    shown_state = state
            for cell in [cell for cell in left if _complete(runs, cell)]:  # after the question: none is missed
                left.remove(cell)
                metric, score = cellfiles.main_score(cellfiles.read_records(runs / cell.id, cell.experiment))
                lane.end(f"{cell.label()}: {metric} {score:.3f}", cell.id, None)
                completed(cell)
            if alive == {}:
                break
            if left:
                time.sleep(POLL_SECONDS)
    return left


def why_left(runs: Path, array: Array, left: list[Cell]) -> list[str]:
    """A line for each cell that no job is left for, and where the jobs' own words are."""
    lines = [f"{cell.label()}: {cellfiles.why_unfinished(runs / cell.id)}" for cell in left]
    for path in sorted((runs / FOLDER).glob(f"{array.id}_*.err")):
        said = [line for line in path.read_text(errors="replace").splitlines() if line.strip()]
        if said:
            lines.append(f"{path}: {said[-1].strip()}")
    return [*lines, f"the jobs' output is in {runs / FOLDER}/{array.id}_*"]


def _complete(runs: Path, cell: Cell) -> bool:
    if not cellfiles.is_complete(runs / cell.id, cell):
        return False
    try:
        cellfiles.read_complete(runs / cell.id, cell)
    except ValueError:
        return False
    return True


def _in_words(states: dict[str, int]) -> str:
    words = ", ".join(f"{count} {state}" for state, count in sorted(states.items()))
    return words or "no job is left"
