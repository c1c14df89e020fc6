"""Paired differences: one number minus another over what both have, and Holm's correction over a family of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from lensbench.scoring.statistics import holm, paired_difference

if TYPE_CHECKING:
    from lensbench.report.levels import Level
    from lensbench.report.placing import Design

NAN = float("nan")
SIGNIFICANT = 0.05


class Paired(NamedTuple):
    """An arm minus another over the seeds that both have; p_holm is filled in for the comparisons of a table.

    `kind` is "95%" for an interval: of a paired bootstrap or, of scores of whole sets of images, by Student's t over
    three training seeds or more. It is "seeds" for the smallest and largest difference of two seeds, and "" where there
    is neither.
    """

    estimate: float
    low: float
    high: float
    p: float
    seeds: int
    expected: int
    kind: str
    p_holm: float = NAN

    @property
    def clear(self) -> bool:
        """Whether there is a 95 % interval and it leaves out zero."""
        return self.kind == "95%" and (self.low > 0 or self.high < 0)

    @property
    def significant(self) -> bool:
        """Whether the difference stands after Holm's correction, and its interval, if any, leaves out zero."""
        return self.p_holm < SIGNIFICANT and (self.kind != "95%" or self.clear)

    def flipped(self) -> Paired:
        """The same comparison the other way round."""
        return self._replace(estimate=-self.estimate, low=-self.high, high=-self.low)


class Comparison(NamedTuple):
    """One number of the table of differences: `arm` minus `other` at a scale and prompt form."""

    scale: Level
    form: str
    arm: Level
    other: Level
    column: str
    difference: Paired
    asked: bool  # whether it is what the sweep asks: its questions or, without any, the means
    metric: str
    metric_form: str  # the prompt form of the number itself; `form` is that of the row it stands in


def paired_values(first: np.ndarray, second: np.ndarray, layout: Design, expected: int, bound: float = 1.0) -> Paired:
    """`first` minus `second`, image by image, of `expected` seeds; its interval ends at +-`bound`: with two seeds
    Student's t can reach beyond what a difference of accuracies can be."""
    found = paired_difference(first, second, *layout)
    low, high = max(float(found.low), -bound), min(float(found.high), bound)
    seeds = 1 if layout[2] is None else len(set(layout[2]))
    kind = "" if np.isnan(found.low) else "95%"
    return Paired(float(found.estimate), low, high, float(found.p), seeds, expected, kind)


def corrected(family: list[Comparison]) -> list[Comparison]:
    """The comparisons of one family with Holm's correction over those that were tested."""
    tested = [i for i, row in enumerate(family) if not np.isnan(row.difference.p)]
    adjusted = dict(zip(tested, holm([family[i].difference.p for i in tested]), strict=True))
    return [
        row._replace(difference=row.difference._replace(p_holm=float(adjusted.get(i, NAN))))
        for i, row in enumerate(family)
    ]
