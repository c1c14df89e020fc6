"""Intervals and tests for scores: prompts are clusters, tasks are strata, training seeds are crossed with prompts.

Every score here is a mean of stratum means over images. Images of one prompt share the prompt, so prompts are
resampled and never single images. The error of a mean is the sum of two (lensbench.stats.spread): that of the training
seeds, by the scatter of their scores with a degree of freedom less than there are seeds, and what prompts add to it.
Where prompts add nothing, as between two arms that do not differ, the test is the t-test on the seeds' scores.

The interval of a difference and its p come from this one error: the 95 % interval leaves out zero where p is below
0.05. The interval of a score is as wide as the same error says, and as skew as the bootstrap over prompts.

With one training seed there is nothing to learn about seeds: the interval and p then speak of this one pair of
trained models and other prompts ("sampling only"), not of training again. At least three seeds are advisable.
`benchmarks/calibration.py` measures coverage and how often p is small without a difference.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lensbench.stats.spread import Part, Spread, spread_of
from lensbench.streams import numpy_stream

Floats = NDArray[np.float64]

LEVEL = 0.95
LEAST_SEEDS_PART = 0.01  # of the interaction: seeds of few images can have equal scores by luck


@dataclass(frozen=True)
class Interval:
    """A mean with its 95 % interval (NaN where a stratum has a single prompt), over `seeds` training seeds."""

    estimate: float
    low: float
    high: float
    seeds: int = 1

    @property
    def sampling_only(self) -> bool:
        """Whether the interval says nothing about training again."""
        return self.seeds < 2


@dataclass(frozen=True)
class Difference(Interval):
    """A mean difference with its 95 % interval and the two-sided p-value of no difference, both from `spread`.

    p is NaN, which is no test, where no image differs.
    """

    p: float = float("nan")
    spread: Spread = field(default_factory=Spread)

    def interval(self, level: float) -> tuple[float, float]:
        """The interval of another level, as for one of several comparisons."""
        reach = self.spread.reach(level)
        return self.estimate - reach, self.estimate + reach


class _Layout(NamedTuple):
    """Sums over the images of a (seed, prompt), prompts sorted by stratum; G strata, S seeds, C prompts."""

    sums: Floats  # (S, C)
    counts: Floats  # (C,) images of a prompt, the same for every seed
    bounds: NDArray[np.int64]  # (G + 1,) where each stratum starts and the last ends

    def strata(self) -> list[slice]:
        return [slice(a, b) for a, b in zip(self.bounds[:-1], self.bounds[1:], strict=True)]

    def weights(self) -> Floats:
        """(C,) so that sums @ weights is a seed's mean of stratum means."""
        sizes = np.diff(self.bounds)
        return 1 / np.repeat(np.add.reduceat(self.counts, self.bounds[:-1]) * len(sizes), sizes)


class Variances(NamedTuple):
    """Variances of a mean of stratum means: by its prompts, by its seeds, and their interaction, which both contain."""

    prompts: float
    seeds: float
    interaction: float
    prompts_over_df: float  # the sum over strata of a squared share over its degrees of freedom
    interaction_df: int
    n_seeds: int
    n_prompts: int
    n_strata: int


def stratified_mean(
    values: ArrayLike,
    clusters: ArrayLike,
    strata: ArrayLike,
    seeds: ArrayLike | None = None,
    *,
    draws: int = 2000,
    rng_seed: int = 0,
) -> Interval:
    """The mean of stratum means of `values` (N,), with a 95 % interval.

    `clusters`, `strata` and `seeds` (N,) name the prompt, the task and the training seed of each image; a cluster
    number may come again in another stratum, where it is another prompt. An interval of zeros and ones stays within
    [0, 1]; when every value is the same it has no width, which is no proof of certainty.
    Raises ValueError for unequal lengths, missing values, or seeds that were not judged on the same images.
    """
    array = np.asarray(values, dtype=np.float64)
    layout = _layout(array, clusters, strata, seeds)
    low, high = _interval(layout, _spread(layout), draws, rng_seed)
    if np.isin(array, (0, 1)).all():
        low, high = np.clip((low, high), 0, 1)
    return Interval(_estimate(layout), float(low), float(high), len(layout.sums))


