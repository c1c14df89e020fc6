"""The command line: parse, call, print. Everything heavy is imported by the command that needs it."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from lensbench.sweep.sweep import Sweep

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="How much are better captions worth? Train, score and compare text-to-image models on different captions.",
)
judge_app = typer.Typer(no_args_is_help=True, help="The judge of the shapes world.")
app.add_typer(judge_app, name="judge")

SweepFile = Annotated[Path, typer.Argument(metavar="SWEEP.py", help="A file that defines `sweep = Sweep(...)`.")]
Runs = Annotated[Path, typer.Option(help="Directory of the cells, the sweep's database and MLflow's.")]
CorpusFolder = Annotated[
    Path | None, typer.Option("--corpus", help="Your folder of images with sidecar captions, in place of the sweep's.")
]
ResultsFolder = Annotated[Path, typer.Option("--results", help="Tables, figures and LaTeX go to RESULTS/<sweep>.")]


def _version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        print(f"lensbench {version('lensbench')}")
        raise typer.Exit


@app.callback()
def options(
    show_version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and stop.")
    ] = False,
) -> None:
    """Options of every command."""


@app.command()
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
    import shlex

    from rich.console import Console

    sweep = _prepared(sweep_file, corpus)
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
        again = shlex.join(["lensbench", *sys.argv[1:]])
        print(f"lensbench: {stopped} in {runs}; continue with: {again}", file=sys.stderr)
        raise typer.Exit(stopped.exit_code) from None
    if not _report(sweep, runs, results) or session.failed:
        raise typer.Exit(1)


@app.command()
def report(
    sweep_file: SweepFile,
    runs: Runs = Path("runs"),
    corpus: CorpusFolder = None,
    results: ResultsFolder = Path("results"),
) -> None:
    """Write tables, figures and LaTeX from the cells that are complete; nothing is trained."""
    from lensbench.sweep.worker import check_writable

    sweep = _prepared(sweep_file, corpus)
    check_writable(results / sweep.name)
    if not _report(sweep, runs, results):
        raise typer.Exit(1)


@app.command()
def plan(sweep_file: SweepFile, runs: Runs = Path("runs"), corpus: CorpusFolder = None) -> None:
    """List the cells of a sweep: their factors, sizes and whether they are complete; nothing is trained."""
    from rich.console import Console
    from rich.table import Table

    from lensbench.model.sizes import denoiser_config, parameter_count
    from lensbench.sweep.sweep import cells, collect

    sweep = _prepared(sweep_file, corpus)
    reasons = {row["cell"]: row["reason"] for row in collect(sweep, runs).missing}
    every = cells(sweep)
    table = Table(title=f"{sweep.name}: {len(every)} cells", title_justify="left")
    table.add_column("cell", no_wrap=True)
    for title in (*every[0].levels, "parameters", "images", "samples seen", "state"):
        table.add_column(title.replace(".", ".\n"), overflow="fold")
    for cell in every:
        experiment = cell.experiment
        parameters = parameter_count(denoiser_config(experiment, MINILM_WIDTH))
        seen = experiment.training.steps * experiment.training.batch
        sizes = (f"{parameters / 1e6:.2f} M", f"{experiment.images:,}", f"{seen:,}")
        levels = (str(level) for level in cell.levels.values())
        table.add_row(cell.id, *levels, *sizes, reasons.get(cell.id, "complete"))
    Console().print(table)


@judge_app.command("train")
def judge_train(
    out: Annotated[Path | None, typer.Argument(help="Where the weights go; the shipped file when left out.")] = None,
) -> None:
    """Train the judge from nothing and write its weights."""
    from lensbench.scoring import detectors, judge_training

    judge_training.train(out or detectors.WEIGHTS)


@judge_app.command("check")
def judge_check() -> None:
    """Measure the judge's error on pictures that it was not trained on."""
    from lensbench.scoring import judge_check as check

    check.main()


MINILM_WIDTH = 384  # features a layer of all-MiniLM-L6-v2


def _prepared(sweep_file: Path, corpus: Path | None) -> Sweep:
    # The sweep of a file with its corpus opened: a folder's digest is part of every cell's hash.
    from lensbench.experiment import FolderCorpus
    from lensbench.sweep.sweep import Sweep, load

    sweep = load(sweep_file)
    config = sweep.base.corpus
    if corpus is None and config.kind == "shapes":
        return sweep
    if isinstance(config, FolderCorpus):
        if corpus is None and "path" not in config.model_fields_set:
            raise ValueError(f"{sweep_file}: the sweep's corpus is a folder; say which with --corpus DIR")
        folder = config.model_copy(update={"path": corpus or config.path})
    else:
        levels = tuple(str(level) for level in sweep.factors["captions.set"])
        short = "alt" if "alt" in levels else str(sweep.reference["captions.set"])
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
    for name, reason in sorted(opened.set_aside.items()):
        print(f"set aside: {name}: {reason}")
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
    from lensbench.report.build import build
    from lensbench.scoring.extractors import not_scored

    build(found, results / sweep.name, runs, Console())
    if sweep.base.corpus.kind == "folder":
        for reason in not_scored():
            print(f"not scored: {reason}")
    return found.complete


def main() -> None:
    """The entry point: an error that the user can mend is one line on stderr, and exit code 2."""
    try:
        code = app(standalone_mode=False)
    except KeyboardInterrupt:
        code = 130
    except Exception as error:
        line = _one_line(error)
        if line is None or os.environ.get("LENSBENCH_TRACEBACK"):
            raise
        if line:  # a command without arguments has printed its help instead
            print(f"lensbench: {line}", file=sys.stderr)
        code = 2
    sys.exit(code if isinstance(code, int) else 0)


def _one_line(error: Exception) -> str | None:
    # None for what is no user's error: a defect, which shows its traceback.
    if callable(usage := getattr(error, "format_message", None)):  # typer's own usage errors
        return f"{usage().rstrip('.')}; see lensbench --help" if usage() else ""
    if isinstance(error, OSError):
        text = error.strerror or str(error)
        if error.filename is not None:
            text = f"{text}: {error.filename}"
    elif isinstance(error, ValueError):
        from pydantic import ValidationError

        from lensbench.experiment import one_line

        text = one_line(error) if isinstance(error, ValidationError) else str(error)
    else:
        return None
    return " ".join(text.split()) or type(error).__name__
