"""The leaderboard as one file for a browser: the table of the cards, and what is behind each. It asks no network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from string import Template
from typing import Any

from lensbench.ladder.board import chance_words
from lensbench.ladder.card import Card, chance_in
from lensbench.metrics import GENEVAL
from lensbench.metrics import metric as named
from lensbench.report.chance import chance_note, with_chance
from lensbench.report.page import markup
from lensbench.report.page.embedding import embedded
from lensbench.report.table import NAN, Cell, Column, Row, Table, bounds, number
from lensbench.scoring.geneval import TASKS
from lensbench.sweep.progress import duration

TEMPLATE = Path(__file__).with_name("board.html")
AXIS_NAMES = {"samples_seen": "images seen", "train_flops": "compute"}


def page(cards: Sequence[Card], board: Table) -> str:
    """The page of a leaderboard; the same cards give the same bytes."""
    first = cards[0]
    tables = (board, by_task(cards), other_scores(cards), worths(cards), checks(cards))
    parts = {
        "title": escape(f"The ladder: {first.scale}"),
        **embedded("page.js"),
        "setting": escape(
            f"Scale {first.scale}, version {first.version}: everything but the captions is fixed, {len(first.seeds)} "
            f"training seeds a card, {len(cards)} cards."
        ),
        "tables": "\n".join(markup.to_html(table) for table in tables if table.rows),
        "cards": "\n".join(_card(card) for card in cards),
    }
    return Template(TEMPLATE.read_text(encoding="utf-8")).substitute(parts)


def by_task(cards: Sequence[Card]) -> Table:
    """GenEval by task, for each card and form, in percent."""
    rows: list[Row] = []
    for form in cards[0].forms:
        for place, card in enumerate(cards):
            told = {row["metric"]: row for row in card.scores if row["form"] == form}
            cells = [_task(told.get(f"geneval.{task}")) for task in TASKS]
            rows.append(Row((Cell(form, form), Cell(card.name, card.name), *cells), opens=place == 0 and bool(rows)))
    labels = (Column("form", "prompts", "prompts", label=True), Column("captions", "captions", "captions", label=True))
    columns = tuple(Column(task, task.replace("_", " "), task) for task in TASKS)
    said = chance_note(cell for row in rows for cell in row.cells)
    notes = ("Percent of the images that are right.", *filter(None, [said]))
    return Table("tasks", "By task", (*labels, *columns), tuple(rows), notes)


def _task(score: Mapping[str, Any] | None) -> Cell:
    if score is None:
        return Cell("?")
    value = 100 * score["value"]
    return with_chance(Cell(number(value), value), chance_in(score), named(score["metric"]), 100.0)


def other_scores(cards: Sequence[Card]) -> Table:
    """Every score but GenEval's own, by prompt form: the mean over seeds, between the lowest and the highest."""
    keys = list(dict.fromkeys((row["metric"], row["form"]) for card in cards for row in card.scores))
    keys = sorted(((metric, form) for metric, form in keys if metric.partition(".")[0] != GENEVAL), key=_form_first)
    rows: list[Row] = []
    for metric, form in keys:
        of = named(metric)
        digits, factor = of.digits, of.factor
        cells = [Cell(form, form), Cell(of.titled, metric)]
        for card in cards:
            found = [row for row in card.scores if (row["metric"], row["form"]) == (metric, form)]
            value, low, high = (factor * found[0][part] for part in ("value", "low", "high")) if found else (NAN,) * 3
            cells.append(
                Cell(number(value, digits), value, low, high, bounds(low, high, digits), "seeds")
                if found
                else Cell("?")
            )
        rows.append(Row(tuple(cells), opens=bool(rows) and rows[-1].cells[0].text != form))
    labels = (Column("form", "prompts", "prompts", label=True), Column("score", "score", "score", label=True))
    columns = tuple(Column(card.name, card.name, card.name, interval=True) for card in cards)
    notes = (
        "[lowest, highest] of the training seeds. FD-shapes (lower is better) and shapes-alignment are by this world's "
        "own judge: they are neither FID nor CLIPScore.",
    )
    return Table("others", "Other scores", (*labels, *columns), tuple(rows), notes)


def worths(cards: Sequence[Card]) -> Table:
    """The caption multiplier of every card, by score, prompt form and axis."""
    keys = sorted({(row["form"], row["metric"], row["axis"]) for card in cards for row in card.multiplier})
    shown = {
        (card.name, row["form"], row["metric"], row["axis"]): row["shown"] for card in cards for row in card.multiplier
    }
    told = [card for card in cards if card.multiplier]
    rows: list[Row] = []
    for form, metric, axis in keys:
        words = (form, named(metric).label, AXIS_NAMES.get(axis, axis))
        cells = [shown.get((card.name, form, metric, axis), "?") for card in told]
        rows.append(
            Row(
                (*(Cell(word, word) for word in words), *(Cell(text, text) for text in cells)),
                opens=bool(rows) and rows[-1].cells[0].text != form,
            )
        )
    labels = tuple(Column(name, name, name, label=True) for name in ("prompts", "score", "axis"))
    notes = (
        "How many times the images seen, or the FLOPs, the reference captions need to reach the same error, by the "
        "measured curves, with 95 % intervals; > and < are bounds, ? is not known." + chance_words(cards),
    )
    columns = tuple(Column(card.name, card.name, card.name) for card in told)
    return Table("multiplier", "The caption multiplier", (*labels, *columns), tuple(rows), notes)


def _form_first(key: tuple[str, str]) -> tuple[str, str]:
    return key[1], key[0]


def checks(cards: Sequence[Card]) -> Table:
    """What each caption set is like."""
    names = {
        "words_mean": ("words", 1, 1.0),
        "tokens_mean": ("tokens", 1, 1.0),
        "truncated": ("cut %", 1, 100.0),
        "identical": ("identical %", 1, 100.0),
        "english": ("English %", 0, 100.0),
        "prompts_verbatim": ("prompts in a caption %", 1, 100.0),
        "prompts_with_shared_grams": ("eight words shared %", 1, 100.0),
    }
    rows = []
    for card in cards:
        told = card.captions["checks"]
        cells = [Cell(number(f * told[name], digits), f * told[name]) for name, (_, digits, f) in names.items()]
        rows.append(Row((Cell(card.name, card.name), *cells)))
    columns = tuple(Column(name, head, head) for name, (head, _, _) in names.items())
    notes = (
        "Identical: the text of an earlier image. Prompts in a caption: evaluation prompts that some training caption "
        "has word for word; where scenes are few some are there without any leak.",
    )
    return Table(
        "checks", "The captions", (Column("captions", "captions", "captions", label=True), *columns), tuple(rows), notes
    )


def _card(card: Card) -> str:
    told = {
        "hash": card.hash,
        "captions": card.captions["digest"],
        "scale": card.scale_digest,
        "experiments": [f"seed {seed}: {digest}" for seed, digest in card.cells.items()],
        **card.origin,
        "commit": card.made["commit"],
        "hardware": card.made["hardware"],
        "time": f"{duration(card.measured.get('train_seconds'))} of training, "
        f"{duration(card.measured.get('cell_seconds'))} with scoring, of all seeds together",
    }
    return f"<h3>{escape(card.name)}</h3>\n{markup.facts(told)}"
