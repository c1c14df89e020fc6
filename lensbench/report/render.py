"""One table, four renderings: console, Markdown, CSV and LaTeX, with the same words; the CSV adds the raw numbers."""

from __future__ import annotations

import csv
import io
from dataclasses import replace
from math import isnan
from typing import TYPE_CHECKING, NamedTuple

from lensbench.report.table import DAGGER, DASH, MINUS, Cell, Column, Row, Table

if TYPE_CHECKING:
    from rich.text import Text

PAGE_POINTS = 560  # of a table's rows in LaTeX: a page of 700, less heads, caption and notes
ROW_POINTS, INTERVAL_POINTS, BLOCK_POINTS = 11.0, 9.0, 5.0  # a row, an interval below it, the space before a block
MARKDOWN_COLUMNS = 10  # a Markdown table with more number columns is split by group
STYLES = {"best": "bold", "better": "green", "worse": "red", "unclear": "dim", "missing": "yellow"}
LATEX = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "$": r"\$",
    "&": r"\&",
    "%": r"\%",
    "#": r"\#",
    "_": r"\_",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "*": r"\ensuremath{^{*}}",
    MINUS: r"\ensuremath{-}",
    DASH: "--",
    DAGGER: r"\ensuremath{^{\dagger}}",
    "\N{MULTIPLICATION SIGN}": r"\ensuremath{\times}",
    "↑": r"\ensuremath{\uparrow}",
    "↓": r"\ensuremath{\downarrow}",
    "≤": r"\ensuremath{\le}",
    "≥": r"\ensuremath{\ge}",
}


def to_csv(table: Table) -> str:
    """Long form, one line a number, unrounded: labels, group, column, value, low, high, interval, p, p_holm, seeds,
    seeds_expected, and the number as the other renderings show it. Missing numbers are empty."""
    labels = [column.name for column in table.columns if column.label]
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    raw = ["value", "low", "high", "interval", "p", "p_holm", "seeds", "seeds_expected", "shown"]
    writer.writerow(["table", *labels, "group", "column", *raw])
    for row in table.rows:
        names = [row.cells[i].value for i in range(len(labels))]
        for column, cell in zip(table.columns[len(labels) :], row.cells[len(labels) :], strict=True):
            numbers = [_exact(cell.value), _exact(cell.low), _exact(cell.high), cell.kind]
            tested = [_exact(cell.p), _exact(cell.p_holm), cell.seeds, cell.expected]
            writer.writerow([table.name, *names, column.group, column.name, *numbers, *tested, cell.text])
    return out.getvalue()


def to_markdown(table: Table) -> str:
    """GitHub's tables; a wide one becomes one a group, with its labels repeated."""
    labels, numbers = _split(table)
    groups = list(dict.fromkeys(table.columns[i].group for i in numbers))
    parts = [f"### {table.title}"]
    wide = len(groups) > 1 and len(numbers) > MARKDOWN_COLUMNS
    for group in groups if wide else [None]:
        chosen = [i for i in numbers if group is None or table.columns[i].group == group]
        if wide:
            parts.append(f"**{group}**")
        heads = [table.columns[i].head for i in labels]
        heads += [_markdown_head(table.columns[i], wide) for i in chosen]
        lines = [heads, [*(":--" for _ in labels), *("--:" for _ in chosen)]]
        lines += [[_markdown_cell(row.cells[i], table.columns[i]) for i in [*labels, *chosen]] for row in table.rows]
        parts.append("\n".join(f"| {' | '.join(line)} |" for line in lines))
    parts.append("\n".join(f"- {_markdown(note)}" for note in table.notes))
    return "\n\n".join(parts) + "\n"


def to_latex(table: Table, label: str) -> str:
    """A booktabs `table` environment, shrunk to the line width where it is wider. Needs booktabs and graphicx only.

    A table that no page holds becomes several, broken between blocks of rows; the notes stand below the last.
    """
    parts = _parts(table)
    last, of = len(parts) - 1, f" ({{}} of {len(parts)})" if len(parts) > 1 else ""
    told = [
        replace(table, rows=rows, title=table.title + of.format(n + 1), notes=table.notes if n == last else ())
        for n, rows in enumerate(parts)
    ]
    return "".join(_to_latex(part, label if n == 0 else f"{label}-{n + 1}") for n, part in enumerate(told))


