"""How far an estimate may lie from the truth: a sum of independent errors, each Student's t times a standard error.

Training seeds and prompts both scatter a score, the seeds with very few degrees of freedom and the prompts with many.
One t with Satterthwaite's degrees of freedom is too sure in the tail when the few seeds happen to agree: with three
seeds, p below 0.0006 comes ten times too often. The sum of two t's (Behrens 1929, Fisher 1935) keeps the seeds' heavy
tail whatever the prompts add. `benchmarks/calibration.py` compares both, and the rules that were not taken.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

NODES = 401  # of the integral below
BEYOND = 1e-13  # the tail of a density that the integral leaves out


class Part(NamedTuple):
    """One independent error: its variance, estimated with `df` degrees of freedom."""

    variance: float
    df: float


@dataclass(frozen=True)
class Spread:
    """The error of an estimate; without parts nothing is known of it."""

    parts: tuple[Part, ...] = ()

    @property
    def variance(self) -> float:
        """The variance of the estimate; NaN where nothing is known of it."""
        return sum(part.variance for part in self.parts) if self.parts else float("nan")

    def p(self, estimate: float) -> float:
        """The probability of an error at least as large as the estimate, on either side; NaN where nothing is known.

        An estimate of zero has p = 1.
        """
        if not self.parts:
            return float("nan")
        return min(1.0, 2 * self._beyond(abs(estimate)))

    def reach(self, level: float) -> float:
        """Half the width of the interval of this level: the estimate's p against either end is 1 - `level`."""
        from scipy import optimize, stats

        if not self.parts:
            return float("nan")
        tail = (1 - level) / 2
        ends = [float(stats.t.isf(tail, part.df)) * part.variance**0.5 for part in self.parts]
        if len(ends) == 1:
            return ends[0]
        return float(optimize.brentq(lambda x: self._beyond(x) - tail, 0.9 * max(ends), 1.1 * sum(ends), rtol=1e-7))

    def _beyond(self, x: float) -> float:
        """The probability of an error above `x`, which is not negative."""
        from scipy import stats

        if len(self.parts) == 1:
            return _tail(x, self.parts[0])
        # Over the density of the lighter tail: the other's tail is smooth there.
        heavy, light = sorted(self.parts, key=lambda part: (part.df, -part.variance))
        end = np.arcsinh(stats.t.isf(BEYOND, light.df))
        nodes = np.linspace(-end, end, NODES)
        t = np.sinh(nodes)
        weights = stats.t.pdf(t, light.df) * np.cosh(nodes)
        beyond = stats.t.sf((x - t * light.variance**0.5) / heavy.variance**0.5, heavy.df)
        return float((weights * beyond).sum() / weights.sum())


def _tail(x: float, part: Part) -> float:
    from scipy import stats

    if part.variance == 0:
        return 0.5 if x == 0 else 0.0
    return float(stats.t.sf(x / part.variance**0.5, part.df))


def spread_of(*parts: Part) -> Spread:
    """The spread of these errors; those without variance add nothing."""
    kept = tuple(part for part in parts if part.variance > 0)
    assert len(kept) <= 2, "a sum of more than two t's is not computed"
    return Spread(kept or parts[:1])
