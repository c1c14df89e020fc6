"""The table of ablation deltas: the reference, and what each factor does to it when that one alone is changed."""

from __future__ import annotations

from collections.abc import Iterator

from lensbench.metrics import GENEVAL
from lensbench.metrics import metric as named
from lensbench.report.chance import chance_note
from lensbench.report.grid import Grid, column_of
from lensbench.report.levels import Level, factor_label
from lensbench.report.notes import SEEDS, SHARED, origin_note, seeds_note
from lensbench.report.paired import Paired
from lensbench.report.rows import complete_table, difference_cell, score_cell, seeds_mark
from lensbench.report.table import Cell, Column, Row, Table

Place = tuple[Level, Level]  # scale, arm


def ablation_table(grid: Grid) -> Table | None:
    """Rows: the reference arm at the largest scale, then every level of every factor in its place, the others as they
    are. Columns: GenEval's mean and the other scores, by prompt form. None where a single factor has levels."""
    varied = [*(name for name, values in grid.results.factors.items() if name != "seed" and len(values) > 1)]
    if grid.reference is None or not grid.scales or len(varied) < 2:
        return None
    base = (grid.scales[-1], grid.reference)
    scores = [*((GENEVAL, form) for form in grid.forms(GENEVAL)), *grid.scores()]
    units = [named(metric) for metric, _ in scores]
    found: list[tuple[str, str, list[Paired | None]]] = [
        (factor, words, [_difference(grid, place, base, metric, form) for metric, form in scores])
        for factor, words, place in _changes(grid, base)
    ]
    first = [
        score_cell(grid.number(*base, metric, form), of, "", grid.chance(*base, metric, form))
        for (metric, form), of in zip(scores, units, strict=True)
    ]
    where = ", ".join(filter(None, [base[1].label, base[0].label]))
    name = f"{where} (reference)"
    rows = [Row((Cell("", ""), Cell(name, name, mark=seeds_mark(first)), *first))]
    above = ""
    for factor, words, gaps in found:
        cells = [Cell("n/a") if gap is None else difference_cell(gap, of) for gap, of in zip(gaps, units, strict=True)]
        rows.append(Row((Cell(factor, factor), Cell(words, words, mark=seeds_mark(cells)), *cells), factor != above))
        above = factor
    columns = tuple(
        Column(
            column_of(metric, form),
            form or "all",
            form or "all",
            f"{of.mean} {of.arrow}",
            interval=True,
            key=metric == GENEVAL,
        )
        for (metric, form), of in zip(scores, units, strict=True)
    )
    labels = (Column("factor", "factor", "factor", label=True), Column("changed", "changed to", "changed", label=True))
    cells = [cell for row in rows for cell in row.cells]
    notes = (
        f"The first line is {where}; each other line changes one factor of it and gives the difference. GenEval: mean "
        f"of its tasks, percent and points. [low, high]: 95 % interval, paired. {seeds_note(grid)}",
        "Each change is described with its plain 95 % interval, unless the sweep asks for it (*: significant).",
        chance_note(cells),
        SEEDS if any(cell.kind == "seeds" for cell in cells) else "",
        "n/a: not measured on the same prompts." if any(cell.text == "n/a" for cell in cells) else "",
        SHARED if any(cell.incomplete for cell in cells) else "",
        origin_note(grid),
    )
    return complete_table(grid, "ablation", "One factor changed at a time", labels, columns, rows, notes)


def _changes(grid: Grid, base: Place) -> Iterator[tuple[str, str, Place]]:
    """Every (factor, its level in words, place) that differs from the base in one factor."""
    scales, arms = ({level.settings: level for level in levels} for levels in (grid.scales, grid.arms))
    for factors, levels, own in ((grid.arm_factors, arms, base[1]), (grid.scale_factors, scales, base[0])):
        for factor in factors:
            for settings, level in levels.items():
                differ = [name for (name, a), (_, b) in zip(settings, own.settings, strict=True) if a != b]
                if differ == [factor]:
                    value = dict(settings)[factor]
                    leaf = factor.rpartition(".")[2].replace("_", " ")
                    name = "captions" if factor == "captions.set" else leaf
                    words = factor_label(factor, value) or f"{leaf} {value}"
                    yield name, words, ((base[0], level) if levels is arms else (level, base[1]))


def _difference(grid: Grid, place: Place, base: Place, metric: str, form: str) -> Paired | None:
    """The place minus the base; None where another scale was scored on other prompts."""
    if place[0] is base[0]:
        return grid.paired(base[0], place[1], base[1], metric, form)
    try:
        return grid.between(place, base, metric, form)
    except ValueError:
        return None
