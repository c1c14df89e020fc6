"""`lensbench run --launcher slurm`: the workers are jobs of a Slurm cluster, and this command watches them."""

from __future__ import annotations

import os
import signal
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lensbench.commands.again import again

if TYPE_CHECKING:
    from rich.console import Console

    from lensbench.sweep.slurm import Array, Request
    from lensbench.sweep.sweep import Sweep

PANEL = "Slurm"
Time = Annotated[
    str,
    typer.Option(
        rich_help_panel=PANEL, help="Time limit of a worker, as sbatch takes it; it is then requeued and goes on."
    ),
]
Partition = Annotated[str | None, typer.Option(rich_help_panel=PANEL, help="Partition.")]
Account = Annotated[str | None, typer.Option(rich_help_panel=PANEL, help="Account that is charged.")]
GpusPerNode = Annotated[
    int | None, typer.Option("--gpus-per-node", min=1, rich_help_panel=PANEL, help="GPUs of a worker on each node.")
]
CpusPerProcess = Annotated[
    int, typer.Option("--cpus-per-process", min=1, rich_help_panel=PANEL, help="Cores, and threads, of a process.")
]
NodesPerCell = Annotated[
    int, typer.Option("--nodes-per-cell", min=1, rich_help_panel=PANEL, help="Nodes that train a cell together.")
]
ProcessesPerNode = Annotated[
    int,
    typer.Option("--processes-per-node", min=1, rich_help_panel=PANEL, help="Processes on each of them, one a GPU."),
]
Further = Annotated[
    list[str] | None,
    typer.Option(
        "--slurm", metavar="KEY=VALUE", rich_help_panel=PANEL, help="Any further option of sbatch; repeat it."
    ),
]
Wait = Annotated[
    bool, typer.Option("--wait/--no-wait", rich_help_panel=PANEL, help="Watch the jobs and report, or return at once.")
]


@dataclass(frozen=True)
class Worker:
    """What a job runs: a worker of the sweep. submitit keeps it in a file and calls it, again after each requeue."""

    sweep: dict[str, Any]
    runs: str
    folder: str  # the jobs' working directory
    tries: int  # failures after which a cell is left alone

    def __call__(self) -> list[str]:
        """Take cells until none is left; the ids of those that failed. Ends the process where a signal asks to."""
        from rich.console import Console
        from submitit import JobEnvironment

        from lensbench.sweep.session import StoppedError, work
        from lensbench.sweep.slurm import is_ending
        from lensbench.sweep.sweep import Sweep
        from lensbench.tracking import starter

        os.chdir(self.folder)
        sweep, console = Sweep.model_validate(self.sweep), Console(width=200)
        try:
            session = work(
                sweep,
                Path(self.runs),
                console=console,
                open_mirror=starter(None, Path(self.runs)),
                tries=self.tries,
            )
        except StoppedError as stopped:
            print(f"lensbench: {stopped}", flush=True)
            if stopped.exit_code == 128 + signal.SIGUSR1:
                if is_ending(JobEnvironment().job_id):
                    print("lensbench: Slurm is ending this job: it is not requeued", flush=True)
                else:
                    signal.raise_signal(signal.SIGUSR1)  # submitit's again by now: it has the job requeued
            sys.exit(stopped.exit_code)  # Slurm itself requeues a job that it preempts
        return sorted(session.failed)

    def checkpoint(self) -> Any:
        """What is submitted when the job is requeued: the same."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)


def on_slurm(
    sweep: Sweep,
    sweep_file: Path,
    runs: Path,
    workers: int,
    request: Request,
    console: Console,
    *,
    wait: bool,
    tries: int,
) -> bool:
    """Have the sweep's cells run by an array of workers; whether the report can be written (else the jobs go on)."""
    from lensbench.sweep import slurm
    from lensbench.sweep.storage import JOURNAL, VARIABLE

    # SQLite's locks do not hold on the file systems that nodes share.
    os.environ.setdefault(VARIABLE, f"{JOURNAL}{(runs / 'sweeps.journal').resolve()}")
    worker = Worker(sweep.model_dump(mode="json"), str(runs.resolve()), str(Path.cwd()), tries)
    array = slurm.array_of(sweep, runs, worker, workers, request)
    if array is None:
        console.print("every cell is complete already: nothing is submitted", highlight=False)
        return True
    said = "is still there: no other is submitted" if array.found else "is submitted"
    console.print(
        f"job {array.id} with {_count(array.workers)} {said}; stop it with: scancel {array.id}", highlight=False
    )
    if not wait:
        _tell_how_to_look(array, sweep_file, runs, console)
        return False
    try:
        left = slurm.follow(sweep, runs, array, console)
    except KeyboardInterrupt:
        print(
            f"lensbench: no longer watched; job {array.id} goes on. Stop it with: scancel {array.id}; watch it again "
            f"with: {again()}",
            file=sys.stderr,
        )
        raise typer.Exit(128 + signal.SIGINT) from None
    if left:
        for line in slurm.why_left(runs, array, left):
            console.print(line, highlight=False, markup=False, soft_wrap=True)
    return True


def _tell_how_to_look(array: Array, sweep_file: Path, runs: Path, console: Console) -> None:
    from lensbench.sweep.slurm import FOLDER

    for line in (
        f"look with: lensbench status {sweep_file} --runs {runs}; the jobs' output is in {runs / FOLDER}",
        f"watch the jobs, and report in the end, with: {again().replace(' --no-wait', '')}",
    ):
        console.print(line, highlight=False, markup=False, soft_wrap=True)


def _count(workers: int) -> str:
    return f"{workers} worker{'s' if workers > 1 else ''}"
