"""`lensbench prune-files`: free the disk of what complete cells do not need."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lensbench.commands.sweeps import CorpusFolder, Runs, SweepFile, prepared


def prune_files(
    sweep_file: SweepFile,
    runs: Runs = Path("runs"),
    corpus: CorpusFolder = None,
    checkpoints: Annotated[
        bool,
        typer.Option("--checkpoints", help="Also checkpoints before the last: those steps cannot be scored again."),
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be freed and remove nothing.")] = False,
) -> None:
    """Remove what the complete cells of a sweep do not need: resume points, and features that no cell needs any more.

    Records, outcomes, pictures, curves and the last checkpoint stay.
    """
    from lensbench.data.rowstore import shown
    from lensbench.sweep.cellfiles import is_complete
    from lensbench.sweep.pruning import leftovers, remove
    from lensbench.sweep.sweep import cells

    every = cells(prepared(sweep_file, corpus))
    done = sum(is_complete(runs / cell.id, cell) for cell in every)
    found = leftovers(every, runs, checkpoints=checkpoints)
    print(f"{done} of {len(every)} cells are complete in {runs}")
    for what in dict.fromkeys(leftover.what for leftover in found):
        of = [leftover for leftover in found if leftover.what == what]
        print(f"{what}: {shown(sum(leftover.bytes for leftover in of))} in {len(of)} place(s)")
    total = shown(sum(leftover.bytes for leftover in found))
    if dry_run:
        print(f"{total} would be freed; nothing is removed")
        return
    remove(found)
    print(f"{total} freed")
