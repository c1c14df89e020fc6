"""The command line: the commands, and an error that the user can mend as one line. Nothing heavy is imported here."""

from __future__ import annotations

import io
import os
import sys
from typing import Annotated

import typer

from lensbench.commands import (
    bench,
    captions,
    compare,
    corpus,
    encode,
    generate,
    geneval,
    geneval2,
    judge,
    models,
    plan,
    power,
    prune,
    results,
    score,
    sizes,
    status,
    sweeps,
    track,
    train,
    tune,
    work,
)
from lensbench.commands.plain import plain

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="How much are better captions worth? Train, score and compare text-to-image models on different captions.",
)
for command in (
    *(sweeps.run, work.work, status.status, status.cancel, status.retry, prune.prune_files),
    *(train.train, sweeps.report, plan.plan, tune.tune, encode.encode, power.power),
    *(generate.generate, score.score, geneval.geneval, geneval2.geneval2, models.models, sizes.sizes, compare.compare),
):
    app.command()(command)
for name, group in (
    ("bench", bench.app),
    ("corpus", corpus.app),
    ("captions", captions.app),
    ("judge", judge.app),
    ("results", results.app),
    ("track", track.app),
):
    app.add_typer(group, name=name)


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


def main() -> None:
    """The entry point: an error that the user can mend is one line on stderr, and exit code 2."""
    if isinstance(sys.stdout, io.TextIOWrapper):  # a terminal of few letters must not end a report
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        _refuse_empty(sys.argv[1:])
        code = app(standalone_mode=False)
    except KeyboardInterrupt:
        code = 130
    except Exception as error:
        line = _one_line(error)
        if line is None or os.environ.get("LENSBENCH_TRACEBACK"):
            raise
        if line:  # a command without arguments has printed its help instead
            print(plain(f"lensbench: {line}"), file=sys.stderr)
        code = 2
    sys.exit(code if isinstance(code, int) else 0)


def _refuse_empty(words: list[str]) -> None:
    # An empty word would be the current folder, or no filter: it comes from a variable of the shell that is not set.
    for place, word in enumerate(words, 1):
        if not word.strip():
            before = words[place - 2] if place > 1 else ""
            option = f", of {before}," if before.startswith("-") and "=" not in before else ""
            raise ValueError(f"argument {place}{option} is empty: is a variable of the shell not set?")


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
