"""How large a difference a design can see, and what design a difference needs, from the variances of a pilot.

The model is that of lensbench.scoring.statistics: the difference of two arms on one image is the difference sought,
plus what a training seed adds, plus what a prompt adds, plus what is left of a seed and a prompt together. Its variance
over S seeds and C prompts is seeds / S + prompts / C + rest / (S C), and the test is Student's t with Satterthwaite's
degrees of freedom (Satterthwaite 1946). The variances are moments of the pilot's differences; those that come out
negative are zero.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from lensbench.scoring.statistics import LEVEL, variances

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


def power(of: Components, difference: float, seeds: int, prompts: int) -> float:
    """The probability that a true `difference` is found at the 5 % level with that many seeds and prompts.

    Raises ValueError where there are no two prompts a stratum.
    """
    from scipy import stats

    variance, df = _spread(of, seeds, prompts)
    if variance == 0:
        return float(difference != 0)
    bound = stats.t.ppf((1 + LEVEL) / 2, df)
    shift = abs(difference) / np.sqrt(variance)
    # The noncentral t, as a mean over the variance that a study will estimate: scipy's own is NaN for few degrees.
    estimated = np.sqrt(stats.chi2.ppf((np.arange(POINTS) + 0.5) / POINTS, df) / df) if np.isfinite(df) else np.ones(1)
    beyond = stats.norm.sf(bound * estimated - shift) + stats.norm.cdf(-bound * estimated - shift)
    return float(beyond.mean())


def detectable(of: Components, seeds: int, prompts: int, wanted: float = POWER) -> float:
    """The smallest difference that is found with probability `wanted`."""
    from scipy import optimize

    variance, _ = _spread(of, seeds, prompts)
    if variance == 0:
        return 0.0
    high = float(np.sqrt(variance))
    while power(of, high, seeds, prompts) < wanted:
        high *= 2
    return float(optimize.brentq(lambda d: power(of, d, seeds, prompts) - wanted, 0.0, high, rtol=1e-4))


def seeds_needed(of: Components, difference: float, prompts: int, wanted: float = POWER) -> int | None:
    """The fewest seeds that find `difference` with probability `wanted`; None where `MOST_SEEDS` do not."""
    fewest = 1 if of.one_seed else 2
    found: Sequence[int] = range(fewest, MOST_SEEDS + 1)
    return next((n for n in found if power(of, difference, n, prompts) >= wanted), None)


def _spread(of: Components, seeds: int, prompts: int) -> tuple[float, float]:
    """Variance of the estimate and its degrees of freedom, as `statistics` will estimate them."""
    if prompts < 2 * of.strata:
        raise ValueError(f"prompts={prompts}: at least two for each of the {of.strata} tasks are needed")
    if seeds < 1:
        raise ValueError(f"seeds={seeds}: at least one")
    rest = of.rest / (seeds * prompts)
    by_prompts, by_seeds = of.prompts / prompts + rest, of.seeds / seeds + rest
    prompt_df = prompts - of.strata
    if seeds == 1:
        return by_prompts, float(prompt_df)
    variance = by_prompts + by_seeds - rest
    over_df = by_seeds**2 / (seeds - 1) + by_prompts**2 / prompt_df + rest**2 / (prompt_df * (seeds - 1))
    return variance, max(variance**2 / over_df, 1.0) if over_df else float("inf")