def _parts(table: Table) -> list[tuple[Row, ...]]:
    """The rows by the pages that hold them: whole blocks, but where one block is more than a page."""
    numbers = [i for i, column in enumerate(table.columns) if not column.label]

    def points(rows: list[Row]) -> float:
        intervals = sum(any(table.columns[i].interval and row.cells[i].interval for i in numbers) for row in rows)
        blocks = sum(row.opens for row in rows)
        return ROW_POINTS * len(rows) + INTERVAL_POINTS * intervals + BLOCK_POINTS * blocks

    blocks: list[list[Row]] = []
    for row in table.rows:
        if row.opens or not blocks or points([*blocks[-1], row]) > PAGE_POINTS:
            blocks.append([])
        blocks[-1].append(row)
    parts: list[list[Row]] = []
    for block in blocks:
        if not parts or points([*parts[-1], *block]) > PAGE_POINTS:
            parts.append([])
        parts[-1] += block
    return [tuple(part) for part in parts] or [()]


def _to_latex(table: Table, label: str) -> str:
    labels, numbers = _split(table)
    groups = _runs([table.columns[i].group for i in numbers])
    lines = []
    if any(group for group, _ in groups):
        heads, rules, place = [""] * len(labels), [], len(labels)
        for group, width in groups:
            heads.append(rf"\multicolumn{{{width}}}{{c}}{{{escape(group)}}}")
            rules.append(rf"\cmidrule(lr){{{place + 1}-{place + width}}}")
            place += width
        lines += [" & ".join(heads) + r" \\", "".join(rules)]
    lines += [" & ".join(escape(table.columns[i].head) for i in [*labels, *numbers]) + r" \\", r"\midrule"]
    shown = _without_repeats(table, labels)
    for k, row in enumerate(table.rows):
        if row.opens and k:
            lines.append(r"\addlinespace")
        cells = [escape(shown[k][i]) for i in labels]
        lines.append(" & ".join([*cells, *(_latex_cell(row.cells[i], table.columns[i]) for i in numbers)]) + r" \\")
    body = "\n".join(lines)
    columns = f"@{{}}{'l' * len(labels)}{'r' * len(numbers)}@{{}}"
    notes = " ".join(escape(note) for note in table.notes)
    return rf"""% Generated by lensbench; changes will be lost.
\begin{{table}}[tbp]
\centering
\caption{{{escape(table.title)}.}}
\label{{{label}}}
\begingroup
\footnotesize
\setlength{{\tabcolsep}}{{3.5pt}}
\sbox0{{%
\begin{{tabular}}{{{columns}}}
\toprule
{body}
\bottomrule
\end{{tabular}}}}%
\ifdim\wd0>\linewidth\resizebox{{\linewidth}}{{!}}{{\usebox0}}\else\usebox0\fi
\par\smallskip
\parbox{{\linewidth}}{{\scriptsize {notes}}}
\endgroup
\end{{table}}
"""


def escape(text: str) -> str:
    """Plain text as LaTeX that prints the same."""
    return "".join(LATEX.get(letter, letter) for letter in text)


def to_console(table: Table, width: int = 110) -> Text:
    """The table for a terminal of `width` columns, at most 120 of which are used.

    Where room is scarce, intervals stay with the key columns only, then heads are shortened, then the groups or the key
    columns stand one below the other, as many side by side as fit, and at last intervals go.
    """
    from rich.text import Text

    width = min(width, 120)
    labels, numbers = _split(table)
    every = frozenset(i for i in numbers if table.columns[i].interval)
    key = frozenset(i for i in every if table.columns[i].key)
    groups = dict.fromkeys(table.columns[i].group for i in numbers)
    by_group = [[i for i in numbers if table.columns[i].group == group] for group in groups]
    by_key = [part for part in ([i for i in numbers if i not in key], sorted(key)) if part]
    measures = _measure(table)
    fits = (
        (blocks, layout)
        for intervals in dict.fromkeys((every, key or every, frozenset()))
        for blocks in ([numbers], by_group, by_key)
        if blocks == [numbers] or intervals != every or not key
        for layout in (_Layout(intervals, short, gap) for short in (False, True) for gap in (2, 1))
        if all(_block_width(table, labels, block, layout, measures) <= width for block in blocks)
    )
    blocks, layout = next(fits, (by_group, _Layout(frozenset(), True, 1)))
    blocks = _joined(table, labels, blocks, layout, width, measures)
    out = Text().append(f" {table.title}\n", style="bold")  # as the style of the whole it would reach every cell
    for k, block in enumerate(blocks):
        out.append("\n" if k else "")
        out.append_text(_console_block(table, labels, block, layout, measures))
    if every - layout.intervals:
        where = f"{table.name}.csv" if table.filed else "in a wider window"
        out.append(f" Intervals of every column: {where}\n", style="dim")
    return out


