"""The tables of scores: what stands in each cell, how sure it is, and what the reader must be told.

One definition each: `main` (GenEval by training captions and prompt form), `differences` (what the captions change,
with intervals and a correction for many comparisons), `scores` and `score_differences` (everything else measured);
`ablation`, and what went in and what it cost, are in modules of their own. `lensbench.report.render` writes them to
the console, Markdown, CSV and LaTeX.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from lensbench.metrics import GENEVAL, metric
from lensbench.report.ablation import ablation_table
from lensbench.report.answers import answers_table
from lensbench.report.chance import chance_note
from lensbench.report.costs import costs_table, data_table, sizes_table
from lensbench.report.grid import MEAN, Grid
from lensbench.report.levels import Level
from lensbench.report.notes import (
    BESIDE,
    BOLD,
    BY_SEEDS,
    NOTHING,
    SEEDS,
    SHARED,
    distance_note,
    origin_note,
    protocol_notes,
    recipe_note,
    seeds_note,
    tests_note,
)
from lensbench.report.paired import Comparison
from lensbench.report.rows import (
    arm_columns,
    beside_scores,
    complete_table,
    difference_cell,
    head_of,
    labels_of,
    scale_columns,
    score_columns,
    score_rows,
    seeds_mark,
)
from lensbench.report.table import MINUS, Cell, Column, Row, Table
from lensbench.report.wordings import wordings_note


def tables(
    grid: Grid,
    evaluation: Mapping[str, Any] | None = None,
    parameters: Mapping[str, int] | None = None,
    captioners: Sequence[Mapping[str, Any]] = (),
) -> dict[str, Table]:
    """The tables by name, those that apply. `evaluation` is the recipe's evaluation part (guidance and the like), for
    the notes; `parameters` are those of each cell's denoiser, `captioners` who wrote caption sets and for how much."""
    told = recipe_note(grid, evaluation or {})
    built = (
        answers_table(grid),
        main_table(grid, told),
        differences_table(grid, told),
        ablation_table(grid),
        scores_table(grid),
        score_differences_table(grid),
        sizes_table(grid, parameters or {}),
        data_table(grid),
        costs_table(grid, captioners),
    )
    return {table.name: table for table in built if table is not None}


def main_table(grid: Grid, recipe: str = "") -> Table:
    """Rows: scale x training captions. Columns: prompt form x (GenEval's tasks and their mean), in percent."""
    if not grid.tasks:
        return replace(scores_table(grid), name="main", title="Scores by training captions and prompt form")
    wanted = grid.compared()
    columns = tuple(
        _column(f"{form}.{name}", of, name == MEAN, group=f"{form} prompts") for form, name, of, _ in wanted
    )
    numbers = [(of, form) for _, _, of, form in wanted]
    columns, rows = beside_scores(grid, columns, score_rows(grid, numbers), numbers, (GENEVAL,))
    notes = (
        f"GenEval's tasks, accuracy in percent; mean: of the {len(grid.tasks)} tasks, unweighted. {seeds_note(grid)}",
        chance_note(cell for row in rows for cell in row.cells),
        wordings_note(grid, GENEVAL),
        recipe,
        BOLD,
        origin_note(grid),
        *protocol_notes(grid, [GENEVAL]),
    )
    return complete_table(
        grid,
        "main",
        "GenEval accuracy (%) by training captions and prompt form",
        arm_columns(grid),
        columns,
        rows,
        notes,
    )


