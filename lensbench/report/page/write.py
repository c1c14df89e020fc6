"""`write_page`: results/<sweep>/index.html, the whole report in one file.

The question and the answer come first, then the pictures side by side, the tables, the figures, and where the numbers
come from. The file asks nothing of a network, and without scripts only the comparer is missing. The same results give
the same bytes.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from math import isnan
from pathlib import Path
from string import Template
from typing import Any

from lensbench.metrics import GENEVAL, Metric, metric
from lensbench.report.answers import ANSWERS
from lensbench.report.chance import Chance
from lensbench.report.figures import arm_colors, titled
from lensbench.report.grid import Grid, Group
from lensbench.report.notes import number_of_seeds
from lensbench.report.page import markup
from lensbench.report.page.comparer import Comparer, compare, earlier_sheets, script_json, sheets_json
from lensbench.report.page.embedding import HERE, embedded
from lensbench.report.page.vector import TITLES, figures_svg
from lensbench.report.table import Table, number
from lensbench.report.wordings import wordings

PAGE = "index.html"
SCRIPTS = ("page.js", "drawing.js", "comparer.js")  # one element
MOST_BARS = 12
PNG_TITLES = {
    "captions": "Lengths and vocabulary of the captions",
    "pareto": "Quality against compute",
    "dose": "Score by the captions' attributes",
}


def write_page(
    grid: Grid,
    tables: Mapping[str, Table],
    findings: Sequence[str],
    missing: Sequence[str],
    provenance: Mapping[str, Any],
    drawn: Iterable[Path],
    runs: Path | None,
    out: Path,
) -> Path:
    """Write the page of a sweep into `out` and return its path.

    `drawn` are the report's other figures, of which PNGs that the page does not draw itself are taken in. Pictures come
    from `runs`; where the runs are gone, or None, those of an earlier page in `out` stay. Raises ValueError when the
    pictures of a cell are not those that were judged.
    """
    path = out / PAGE
    found = compare(grid, runs, earlier_sheets(path))
    parts = {
        "title": escape(grid.results.sweep_name),
        **embedded(*SCRIPTS),
        "question": escape(question(grid)),
        "setting": escape(setting(grid)),
        "answer": _answer(grid, findings, tables.get(ANSWERS)),
        "missing": _missing(missing),
        "comparer": _comparer(found),
        "comparer_note": escape(_pictures_note(found)),
        "table_links": markup.links({f"table-{table.name}": table.title for table in tables.values()}),
        "tables": "\n".join(markup.to_html(table) for table in tables.values() if table.name != ANSWERS),
        "figures": _figures(grid, drawn),
        "notes": markup.listing(grid.results.notes, "notes"),
        "provenance": markup.facts({name: told for name, told in provenance.items() if name != "files"}),
        "data": script_json(found.data),
        "sheets": sheets_json(found.sheets),
    }
    path.write_text(Template((HERE / "page.html").read_text(encoding="utf-8")).substitute(parts), "utf-8", newline="\n")
    return path


def question(grid: Grid) -> str:
    """What the sweep asks, in one sentence."""
    arms = [arm.label for arm in grid.arms]
    if not _of_captions(grid):
        return f"Which of {len(arms)} ways of training is best, and by how much?"
    if grid.arm_factors == ("captions.set",) and 1 < len(arms) <= 6:
        return f"How much do training captions matter: {', '.join(arms[:-1])} or {arms[-1]}?"
    return f"How much do the training captions matter, in {len(arms)} versions of them?"


def _of_captions(grid: Grid) -> bool:
    """Whether arms differ in their captions and in nothing else."""
    return all(name.startswith("captions.") for name in grid.arm_factors)


def setting(grid: Grid) -> str:
    """What was done, for someone who has not seen the sweep."""
    scales = [scale.label for scale in grid.scales if scale.label]
    where = f", at {', '.join(scales)}" if 0 < len(scales) <= 4 else f", at {len(scales)} scales" if scales else ""
    runs = f"{number_of_seeds(grid)} training seeds" if len(grid.seeds) > 1 else "one training seed"
    against = f" The reference is {grid.reference.label}." if grid.reference else ""
    same = "The same images, in the same order, with the same noise; only the captions differ. "
    return f"{same if _of_captions(grid) else ''}{len(grid.arms)} arms with {runs}{where}.{against}"


def _reading(grid: Grid) -> str:
    """How to read the numbers, for someone who has not seen GenEval."""
    if not grid.tasks:
        return ""
    words = (
        "How to read it: every model drew pictures of the same prompts. GenEval's tasks ask whether what was asked for "
        "is there, how many, in which color and where, each task what it is named after: a single object counts in any "
        "color and place. A judge that does not know the arm says right or wrong. Chance is what the same pictures "
        "score for the other prompts of their task: a model that does not read its prompt scores that much. "
        "The wordings of the prompts:"
    )
    forms = "".join(f"<li>{escape(line)}</li>" for line in wordings(grid, GENEVAL))
    return f'<p class="reading">{escape(words)}</p><ul class="reading">{forms}</ul>'


def _answer(grid: Grid, findings: Sequence[str], asked: Table | None) -> str:
    """The sentences, the bars with their chance, and what is asked, a row each."""
    told = "".join(f"<li>{escape(sentence)}</li>" for sentence in findings)
    sentences = f'<ul class="findings">{told}</ul>' if told else "<p>There is nothing to compare yet.</p>"
    name = grid.shown_metric
    answers = markup.to_html(asked) if asked else ""
    if name is None or not grid.scales or not 1 < len(grid.arms) <= MOST_BARS:
        return sentences + answers
    of, scale, colors, charts = metric(name), grid.scales[-1], arm_colors(grid), []
    what = f"{of.mean} in percent" if of.unit == "%" else of.mean if of.more else f"{of.mean}, less is better"
    for form in grid.forms(name):
        groups = [(arm, grid.number(scale, arm, name, form)) for arm in grid.arms]
        rows = [
            _bar(arm.label, colors[arm.label], group, grid.chance(scale, arm, name, form), of)
            for arm, group in groups
            if group.seeds
        ]
        where = ", ".join(filter(None, [f"{form} prompts" if form else "", scale.label]))
        shown = ["95 % intervals"] if any(not isnan(bar.low) for bar in rows) else []
        shown += ["chance (dotted)"] if any(not isnan(bar.chance) for bar in rows) else []
        beside = f", with {' and '.join(shown)}" if shown else ""
        ends = [end for bar in rows for end in (bar.value, bar.high) if not isnan(end)]
        full = of.factor if of.bounded else max(ends, default=1.0)
        charts.append(markup.bars(": ".join(filter(None, [what + beside, where])), rows, full, of.digits))
    reading = _reading(grid) if grid.tasks else ""
    return f'{sentences}<div class="charts">{"".join(charts)}</div>{answers}{reading}'


def _bar(name: str, color: str, group: Group, chance: Chance, of: Metric) -> markup.Bar:
    low, high, by_chance = (of.factor * end for end in (group.low, group.high, chance.value))
    remark = f"chance {number(by_chance, of.digits)}" if chance.known else ""
    remark += ", not shown to be above" if chance.at_chance else ""
    return markup.Bar(name, color, of.factor * group.value, low, high, by_chance, remark)


def _missing(missing: Sequence[str]) -> str:
    if not missing:
        return ""
    n = len(missing)
    words = "One cell is missing" if n == 1 else f"{n:,} cells are missing"
    said = f"<strong>{words}.</strong> Nothing stands in for what is missing: numbers with fewer seeds are marked †."
    lines = markup.listing((line.removeprefix("missing: ") for line in missing), "which")
    return f'<div class="warning" id="missing"><p>{said}</p>{lines}</div>'


def _comparer(found: Comparer) -> str:
    return (HERE / "comparer.html").read_text(encoding="utf-8") if found.holds else ""


def _pictures_note(found: Comparer) -> str:
    if not found.holds:
        return "This sweep has no judged pictures, and kept none of held-out captions."
    told = "Prompts, verdicts and reasons are." if found.verdicts else "Captions and scores are."
    if not found.pictures:
        return (
            "The pictures themselves are not here: the cells' folders were not there when this page was written. "
            f"{told}"
        )
    of = "" if found.verdicts else " sampled from held-out captions"
    parts = [f"{found.pictures:,} pictures{of}"]
    if found.pictures < found.asked:
        what = "verdicts" if found.verdicts else "captions"
        parts.append(f"those of {found.asked - found.pictures:,} more {what} are missing")
    if found.without_caption:
        parts.append(f"{found.without_caption:,} more have no score of their own or caption here and are not shown")
    if found.chosen:
        parts.append(f"not every picture fits into a page: here are {found.chosen}, whatever came out")
    row = "A row was drawn from one noise, by each arm's model."
    return f"{'; '.join(parts)}. {row}{'' if found.verdicts else ' No detector judged them.'}"


def _figures(grid: Grid, drawn: Iterable[Path]) -> str:
    parts = []
    for name, svg in figures_svg(grid).items():
        parts.append(f'<figure><figcaption>{escape(TITLES[name])}</figcaption><div class="scroll">{svg}</div></figure>')
    for path in sorted(path for path in drawn if path.suffix == ".png" and path.stem not in TITLES):
        title = escape(titled(path.stem, PNG_TITLES))
        data = base64.b64encode(path.read_bytes()).decode()
        image = f'<img alt="{title}" src="data:image/png;base64,{data}">'
        parts.append(
            f'<figure class="paper"><figcaption>{title}</figcaption><div class="scroll">{image}</div></figure>'
        )
    return "\n".join(parts) or "<p>There are no curves: nothing was scored.</p>"
