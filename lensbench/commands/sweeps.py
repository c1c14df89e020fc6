"""`lensbench run`, `report` and `plan`: a sweep from its file to its tables."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lensbench.commands.again import again

if TYPE_CHECKING:
    from lensbench.sweep.sweep import Sweep

SweepFile = Annotated[Path, typer.Argument(metavar="SWEEP.py", help="A file that defines `sweep = Sweep(...)`.")]
Runs = Annotated[Path, typer.Option(help="Directory of the cells, the sweep's database and MLflow's.")]
CorpusFolder = Annotated[
    Path | None, typer.Option("--corpus", help="Your folder of images with sidecar captions, in place of the sweep's.")
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
) -> None:
    """Run every cell of a sweep that is not complete, then report.

    Stop it whenever you like: the same command goes on where it stopped.
    """
    from rich.console import Console

    sweep = prepared(sweep_file, corpus)
    from lensbench.sweep.processes import default_workers
    from lensbench.sweep.session import StoppedError, work
    from lensbench.sweep.sweep import cells
    from lensbench.sweep.worker import check_writable
    from lensbench.tracking import open_tracker

    console = Console()
    check_writable(runs)
    check_writable(results / sweep.name)
    try:
        processes = workers or default_workers(len(cells(sweep)))
        session = work(sweep, runs, console=console, workers=processes, open_mirror=open_tracker)
    except StoppedError as stopped:
        print(f"lensbench: {stopped} in {runs}; continue with: {again()}", file=sys.stderr)
        raise typer.Exit(stopped.exit_code) from None
    if not _report(sweep, runs, results) or session.failed:
        raise typer.Exit(1)


def report(
    sweep_file: SweepFile,
    runs: Runs = Path("runs"),
    corpus: CorpusFolder = None,
    results: ResultsFolder = Path("results"),
) -> None:
    """Write tables, figures and LaTeX from the cells that are complete; nothing is trained."""
    from lensbench.sweep.worker import check_writable

    sweep = prepared(sweep_file, corpus)
    check_writable(results / sweep.name)
    if not _report(sweep, runs, results):
        raise typer.Exit(1)


def plan(sweep_file: SweepFile, runs: Runs = Path("runs"), corpus: CorpusFolder = None) -> None:
    """List the cells of a sweep: their factors, sizes and whether they are complete; nothing is trained."""
    from rich.console import Console
    from rich.table import Table

    from lensbench.model.sizes import denoiser_config, parameter_count
    from lensbench.sweep.sweep import cells, collect

    sweep = prepared(sweep_file, corpus)
    reasons = {row["cell"]: row["reason"] for row in collect(sweep, runs).missing}
    every = cells(sweep)
    table = Table(title=f"{sweep.name}: {len(every)} cells", title_justify="left")
    table.add_column("cell", no_wrap=True)
    for title in (*every[0].levels, "parameters", "images", "samples seen", "state"):
        table.add_column(title.replace(".", ".\n").replace("_", "_\n"), overflow="fold")
    for cell in every:
        experiment = cell.experiment
        parameters = parameter_count(denoiser_config(experiment, experiment.text_encoder.width))
        about = "about " if experiment.training.buckets else ""
        seen = f"{about}{experiment.training.steps * experiment.images_a_step:,.0f}"
        sizes = (f"{parameters / 1e6:.2f} M", f"{experiment.images:,}", seen)
        levels = (str(level).replace("+", "+\n") for level in cell.levels.values())
        table.add_row(cell.id, *levels, *sizes, reasons.get(cell.id, "complete"))
    Console().print(table)


def prepared(sweep_file: Path, corpus: Path | None) -> Sweep:
    """The sweep of a file with its corpus opened: a folder's digest is part of every cell's hash."""
    from lensbench.sweep.sweep import load

    return with_corpus(load(sweep_file), sweep_file, corpus)


def with_corpus(sweep: Sweep, sweep_file: Path, corpus: Path | None) -> Sweep:
    """The sweep with its corpus opened, or the folder `corpus` in its place."""
    from lensbench.experiment import Captions, FolderCorpus
    from lensbench.sweep.sweep import Sweep

    config = sweep.base.corpus
    if corpus is None and config.kind == "shapes":
        return sweep
    if isinstance(config, FolderCorpus):
        if corpus is None and "path" not in config.model_fields_set:
            raise ValueError(f"{sweep_file}: the sweep's corpus is a folder; say which with --corpus DIR")
        folder = config.model_copy(update={"path": corpus or config.path})
    else:
        from lensbench.sweep.sweep import cells

        # Every set that any arm reads: an image that lacks one of them leaves every arm.
        levels = tuple(dict.fromkeys(name for cell in cells(sweep) for name in cell.experiment.captions.sets))
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

    opened = open_corpus(folder, sweep.base.images)
    for name, reason in sorted(opened.set_aside.items())[:MOST_SET_ASIDE]:
        print(f"set aside: {name}: {reason}")
    if (more := len(opened.set_aside) - MOST_SET_ASIDE) > 0:
        print(f"set aside: {more:,} more; import the folder, and lensbench corpus check counts them by their reasons")
    base = sweep.base.model_copy(update={"corpus": opened.config})
    return Sweep(name=sweep.name, base=base, factors=sweep.factors, reference=sweep.reference)


def _report(sweep: Sweep, runs: Path, results: Path) -> bool:
    # Whether every cell is in the report.
    from rich.console import Console

    from lensbench.sweep.sweep import collect

    found = collect(sweep, runs)
    if found.records.empty:
        for row in found.missing:
            print(f"missing: cell {row['cell']}: {row['reason']}")
        print(f"no cell of {sweep.name} is complete in {runs}: there is nothing to report")
        return False
    from lensbench.report.build import build, is_complete
    from lensbench.report.captions import of_experiments
    from lensbench.scoring.extractors import not_scored
    from lensbench.sweep.sweep import cells
    from lensbench.tracking import DATABASE, attach

    folder = results / sweep.name
    if not found.complete and is_complete(folder):
        folder = folder.with_name(f"{sweep.name}.partial")
        print(f"{results / sweep.name} holds a complete report, which stays: this one goes to {folder}")
    captions = of_experiments([cell.experiment for cell in cells(sweep)])
    console = Console()
    written = build(found, folder, runs, console, captions)
    about = [path for path in written if path.stem == "captions"]
    if (runs / DATABASE).is_file() and (reason := attach(runs, sweep.name, about, "captions")):
        console.print(f"not in MLflow: {reason}", highlight=False, markup=False)
    if sweep.base.corpus.kind == "folder":
        for reason in not_scored():
            print(f"not scored: {reason}")
    return found.complete
