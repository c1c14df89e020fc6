"""Paired differences: one number minus another over what both have, and what the tests of a sweep say of them.

Every table, figure and sentence takes a difference's interval from `Paired.interval`, so that it agrees with the
verdict that stands beside it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np

from lensbench.metrics import metric as named
from lensbench.scoring.statistics import holm, paired_difference
from lensbench.stats.spread import Spread

if TYPE_CHECKING:
    from lensbench.report.levels import Level
    from lensbench.report.placing import Design

NAN = float("nan")
SIGNIFICANT = 0.05
Role = Literal["primary", "secondary", "post hoc", "descriptive"]
PRIMARY: Literal["primary"] = "primary"
SECONDARY: Literal["secondary"] = "secondary"
POST_HOC: Literal["post hoc"] = "post hoc"
DESCRIPTIVE: Literal["descriptive"] = "descriptive"
ASKED: tuple[Role, ...] = (PRIMARY, SECONDARY, POST_HOC)


class Paired(NamedTuple):
    """An arm minus another over the seeds that both have.

    `low` and `high` are the plain 95 % interval. `kind` is "95%" where there is one: from judged images, or of scores
    of whole sets by three training seeds or more. It is "seeds" for the smallest and largest difference of two seeds,
    and "" where there is neither. `role` is what the sweep asks of it; of one that is tested among others, `p_holm` is
    Holm's p and `family_low` and `family_high` the interval that agrees with it.
    """

    estimate: float
    low: float
    high: float
    p: float
    seeds: int
    expected: int
    kind: str
    role: Role = DESCRIPTIVE
    p_holm: float = NAN
    family_low: float = NAN
    family_high: float = NAN
    spread: Spread = Spread()

    @property
    def interval(self) -> tuple[float, float]:
        """The interval that is shown: of a tested difference the one that agrees with its verdict."""
        return (self.low, self.high) if np.isnan(self.family_low) else (self.family_low, self.family_high)

    @property
    def tested(self) -> bool:
        """Whether the sweep asks for it and there is a test."""
        return not np.isnan(self.p_holm)

    @property
    def significant(self) -> bool:
        """Whether it is significant after the correction of its family; the interval shown then leaves out zero."""
        return self.p_holm < SIGNIFICANT

    @property
    def clear(self) -> bool:
        """Whether there is a 95 % interval and it leaves out zero, which is no test among many differences."""
        return self.kind == "95%" and (self.low > 0 or self.high < 0)

    def flipped(self) -> Paired:
        """The same comparison the other way round."""
        return self._replace(
            estimate=-self.estimate,
            low=-self.high,
            high=-self.low,
            family_low=-self.family_high,
            family_high=-self.family_low,
        )


class Comparison(NamedTuple):
    """One number of the table of differences: `arm` minus `other` at a scale and prompt form."""

    scale: Level
    form: str
    arm: Level
    other: Level
    column: str
    difference: Paired
    metric: str
    metric_form: str  # the prompt form of the number itself; `form` is that of the row it stands in

    @property
    def asked(self) -> bool:
        """Whether it is what the sweep asks."""
        return self.difference.role != DESCRIPTIVE


def paired_values(first: np.ndarray, second: np.ndarray, layout: Design, expected: int, bound: float = 1.0) -> Paired:
    """`first` minus `second`, image by image, of `expected` seeds; its interval ends at +-`bound`: with two seeds
    Student's t can reach beyond what a difference of accuracies can be."""
    found = paired_difference(first, second, *layout)
    low, high = max(float(found.low), -bound), min(float(found.high), bound)
    kind = "" if np.isnan(found.low) else "95%"
    return Paired(found.estimate, low, high, found.p, found.seeds, expected, kind, spread=found.spread)


def tested(rows: list[Comparison]) -> list[Comparison]:
    """The comparisons with what their tests say: the primary one alone at 5 %, the secondary ones after Holm's
    correction over them, and those asked post hoc after Holm's over them. Descriptive ones are not tested."""
    found = list(rows)
    for role in ASKED:
        family = [i for i, row in enumerate(rows) if row.difference.role == role]
        bounds = [named(rows[i].metric).widest for i in family]
        for i, difference in zip(family, corrected([rows[i].difference for i in family], bounds), strict=True):
            found[i] = rows[i]._replace(difference=difference)
    return found


def corrected(differences: Sequence[Paired], bounds: Sequence[float]) -> list[Paired]:
    """Differences that are tested together, each with Holm's p and an interval that agrees with its verdict.

    One without a p stays as it is and is no part of the family. The intervals are Bonferroni's, which hold together at
    95 %. Holm's later steps reject a little more than these: such a difference has the interval of its own step. An
    interval ends at +- its bound.
    """
    found = list(differences)
    family = sorted((i for i, one in enumerate(found) if not np.isnan(one.p)), key=lambda i: found[i].p)
    for step, (i, p_holm) in enumerate(zip(family, holm([found[i].p for i in family]), strict=True)):
        one, share = found[i], SIGNIFICANT / len(family)
        if p_holm < SIGNIFICANT and one.p >= share:
            share = SIGNIFICANT / (len(family) - step)
        reach = one.spread.reach(1 - share)
        low, high = max(one.estimate - reach, -bounds[i]), min(one.estimate + reach, bounds[i])
        found[i] = one._replace(p_holm=p_holm, family_low=low, family_high=high)
    return found
