"""The parts of a report's tables: rows of scales and arms, their labels, and cells of scores and of differences."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from itertools import product
from math import isnan
from typing import Any

from lensbench.captions.policy import set_label
from lensbench.metrics import Metric, metric
from lensbench.report.chance import UNKNOWN, Chance, chance_cell, with_chance
from lensbench.report.grid import Grid, Group, column_of
from lensbench.report.levels import SET_NAMES, Level
from lensbench.report.paired import PRIMARY, Paired
from lensbench.report.table import DAGGER, DASH, TOGETHER, Cell, Column, Row, Table, bounds, number, p_words, signed
from lensbench.scoring.statistics import Interval


def complete_table(
    grid: Grid,
    name: str,
    title: str,
    labels: tuple[Column, ...],
    columns: tuple[Column, ...],
    rows: list[Row],
    notes: tuple[str, ...],
) -> Table:
    kept = [i for i, column in enumerate(columns) if column.name not in OPTIONAL or _any_at(rows, len(labels) + i)]
    width = len(labels)
    rows = [replace(row, cells=(*row.cells[:width], *(row.cells[width + i] for i in kept))) for row in rows]
    table = Table(
        name, title, (*labels, *(columns[i] for i in kept)), tuple(rows), tuple(note for note in notes if note)
    )
    if not table.incomplete:
        return table
    n = len(grid.results.missing)
    what = {0: "some numbers are missing", 1: "one cell is missing"}.get(n, f"{n} cells are missing")
    note = f"{DAGGER}: fewer seeds than planned, (n/N) beside the row; {what}, and nothing stands in for them."
    return replace(table, notes=(*table.notes, note))


OPTIONAL = ("set_aside_images",)  # shown only where there is something to show


def _any_at(rows: list[Row], place: int) -> bool:
    return any(isinstance(row.cells[place].value, float) and row.cells[place].value for row in rows)


def score_rows(grid: Grid, wanted: list[tuple[str, str]]) -> list[Row]:
    """A row for each scale and arm with a cell for each (metric, form). A score that is not above chance is marked."""
    rows = []
    for scale in grid.scales:
        groups = {arm: [grid.number(scale, arm, *one) for one in wanted] for arm in grid.arms}
        best = [_best(grid, scale, {arm: groups[arm][i] for arm in grid.arms}, *wanted[i]) for i in range(len(wanted))]
        for arm in grid.arms:
            cells = [
                score_cell(group, metric(name), "best" if arm is winner else "", grid.chance(scale, arm, name, form))
                for group, (name, form), winner in zip(groups[arm], wanted, best, strict=True)
            ]
            rows.append(Row((*labels_of(scale), *arm_labels(arm, cells), *cells), opens=arm is grid.arms[0]))
    return rows


def _best(grid: Grid, scale: Level, groups: dict[Level, Group], name: str, form: str) -> Level | None:
    """The arm that is best beyond doubt: its difference to the second best is significant where the sweep asks for it,
    and else its 95 % interval is clear of zero."""
    more = metric(name).more
    ranked = sorted((arm for arm in groups if groups[arm].seeds), key=lambda arm: groups[arm].value, reverse=more)
    if len(ranked) < 2:
        return None
    gap = grid.paired(scale, ranked[0], ranked[1], name, form)
    return ranked[0] if (gap.significant if gap.tested else gap.clear) and (gap.estimate > 0) == more else None


def absent(expected: int) -> Cell:
    """No number: missing, or not in the sweep where no seed is expected."""
    return Cell(DASH, emphasis="missing", mark=DAGGER, expected=expected) if expected else Cell(DASH)


def beside_scores(
    grid: Grid, columns: tuple[Column, ...], rows: list[Row], wanted: list[tuple[str, str]], beside: Collection[str]
) -> tuple[tuple[Column, ...], list[Row]]:
    """The columns and the rows of `score_rows` with a column of chance after each of the metrics `beside`.

    They stay as they are where no chance is known.
    """
    if all(isnan(cell.chance) for row in rows for cell in row.cells):
        return columns, rows
    shown: list[Column] = []
    for column, (name, _) in zip(columns, wanted, strict=True):
        shown.append(column)
        if name in beside:
            shown.append(Column(f"{column.name}.chance", "chance", "chance", column.group))
    told = []
    for row, (scale, arm) in zip(rows, product(grid.scales, grid.arms), strict=True):
        labels, cells = list(row.cells[: -len(wanted)]), list[Cell]()
        for cell, (name, form) in zip(row.cells[-len(wanted) :], wanted, strict=True):
            cells.append(cell)
            if name in beside:
                cells.append(chance_cell(grid.chance(scale, arm, name, form), metric(name)))
        told.append(replace(row, cells=(*labels, *cells)))
    return tuple(shown), told


def score_cell(group: Group, of: Metric, emphasis: str, chance: Chance = UNKNOWN) -> Cell:
    if not group.seeds:
        return absent(group.expected)
    digits, factor = of.digits, of.factor
    low, high, kind = group.low, group.high, "" if isnan(group.low) else "95%"
    shown = bounds(low * factor, high * factor, digits)
    if not kind and group.seeds > 1:
        low, high, kind = min(group.by_seed.values()), max(group.by_seed.values()), "seeds"
        shown = f"({number(low * factor, digits)} to {number(high * factor, digits)})"
    mark = DAGGER if group.seeds < group.expected else ""
    text = number(group.value * factor, digits)
    cell = Cell(text, group.value, low, high, shown, kind, mark, emphasis, seeds=group.seeds, expected=group.expected)
    return with_chance(cell, chance, of)


def interval_cell(found: Interval, of: Metric) -> Cell:
    """A score with its 95 % interval."""
    low, high = found.low * of.factor, found.high * of.factor
    shown = bounds(low, high, of.digits)
    return Cell(number(found.estimate * of.factor, of.digits), found.estimate, found.low, found.high, shown, "95%")


def p_cell(p: float) -> Cell:
    """A p, or a dash where nothing was tested."""
    return Cell(DASH) if isnan(p) else Cell(p_words(p), p)


def difference_cell(found: Paired, of: Metric) -> Cell:
    if not found.seeds:
        return absent(found.expected)
    digits, factor = of.digits, of.factor
    low, high = found.interval
    shown = bounds(low * factor, high * factor, digits)
    if found.kind == "seeds":
        shown = f"({signed(low * factor, digits)} to {signed(high * factor, digits)})"
    emphasis = "" if low > 0 or high < 0 else "unclear"
    if found.significant:
        emphasis = "better" if (found.estimate > 0) == of.more else "worse"
    return Cell(
        text=signed(found.estimate * factor, digits),
        value=found.estimate,
        low=low,
        high=high,
        plain=(found.low, found.high),
        interval=shown,
        kind=TOGETHER if found.tested and found.role != PRIMARY else found.kind,
        role=found.role,
        mark=("*" if found.significant else "") + (DAGGER if found.seeds < found.expected else ""),
        emphasis=emphasis,
        p=found.p,
        p_holm=found.p_holm,
        seeds=found.seeds,
        expected=found.expected,
    )


def score_columns(grid: Grid) -> tuple[Column, ...]:
    columns = []
    for name, form in grid.scores():
        of, head = metric(name), form or "all"
        columns.append(Column(column_of(name, form), head, head, f"{of.titled} {of.arrow}", interval=True))
    return tuple(columns)


def scale_columns(grid: Grid) -> tuple[Column, ...]:
    return tuple(_factor_column(name) for name in grid.scale_factors)


def arm_columns(grid: Grid) -> tuple[Column, ...]:
    """The label columns of a table with a row for each scale and arm."""
    return (*scale_columns(grid), *(_factor_column(name) for name in grid.arm_factors))


def _factor_column(name: str) -> Column:
    return Column(name, head_of(name), head_of(name), label=True)


def head_of(factor: str) -> str:
    """A factor in the head of a column."""
    return "captions" if factor == "captions.set" else factor.rpartition(".")[2].replace("_", " ")


def labels_of(level: Level) -> list[Cell]:
    return [_label(name, value) for name, value in level.settings]


def arm_labels(arm: Level, cells: list[Cell]) -> list[Cell]:
    labels = labels_of(arm)
    return [*labels[:-1], replace(labels[-1], mark=seeds_mark(cells))] if labels else []


def _label(factor: str, value: Any) -> Cell:
    if isinstance(value, int) and not isinstance(value, bool):
        return Cell(f"{value:,}", value)
    if isinstance(value, bool):
        return Cell("yes" if value else "no", value)
    of_sets = factor in ("captions.set", "captions.length_matched_to")
    return Cell(set_label(str(value), SET_NAMES) if of_sets else str(value), value)


def seeds_mark(cells: list[Cell]) -> str:
    """How many seeds a row has, when that is fewer than planned."""
    short = [cell for cell in cells if cell.incomplete]
    return f" ({min(cell.seeds for cell in short)}/{short[0].expected})" if short else ""
