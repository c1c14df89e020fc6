"""How large a difference a design can see, and what design a difference needs, from the variances of a pilot.

The model is that of lensbench.scoring.statistics: the difference of two arms on one image is the difference sought,
plus what a training seed adds, plus what a prompt adds, plus what is left of a seed and a prompt together. Its error
over S seeds and C prompts is a sum of two: seeds / S + rest / (S C) with S - 1 degrees of freedom, and prompts / C.
How far that error reaches is taken from Cochran's mean of the two t's (Cochran and Cox 1957, section 4.14), which is
close to what the test computes. The variances are moments of the pilot's differences; those that come out negative are
zero.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from lensbench.scoring.statistics import LEVEL, variances
from lensbench.stats.spread import Part

POWER = 0.8
MOST_SEEDS = 50
POINTS = 2000  # of the mean over the estimated variance


@dataclass(frozen=True)
class Components:
    """Variances of a difference: of one training seed, of one prompt and of the rest, with `strata` tasks.

    Of one seed (`one_seed`) nothing is known about seeds: `seeds` is zero, and a design's power says nothing about
    training again.
    """

    seeds: float
    prompts: float
    rest: float
    strata: int
    one_seed: bool


def components(
    a: ArrayLike, b: ArrayLike, clusters: ArrayLike, strata: ArrayLike, seeds: ArrayLike | None = None
) -> Components:
    """The variances of `a` - `b`, with the arguments of `statistics.paired_difference`.

    Raises ValueError as it does, and where a stratum has a single prompt.
    """
    found = variances(np.asarray(a, dtype=np.float64) - np.asarray(b, dtype=np.float64), clusters, strata, seeds)
    s, c = found.n_seeds, found.n_prompts
    return Components(
        seeds=max(0.0, found.seeds - found.interaction) * s,
        prompts=max(0.0, found.prompts - found.interaction) * c,
        rest=found.interaction * s * c,
        strata=found.n_strata,
        one_seed=s == 1,
    )


def power(of: Components, difference: float, seeds: int, prompts: int, level: float = LEVEL) -> float:
    """The probability that a true `difference` is found with that many seeds and prompts.

    `level` is that of the interval that must leave out zero: higher for one of several comparisons. Raises ValueError
    where there are no two prompts a stratum.
    """
    from scipy import stats

    few, many = _parts(of, seeds, prompts)
    variance = few.variance + many.variance
    if variance == 0:
        return float(difference != 0)
    t_few, t_many = (stats.t.isf((1 - level) / 2, df) for df in (few.df, many.df))
    # A study estimates the seeds' variance, and few seeds do so badly: the mean over what it may come out as.
    estimated = few.variance * stats.chi2.ppf((np.arange(POINTS) + 0.5) / POINTS, few.df) / few.df
    bound = (estimated * t_few + many.variance * t_many) / np.sqrt(estimated + many.variance) / np.sqrt(variance)
    shift = abs(difference) / np.sqrt(variance)
    return float((stats.norm.sf(bound - shift) + stats.norm.cdf(-bound - shift)).mean())


def detectable(of: Components, seeds: int, prompts: int, level: float = LEVEL, wanted: float = POWER) -> float:
    """The smallest difference that is found with probability `wanted`."""
    from scipy import optimize

    variance = sum(part.variance for part in _parts(of, seeds, prompts))
    if variance == 0:
        return 0.0
    high = float(np.sqrt(variance))
    while power(of, high, seeds, prompts, level) < wanted:
        high *= 2
    return float(optimize.brentq(lambda d: power(of, d, seeds, prompts, level) - wanted, 0.0, high, rtol=1e-4))


def seeds_needed(
    of: Components, difference: float, prompts: int, level: float = LEVEL, wanted: float = POWER
) -> int | None:
    """The fewest seeds that find `difference` with probability `wanted`; None where `MOST_SEEDS` do not."""
    fewest = 1 if of.one_seed else 2
    found: Sequence[int] = range(fewest, MOST_SEEDS + 1)
    return next((n for n in found if power(of, difference, n, prompts, level) >= wanted), None)


def _parts(of: Components, seeds: int, prompts: int) -> tuple[Part, Part]:
    """The errors of the estimate as `statistics` will estimate them: of few degrees of freedom, and of many."""
    if prompts < 2 * of.strata:
        raise ValueError(f"prompts={prompts}: at least two for each of the {of.strata} tasks are needed")
    if seeds < 1:
        raise ValueError(f"seeds={seeds}: at least one")
    rest = of.rest / (seeds * prompts)
    df = float(prompts - of.strata)
    if seeds == 1:
        return Part(of.prompts / prompts + rest, df), Part(0.0, df)
    return Part(of.seeds / seeds + rest, seeds - 1), Part(of.prompts / prompts, df)