def _joined(
    table: Table, labels: list[int], blocks: list[list[int]], layout: _Layout, width: int, measures: _Measures
) -> list[list[int]]:
    joined = blocks[:1]
    for block in blocks[1:]:
        if _block_width(table, labels, joined[-1] + block, layout, measures) <= width:
            joined[-1] = joined[-1] + block
        else:
            joined.append(block)
    return joined


class _Layout(NamedTuple):
    """How a table is fitted to a terminal: whose intervals are shown, whether heads are short, spaces between."""

    intervals: frozenset[int]
    short: bool
    gap: int


def _console_block(table: Table, labels: list[int], numbers: list[int], layout: _Layout, measures: _Measures) -> Text:
    from rich.text import Text

    columns = [*labels, *numbers]
    widths, gaps = _widths(table, labels, numbers, layout, measures), _gaps(table, labels, numbers, layout)
    out = Text()
    groups = _runs([table.columns[i].group for i in numbers])
    if any(group for group, _ in groups):
        line = rule = " " * (1 + sum(widths[i] + gaps[i] for i in labels))
        place = 0
        for group, count in groups:
            members = numbers[place : place + count]
            gap = " " * gaps[members[0]]
            room = sum(widths[i] + gaps[i] for i in members) - gaps[members[0]]
            line += gap + group.center(room)
            rule += gap + "─" * room
            place += count
        out.append(f"{line.rstrip()}\n", style="bold").append(f"{rule.rstrip()}\n", style="dim")
    out.append(" ")
    for i in columns:
        column = table.columns[i]
        head = column.short if layout.short else column.head
        out.append(" " * gaps[i] + (head.ljust(widths[i]) if column.label else head.rjust(widths[i])), style="bold")
    out.append("\n").append(
        " " + "─" * (_block_width(table, labels, numbers, layout, measures) - 1) + "\n", style="dim"
    )
    shown = _without_repeats(table, labels)
    for k, row in enumerate(table.rows):
        out.append("\n " if row.opens and k else " ")
        for i in labels:
            out.append(" " * gaps[i] + shown[k][i].ljust(widths[i]))
        for i in numbers:
            text = _words(row.cells[i], i in layout.intervals)
            # Marks hang, so that the digits of a column stay below one another.
            hangs = not (i in layout.intervals and row.cells[i].interval)
            left = widths[i] - len(text) - (measures.marks[i] - len(row.cells[i].mark) if hangs else 0)
            out.append(" " * (gaps[i] + left))
            out.append(text, style=STYLES.get(row.cells[i].emphasis, ""))
            out.append(" " * (widths[i] - left - len(text)))
        out.append("\n")
    return out


def _words(cell: Cell, interval: bool) -> str:
    text = cell.text + cell.mark
    return f"{text} {cell.interval}" if interval and cell.interval else text


class _Measures(NamedTuple):
    """Widths of every column, measured once: of its marks, and of its cells without and with their intervals."""

    marks: list[int]
    plain: list[int]
    wide: list[int]


