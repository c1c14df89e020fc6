"""`lensbench score`: distances and CLIPScore of a sweep, a cell or any folder of images."""

from __future__ import annotations

import os
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from lensbench.commands.counting import SPEAK_SECONDS
from lensbench.commands.device import usable_device
from lensbench.commands.drawn import CELL, drawn, is_model
from lensbench.commands.sweeps import CorpusFolder, ResultsFolder, Runs
from lensbench.forms import Form

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from rich.console import Console

    from lensbench.scoring.folder_scores import Asked, Ready, Scores

BATCH = 32


def score(
    folder: Annotated[
        Path,
        typer.Argument(
            metavar="FOLDER|CELL|CHECKPOINT|SWEEP.py",
            help="Images, in it and below: JPEG, PNG, WebP, BMP or TIFF; of a checkpoint they are sampled first. Of a "
            "cell or a sweep its evaluation is made where it is missing, and nothing is trained.",
        ),
    ],
    against: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER|CORPUS|STATS.npz",
            help="Real images, the held-out ones of an imported corpus, or statistics.",
        ),
    ] = None,
    metrics: Annotated[
        str | None,
        typer.Option(
            metavar="NAME,NAME,...",
            help="fid, kid, fid-infinity, prdc, fd-dinov2, cmmd, fd-shapes, clip-score, or MEASURE:EXTRACTOR as in "
            "prdc:dinov2. Left out: fid,kid with --against, and clip-score with --prompts; of a cell or a sweep, its "
            "own. Named ones are measured beside those.",
        ),
    ] = None,
    metric_images: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=N",
            help="Of a cell or a sweep: how many of its held-out captions' images a metric takes, as in fid=10000; may "
            "be repeated. A folder is scored whole.",
        ),
    ] = None,
    prompts: Annotated[
        Path | None,
        typer.Option(
            metavar="geneval|FILE",
            help='.txt with a prompt an image, in the order of names, or .jsonl with "image" and "prompt". '
            "A file that `generate` took fits the folder that it filled. Not needed in GenEval's layout. Of a cell or "
            "checkpoint: what is sampled; else the cell's own, or of photographs the held-out captions.",
        ),
    ] = None,
    form: Annotated[Form | None, typer.Option(help="Wording of a cell's own prompts; short if left out.")] = None,
    step: Annotated[int | None, typer.Option(help="Which of a cell's checkpoints; the last if left out.")] = None,
    floor: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Other real images, for the floor; halves of --against if left out."),
    ] = None,
    resize: Annotated[
        Literal["clean", "torchmetrics", "pytorch-fid", "tensorflow"],
        typer.Option(help="What is done before Inception. FID is defined with clean; statistics of EDM: tensorflow."),
    ] = "clean",
    weights: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=PATH", help="Where inception, dinov2, clip-b32, ... are; may be repeated."),
    ] = None,
    extractor: Annotated[
        list[Path] | None,
        typer.Option(metavar="FILE.py", help="A file whose `extractor` is your own; ask for fd:FILE."),
    ] = None,
    prefix: Annotated[
        str, typer.Option(help='Before every prompt for CLIPScore; "A photo depicts " in its paper.')
    ] = "",
    save_statistics: Annotated[
        Path | None, typer.Option(metavar="FILE.npz", help="Write the mean and covariance of FOLDER.")
    ] = None,
    save_features: Annotated[
        bool, typer.Option("--save-features", help="Write the features there too, for kid and prdc.")
    ] = False,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:1.")] = "auto",
    batch: Annotated[int, typer.Option(min=1, help="Images at a time; changes nothing but speed and memory.")] = BATCH,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Threads that decode, of a sweep cells at a time; the cores if left out.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of subsets and halves.")] = 0,
    out: Annotated[Path | None, typer.Option(metavar="FILE.json", help="Write every number with what made it.")] = None,
    runs: Runs = Path("runs"),
    results: ResultsFolder = Path("results"),
    corpus: CorpusFolder = None,
) -> None:
    """Score a sweep or a cell by its evaluation, or a folder of images that anyone made: FID and its kin against real
    images, CLIPScore against prompts.

    A distance is called FID only where it is FID; every number says which weights and which resize made it.
    """
    from rich.console import Console

    from lensbench.sweep.quiet import quiet

    quiet()
    from lensbench.commands.score_table import table
    from lensbench.report.terminal import print_tables, say
    from lensbench.scoring.folder_scores import Asked, made_ready, score_folder
    from lensbench.scoring.metrics import parse

    named: dict[str, object] = {  # what a recipe says of its own evaluation
        "--against": against, "--prompts": prompts, "--form": form, "--step": step, "--floor": floor,
        "--resize": resize != "clean", "--extractor": extractor, "--prefix": prefix, "--out": out, "--seed": seed,
        "--save-statistics": save_statistics, "--save-features": save_features,
        "--device": device != "auto", "--batch": batch != BATCH,
    }  # fmt: skip
    others = [name for name, value in named.items() if value is not None and value]
    if folder.suffix == ".py":
        from lensbench.commands.score_sweep import Further, score_sweep

        if others:
            raise ValueError(f"{', '.join(others)}: not for a sweep, whose recipe says how it is scored")
        wanted = Further(metrics, _weights(weights or []), _images(metric_images or []))
        if not score_sweep(folder, wanted, runs, results, corpus, workers or 0, Console()):
            raise typer.Exit(1)
        return
    if (folder / CELL).is_file() and not others:
        from lensbench.commands.score_cell import score_cell
        from lensbench.commands.score_sweep import Further

        score_cell(folder, Further(metrics, _weights(weights or []), _images(metric_images or [])), Console())
        return
    if metric_images:
        raise ValueError(
            f"--metric-images {metric_images[0]}: of a sweep or a cell that is scored by its own evaluation; "
            f"{folder} is scored whole, or as many images as were sampled"
        )
    if out is not None:
        _check_place(out, "--out")
    if save_statistics is not None:
        if save_statistics.suffix != ".npz":
            raise ValueError(f"--save-statistics={save_statistics}: the file's name must end in .npz")
        _check_place(save_statistics, "--save-statistics")
    elif save_features:
        raise ValueError("--save-features writes into the file of --save-statistics: give both")
    for path in extractor or []:
        _register(path)
    console = Console()
    of_model = is_model(folder)  # whose pictures have their prompts beside them
    asked = Asked(
        folder=folder,
        metrics=parse(metrics or _default_metrics(against, Path("drawn") if of_model else prompts, save_statistics)),
        against=against,
        floor=floor,
        prompts=_prompts(None if of_model else prompts),
        prefix=prefix,
        weights=_weights(weights or []),
        resize=resize,
        device=usable_device(device),
        batch=batch,
        workers=workers or os.cpu_count() or 1,
        seed=seed,
        save=save_statistics,
        save_features=save_features,
    )
    ready: list[Ready] = []
    # What would be missed is found before anything is drawn.
    where = drawn(
        folder,
        str(prompts) if of_model and prompts else None,
        form,
        step,
        console,
        lambda wanted: ready.append(made_ready(asked, len(wanted.pictures()))),
    )
    asked = replace(asked, folder=where)
    with _progress(console) as report:
        scores = score_folder(asked, report, ready[0] if ready else None)
    if scores.rows:
        print_tables(console, [table(asked, scores)])
    for line in scores.warnings:
        say(console, f"warning: {line}", "yellow")
    if scores.saved:
        say(console, f"statistics: {scores.saved}")
    say(console, _speed(scores), "dim")
    if out is not None:
        _write(out, asked, scores)
        say(console, f"every number with what made it: {out}")


