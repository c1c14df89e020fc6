"""`lensbench work`: one worker of a sweep, among any number on any machines that share its directories."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from lensbench.commands.again import to_go_on
from lensbench.commands.queue import Storage, Tries
from lensbench.commands.sweeps import CorpusFolder, Runs, SweepFile, Tracking, prepared
from lensbench.sweep.claims import TRIES, threads_beside


def work(
    sweep_file: SweepFile,
    runs: Runs = Path("runs"),
    storage: Storage = None,
    corpus: CorpusFolder = None,
    isolate: Annotated[bool, typer.Option("--isolate", help="Run every cell in a fresh process.")] = False,
    tries: Tries = TRIES,
    tracking: Tracking = None,
) -> None:
    """Take the next cell of a sweep until none is left, beside any number of other workers. Writes no report.

    Every worker needs the same RUNS directory and storage. Beside others on this machine it takes as many threads as
    they have. Stop it whenever you like: another, or the same command, goes on where it stopped.
    """
    from rich.console import Console

    sweep = prepared(sweep_file, corpus)
    from lensbench.sweep.design import cells
    from lensbench.sweep.session import StoppedError
    from lensbench.sweep.session import work as work_on
    from lensbench.tracking import starter

    # Plain lines, whatever the terminal is: workers are watched by `lensbench status`.
    console = Console(force_terminal=False, no_color=True, soft_wrap=True)
    if not os.environ.get("OMP_NUM_THREADS") and (threads := threads_beside(runs / cell.id for cell in cells(sweep))):
        import torch

        torch.set_num_threads(threads)  # what began with so many goes on to the bit
        console.print(f"as many threads as the workers beside it: {threads}")
    try:
        session = work_on(
            sweep,
            runs,
            console=console,
            open_mirror=starter(tracking, runs),
            storage=storage,
            tries=tries,
            isolate=isolate,
        )
    except StoppedError as stopped:
        raise to_go_on(f"{stopped} in {runs}", stopped.exit_code) from None
    if session.failed:
        print(f"{len(session.failed)} of the sweep's cells are not complete: lensbench status {sweep_file} says why")
        raise typer.Exit(1)
