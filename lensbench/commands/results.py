"""`lensbench results`: freeze a sweep's results, build tables from them, check them, and go on from them elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lensbench.commands.sweeps import CorpusFolder, ResultsFolder, Runs, SweepFile

app = typer.Typer(no_args_is_help=True, help="Frozen results: freeze, build, check, diff, thaw.")

Folder = Annotated[Path, typer.Argument(metavar="RESULTS", help="A folder of frozen results: results/<sweep>.")]
Mixed = Annotated[bool, typer.Option("--allow-mixed", help="Go on where the cells are of several commits.")]
Missing = Annotated[bool, typer.Option("--allow-missing", help="Go on without the cells that are missing.")]


@app.command()
def freeze(
    sweep_file: SweepFile,
    runs: Runs = Path("runs"),
    corpus: CorpusFolder = None,
    results: ResultsFolder = Path("results"),
    allow_mixed: Mixed = False,
    allow_missing: Missing = False,
) -> None:
    """Copy records, outcomes and provenance into RESULTS/<sweep> and build its tables; refuses what is not whole.

    A cell that is missing or cells of several commits end it before anything is written.
    """
    from rich.console import Console

    from lensbench.commands.sweeps import prepared
    from lensbench.report.build import build
    from lensbench.report.captions import of_experiments
    from lensbench.report.checks import refuse_collected
    from lensbench.sweep.sweep import cells, collect

    sweep = prepared(sweep_file, corpus)
    every = cells(sweep)
    found = collect(sweep, runs)
    refuse_collected(found, sweep.name, allow_mixed=allow_mixed, allow_missing=allow_missing)
    captions = of_experiments([cell.experiment for cell in every])
    folder = results / sweep.name
    build(found, folder, runs, Console(), captions, every)
    _say(folder)


@app.command()
def build(folder: Folder, allow_mixed: Mixed = False, allow_missing: Missing = False) -> None:
    """Write tables, figures, macros and the appendix from frozen results alone; the same bytes every time."""
    from rich.console import Console

    from lensbench.report.build import rebuild
    from lensbench.report.checks import refuse
    from lensbench.report.freeze import open_frozen

    refuse(open_frozen(folder), str(folder), allow_mixed=allow_mixed, allow_missing=allow_missing)
    rebuild(folder, Console())
    _say(folder)


@app.command()
def check(
    sweep_file: SweepFile,
    corpus: CorpusFolder = None,
    results: ResultsFolder = Path("results"),
    allow_mixed: Mixed = False,
) -> None:
    """Say whether frozen results are whole and still those of the sweep's recipe; exit code 1 where they are not.

    The tables, macros and summary.md beside them are made again and compared too.
    """
    from lensbench.commands.sweeps import prepared
    from lensbench.report.checks import against_recipe, problems
    from lensbench.report.freeze import open_frozen
    from lensbench.report.remade import tables_otherwise
    from lensbench.sweep.sweep import cells

    sweep = prepared(sweep_file, corpus)
    folder = results / sweep.name
    frozen = open_frozen(folder)
    found = [*against_recipe(frozen, cells(sweep)), *problems(frozen, allow_mixed=allow_mixed)]
    found = found or tables_otherwise(frozen, folder)
    for line in found:
        print(f"{folder}: {line}")
    if found:
        raise typer.Exit(1)
    print(f"{folder}: fresh: every record is of an experiment of {sweep_file}, every table of the records")
    _say(folder)


@app.command()
def thaw(
    sweep_file: SweepFile,
    runs: Runs = Path("runs"),
    corpus: CorpusFolder = None,
    results: ResultsFolder = Path("results"),
) -> None:
    """Put the cells of RESULTS/<sweep> into RUNS, so that `run` trains what is missing alone, on any machine.

    Cells that are there stay as they are. Thawed ones have records and outcomes, no checkpoints and no pictures.
    """
    from lensbench.commands.sweeps import prepared
    from lensbench.report.freeze import open_frozen
    from lensbench.report.thaw import thaw as thaw_into
    from lensbench.sweep.sweep import cells

    sweep = prepared(sweep_file, corpus)
    every = cells(sweep)
    folder = results / sweep.name
    written, there = thaw_into(open_frozen(folder), every, runs)
    already = f", {len(there)} were there" if there else ""
    missing = len(every) - len(written) - len(there)
    print(f"{runs}: {len(written)} cells from {folder}{already}; {missing} of {len(every)} are still to run")


@app.command()
def diff(
    before: Annotated[str, typer.Argument(metavar="COMMIT_A", help="The earlier commit, branch or tag.")],
    after: Annotated[str, typer.Argument(metavar="COMMIT_B", help="The later one.")],
    folder: Annotated[Path, typer.Argument(metavar="[RESULTS]", help="A folder of frozen results.")] = Path(
        "results/demo"
    ),
    every: Annotated[bool, typer.Option("--all", help="Every number that changed, not the largest changes.")] = False,
) -> None:
    """Say what changed in frozen numbers between two commits; exit code 1 where any did."""
    from rich.console import Console

    from lensbench.report.changes import at_commit, changes_table, frame_changes
    from lensbench.report.terminal import print_tables, say

    old, new = (at_commit(folder, commit) for commit in (before, after))
    console = Console()
    lines = frame_changes(old, new)
    for line in lines:
        say(console, line)
    table = changes_table(old, new, f"{before} to {after}", None if every else 30)
    if table.rows:
        print_tables(console, [table])
    else:
        say(console, "No number of any table differs.")
    if table.rows or lines:
        raise typer.Exit(1)


def _say(folder: Path) -> None:
    from lensbench.report.checks import summary_line
    from lensbench.report.freeze import open_frozen

    print(summary_line(open_frozen(folder), folder))
