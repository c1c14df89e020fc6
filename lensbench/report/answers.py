"""The table of what a sweep asks: a row for each tested comparison, with its interval, p and verdict."""

from __future__ import annotations

from lensbench.metrics import metric
from lensbench.report.grid import Grid
from lensbench.report.headline import UNDERPOWERED, compared, verdict
from lensbench.report.paired import ASKED, Comparison
from lensbench.report.rows import difference_cell, p_cell
from lensbench.report.table import MINUS, Cell, Column, Row, Table

ANSWERS = "answers"  # the name of the table


def answers_table(grid: Grid) -> Table | None:
    """Rows: what is asked, the primary question first. None where nothing is."""
    asked = sorted((row for row in compared(grid) if row.asked), key=lambda row: ASKED.index(row.difference.role))
    if not asked:
        return None
    rows, above = [], ""
    for row in asked:
        role = row.difference.role
        rows.append(Row(_cells(grid, row), opens=role != above))
        above = role
    columns = (
        Column("question", "question", "question", label=True),
        Column("where", "score, prompts, scale", "score", label=True),
        Column("arms", "difference", "difference", label=True),
        Column("difference", "amount", "amount", interval=True, key=True),
        Column("p", "p", "p"),
        Column("p_holm", "p, Holm", "Holm"),
        Column("verdict", "verdict", "verdict"),
    )
    notes = (
        "The primary question is tested alone at 5 %. Secondary questions are tested together, and so are those asked "
        "post hoc, after the scores were known: significant is what is significant after Holm's correction.",
        "[low, high]: an interval that agrees with the verdict; of questions that are tested together the intervals "
        "hold together at 95 %.",
        "no test: no image differs, or there are too few prompts or seeds."
        if any(not row.difference.tested for row in asked)
        else "",
        "underpowered: not significant, and the interval reaches over more than half of what a difference can be."
        if any(verdict(grid, row) == UNDERPOWERED for row in asked)
        else "",
    )
    return Table(ANSWERS, "What the sweep asks", columns, tuple(rows), tuple(note for note in notes if note))


def _cells(grid: Grid, row: Comparison) -> tuple[Cell, ...]:
    gap, of = row.difference, metric(row.metric)
    words = ", ".join(filter(None, [of.label, row.metric_form, row.scale.label]))
    arms = f"{row.arm.label} {MINUS} {row.other.label}"
    said = verdict(grid, row)
    labels = (Cell(gap.role, gap.role), Cell(words, words), Cell(arms, arms))
    return (*labels, difference_cell(gap, of), p_cell(gap.p), p_cell(gap.p_holm), Cell(said, said))
