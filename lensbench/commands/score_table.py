"""The table of `lensbench score FOLDER`: the numbers, and below them what made each."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lensbench.report.table import Table
    from lensbench.scoring.folder_scores import Asked, Row, Scores


def table(asked: Asked, scores: Scores) -> Table:
    """The numbers, and below them what made each."""
    from lensbench.report.table import Cell, Column, Row, Table, bounds

    has_floor = asked.against is not None
    columns = [
        Column("metric", "metric", "metric", label=True),
        Column("value", "value", "value"),
        Column("spread", "spread or interval", "spread"),
        Column("images", "images", "n"),
    ]
    if has_floor:
        columns += [Column("reference", "reference", "ref."), Column("floor", "real-real floor", "floor")]
    rows, notes = [], []
    for row in scores.rows:
        interval = bounds(row.low, row.high, _digits(row.value))
        cells = [Cell(row.shown, row.metric), Cell(_number(row.value), row.value, row.low, row.high)]
        cells += [Cell(interval or _number(row.spread, 2), row.spread), Cell(f"{row.images:,}", row.images)]
        if has_floor:
            reference = "?" if row.reference_images is None else f"{row.reference_images:,}"
            # A score of single images has neither.
            cells += [Cell(reference if row.dimensions else "")]
            cells += [Cell(_number(row.floor) if row.dimensions else "", row.floor)]
        rows.append(Row(tuple(cells)))
        notes.append(_made_by(row))
    notes += _what_is_what(scores.rows)
    title = f"{asked.folder}"
    if asked.against is not None:
        title += f" against {scores.sets.get('against', {}).get('name', asked.against)}"
    return Table("scores", title, tuple(columns), tuple(rows), tuple(dict.fromkeys(notes)))


def _made_by(row: Row) -> str:
    made_by = f"{row.extractor}: weights {row.weights[:12]}, {row.resize}"
    return made_by + (f", {row.dimensions:,} features." if row.dimensions else ".")


def _what_is_what(rows: Sequence[Row]) -> list[str]:
    """What the floors, spreads and intervals are of, those alike told together."""
    told = []
    for head, said in (
        ("Floor", [(row.shown, row.floor_of) for row in rows if row.floor == row.floor]),
        ("Spread", [(row.shown, row.spread_of) for row in rows if row.spread == row.spread]),
        ("Interval", [(row.shown, row.spread_of) for row in rows if row.low == row.low]),
    ):
        groups: dict[str, list[str]] = {}
        for shown, of in said:
            groups.setdefault(of, []).append(shown)
        for of, names in groups.items():
            alike = len(groups) == 1 and len(names) > 1
            told.append(f"{head}s: {of}." if alike else f"{head} of {', '.join(dict.fromkeys(names))}: {of}.")
    return told


def _digits(value: float, significant: int = 4) -> int:
    from math import floor, log10

    return 0 if value != value or value == 0 else max(0, significant - 1 - floor(log10(abs(value))))


def _number(value: float, significant: int = 4) -> str:
    """So many significant digits, or all before the point; a dash for none."""
    from lensbench.report.table import DASH, number

    return DASH if value != value else "0" if value == 0 else number(value, _digits(value, significant))