def _speed(scores: Scores) -> str:
    timing = scores.timing
    if not timing.images:
        return f"{scores.seconds:.1f} s"
    busy = timing.reading + timing.resizing + timing.networks
    return (
        f"{timing.images:,} pictures in {timing.wall:.1f} s, {timing.images / timing.wall:.0f} a second; of the work "
        f"{100 * timing.reading / busy:.0f} % decoding, {100 * timing.resizing / busy:.0f} % resizing, "
        f"{100 * timing.networks / busy:.0f} % networks. {scores.seconds:.1f} s in all."
    )


def _default_metrics(against: Path | None, prompts: Path | None, save: Path | None) -> str:
    chosen = (["fid"] if against or save else []) + (["kid"] if against else []) + (["clip-score"] if prompts else [])
    if not chosen:
        raise ValueError(
            "nothing to score with: give --against FOLDER or STATS.npz, --prompts FILE or both; a folder in GenEval's "
            "layout has its prompts: --metrics clip-score"
        )
    # mu and sigma alone have no KID
    return ",".join(name for name in chosen if name != "kid" or not against or against.suffix != ".npz")


def _prompts(path: Path | None) -> Any:
    from lensbench.drawing.prompts import prompt_rows
    from lensbench.scoring.image_prompts import from_layout, from_rows

    if path is None:
        return from_layout
    rows = prompt_rows(str(path))
    return lambda images: from_rows(images, rows, str(path))


