"""The command line: parse, call, print. Everything heavy is imported by the command that needs it."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

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
        print(f"lensbench: {stopped} in {runs}; continue with: {_again()}", file=sys.stderr)
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
        parameters = parameter_count(denoiser_config(experiment, experiment.text_encoder.width))
        seen = experiment.training.steps * experiment.training.batch
        sizes = (f"{parameters / 1e6:.2f} M", f"{experiment.images:,}", f"{seen:,}")
        levels = (str(level) for level in cell.levels.values())
        table.add_row(cell.id, *levels, *sizes, reasons.get(cell.id, "complete"))
    Console().print(table)


@app.command()
def generate(
    checkpoint: Annotated[
        Path, typer.Argument(help="A cell's directory, a published pipeline's folder, or a denoiser's folder or file.")
    ],
    out: Annotated[Path, typer.Argument(help="The folder for the pictures, laid out as GenEval reads it.")],
    prompts: Annotated[
        str | None,
        typer.Option(
            metavar="geneval|FILE",
            help='GenEval\'s 553, or a file: .txt with a prompt a line, .jsonl with a "prompt" a line. '
            "Left out: what the cell is scored on.",
        ),
    ] = None,
    form: Annotated[
        Literal["short", "detailed"] | None, typer.Option(help="Wording of the cell's own prompts; short if left out.")
    ] = None,
    samples: Annotated[int | None, typer.Option(help="Pictures a prompt; the cell's numbers, or 4.")] = None,
    steps: Annotated[int | None, typer.Option(help="Euler steps; the cell's, or 50.")] = None,
    guidance: Annotated[float | None, typer.Option(help="Guidance scale, 1 is none; the cell's, or 5.")] = None,
    guidance_interval: Annotated[
        tuple[float, float], typer.Option(metavar="LOW HIGH", help="Noise levels between which guidance is used.")
    ] = (0.0, 1.0),
    size: Annotated[
        int | None, typer.Option(help="Side of the square of the same area, in pixels; the cell's, or 1024.")
    ] = None,
    ratio: Annotated[
        str | None, typer.Option(metavar="W:H", help="Aspect ratio, one of Lens's nine; 1:1 if left out.")
    ] = None,
    height: Annotated[int | None, typer.Option(help="With --width, any size of whole tokens.")] = None,
    width: Annotated[int | None, typer.Option(help="With --height.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of the noise; the cell's, or 0.")] = None,
    batch: Annotated[
        int | None, typer.Option(help="Pictures drawn at a time; changes nothing but speed and memory.")
    ] = None,
    step: Annotated[int | None, typer.Option(help="Which of the cell's checkpoints; the last if left out.")] = None,
    text_encoder: Annotated[
        str | None, typer.Option(metavar="KIND", help="minilm, qwen3 or gpt_oss, for a denoiser that does not say.")
    ] = None,
    text_encoder_model: Annotated[str | None, typer.Option(metavar="FOLDER|ID", help="Where its files are.")] = None,
    autoencoder: Annotated[
        str | None, typer.Option(metavar="KIND", help="pixels or flux2, for a denoiser that does not say.")
    ] = None,
    autoencoder_model: Annotated[str | None, typer.Option(metavar="FOLDER|ID", help="Where its files are.")] = None,
) -> None:
    """Draw pictures from a checkpoint, into the folders that GenEval scores.

    Stop it whenever you like: the same command goes on where it stopped.
    """
    from rich.console import Console

    from lensbench.sweep.quiet import quiet

    quiet()
    from lensbench.drawing.draw import DrawingStoppedError, Wishes, draw
    from lensbench.drawing.pipeline import Parts, open_pipeline
    from lensbench.drawing.prompts import find_prompts

    wishes = Wishes(
        steps=steps,
        guidance=guidance,
        guidance_interval=guidance_interval,
        size=size,
        ratio=ratio,
        height=height,
        width=width,
        seed=seed,
        batch=batch,
    )
    parts = Parts(text_encoder, text_encoder_model, autoencoder, autoencoder_model)
    pipeline = open_pipeline(checkpoint, parts, step)
    asked = find_prompts(prompts, pipeline.experiment, form, samples)
    try:
        draw(pipeline, asked, wishes, out, Console())
    except DrawingStoppedError as stopped:
        print(f"lensbench: {stopped} in {out}; continue with: {_again()}", file=sys.stderr)
        raise typer.Exit(130) from None


@app.command()
def sizes(
    sweep_file: Annotated[
        Path | None,
        typer.Argument(metavar="SWEEP.py", help="A sweep whose models, images and captions are asked about."),
    ] = None,
    corpus: CorpusFolder = None,
    depths: Annotated[
        str | None, typer.Option(metavar="N,N,...", help="Blocks; the sweep's, or 4 to 48, if left out.")
    ] = None,
    size: Annotated[
        str | None,
        typer.Option(metavar="N,N,...", help="Sides of images, in pixels; the sweep's, or 256,512,1024, if left out."),
    ] = None,
    text_tokens: Annotated[
        str | None,
        typer.Option(
            metavar="N,N,...", help="Lengths of captions; measured in the sweep, or from published means, if left out."
        ),
    ] = None,
    words: Annotated[str | None, typer.Option(metavar="N,N,...", help="The same in words.")] = None,
    tokens_per_word: Annotated[
        float | None, typer.Option(min=1, max=10, help="Where only words are known; English has about 4 in 3 words.")
    ] = None,
    encoder: Annotated[
        Literal["minilm", "qwen3", "gpt_oss"], typer.Option(help="Text encoder, where there is no sweep.")
    ] = "gpt_oss",
    memory: Annotated[str, typer.Option(metavar="GB", help="A GPU's memory.")] = "80GB",
    batch: Annotated[int, typer.Option(min=1, help="Images a step, on one GPU.")] = 32,
    precision: Annotated[
        Literal["bf16", "fp32"] | None, typer.Option(help="Of the matrix products; the sweep's, or bf16.")
    ] = None,
    optimizer: Annotated[
        Literal["adamw", "muon"] | None, typer.Option(help="Whose states are counted; the sweep's, or adamw.")
    ] = None,
    csv: Annotated[Path | None, typer.Option(metavar="FILE", help="Write every number there, unrounded.")] = None,
) -> None:
    """Compare model sizes: parameters, training FLOPs, what longer captions cost, memory, what fits a GPU."""
    from dataclasses import replace

    from rich.console import Console

    from lensbench.captions.lengths import TOKENS_PER_WORD, given_tokens, given_words
    from lensbench.experiment import TextEncoder
    from lensbench.model.memory import Setting
    from lensbench.report import sizes as report
    from lensbench.report.terminal import print_tables

    gpu_bytes = report.memory_bytes(memory)
    per_word = tokens_per_word or TOKENS_PER_WORD
    if sweep_file is None:
        asked = report.of_lens(TextEncoder(kind=encoder), per_word)
    else:
        from lensbench.sweep.sweep import cells

        sweep = _prepared(sweep_file, corpus)
        asked = report.of_experiments([cell.experiment for cell in cells(sweep)], per_word)
    if depths:
        asked = replace(asked, depths=report.whole_numbers("--depths", depths))
    if size:
        asked = replace(asked, sizes_px=report.whole_numbers("--size", size))
    if text_tokens and words:
        raise ValueError("--text-tokens and --words: give one of them")
    if text_tokens:
        asked = replace(asked, lengths=given_tokens(report.whole_numbers("--text-tokens", text_tokens)))
    if words:
        asked = replace(asked, lengths=given_words(report.whole_numbers("--words", words), per_word))
    setting = Setting(optimizer or asked.setting.optimizer, precision or asked.setting.precision)
    asked = replace(asked, setting=setting)
    found = report.costs(asked, batch, gpu_bytes)
    print_tables(Console(), report.tables(found, asked))
    if csv:
        report.write_csv(found, csv)


@judge_app.command("train")
def judge_train(
    out: Annotated[Path | None, typer.Argument(help="Where the weights go; the shipped file when left out.")] = None,
) -> None:
    """Train the judge from nothing and write its weights."""
    from lensbench.scoring import detectors, judge_training
    from lensbench.sweep.worker import check_writable

    weights = out or detectors.WEIGHTS
    check_writable(weights.parent)
    judge_training.train(weights)


@judge_app.command("check")
def judge_check() -> None:
    """Measure the judge's error on pictures that it was not trained on."""
    from lensbench.scoring import judge_check as check

    check.main()


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


def _again() -> str:
    # The command line as it can be typed again: the program by its path where it is not on PATH.
    import shlex
    import shutil

    program = Path(sys.argv[0])
    found = shutil.which(program.name)
    known = not program.is_file() or (found is not None and Path(found).samefile(program))
    return shlex.join(["lensbench" if known else os.path.relpath(program), *sys.argv[1:]])


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
    from lensbench.scoring.extractors import not_scored

    folder = results / sweep.name
    if not found.complete and is_complete(folder):
        folder = folder.with_name(f"{sweep.name}.partial")
        print(f"{results / sweep.name} holds a complete report, which stays: this one goes to {folder}")
    build(found, folder, runs, Console())
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
