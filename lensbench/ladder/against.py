"""Cards side by side: paired differences with Holm's correction, and the caption multiplier along training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import isinf, isnan
from typing import Any, NamedTuple

import numpy as np

from lensbench.ladder.card import Card, chance_in
from lensbench.metrics import GENEVAL
from lensbench.metrics import metric as named
from lensbench.report.multiplier import NONE_HERE, NOT_HERE, multiplier_words
from lensbench.report.paired import SECONDARY, Paired, corrected, paired_values
from lensbench.scoring.multiplier import Direct, direct
from lensbench.scoring.resampling import draw_scores
from lensbench.scoring.statistics import Interval, stratified_mean

AXES = ("samples_seen", "train_flops")
MUST_AGREE = ("scale", "version", "scale_digest", "seeds", "samples")


class Compared(NamedTuple):
    """A card's GenEval in one form beside the first card's, paired image by image and tested with all that are told."""

    card: Card
    form: str
    score: Interval
    difference: Paired | None  # None for the first card


def check_comparable(cards: Sequence[Card]) -> None:
    """Raise ValueError, one line, where two cards are not of the same scale, prompts, judge and seeds."""
    first = cards[0]
    for card in cards[1:]:
        for name in MUST_AGREE:
            if (here := getattr(card, name)) != (there := getattr(first, name)):
                said = "" if name == "samples" else f" ({here} and {there})"
                raise ValueError(f"{card.name} and {first.name} do not compare: another {name.replace('_', ' ')}{said}")
        for name, digest in first.origin.items():
            if card.origin.get(name) != digest:
                raise ValueError(f"{card.name} and {first.name} do not compare: another {name.replace('_', ' ')}")
        if card.forms != first.forms:
            raise ValueError(f"{card.name} and {first.name} do not compare: other prompt forms")


def compare(cards: Sequence[Card]) -> list[Compared]:
    """Every card's mean over GenEval's tasks in every form, and its difference to the first card's.

    Raises ValueError where they do not compare.
    """
    check_comparable(cards)
    found: list[Compared] = []
    gaps: list[tuple[int, Paired]] = []
    for form in cards[0].forms:
        base = cards[0].values(form)
        about = (base["cluster"], base["task"], base["seed"])
        for card in cards:
            values = card.values(form)["value"]
            found.append(Compared(card, form, stratified_mean(values, *about), None))
            if card is not cards[0]:
                gap = paired_values(values, base["value"], about, len(card.seeds))
                gaps.append((len(found) - 1, gap._replace(role=SECONDARY)))
    told = corrected([gap for _, gap in gaps], [named(GENEVAL).widest] * len(gaps))
    for (place, _), gap in zip(gaps, told, strict=True):
        found[place] = found[place]._replace(difference=gap)
    return found


def multipliers(card: Card, reference: Card) -> list[dict[str, Any]]:
    """How many times the images seen, or the compute, the reference captions need, by the measured curves alone.

    For every score along training that the cards have curves of, in each form. A bound where the worse arm never gets
    there: nothing is extrapolated. No number where a card is at chance at a point that decides it; `why` says which.
    See lensbench.scoring.multiplier.
    """
    check_comparable([card, reference])
    found = []
    for metric, form in sorted({(row["metric"], row["form"]) for row in card.curves}):
        if not named(metric).has_error:
            continue
        own, theirs = (_curve(one, metric, form) for one in (card, reference))
        if own is None or theirs is None:
            continue
        for axis in AXES:
            errors = np.concatenate([theirs["error"], own["error"]])  # (2K, S)
            k = len(theirs["error"])
            draws = draw_scores(errors, np.repeat([0, 1], [k, len(own["error"])]))
            by_chance = np.concatenate([theirs["by_chance"], own["by_chance"]])
            draws = draws if np.isnan(by_chance).any() else replace(draws, chance=by_chance)
            a, b = draws.of(np.arange(k)), draws.of(np.arange(k, len(errors)))
            told = direct(np.log(theirs[axis]), np.log(own[axis]), a, b)
            at_chance = [
                name
                for name, curve, few in zip((reference.name, card.name), (theirs, own), told.deciding, strict=True)
                if not curve["clears"][list(few)].all()
            ]
            found.append(
                {
                    "metric": metric,
                    "form": form,
                    "axis": axis,
                    "reference": reference.name,
                    "reference_hash": reference.hash,
                    **_told(told, at_chance),
                    "rises": told.rises,
                }
            )
    return found


def _told(found: Direct, at_chance: Sequence[str]) -> dict[str, Any]:
    """The number, or why there is none."""
    if at_chance:
        none = dict.fromkeys(("multiplier", "low", "high"))
        return none | {"shown": NONE_HERE, "why": f"{NOT_HERE}: {at_chance[0]} is at chance"}
    number = found.multiplier
    numbers = {"multiplier": number.estimate, "low": number.low, "high": number.high}
    shown = " ".join(multiplier_words(number)).rstrip()
    return {name: _finite(value) for name, value in numbers.items()} | {"shown": shown, "why": ""}


def _curve(card: Card, metric: str, form: str) -> dict[str, np.ndarray] | None:
    """Of the steps that every seed has: error (K, S), axes (K,), the error by chance (K,), NaN if unknown, and whether
    the score `clears` it or it is unknown (K,)."""
    rows = [row for row in card.curves if (row["metric"], row["form"]) == (metric, form)]
    steps = sorted({row["step"] for row in rows})
    by = {(row["step"], row["seed"]): row for row in rows}
    whole = [step for step in steps if all((step, seed) in by for seed in card.seeds)]
    if len(whole) < 2:
        return None
    value = np.array([[by[step, seed]["value"] for seed in card.seeds] for step in whole], dtype=float)
    axes = {axis: np.array([by[step, card.seeds[0]][axis] for step in whole], dtype=float) for axis in AXES}
    chances = [chance_in(by[step, card.seeds[0]]) for step in whole]
    clears = np.array([one.above or not one.known for one in chances])
    by_chance = named(metric).error(np.array([one.value for one in chances]))
    return axes | {"error": named(metric).error(value), "by_chance": by_chance, "clears": clears}


def _finite(value: float) -> float | str | None:
    if isnan(value):
        return None
    return value if not isinf(value) else "inf"
