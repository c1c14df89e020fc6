"""Arms and scales: the levels of a sweep's factors, and what they are called."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from itertools import product
from typing import Any

from lensbench.captions.policy import set_label
from lensbench.report.placing import plain
from lensbench.sweep.sweep import NONE

SET_NAMES = {"alt": "alt-text"}  # caption sets that people know by another name
POLICY_WORDS = {
    "captions.length_matched_to": "as long as {}",
    "captions.max_words": "at most {} words",
    "captions.max_tokens": "at most {} tokens",
    "captions.shuffled": "shuffled",
}
SHARES = {"captions.present": "{:.3g} % of attributes", "captions.wrong": "{:.3g} % wrong"}  # of a scene's attributes


@dataclass(frozen=True)
class Level:
    """One arm or one scale: the factor values that make it, and its place in the order of the factors."""

    index: int
    settings: tuple[tuple[str, Any], ...]
    label: str


def levels_of(factors: dict[str, list], names: tuple[str, ...], seen: list[dict[str, Any]]) -> tuple[Level, ...]:
    """The combinations of these factors that the sweep has, in the factors' order, called by those that vary."""
    there = {tuple(row[name] for name in names) for row in seen}
    grid = [values for values in product(*([plain(v) for v in factors[name]] for name in names)) if values in there]
    vary = {name for name, levels in zip(names, zip(*grid, strict=True), strict=False) if len(set(levels)) > 1}
    settings = [tuple(zip(names, values, strict=True)) for values in grid]
    labels = [_label(one, vary) for one in settings]
    if not all(labels):  # "detailed" and "detailed, at most 5 words": what is the same names the first
        labels = [_label(one, names) for one in settings]
    return tuple(Level(i, one, label) for i, (one, label) in enumerate(zip(settings, labels, strict=True)))


def _label(settings: tuple[tuple[str, Any], ...], said: Collection[str]) -> str:
    return ", ".join(filter(None, (factor_label(name, value) for name, value in settings if name in said)))


def factor_label(factor: str, value: Any) -> str:
    """A factor's value in words: depth 4, 4,096 images, alt-text. A part of the policy that is not used is not said."""
    leaf = factor.rpartition(".")[2]
    if factor in POLICY_WORDS:
        return POLICY_WORDS[factor].format(SET_NAMES.get(str(value), value)) if value not in (NONE, False) else ""
    if factor in SHARES:
        return "" if leaf == "wrong" and not float(value) else SHARES[factor].format(100 * float(value))
    if factor == "captions.set":
        return set_label(str(value), SET_NAMES)
    if isinstance(value, int) and not isinstance(value, bool) and leaf in ("images", "steps"):
        return f"{value:,} {leaf}"
    return f"{leaf.replace('_', ' ')} {value}"
