"""Options of the commands that work on a sweep's queue."""

from __future__ import annotations

from typing import Annotated

import typer

from lensbench.sweep.claims import TRIES_VARIABLE
from lensbench.sweep.storage import VARIABLE

Storage = Annotated[
    str | None,
    typer.Option(
        envvar=VARIABLE,
        show_envvar=True,
        show_default=False,
        help="Where the queue is kept: postgresql://USER@HOST/DATABASE, journal:FILE; without it SQLite in RUNS. "
        "An address with a password belongs in the environment.",
    ),
]
Tries = Annotated[
    int,
    typer.Option(min=1, envvar=TRIES_VARIABLE, help="Failures after which a cell is left alone until retried."),
]
