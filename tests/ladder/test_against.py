"""The multiplier of a card: no number where a card is at chance at the points that decide it."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from lensbench.ladder.against import multipliers
from lensbench.ladder.board import chance_words
from lensbench.ladder.card import Card, make
from tests.report.conftest import simulate


def cards(of_arm: dict[str, float]) -> list[Card]:
    """The cards of two arms whose images answer these shares of the other prompts of their tasks."""
    results = simulate({"captions.set": ["alt", "detailed"], "seed": [0, 1, 2]}, steps=(300, 600))
    outcomes = results.outcomes.assign(chance=results.outcomes["captions.set"].map(of_arm))
    scale = SimpleNamespace(name="tiny", version=1, digest="d")
    found = []
    for arm in ("alt", "detailed"):
        frames = [frame[frame["captions.set"] == arm] for frame in (results.records, outcomes)]
        found.append(make(scale, arm, {}, *frames, [], {}))
    return found


@pytest.mark.parametrize(
    ("chance", "why"),
    [
        ({"alt": 0.02, "detailed": 0.02}, ""),
        ({"alt": 0.9, "detailed": 0.02}, "not measurable here: alt is at chance"),
        ({"alt": 0.02, "detailed": 0.9}, "not measurable here: detailed is at chance"),
        ({"alt": np.nan, "detailed": np.nan}, ""),
    ],
)
def test_a_card_at_chance_has_no_multiplier(chance: dict[str, float], why: str) -> None:
    reference, card = cards(chance)
    found = multipliers(card, reference)
    judged = [row for row in found if row["metric"] == "geneval"]
    assert {row["why"] for row in judged} == {why}
    assert all((row["shown"] == "not measurable") == bool(why) for row in judged)
    if why:
        assert {row[name] for row in judged for name in ("multiplier", "low", "high")} == {None}
    others = [row for row in found if row["metric"] != "geneval"]
    assert not any(row["why"] for row in others), "a loss has no chance"
    assert bool(chance_words([SimpleNamespace(multiplier=found)])) == bool(why)
