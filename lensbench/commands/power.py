"""`lensbench power`: how small a difference a study can see."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def power(
    results: Annotated[Path, typer.Argument(metavar="RESULTS", help="A folder that `lensbench report` wrote.")],
    difference: Annotated[
        float | None,
        typer.Option(min=0, help="A difference to find, in GenEval points (or units of the loss): seeds are counted."),
    ] = None,
) -> None:
    """Say how small a difference a study like this one can see, with more seeds or prompts too.

    The variances are those of the study in RESULTS: a pilot with two or three seeds is enough to plan with.
    """
    from rich.console import Console

    from lensbench.report.freeze import load
    from lensbench.report.grid import arrange
    from lensbench.report.power import power_table
    from lensbench.report.terminal import print_tables

    if difference == 0:
        raise ValueError("--difference 0: no study can find a difference that is none")
    print_tables(Console(), [power_table(arrange(load(results)), difference)])
