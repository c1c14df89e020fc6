"""`lensbench track sync`: MLflow from the directories of the runs."""

from __future__ import annotations

from pathlib import Path

import typer

from lensbench.commands.sweeps import CorpusFolder, Runs, SweepFile, Tracking, prepared

app = typer.Typer(no_args_is_help=True, help="What MLflow shows of a sweep.")


@app.callback()
def group() -> None:
    """What MLflow shows of a sweep."""


@app.command()
def sync(
    sweep_file: SweepFile, runs: Runs = Path("runs"), corpus: CorpusFolder = None, tracking: Tracking = None
) -> None:
    """Send MLflow all of a sweep that it lacks, from the directories of the runs alone; nothing is sent twice."""
    from lensbench.sweep.quiet import quiet
    from lensbench.sweep.sweep import cells
    from lensbench.tracking import shown, target
    from lensbench.tracking import sync as send

    quiet()
    sweep = prepared(sweep_file, corpus)
    if (uri := target(tracking, runs)) is None:
        raise ValueError("--tracking none: there is nothing to send to")
    if not runs.is_dir():
        raise ValueError(f"{runs} is no directory: name that of the runs with --runs")
    sent, complete, refused = send(runs, sweep, uri)
    print(f"{sweep.name} in {shown(uri)}")
    print(f"  cells    {complete} of {len(cells(sweep))} complete and shown whole")
    print(
        f"  sent     {sent['runs']} new runs, {sent['points']:,} points, {sent['models']} models, {sent['files']} files"
    )
    for cell_id, why in refused.items():
        print(f"  refused  {cell_id}: {why}")
    if refused:
        raise typer.Exit(1)
