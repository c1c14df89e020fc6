"""`lensbench judge`: train and measure the judge of the shapes world."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(no_args_is_help=True, help="The judge of the shapes world.")


@app.command("train")
def train(
    out: Annotated[Path | None, typer.Argument(help="Where the weights go; the shipped file when left out.")] = None,
) -> None:
    """Train the judge from nothing and write its weights."""
    from lensbench.scoring import detectors, judge_training
    from lensbench.sweep.worker import check_writable

    weights = out or detectors.WEIGHTS
    check_writable(weights.parent)
    judge_training.train(weights)


@app.command("check")
def check() -> None:
    """Measure the judge's error on pictures that it was not trained on."""
    from lensbench.scoring import judge_check

    judge_check.main()
