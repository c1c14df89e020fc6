r"""Every number of a report as a LaTeX macro, so that a text about them cannot go stale.

The name of a macro follows from where its number stands: the table, the labels of the row, the column, in capitals
where a word begins: `\mainDepthThreeDetailedShortMean` is in the table `main`, at depth 3, for the captions
`detailed`, under `short.mean`. Names of TeX have letters only, so digits are spelled (16 is OneSix), a point is Point
and a minus Minus; a number as a label comes after its factor. `...Interval` is the interval as shown, `...P` the p
value of what the sweep asks and `...PHolm` that after Holm's correction.

`\sweep...` tells of the sweep, and `\finding<Form>...` of each prompt form at the largest scale: the reference, the
best of the arms that are compared with it, and the gain.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from math import isnan
from typing import TYPE_CHECKING

from lensbench.metrics import metric
from lensbench.report.costs import in_flops
from lensbench.report.grid import Grid
from lensbench.report.macro_names import macro_name
from lensbench.report.notes import number_of_seeds
from lensbench.report.paired import DESCRIPTIVE
from lensbench.report.render import HEAD, escape
from lensbench.report.table import Cell, Column, Table, bounds, number, p_words, signed

if TYPE_CHECKING:
    from lensbench.report.freeze import Frozen

FIRST_LACKED = 0x180  # up to here the fonts of T1 have every letter
NAMED = "Names: table, labels of the row, column; digits are spelled."


def macros(grid: Grid, tables: Mapping[str, Table], frozen: Frozen, prefix: str = "") -> str:
    r"""The file: one `\newcommand` a line, each name after `prefix`, where a text needs those of several sweeps.

    Raises ValueError when two numbers would have one name.
    """
    found: dict[str, str] = {}
    for source in (_of_sweep(grid, frozen), _of_findings(grid), *map(of_table, tables.values())):
        for name, text in source:
            if name in found and found[name] != text:
                raise ValueError(f"two numbers would be the LaTeX macro \\{name}: give their levels names of their own")
            found[name] = text
    named = {macro_name(prefix, name) if prefix else name: text for name, text in found.items()}
    lines = [f"{HEAD} {NAMED}", *(rf"\newcommand{{\{name}}}{{{escape(text)}}}" for name, text in named.items())]
    return "\n".join(lines) + "\n"


def declared_letters(texts: Iterable[str]) -> str:
    r"""Lines that let pdfLaTeX print what its fonts lack: a base letter or, where there is none, a number like U+30AB.

    "" where the texts need none. Fonts that a paper loads before, and engines that read Unicode fonts, go first.
    """
    lines = []
    for letter in sorted({*"".join(texts)}):
        if ord(letter) < FIRST_LACKED or unicodedata.category(letter)[0] not in "LMS":
            continue
        base, number = unicodedata.normalize("NFKD", letter)[0], f"{ord(letter):04X}"
        shown = "" if unicodedata.combining(letter) else base if base.isascii() else rf"{{\scriptsize U+{number}}}"
        lines.append(
            rf"\ifdefined\DeclareUnicodeCharacter\ifcsname u8:\detokenize{{{letter}}}\endcsname\else"
            rf"\DeclareUnicodeCharacter{{{number}}}{{{shown}}}\fi\fi" + "\n"
        )
    return "".join(lines)


def of_table(table: Table) -> Iterator[tuple[str, str]]:
    """(name, text) of every number of a table."""
    labels = [i for i, column in enumerate(table.columns) if column.label]
    heads = [macro_name(column.name) for column in table.columns]
    for row in table.rows:
        stem = macro_name(table.name, *(_label(row.cells[i], table.columns[i]) for i in labels))
        for i, column in enumerate(table.columns):
            if column.label:
                continue
            cell, name = row.cells[i], stem + heads[i][:1].upper() + heads[i][1:]
            yield name, cell.text
            if cell.interval:
                yield f"{name}Interval", cell.interval
            if cell.role != DESCRIPTIVE and not isnan(cell.p):
                yield f"{name}P", p_words(cell.p)
            if not isnan(cell.p_holm):
                yield f"{name}PHolm", p_words(cell.p_holm)


def _label(cell: Cell, column: Column) -> str:
    named = isinstance(cell.value, bool | int | float) or re.fullmatch(r"[\d.,]+|none|True|False", cell.text)
    leaf = column.name.rpartition(".")[2]
    return f"{leaf} {cell.text.replace(',', '')}" if named else cell.text


def _of_sweep(grid: Grid, frozen: Frozen) -> Iterator[tuple[str, str]]:
    results, told = grid.results, frozen.provenance
    yield "sweepName", results.sweep_name
    yield "sweepCells", f"{len(told.get('cells', [])):,}"
    yield "sweepMissing", f"{len(results.missing):,}"
    yield "sweepSeeds", number_of_seeds(grid)
    yield "sweepArms", str(len(grid.arms))
    yield "sweepScales", str(len(grid.scales))
    yield "sweepReference", grid.reference.label if grid.reference else ""
    yield "sweepLargest", grid.scales[-1].label if grid.scales else ""
    yield "sweepCommit", ", ".join(told.get("commit", []))
    yield "sweepHardware", "; ".join(told.get("hardware", []))
    for name in ("guidance", "sampling_steps", "prompts_per_task", "images_per_task", "scene_images"):
        if name in told.get("evaluation", {}):
            yield macro_name("sweep", name), f"{told['evaluation'][name]:g}"
    for name, value in told.get("cost", {}).items():
        hours = name.endswith("_seconds")
        text = in_flops(value) if name == "train_flops" else f"{value / 3600 if hours else value:.3g}"
        yield macro_name("sweep", name.replace("_seconds", "_hours")), text
    for fact in ("training_images", "dropped_images", "set_aside_images"):
        counts = results.records.loc[results.records["metric"] == fact, "value"]
        if len(counts):
            low, high = int(counts.min()), int(counts.max())
            yield macro_name("sweep", fact), f"{low:,}" if low == high else f"{low:,} to {high:,}"


def _of_findings(grid: Grid) -> Iterator[tuple[str, str]]:
    name = grid.shown_metric
    if name is None or grid.reference is None or not grid.scales:
        return
    of, scale, reference = metric(name), grid.scales[-1], grid.reference
    for form in grid.forms(name):
        found = {arm: grid.number(scale, arm, name, form) for arm in grid.arms}
        rows = {row.arm: row.difference for row in grid.comparisons()
                if (row.scale, row.metric_form, row.other, row.metric) == (scale, form, reference, name)}  # fmt: skip
        there = [arm for arm in rows if found[arm].seeds]  # with questions, the arms that are asked about
        if not there or not found[reference].seeds:
            continue
        best = max(there, key=lambda arm: found[arm].value if of.more else -found[arm].value)
        gap, stem = rows[best], macro_name("finding", form)
        yield f"{stem}Best", best.label
        yield f"{stem}Reference", reference.label
        for what, arm in (("Score", best), ("ReferenceScore", reference)):
            yield stem + what, number(of.factor * found[arm].value, of.digits)
            low, high = of.factor * found[arm].low, of.factor * found[arm].high
            yield f"{stem}{what}Interval", bounds(low, high, of.digits)
        yield f"{stem}Gain", signed(of.factor * gap.estimate, of.digits)
        low, high = (of.factor * end for end in gap.interval)
        yield f"{stem}GainInterval", bounds(low, high, of.digits)
        if gap.tested:
            yield f"{stem}GainP", p_words(gap.p)
            yield f"{stem}GainPHolm", p_words(gap.p_holm)
        yield f"{stem}GainWords", "significant" if gap.significant else "not significant" if gap.tested else gap.role
