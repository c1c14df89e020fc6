"""The committed reference cards: whole, of the scale as it is released, and the board is theirs."""

from __future__ import annotations

from pathlib import Path

import pytest

from lensbench.ladder.board import ranked, table
from lensbench.ladder.card import Card, read
from lensbench.ladder.page import page
from lensbench.ladder.scale import REFERENCE, load_scale
from lensbench.report.render import to_markdown

ROOT = Path(__file__).parents[2]
SMOKE = ROOT / "results/ladder/smoke"


@pytest.fixture(scope="module")
def cards() -> list[Card]:
    return ranked([read(path) for path in SMOKE.glob("*.json")])


def test_the_cards_that_others_are_compared_with_are_there(cards: list[Card]) -> None:
    assert cards[0].name == REFERENCE
    assert {card.name for card in cards} >= {"alt", "brief", "detailed", "half-and-half", "detailed-shuffled"}


def test_they_are_of_the_released_scale_with_all_its_seeds(cards: list[Card]) -> None:
    scale = load_scale("smoke", ROOT / "experiments/ladder.py")
    for card in cards:
        assert (card.version, card.scale_digest) == (scale.version, scale.digest)
        assert tuple(card.seeds) == scale.seeds
        assert "-dirty" not in card.made["commit"]


def test_their_multipliers_are_against_the_reference_that_is_there(cards: list[Card]) -> None:
    for card in cards[1:]:
        assert {row["reference_hash"] for row in card.multiplier} == {cards[0].hash}


def test_the_board_is_theirs(cards: list[Card]) -> None:
    assert (SMOKE / "board.md").read_text(encoding="utf-8") == to_markdown(table(cards))
    assert (SMOKE / "board.html").read_text(encoding="utf-8") == page(cards, table(cards))
