"""The leaderboard of a scale: its cards in one table, on the screen, in Markdown and as a page."""

from __future__ import annotations

from collections.abc import Sequence

from lensbench.ladder.against import compare
from lensbench.ladder.card import Card, chance_in
from lensbench.ladder.scale import REFERENCE
from lensbench.metrics import GENEVAL, metric
from lensbench.report.chance import chance_note, with_chance
from lensbench.report.multiplier import NONE_HERE
from lensbench.report.rows import difference_cell, interval_cell
from lensbench.report.table import Cell, Column, Row, Table, number


def table(cards: Sequence[Card]) -> Table:
    """A row a card: captions, words, GenEval in each form and the difference to the first card, with intervals.

    Raises ValueError where cards do not compare.
    """
    found = compare(cards)
    forms = cards[0].forms
    by = {(id(one.card), one.form): one for one in found}
    rows = []
    for card in cards:
        checks = card.captions["checks"]
        cells = [Cell(card.name, card.name), Cell(number(checks["words_mean"], 1), checks["words_mean"])]
        for form in forms:
            one = by[id(card), form]
            (told,) = (row for row in card.scores if (row["metric"], row["form"]) == (GENEVAL, form))
            cells.append(with_chance(interval_cell(one.score, metric(GENEVAL)), chance_in(told), metric(GENEVAL)))
            cells.append(difference_cell(one.difference, metric(GENEVAL)) if one.difference else Cell(""))
        cells.append(Cell(_multiplier(card), _multiplier(card)))
        cells.append(Cell(f"{card.train_flops / 1e12:.3g}", card.train_flops))
        rows.append(Row(tuple(cells)))
    columns = [Column("captions", "captions", "captions", label=True), Column("words", "words", "words")]
    for form in forms:
        columns.append(Column(f"{form}.score", "score", "score", f"{form} prompts", interval=True))
        columns.append(
            Column(f"{form}.difference", f"to {cards[0].name}", "diff.", f"{form} prompts", interval=True, key=True)
        )
    columns.append(Column("multiplier", "x samples", "x"))
    columns.append(Column("flops", "TFLOP a seed", "TFLOP"))
    first = cards[0]
    tested = sum(one.difference is not None for one in found)
    notes = (
        f"Scale {first.scale} (version {first.version}, {first.scale_digest[:12]}); {len(first.seeds)} seeds; judge "
        f"{first.origin.get('judge_digest', '')[:12]}. GenEval's mean over tasks, in percent, 95 % intervals over "
        "prompts and seeds; differences in points, paired image by image.",
        f"*: significant after Holm's correction over the {tested} differences, whose intervals agree with it; without "
        "it two captions are tied.",
        f"x samples: how many times the images seen {_reference(cards)} captions need to reach the same GenEval error "
        "(detailed prompts), by the measured curves; > and < are bounds: nothing is extrapolated."
        + chance_words(cards),
        *filter(None, [chance_note(cell for row in rows for cell in row.cells)]),
    )
    title = f"The ladder, {first.scale}"
    return Table(f"ladder-{first.scale}", title, tuple(columns), tuple(rows), notes, filed=False)


def ranked(cards: Sequence[Card]) -> list[Card]:
    """The reference first, then by GenEval's mean over the prompt forms, the best first."""

    def place(card: Card) -> tuple[bool, float, str]:
        means = [row["value"] for row in card.scores if row["metric"] == "geneval"]
        return card.name != REFERENCE, -sum(means) / max(1, len(means)), card.name

    return sorted(cards, key=place)


def _multiplier(card: Card) -> str:
    wanted = ("geneval", "detailed", "samples_seen")
    told = [row for row in card.multiplier if (row["metric"], row["form"], row["axis"]) == wanted]
    return str(told[0]["shown"]) if told else ""


def chance_words(cards: Sequence[Card]) -> str:
    """What the cells without a number mean, where a card has any."""
    there = any(row.get("why") for card in cards for row in card.multiplier)
    return f" {NONE_HERE}: a card is at chance where they are compared." if there else ""


def _reference(cards: Sequence[Card]) -> str:
    names = {row["reference"] for card in cards for row in card.multiplier}
    return ", ".join(sorted(names)) or "alt"