def differences_table(grid: Grid, recipe: str = "") -> Table:
    """Every arm minus the reference, and of few arms each minus each, by scale, prompt form and task."""
    wanted = grid.compared()
    forms = [form for form in dict.fromkeys(form for form, _, _, _ in wanted) if form]
    if forms:
        names = {name: of for _, name, of, _ in wanted}
        columns = tuple(replace(_column(name, of, name == MEAN), interval=True) for name, of in names.items())
    else:
        columns = score_columns(grid)
    rows = _difference_rows(grid.comparisons())
    prompts = [Column("prompts", "prompts", "prompts", label=True)] if forms else []
    labels = (*scale_columns(grid), *prompts, Column("difference", "difference", "difference", label=True))
    cells = [cell for row in rows for cell in row.cells]
    several = " and training seeds" if len(grid.seeds) > 1 else ""
    what = "Differences of GenEval accuracy in points" if forms else "Differences, averaged over seeds"
    notes = (
        f"{what}; [low, high]: interval over prompts{several}, paired image by image. {seeds_note(grid)}",
        tests_note(grid, grid.comparisons()),
        SEEDS if any(cell.kind == "seeds" for cell in cells) else "",
        recipe,
        SHARED if any(cell.incomplete for cell in cells) else "",
    )
    others = [head_of(name) for name in grid.arm_factors if not name.startswith("captions.")]
    changed = " and ".join(["training captions", *others])
    title = f"What the {changed} change" + (" (GenEval, points)" if forms else "")
    return complete_table(
        grid,
        "differences",
        title,
        labels,
        columns,
        rows,
        notes if rows else (BESIDE if grid.comparisons_beside() else NOTHING,),
    )


def score_differences_table(grid: Grid) -> Table | None:
    """Every arm minus the reference by the scores beside GenEval, image by image where single images have them.

    None where `Grid.compared_beside` has nothing to tell.
    """
    rows = _difference_rows(grid.comparisons_beside())
    if not rows:
        return None
    cells = [cell for row in rows for cell in row.cells]
    several = " and training seeds" if len(grid.seeds) > 1 else ""
    notes = (
        f"[low, high]: interval over prompts{several}, paired image by image. {seeds_note(grid)}",
        tests_note(grid, grid.comparisons_beside()),
        SEEDS if any(cell.kind == "seeds" for cell in cells) else "",
        SHARED if any(cell.incomplete for cell in cells) else "",
    )
    labels = (*scale_columns(grid), Column("difference", "difference", "difference", label=True))
    title = "What the training captions change in the other scores"
    return complete_table(grid, "score_differences", title, labels, score_columns(grid), rows, notes)


def _column(name: str, of: str, mean: bool, group: str = "") -> Column:
    """The column of a GenEval number; the mean's has its interval."""
    head, short = metric(of).heads
    return Column(name, head, short, group, interval=mean, key=mean)


def _difference_rows(compared: Sequence[Comparison]) -> list[Row]:
    """A row for each scale, prompt form and pair of arms."""
    blocks: dict[tuple[Level, str, Level, Level], list[Cell]] = {}
    for row in compared:
        place = (row.scale, row.form, row.arm, row.other)
        blocks.setdefault(place, []).append(difference_cell(row.difference, metric(row.metric)))
    rows, above = [], None
    for (scale, form, arm, other), cells in blocks.items():
        name = f"{arm.label} {MINUS} {other.label}"
        labels = [*labels_of(scale), *([Cell(form, form)] if form else []), Cell(name, name, mark=seeds_mark(cells))]
        rows.append(Row((*labels, *cells), opens=above != (scale, form)))
        above = (scale, form)
    return rows


def scores_table(grid: Grid) -> Table:
    """Every score beside GenEval at the last step, by scale and training captions."""
    rows = score_rows(grid, grid.scores())
    kinds = {cell.kind for row in rows for cell in row.cells}
    metrics = {name for name, _ in grid.scores()}
    notes = (
        seeds_note(grid),
        distance_note(grid, metrics),
        "shapes-alignment: the judge's image-text cosine." if "shapes_alignment" in metrics else "",
        "[low, high]: 95 % interval." if "95%" in kinds else "",
        BY_SEEDS if _over_seeds(grid, rows) else "",
        SEEDS if "seeds" in kinds else "",
        BOLD if any(cell.emphasis == "best" for row in rows for cell in row.cells) else "",
        origin_note(grid),
        *protocol_notes(grid, metrics),
    )
    title = "Other scores by training captions and prompt form"
    return complete_table(grid, "scores", title, arm_columns(grid), score_columns(grid), rows, notes)


def _over_seeds(grid: Grid, rows: Sequence[Row]) -> bool:
    """Whether a distance, or another score of whole sets, has an interval over training seeds."""
    of_sets = [i for i, (name, _) in enumerate(grid.scores()) if metric(name).per == "set"]
    labels = len(arm_columns(grid))
    return len(grid.seeds) > 1 and any(row.cells[labels + i].kind == "95%" for row in rows for i in of_sets)