def paired_difference(
    a: ArrayLike,
    b: ArrayLike,
    clusters: ArrayLike,
    strata: ArrayLike,
    seeds: ArrayLike | None = None,
) -> Difference:
    """The mean of stratum means of `a` minus that of `b`, paired image by image, with a 95 % interval and p.

    Row i of `a` and of `b` (N,) share prompt, sample number and training seed. The arguments are as in
    `stratified_mean`. Where every image has the same difference, its error is that of one more image without any.
    """
    first, second = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    if first.shape != second.shape:
        raise ValueError(f"a has shape {first.shape} and b {second.shape}; a pair needs one value of each")
    layout = _layout(first - second, clusters, strata, seeds)
    estimate, spread = _estimate(layout), _spread(layout)
    if spread.variance == 0 and estimate:
        units = layout.sums.size
        spread = Spread((Part((estimate / (units + 1)) ** 2, units - 1),))
    p = spread.p(estimate) if spread.variance != 0 else float("nan")
    reach = spread.reach(LEVEL)
    return Difference(estimate, estimate - reach, estimate + reach, len(layout.sums), p, spread)


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's adjusted p-values, in the order given (Holm 1979). Raises ValueError for a p outside [0, 1]."""
    p = np.asarray(p_values, dtype=np.float64)
    if not ((p >= 0) & (p <= 1)).all():
        raise ValueError(f"p-values lie in [0, 1]; got {[x for x in p_values if not 0 <= x <= 1]}")
    order = np.argsort(p, kind="stable")
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)), 1)
    return [float(x) for x in adjusted]


def clustered_standard_error(values: ArrayLike, clusters: ArrayLike) -> float:
    """Standard error of the plain mean of `values` (N,), with a sandwich over clusters (N,); needs two clusters."""
    array = np.asarray(values, dtype=np.float64)
    _, member = np.unique(np.asarray(clusters), return_inverse=True)
    if array.shape != member.shape or not len(array):
        raise ValueError(f"{array.shape} values and {member.shape} clusters; each value needs its cluster")
    sums = np.bincount(member, weights=array - array.mean())
    if len(sums) < 2:
        raise ValueError("one cluster has no standard error; give at least two prompts")
    return float(np.sqrt(len(sums) / (len(sums) - 1) * (sums**2).sum()) / len(array))


