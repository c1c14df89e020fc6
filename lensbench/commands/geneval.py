"""`lensbench geneval`: GenEval of any folder of pictures in its layout."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lensbench.commands.again import to_go_on
from lensbench.commands.counting import counting
from lensbench.commands.device import usable_device
from lensbench.commands.drawn import CELL, drawn, is_model
from lensbench.forms import Form

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lensbench.drawing.prompts import Prompts as Wanted
    from lensbench.report.table import Table
    from lensbench.scoring.geneval_folder import Judge
    from lensbench.scoring.judged_folder import Prompts


def geneval(
    folder: Annotated[
        Path,
        typer.Argument(
            metavar="FOLDER|CELL|CHECKPOINT",
            help="00000/metadata.jsonl beside 00000/samples/0000.png, and so on; a cell's or checkpoint's pictures are "
            "drawn first.",
        ),
    ],
    prompts: Annotated[
        str | None,
        typer.Option(
            metavar="geneval|FILE.jsonl",
            help="What a cell or checkpoint is asked to draw; the cell's own if left out. The prompts of a folder lie "
            "in it: the file is compared with them.",
        ),
    ] = None,
    form: Annotated[Form | None, typer.Option(help="Wording of the cell's own prompts; short if left out.")] = None,
    step: Annotated[int | None, typer.Option(help="Which of the cell's checkpoints; the last if left out.")] = None,
    detector: Annotated[
        str | None,
        typer.Option(
            metavar="shapes|ID|FOLDER|FILE.py",
            help="The shapes judge, a Mask2Former for COCO instances, or a file with your own detect(image). Left out: "
            "the shapes judge for a cell of the shapes world, else facebook/mask2former-swin-small-coco-instance.",
        ),
    ] = None,
    colors: Annotated[
        str | None,
        typer.Option(metavar="ID|FOLDER", help="The CLIP that names colors; openai/clip-vit-large-patch14."),
    ] = None,
    threshold: Annotated[
        float | None,
        typer.Option(min=0, max=1, help="Lowest score of a detection; GenEval's own 0.3, 0.9 for counting."),
    ] = None,
    shard: Annotated[
        str, typer.Option(metavar="I/N", help="Which part of the pictures, from 0/N: for several GPUs or machines.")
    ] = "0/1",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:1.")] = "auto",
    batch: Annotated[int, typer.Option(min=1, help="Pictures at a time; changes nothing but speed and memory.")] = 8,
) -> None:
    """Judge pictures by GenEval's protocol, and print its scores with intervals once every picture is judged.

    Stop it whenever you like: the same command goes on where it stopped. Every judged picture stays in FOLDER/judged
    with its boxes and the reason; FOLDER/results.jsonl is what the reference's own scripts read.
    """
    from rich.console import Console

    from lensbench.sweep.quiet import quiet

    quiet()
    from lensbench.drawing.prompts import prompt_rows
    from lensbench.report.terminal import print_tables, say
    from lensbench.scoring.detecting import open_judge
    from lensbench.scoring.geneval import summary
    from lensbench.scoring.geneval_folder import judge_folder, judged, open_prompts, outcomes, write_results

    number, count = shard_of(shard)
    console = Console()
    if detector is None and _of_shapes(folder):
        detector = "shapes"
    judges: list[Judge] = []

    def check(wanted: Wanted) -> None:  # before anything is drawn
        refuse_unjudgeable(wanted)
        judges.append(open_judge(detector, colors, usable_device(device)))

    was_drawn = not is_model(folder)
    folder = drawn(folder, None if was_drawn else prompts, form, step, console, check)
    asked = open_prompts(folder)
    if prompts is not None and was_drawn:
        refuse_others(asked, prompts, prompt_rows(prompts))
    judge = judges[0] if judges else open_judge(detector, colors, usable_device(device))
    try:
        with counting(console, "judging") as report:
            judge_folder(asked, judge, shard=number, shards=count, batch=batch, threshold=threshold, report=report)
    except KeyboardInterrupt:
        raise to_go_on(f"stopped; what is judged stays in {folder}") from None
    known = judged(asked, judge, threshold)
    rows = outcomes(asked, known)
    if count > 1 and len(rows) < len(asked.pictures):
        say(console, f"{len(rows):,} of {len(asked.pictures):,} pictures are judged: scores follow the last shard")
        return
    path = write_results(asked, known)
    found = summary(rows, asked.plan())
    print_tables(console, [table(asked, judge, rows, found, threshold)])
    say(console, f"every picture with its boxes and the reason: {path}")


def refuse_unjudgeable(wanted: Wanted) -> None:
    """Raise ValueError, one line, where prompts that would be drawn do not say what GenEval looks for."""
    from lensbench.scoring.geneval_folder import FIELDS_OF_ROW
    from lensbench.scoring.judged_folder import lacking

    for index, row in enumerate(wanted.rows):
        if lacks := lacking(row, FIELDS_OF_ROW):
            raise ValueError(
                f"{wanted.name}: prompt {index} lacks {', '.join(lacks)}, so GenEval cannot judge its pictures; give "
                "--prompts geneval, or a .jsonl of GenEval's rows"
            )


def refuse_others(found: Prompts, source: str, rows: Sequence[dict[str, Any]]) -> None:
    """Raise ValueError, one line, where a folder's pictures are of other prompts than those of a file."""
    if sorted(found.rows) != list(range(len(rows))):
        raise ValueError(f"--prompts {source}: {len(rows):,} prompts, but {found.folder} has {len(found.rows):,}")
    for index, row in enumerate(rows):
        if any(found.rows[index].get(name) != value for name, value in row.items()):
            raise ValueError(
                f"--prompts {source}: prompt {index} is {row['prompt']!r}, but {found.folder}/{index:05d} is of "
                f"another row, {found.rows[index]['prompt']!r}; give the prompts that were drawn, or none"
            )


