"""`lensbench models`: models side by side, by the folders that they drew."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def models(
    folders: Annotated[
        list[Path], typer.Argument(help="Folders that `lensbench generate` drew and `lensbench geneval` judged.")
    ],
    judge: Annotated[str | None, typer.Option(help="The beginning of a judge's digest, where several judged.")] = None,
) -> None:
    """Compare models by the pictures that they drew from the same prompts: size, cost and GenEval's scores.

    The first folder is the reference.
    """
    from rich.console import Console

    from lensbench.report.models import models_table, open_drawn
    from lensbench.report.terminal import print_tables

    print_tables(Console(), [models_table(open_drawn(folders, judge))])
