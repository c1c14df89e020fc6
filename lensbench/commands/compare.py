"""`lensbench compare`: two sweeps, two cells or checkpoints, or two folders of judged pictures, side by side."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def compare(
    first: Annotated[
        Path,
        typer.Argument(
            metavar="A", help="results/<sweep>, runs/<cell>, a checkpoint of one, or a folder of judged pictures."
        ),
    ],
    second: Annotated[Path, typer.Argument(metavar="B", help="Another of the same kind.")],
    out: Annotated[Path | None, typer.Option(help="Write tables, every flip and pictures side by side here.")] = None,
    runs: Annotated[Path, typer.Option(help="Where the cells of a sweep keep their pictures.")] = Path("runs"),
    judge: Annotated[
        str | None, typer.Option(help="Of folders that several judges judged: the beginning of its name.")
    ] = None,
    every: Annotated[bool, typer.Option("--all", help="Every task of every arm, and every flipped prompt.")] = False,
) -> None:
    """Paired differences of B minus A per metric and task, and the prompts whose verdicts flipped.

    What was scored on other prompts, by another judge, in other forms or at another guidance is refused.
    """
    from dataclasses import replace

    from rich.console import Console

    from lensbench.report import compare as comparing
    from lensbench.report import render
    from lensbench.report.flipped import flipped_sheet
    from lensbench.report.sides import open_sides
    from lensbench.report.terminal import print_tables, say

    a, b = open_sides(first, second, runs, judge)
    comparing.refuse_otherwise(a, b)
    both = comparing.matched(a, b)
    table = comparing.differences(a, b, both)
    flips = comparing.flips_table(both, None)
    console = Console()
    shown = table
    if not every and len(a.parts()) > 1:  # of many arms the means; the files and --all have every task
        where = [column.name for column in table.columns].index("metric")
        rows = [row for row in table.rows if not str(row.cells[where].value).startswith("geneval.")
                or str(row.cells[where].value) == "geneval.mean"]  # fmt: skip
        note = (*table.notes, "Each task too: --all, or --out.")
        shown = replace(table, rows=tuple(rows), notes=note, filed=False)
    print_tables(console, [replace(shown, filed=False)])
    console.print()
    if sentence := comparing.counted(both):
        say(console, sentence, "bold")
    if flips.rows:
        print_tables(console, [replace(comparing.flips_table(both, None if every else 8), filed=False)])
    if out is None:
        return
    out.mkdir(parents=True, exist_ok=True)
    written = []
    for one in (table, flips):
        for suffix, text in (("md", render.to_markdown(one)), ("csv", render.to_csv(one))):
            written.append(out / f"{one.name}.{suffix}")
            written[-1].write_text(text, encoding="utf-8", newline="\n")
    written.append(out / "flipped_pictures.csv")
    written[-1].write_text(comparing.flips_csv(both), encoding="utf-8", newline="\n")
    sheet = flipped_sheet(a, b, both, out / "flipped.png")
    for path in [*written, *([sheet] if sheet else [])]:
        print(path)
    if sheet is None and flips.rows:
        print("no pictures: the cells' pictures are not there; say where with --runs")