def table(prompts: Prompts, judge: Judge, rows: list[dict[str, Any]], found: Any, threshold: float | None) -> Table:
    """GenEval's scores by task, with intervals over prompts."""
    import numpy as np

    from lensbench.metrics import GENEVAL, metric
    from lensbench.report.chance import chance_cell, chance_note, chance_of, with_chance
    from lensbench.report.table import Cell, Column, Row, Table, bounds, number
    from lensbench.scoring.statistics import stratified_mean

    def cells(name: str, some: list[dict[str, Any]]) -> tuple[Cell, ...]:
        values, clusters, strata = (np.array([row[key] for row in some]) for key in ("value", "prompt_index", "task"))
        mean = stratified_mean(values, clusters, strata)
        shown = bounds(100 * mean.low, 100 * mean.high)
        by_chance = chance_of(values, np.array([row["chance"] for row in some]), strata, (clusters, strata, None))
        value, low, high = 100 * mean.estimate, 100 * mean.low, 100 * mean.high
        score = with_chance(Cell(number(value), value, low, high, shown, "95%"), by_chance, of, of.factor)
        counts = Cell(f"{len(np.unique(clusters)):,}"), Cell(f"{len(some):,}")
        return Cell(name, name), score, chance_cell(by_chance, of), *counts

    of = metric(GENEVAL)
    lines = [Row(cells(task, [row for row in rows if row["task"] == task])) for task in found.tasks]
    whole = prompts.part_of_official
    if not whole:
        lines.append(Row(cells("overall", rows), opens=True))
    columns = (
        Column("task", "task", "task", label=True),
        Column("score", "score", "score", interval=True, key=True),
        Column("chance", "chance", "chance"),
        Column("prompts", "prompts", "prompts"),
        Column("images", "images", "images"),
    )
    kind = "GenEval" if prompts.official else "GenEval's protocol, other prompts than its 553"
    limits = "" if threshold is None else f", every detection above {threshold:g} counts"
    notes = (
        f"{kind}. Judge: {judge.name}, digest {judge.digest[:12]}{limits}: scores of different judges do not compare.",
        (f"{len(prompts.rows)} of GenEval's {whole} prompts: no overall" if whole else "overall: the mean of the tasks")
        + ". 95 % intervals over prompts; of one trained model.",
        f"{100 * found.images_correct:.1f} % of the images are right; for {100 * found.prompts_any_correct:.1f} % of "
        "the prompts at least one is.",
        *filter(None, [chance_note(cell for line in lines for cell in line.cells)]),
    )
    return Table("geneval", str(prompts.folder), columns, tuple(lines), notes, filed=False)


def shard_of(said: str) -> tuple[int, int]:
    """Which part of how many, of "I/N". Raises ValueError for anything else."""
    found = re.fullmatch(r"(\d+)/(\d+)", said)
    number, count = map(int, found.groups()) if found else (0, 0)
    if number >= count:
        raise ValueError(f"--shard={said}: give I/N with I from 0 to N - 1, as in 0/4")
    return number, count


def _of_shapes(path: Path) -> bool:
    """Whether a path is a cell of the shapes world, whose pictures its own judge can tell."""
    import json

    cell = path / CELL
    return cell.is_file() and json.loads(cell.read_text()).get("corpus", {}).get("kind") == "shapes"