def _measure(table: Table) -> _Measures:
    marks, plain, wide = [], [], []
    for i, column in enumerate(table.columns):
        cells = [row.cells[i] for row in table.rows]
        mark = 0 if column.label else max((len(cell.mark) for cell in cells), default=0)
        lengths = [len(cell.text) + (len(cell.mark) if column.label else mark) for cell in cells]
        with_interval = [len(_words(c, True)) if c.interval else n for c, n in zip(cells, lengths, strict=True)]
        marks.append(mark)
        plain.append(max(lengths, default=0))
        wide.append(max(with_interval, default=0))
    return _Measures(marks, plain, wide)


def _widths(
    table: Table, labels: list[int], numbers: list[int], layout: _Layout, measures: _Measures
) -> dict[int, int]:
    widths = {}
    for i in [*labels, *numbers]:
        column = table.columns[i]
        head = column.short if layout.short else column.head
        widths[i] = max(len(head), (measures.wide if i in layout.intervals else measures.plain)[i])
    gaps = _gaps(table, labels, numbers, layout)
    for group in {table.columns[i].group for i in numbers} - {""}:  # a group is at least as wide as its name
        members = [i for i in numbers if table.columns[i].group == group]
        room = sum(widths[i] + gaps[i] for i in members) - gaps[members[0]]
        widths[members[0]] += max(0, len(group) - room)
    return widths


def _gaps(table: Table, labels: list[int], numbers: list[int], layout: _Layout) -> dict[int, int]:
    """Spaces before each column: never less than two where a group begins."""
    gaps = {i: 2 if k else 0 for k, i in enumerate(labels)}
    above = None
    for i in numbers:
        gaps[i] = layout.gap if table.columns[i].group == above else 2
        above = table.columns[i].group
    return gaps


def _block_width(table: Table, labels: list[int], numbers: list[int], layout: _Layout, measures: _Measures) -> int:
    widths, gaps = _widths(table, labels, numbers, layout, measures), _gaps(table, labels, numbers, layout)
    return 1 + sum(widths.values()) + sum(gaps.values())


def _split(table: Table) -> tuple[list[int], list[int]]:
    labels = [i for i, column in enumerate(table.columns) if column.label]
    return labels, [i for i, column in enumerate(table.columns) if not column.label]


def _without_repeats(table: Table, labels: list[int]) -> list[dict[int, str]]:
    """The labels of each row, blank where they and all to their left repeat the row above."""
    shown, above = [], None
    for row in table.rows:
        words = {i: row.cells[i].text + row.cells[i].mark for i in labels}
        kept = dict(words)
        for i in labels[:-1]:
            if above is None or any(words[j] != above[j] for j in labels[: labels.index(i) + 1]):
                break
            kept[i] = ""
        shown.append(kept)
        above = words
    return shown


def _runs(names: list[str]) -> list[tuple[str, int]]:
    runs: list[tuple[str, int]] = []
    for name in names:
        if runs and runs[-1][0] == name:
            runs[-1] = (name, runs[-1][1] + 1)
        else:
            runs.append((name, 1))
    return runs


def _exact(value: float | str | None) -> str:
    if value is None or (isinstance(value, float) and isnan(value)):
        return ""
    return repr(float(value)) if isinstance(value, float) else str(value)


def _markdown(text: str) -> str:
    return text.replace("|", "\\|").replace("*", "\\*").replace("_", "\\_").replace("<", "&lt;")


def _markdown_head(column: Column, wide: bool) -> str:
    return column.head if wide or not column.group else f"{column.group}, {column.head}"


def _markdown_cell(cell: Cell, column: Column) -> str:
    if column.label:
        return _markdown(cell.text + cell.mark)
    text = f"**{_markdown(cell.text)}**" if cell.emphasis == "best" else _markdown(cell.text)
    return text + _markdown(cell.mark) + (f" {cell.interval}" if column.interval and cell.interval else "")


def _latex_cell(cell: Cell, column: Column) -> str:
    text = rf"\textbf{{{escape(cell.text)}}}" if cell.emphasis == "best" else escape(cell.text)
    text += rf"\rlap{{{escape(cell.mark)}}}" if cell.mark else ""
    if column.interval and cell.interval:
        lines = rf"{text}\\[-2pt]{{\tiny {escape(cell.interval)}}}"
        return rf"\begin{{tabular}}[t]{{@{{}}r@{{}}}}{lines}\end{{tabular}}"
    return text