def _layout(values: Floats, clusters: ArrayLike, strata: ArrayLike, seeds: ArrayLike | None) -> _Layout:
    n = len(values)
    columns = {"clusters": np.asarray(clusters), "strata": np.asarray(strata)}
    columns["seeds"] = np.zeros(n, dtype=np.int64) if seeds is None else np.asarray(seeds)
    for name, column in columns.items():
        if column.shape != values.shape or values.ndim != 1:
            raise ValueError(f"{name} has shape {column.shape}, the values {values.shape}; give one of each an image")
    if not n:
        raise ValueError("there are no values; a score needs at least one judged image")
    if not np.isfinite(values).all():
        raise ValueError(f"{int((~np.isfinite(values)).sum())} of {n} values are missing (NaN) or infinite")
    cluster_names, cluster = np.unique(columns["clusters"], return_inverse=True)
    stratum_names, stratum = np.unique(columns["strata"], return_inverse=True)
    seed_names, seed = np.unique(columns["seeds"], return_inverse=True)
    pairs, prompt = np.unique(stratum * len(cluster_names) + cluster, return_inverse=True)
    shape = len(seed_names), len(pairs)
    cell = seed * len(pairs) + prompt
    counts = np.bincount(cell, minlength=shape[0] * shape[1]).reshape(shape)
    if (counts != counts[0]).any():
        s, c = np.argwhere(counts != counts[0])[0]
        stratum_of, cluster_of = divmod(int(pairs[c]), len(cluster_names))
        raise ValueError(
            f"seed {seed_names[s]} has {counts[s, c]} images of prompt {cluster_names[cluster_of]} of "
            f"{stratum_names[stratum_of]}, seed {seed_names[0]} has {counts[0, c]}; every seed needs the same images"
        )
    sums = np.bincount(cell, weights=values, minlength=shape[0] * shape[1]).reshape(shape)
    bounds = np.searchsorted(pairs // len(cluster_names), np.arange(len(stratum_names) + 1))
    return _Layout(sums.astype(np.float64), counts[0].astype(np.float64), bounds)


def _estimate(layout: _Layout) -> float:
    return float(layout.sums.mean(0) @ layout.weights())


def _spread(layout: _Layout) -> Spread:
    """The error of the estimate; nothing is known of it where a stratum has a lone prompt."""
    if (np.diff(layout.bounds) < 2).any():
        return Spread()
    return spread_of_variances(_variances(layout))


def spread_of_variances(found: Variances) -> Spread:
    """The error of an estimate: of its seeds, and what its prompts add.

    The variance of the seeds' scores over S holds the interaction of seeds and prompts too, and so does the clustered
    variance of the prompts within strata, of the mean over seeds: the prompts' part is what is left of that without
    the interaction. Its degrees of freedom, over the strata, are Satterthwaite's.
    """
    df = found.prompts**2 / found.prompts_over_df if found.prompts_over_df else float("inf")
    if found.n_seeds == 1:
        return spread_of(Part(found.prompts, df))
    seeds = max(found.seeds, LEAST_SEEDS_PART * found.interaction)
    return spread_of(Part(seeds, found.n_seeds - 1), Part(max(found.prompts - found.interaction, 0.0), df))


def variances(values: ArrayLike, clusters: ArrayLike, strata: ArrayLike, seeds: ArrayLike | None = None) -> Variances:
    """The variances of the mean of stratum means of `values` (N,), with the arguments of `stratified_mean`.

    Raises ValueError as that does, and where a stratum has a single prompt.
    """
    layout = _layout(np.asarray(values, dtype=np.float64), clusters, strata, seeds)
    if (np.diff(layout.bounds) < 2).any():
        raise ValueError("a task has a single prompt, which has no variance; at least two are needed")
    return _variances(layout)


def _variances(layout: _Layout) -> Variances:
    n_seeds, n_prompts = layout.sums.shape
    weights = layout.weights()
    prompts, prompts_over_df, interaction, interaction_df = 0.0, 0.0, 0.0, 0
    for part in layout.strata():
        sums, counts = layout.sums[:, part], layout.counts[part]
        c = sums.shape[1]
        centered = (sums - sums.sum(1, keepdims=True) * counts / counts.sum()) * weights[part]  # (S, c)
        mean = centered.mean(0)
        share = c / (c - 1) * float((mean**2).sum())
        prompts += share
        prompts_over_df += share**2 / (c - 1)
        if n_seeds > 1:
            interaction += c / (c - 1) * float(((centered - mean) ** 2).sum()) / (n_seeds * (n_seeds - 1))
            interaction_df += (c - 1) * (n_seeds - 1)
    seeds = float((layout.sums @ weights).var(ddof=1)) / n_seeds if n_seeds > 1 else 0.0
    n_strata = len(layout.bounds) - 1
    return Variances(prompts, seeds, interaction, prompts_over_df, interaction_df, n_seeds, n_prompts, n_strata)


def _interval(layout: _Layout, spread: Spread, draws: int, rng_seed: int) -> tuple[float, float]:
    """The percentile bootstrap over prompts, stretched around the estimate to the width that `spread` says."""
    from scipy import stats

    estimate, half = _estimate(layout), spread.reach(LEVEL)
    if np.isnan(half):
        return float("nan"), float("nan")
    rng = numpy_stream(rng_seed, "bootstrap")
    sums = layout.sums.mean(0)
    deviations = np.full(draws, -estimate)
    for part in layout.strata():
        c = part.stop - part.start
        drawn = rng.integers(c, size=(draws, c))
        means = sums[part][drawn].sum(1) / layout.counts[part][drawn].sum(1)
        deviations += means / (len(layout.bounds) - 1)
    tail = (1 - LEVEL) / 2
    deviation = float(deviations.std())
    if deviation <= 1e-12 * max(1.0, abs(estimate)):  # all prompts alike: only the seeds, if any, differ
        return float(estimate - half), float(estimate + half)
    low, high = np.quantile(deviations, (tail, 1 - tail)) / (deviation * stats.norm.ppf(1 - tail)) * half
    return float(estimate + low), float(estimate + high)


FEWEST_SEEDS = 3  # that an interval over training seeds is made of: from two it would say next to nothing


def mean_over_seeds(values: Sequence[float]) -> Difference:
    """The mean of one number a training seed, its 95 % interval by Student's t, and p for a true mean of zero.

    For what single images have no value of, as distances. NaN for the interval and p below `FEWEST_SEEDS` seeds.
    """
    found = np.asarray(values, dtype=np.float64)
    n, mean = len(found), float(found.mean())
    if n < FEWEST_SEEDS:
        return Difference(mean, np.nan, np.nan, n)
    variance = float(found.var(ddof=1)) / n or (mean / (n + 1)) ** 2  # of equal numbers that of one more, zero
    spread = Spread((Part(variance, n - 1),))
    reach = spread.reach(LEVEL)
    return Difference(mean, mean - reach, mean + reach, n, spread.p(mean) if variance else float("nan"), spread)
