"""Values as HTML: tables, bars, lists. Every text is escaped here and nowhere else."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from itertools import groupby
from math import isfinite, isnan, nan
from typing import Any, NamedTuple

from lensbench.report.table import AT_CHANCE, DASH, TOGETHER, Cell, Column, Table

LONG_LIST = 12  # a longer list is folded
INTERVALS = {"95%": "95 % interval ", TOGETHER: "interval, 95 % together with its family's "}
EMPHASIS = {"better": "better, significantly", "worse": "worse, significantly", "best": "best"}


class Bar(NamedTuple):
    """One bar of a chart, with its interval where there is one."""

    name: str
    color: str
    value: float
    low: float
    high: float
    chance: float = nan  # where chance is
    remark: str = ""  # what stands below the value


def to_html(table: Table) -> str:
    """A table with its notes. A number carries its exact value, for sorting, and a title with all that is known of it;
    it can be read without a script."""
    labels = [i for i, column in enumerate(table.columns) if column.label]
    heads = []
    if any(column.group for column in table.columns):
        runs = [(group, len([*run])) for group, run in groupby(table.columns, key=lambda column: column.group)]
        cells = "".join(
            f'<th colspan="{width}" scope="colgroup">{escape(group)}</th>' if group else f'<td colspan="{width}"></td>'
            for group, width in runs
        )
        heads.append(f"<tr>{cells}</tr>")
    heads.append(f"<tr>{''.join(_head(column) for column in table.columns)}</tr>")
    body = []
    for row in table.rows:
        cells = "".join(
            _label(cell) if i in labels else _number(cell, column)
            for i, (cell, column) in enumerate(zip(row.cells, table.columns, strict=True))
        )
        body.append(f'<tr class="opens">{cells}</tr>' if row.opens else f"<tr>{cells}</tr>")
    notes = "".join(f"<li>{escape(note)}</li>" for note in table.notes)
    rows = "\n".join(body)
    return (
        f'<section class="table" aria-labelledby="table-{escape(table.name)}">\n'
        f'<h3 id="table-{escape(table.name)}">{escape(table.title)}</h3>\n'
        f'<div class="scroll" tabindex="0" role="group" aria-labelledby="table-{escape(table.name)}">'
        f'<table class="sortable" aria-labelledby="table-{escape(table.name)}">\n'
        f"<thead>{''.join(heads)}</thead>\n<tbody>\n{rows}\n</tbody></table></div>\n"
        f'<ul class="notes">{notes}</ul>\n</section>'
    )


def bars(title: str, rows: Sequence[Bar], full: float = 100.0, digits: int = 1) -> str:
    """Horizontal bars, from 0 to `full`."""
    lines = []
    for bar in rows:
        span = "" if isnan(bar.low) else f" [{bar.low:.{digits}f}, {bar.high:.{digits}f}]"
        low, high, end = (_percent(value, full) for value in (bar.low, bar.high, bar.value))
        whisker = f'<i style="left:{low:.2f}%;width:{high - low:.2f}%"></i>' if span else ""
        fill = f'<b style="width:{end:.2f}%;background:{escape(bar.color)}"></b>'
        if isfinite(bar.chance):
            fill += f'<u style="left:{_percent(bar.chance, full):.2f}%"></u>'
        words = f"{bar.value:.{digits}f}<small>{span}</small>" if isfinite(bar.value) else DASH
        words += f'<small class="remark">{escape(bar.remark)}</small>' if bar.remark else ""
        lines.append(
            f'<li><span class="name">{escape(bar.name)}</span><span class="track" aria-hidden="true">{fill}{whisker}'
            f'</span><span class="value">{words}</span></li>'
        )
    return f'<figure class="bars"><figcaption>{escape(title)}</figcaption><ul>{"".join(lines)}</ul></figure>'


def _percent(value: float, full: float) -> float:
    return min(max(100.0 * value / full if full > 0 else 0.0, 0.0), 100.0)


def links(places: Mapping[str, str]) -> str:
    """A list of places in the page, id to words."""
    items = (f'<li><a href="#{escape(place)}">{escape(words)}</a></li>' for place, words in places.items())
    return f"<ul>{''.join(items)}</ul>"


def listing(lines: Iterable[str], words: str) -> str:
    """A list; a long one is folded behind `words`."""
    items = [f"<li>{escape(line)}</li>" for line in lines]
    told = f"<ul>{''.join(items)}</ul>"
    return told if len(items) <= LONG_LIST else f"<details><summary>{escape(words)}</summary>{told}</details>"


def facts(told: Mapping[str, Any]) -> str:
    """Nested values as a list of terms; what is long is folded."""
    parts = []
    for name, value in told.items():
        if value in ([], {}, "", None):
            continue
        parts.append(f"<dt>{escape(str(name).replace('_', ' '))}</dt><dd>{_fact(value)}</dd>")
    return f"<dl>{''.join(parts)}</dl>"


def _fact(value: Any) -> str:
    if isinstance(value, Mapping):
        inner = facts(value)
        folded = len(value) > LONG_LIST or any(
            isinstance(one, Mapping | list) and len(one) > 4 for one in value.values()
        )
        return f"<details><summary>{len(value)} entries</summary>{inner}</details>" if folded else inner
    if isinstance(value, list):
        if any(isinstance(one, Mapping | list) for one in value):
            told = "".join(f"<li>{_fact(one)}</li>" for one in value)
            return f"<details><summary>{len(value)} entries</summary><ul>{told}</ul></details>"
        words = ", ".join(_word(one) for one in value)
        return words if len(value) <= LONG_LIST else f"<details><summary>{len(value):,}</summary>{words}</details>"
    return _word(value)


def _word(value: Any) -> str:
    text = "yes" if value is True else "no" if value is False else str(value)
    if isinstance(value, float):
        text = f"{value:,.6g}"
    return f"<code>{escape(text)}</code>" if isinstance(value, str) else escape(text)


def _head(column: Column) -> str:
    kind = "text" if column.label else "number"
    full = f"{column.group}: {column.head}" if column.group else column.head
    return f'<th scope="col" data-sort="{kind}" data-name="{escape(full)}">{escape(column.head)}</th>'


def _label(cell: Cell) -> str:
    # Numbers that label a row (a depth, a count of images) are sorted as numbers.
    value = cell.value if cell.value is not None else cell.text
    return f'<th scope="row" data-value="{escape(str(value))}">{escape(cell.text + cell.mark)}</th>'


def _number(cell: Cell, column: Column) -> str:
    value = cell.value if isinstance(cell.value, int | float) and isfinite(cell.value) else ""
    exact = f' data-value="{value:.12g}"' if value != "" else ""  # the last digits are the processor's
    kind = f' class="{cell.emphasis}"' if cell.emphasis else ""
    if cell.emphasis == "missing":
        return f'<td{kind}><span aria-label="missing">{escape(cell.text + cell.mark)}</span></td>'
    interval = f"<small>{escape(cell.interval)}</small>" if cell.interval and column.interval else ""
    return f"<td{kind}{exact}{_title(cell)}>{escape(cell.text + cell.mark)}{interval}</td>"


def _title(cell: Cell) -> str:
    parts = []
    if cell.emphasis in EMPHASIS:
        parts.append(EMPHASIS[cell.emphasis])
    if cell.interval:
        parts.append(INTERVALS.get(cell.kind, "seeds ") + cell.interval)
    if cell.chance_shown:
        parts.append(f"chance {cell.chance_shown}" + (", not above it" if AT_CHANCE in cell.mark else ""))
    if not isnan(cell.p_holm):
        parts.append(f"{cell.role} question: p = {cell.p:.2g}, {cell.p_holm:.2g} after Holm's correction")
    elif cell.role:
        parts.append(f"{cell.role}, not tested")
    elif not isnan(cell.p):
        parts.append(f"p = {cell.p:.2g}")
    if cell.expected:
        parts.append(f"{cell.seeds} of {cell.expected} seeds")
    return f' title="{escape("; ".join(parts))}"' if parts else ""