def _weights(given: list[str]) -> dict[str, str]:
    found = {}
    for word in given:
        name, equals, path = word.partition("=")
        if not equals or not path:
            raise ValueError(f"--weights {word}: give NAME=PATH, as in --weights dinov2=models/dinov2-large")
        found[name] = path
    return found


def _images(given: list[str]) -> dict[str, int]:
    found = {}
    for word in given:
        name, _, number = word.rpartition("=")
        if not name or not number.isdecimal():
            raise ValueError(f"--metric-images {word}: give NAME=N, as in --metric-images fid=10000")
        found[name] = int(number)
    return found


def _register(path: Path) -> None:
    import runpy

    from lensbench.scoring.metrics import register

    if not path.is_file():
        raise ValueError(f"--extractor {path}: no such file")
    try:
        found = runpy.run_path(str(path)).get("extractor")
    except Exception as error:  # it is the user's program, which may raise anything
        raise ValueError(f"--extractor {path}: {type(error).__name__}: {error}") from error
    wanted = ("name", "digest", "resize", "dimensions", "prepare", "embed")
    if missing := [part for part in wanted if not hasattr(found, part)]:
        raise ValueError(
            f"--extractor {path}: its `extractor` lacks {', '.join(missing)}; make one with "
            "lensbench.scoring.extractors.FunctionExtractor"
        )
    register(path.stem, found)  # type: ignore[arg-type]


def _check_place(path: Path, option: str) -> None:
    if not path.parent.is_dir():
        raise ValueError(f"{option}={path}: there is no folder {path.parent}")


@contextmanager
def _progress(console: Console) -> Iterator[Callable[[str, int, int], None]]:
    """A function to tell what is being done, how much of it, of how much: a bar each, or a line now and then."""
    import time

    spoke = time.monotonic()
    if not console.is_terminal:

        def say(what: str, done: int, total: int) -> None:
            nonlocal spoke
            if total and time.monotonic() - spoke >= SPEAK_SECONDS:
                spoke = time.monotonic()
                console.print(f"{what}: {done:,} of {total:,}", markup=False, highlight=False, soft_wrap=True)

        yield say
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(16), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        tasks: dict[str, Any] = {}

        def show(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = progress.add_task(what, total=total or None)
            progress.update(tasks[what], completed=done)

        yield show


def _write(path: Path, asked: Asked, scores: Scores) -> None:
    import json
    from dataclasses import asdict
    from importlib.metadata import version

    from lensbench.publishing import nan_to_null, publish_text
    from lensbench.sweep.provenance import commit, hardware

    libraries = ("torch", "torchmetrics", "transformers", "numpy", "scipy", "pillow", "clean-fid")
    told = {
        "scores": [asdict(row) for row in scores.rows],
        "warnings": scores.warnings,
        "sets": scores.sets,
        "settings": {
            "metrics": [metric.word for metric in asked.metrics],
            "resize": asked.resize,
            "prefix": asked.prefix,
            "device": asked.device,
            "batch": asked.batch,
            "seed": asked.seed,
            "weights": dict(asked.weights),
        },
        "made_by": {
            "commit": commit(),
            "hardware": hardware(),
            "versions": {name: _version(name, version) for name in libraries},
        },
        "timing": asdict(scores.timing) | {"seconds": scores.seconds},
    }
    publish_text(path, json.dumps(nan_to_null(told), indent=1))


def _version(name: str, version: Any) -> str | None:
    from importlib.metadata import PackageNotFoundError

    try:
        return str(version(name))
    except PackageNotFoundError:
        return None
