"""Options of the commands that work on a sweep's queue."""

from __future__ import annotations

from typing import Annotated

import typer

Storage = Annotated[
    str | None,
    typer.Option(
        envvar="LENSBENCH_STORAGE",
        show_envvar=True,
        show_default=False,
        help="Where the queue is kept: postgresql://USER@HOST/DATABASE, journal:FILE; without it SQLite in RUNS. "
        "An address with a password belongs in the environment.",
    ),
]
Tries = Annotated[
    int,
    typer.Option(min=1, envvar="LENSBENCH_TRIES", help="Failures after which a cell is left alone until retried."),
]
