"""`lensbench run` and `report`: a sweep from its file to its tables."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from lensbench.commands import cluster
from lensbench.commands.again import to_go_on
from lensbench.commands.queue import Storage, Tries
from lensbench.sweep import cost
from lensbench.sweep.claims import TRIES, TRIES_VARIABLE
from lensbench.sweep.storage import VARIABLE

if TYPE_CHECKING:
    from rich.console import Console

    from lensbench.sweep.sweep import Sweep

SweepFile = Annotated[Path, typer.Argument(metavar="SWEEP.py", help="A file that defines `sweep = Sweep(...)`.")]
Runs = Annotated[Path, typer.Option(file_okay=False, help="Directory of the cells, the sweep's database and MLflow's.")]
CorpusFolder = Annotated[
    Path | None, typer.Option("--corpus", help="Your folder of images with sidecar captions, in place of the sweep's.")
]
Tracking = Annotated[
    str | None,
    typer.Option(
        envvar="MLFLOW_TRACKING_URI",
        show_envvar=True,
        show_default=False,
        help="MLflow's address: http://HOST:PORT, sqlite:///FILE, postgresql://USER@HOST/DATABASE, or none; without it "
        "SQLite in RUNS. An address with a password belongs in the environment.",
    ),
]
MOST_SET_ASIDE = 20  # pictures that are named
ResultsFolder = Annotated[Path, typer.Option("--results", help="Tables, figures and LaTeX go to RESULTS/<sweep>.")]


def run(
    sweep_file: SweepFile,
    runs: Runs = Path("runs"),
    corpus: CorpusFolder = None,
    results: ResultsFolder = Path("results"),
    workers: Annotated[
        int, typer.Option(min=0, help="Cells trained at a time, each in its own process; 0: one a GPU or core.")
    ] = 0,
    storage: Storage = None,
    tries: Tries = TRIES,
    usd_per_hour: Annotated[
        float | None,
        typer.Option(min=0, envvar=cost.RATE, show_default=False, help="Dollars for an hour of a GPU, or of a core."),
    ] = None,
    launcher: Annotated[
        Literal["local", "slurm"], typer.Option(help="Where the workers are: here, or jobs of a Slurm cluster.")
    ] = "local",
    time: cluster.Time = "1:00:00",
    partition: cluster.Partition = None,
    account: cluster.Account = None,
    gpus_per_node: cluster.GpusPerNode = None,
    cpus_per_process: cluster.CpusPerProcess = 1,
    nodes_per_cell: cluster.NodesPerCell = 1,
    processes_per_node: cluster.ProcessesPerNode = 1,
    slurm: cluster.Further = None,
    wait: cluster.Wait = True,
    tracking: Tracking = None,
) -> None:
    """Run every cell of a sweep that is not complete, then report.

    Stop it whenever you like: the same command goes on where it stopped.
    """
    from rich.console import Console

    sweep = prepared(sweep_file, corpus)
    from lensbench.report.freeze import refuse_another
    from lensbench.report.macro_names import refuse_indistinct
    from lensbench.scoring.measured import check_beforehand
    from lensbench.sweep.design import cells, scored_cells
    from lensbench.sweep.worker import check_writable

    check_beforehand(sweep.base)
    console = Console()
    check_writable(runs)
    check_writable(results / sweep.name)
    refuse_another(results / sweep.name, cells(sweep))
    refuse_indistinct([place.levels for place in scored_cells(cells(sweep))])
    if usd_per_hour is not None:
        os.environ[cost.RATE] = str(usd_per_hour)  # of the workers too, wherever they are
    if storage is not None:
        os.environ[VARIABLE] = storage
    os.environ[TRIES_VARIABLE] = str(tries)
    if tracking is not None:
        os.environ["MLFLOW_TRACKING_URI"] = tracking
    if launcher == "slurm":
        from lensbench.sweep.slurm import Request, further_options

        sizes = (gpus_per_node, cpus_per_process, nodes_per_cell, processes_per_node)
        request = Request(time, partition, account, *sizes, further_options(slurm or []))
        if not cluster.on_slurm(sweep, sweep_file, runs, workers, request, console, wait=wait, tries=tries):
            return
        failed = False  # a cell that failed is missing from the report
    else:
        failed = not work_here(sweep, runs, console, workers, tracking, storage, tries)
    complete = report_on(sweep, runs, results, tracking)
    _tell_cost(sweep, runs, console)
    if failed or not complete:
        raise typer.Exit(1)


def work_here(
    sweep: Sweep,
    runs: Path,
    console: Console,
    workers: int,
    tracking: str | None,
    storage: str | None,
    tries: int = TRIES,
) -> bool:
    """Run the cells on this machine; whether none failed."""
    from lensbench.sweep.processes import default_workers
    from lensbench.sweep.session import StoppedError, work
    from lensbench.sweep.sweep import cells
    from lensbench.tracking import starter

    processes = workers or default_workers(len(cells(sweep)))
    mirror = starter(tracking, runs)
    try:
        session = work(
            sweep, runs, console=console, workers=processes, open_mirror=mirror, storage=storage, tries=tries
        )
    except StoppedError as stopped:
        raise to_go_on(f"{stopped} in {runs}", stopped.exit_code) from None
    return not session.failed


def report(
    sweep_file: SweepFile,
    runs: Runs = Path("runs"),
    corpus: CorpusFolder = None,
    results: ResultsFolder = Path("results"),
    tracking: Tracking = None,
) -> None:
    """Write tables, figures and LaTeX from the cells that are complete; nothing is trained."""
    from lensbench.sweep.worker import check_writable

    sweep = prepared(sweep_file, corpus)
    check_writable(results / sweep.name)
    if not report_on(sweep, runs, results, tracking):
        raise typer.Exit(1)


def prepared(sweep_file: Path, corpus: Path | None) -> Sweep:
    """The sweep of a file with its corpus opened: a folder's digest is part of every cell's hash.

    What it is tuned and matched to is filled in; ValueError where its tuning is not complete.
    """
    from lensbench.sweep.sweep import load

    return with_corpus(load(sweep_file), sweep_file, corpus)


def with_corpus(sweep: Sweep, sweep_file: Path, corpus: Path | None) -> Sweep:
    """The sweep opened (see `prepared`), or with the folder `corpus` in its own corpus's place."""
    from lensbench.sweep.sweep import opened

    def ready(other: Sweep, file: Path) -> Sweep:
        return on_corpus(other, file, corpus)

    return opened(ready(sweep, sweep_file), sweep_file, ready)


def on_corpus(sweep: Sweep, sweep_file: Path, corpus: Path | None) -> Sweep:
    """The sweep with its corpus read, neither tuned nor matched."""
    from lensbench.experiment import Captions, FolderCorpus
    from lensbench.sweep.sweep import Sweep

    config = sweep.base.corpus
    if corpus is None and config.kind == "shapes":
        return sweep
    if isinstance(config, FolderCorpus):
        if corpus is None and config.path == FolderCorpus().path:
            raise ValueError(f"{sweep_file}: the sweep's corpus is a folder; say which with --corpus DIR (. for here)")
        folder = config.model_copy(update={"path": corpus or config.path})
    else:
        from lensbench.sweep.sweep import drafts

        # Every set that any arm reads: an image that lacks one of them leaves every arm.
        levels = tuple(dict.fromkeys(name for cell in drafts(sweep) for name in cell.experiment.captions.sets))
        reference = Captions(set=str(sweep.reference["captions.set"]))
        short = "alt" if "alt" in levels else next(iter(reference.shares))
        detailed = "detailed" if "detailed" in levels else levels[-1]
        folder = FolderCorpus(
            path=corpus or Path("."),
            size_px=config.size_px,
            caption_sets=levels,
            short_prompts=short,
            detailed_prompts=detailed,
        )
    from lensbench.data.corpus import open_corpus

    found = open_corpus(folder, sweep.base.images)
    for name, reason in sorted(found.set_aside.items())[:MOST_SET_ASIDE]:
        print(f"set aside: {name}: {reason}")
    if (more := len(found.set_aside) - MOST_SET_ASIDE) > 0:
        print(f"set aside: {more:,} more; import the folder, and lensbench corpus check counts them by their reasons")
    fields = {name: getattr(sweep, name) for name in Sweep.model_fields}
    return Sweep(**fields | {"base": sweep.base.model_copy(update={"corpus": found.config})})


def _tell_cost(sweep: Sweep, runs: Path, console: Console) -> None:
    from lensbench.sweep.sweep import cells

    every = cells(sweep)
    if counted := cost.spent(runs / cell.id for cell in every):
        words = f"cost of all attempts at these {len(every)} cells: {cost.in_words(counted, cost.rate_given())}"
        console.print(words, highlight=False, markup=False, soft_wrap=True)


def report_on(sweep: Sweep, runs: Path, results: Path, tracking: str | None) -> bool:
    """Write the report of what is complete; whether every cell is in it."""
    from rich.console import Console

    from lensbench.sweep.sweep import collect

    found = collect(sweep, runs)
    if found.records.empty:
        for row in found.missing:
            print(f"missing: cell {row['cell']}: {row['reason']}")
        print(f"no cell of {sweep.name} is complete in {runs}: there is nothing to report")
        return False
    from lensbench.report.build import build
    from lensbench.report.captions import of_experiments
    from lensbench.report.freeze import is_complete
    from lensbench.sweep.sweep import cells
    from lensbench.tracking import attach

    folder = results / sweep.name
    if not found.complete and is_complete(folder):
        folder = folder.with_name(f"{sweep.name}.partial")
        print(f"{results / sweep.name} holds a complete report, which stays: this one goes to {folder}")
    every = cells(sweep)
    captions = of_experiments([cell.experiment for cell in every])
    console = Console()
    written = build(found, folder, runs, console, captions, every)
    about = [path for path in written if path.stem == "captions"]
    if reason := attach(runs, sweep, about, "captions", tracking):
        console.print(f"not in MLflow: {reason}", highlight=False, markup=False)
    from lensbench.scoring.measured import LOSS, words_of

    if words_of(sweep.base) == (LOSS,):
        print(
            "scored by the held-out loss alone: name further metrics in evaluation.metrics, as in fid, kid or "
            "clip_score; GenEval needs an evaluation.detector"
        )
    return found.complete
