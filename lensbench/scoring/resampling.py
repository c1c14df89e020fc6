"""Draws of the scores of all cells of a study: how they might have come out with other prompts and training again.

For what is computed from many cells at once, such as a curve. Prompts are resampled within their tasks, the same ones
in every cell, so that what cells owe to the prompts stays common to them. Two or three training seeds cannot be
resampled usefully (see lensbench.scoring.statistics), so seeds get normal weights instead: a cell moves by the weighted
deviations of its seeds, the weights shared by the cells of one scale, which are paired, and by the checkpoints of a
run. That variance is unbiased, and because few seeds tell it roughly, every draw scales it by degrees of freedom over a
chi-square: a normal becomes Student's t. Cells of different scales are taken as independent.

The seeds' deviations hold the sampling noise of their pictures, which resampling prompts adds already: they are shrunk
by its share, pooled over the cells (the two-way variance seeds + prompts - interaction). That is for curves: of a
single cell with two seeds, whose share is anybody's guess, the interval covers 85 % where it says 95 %.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lensbench.streams import numpy_stream

Floats = NDArray[np.float64]

LEAST = 0.005  # a share above chance, and what chance leaves, is held above it
BEARING = 2  # scales that at least bear on a number that is taken from several


@dataclass(frozen=True)
class Draws:
    """Scores of K cells and D draws of all of them. `prompts`: whether prompts were resampled. `chance`: of
    errors, the error that chance gives in each cell, in (0, 1]; None where it is not known."""

    mean: Floats  # (K,)
    draws: Floats  # (D, K)
    seeds: NDArray[np.int64]  # (K,) how many each has
    prompts: bool
    chance: Floats | None = None  # (K,)

    @property
    def errors(self) -> Floats:
        """(K,) standard errors; zero where draws differ by rounding alone."""
        found = self.draws.std(0)
        return np.where(found > 1e-12 * np.abs(self.mean), found, 0.0)

    def of(self, cells: ArrayLike) -> Draws:
        """The draws of some of the cells."""
        places = np.asarray(cells, dtype=np.int64)
        chance = None if self.chance is None else self.chance[places]
        return Draws(self.mean[places], self.draws[:, places], self.seeds[places], self.prompts, chance)

    def missed(self) -> Draws:
        """Errors as shares that are missed of what is above chance: an error over that of chance.

        0 is the best, 1 chance, more is below chance. Where chance is not known there is no such share.
        """
        assert self.chance is not None
        by_chance = np.maximum(self.chance, LEAST)  # where chance answers everything nothing is above it
        return replace(self, mean=self.mean / by_chance, draws=self.draws / by_chance)

    def odds(self) -> Draws:
        """`missed` as odds, share missed over share above chance, where that is held above `LEAST`."""
        missed = self.missed()
        return replace(missed, mean=odds_of(missed.mean), draws=odds_of(missed.draws))


def odds_of(missed: Floats) -> Floats:
    """The odds of missing against being above chance, of shares that are missed."""
    return missed / np.maximum(1 - missed, LEAST)


def draw_images(
    values: ArrayLike, counts: ArrayLike, strata: ArrayLike, runs: ArrayLike, *, draws: int = 1000, rng_seed: int = 0
) -> Draws:
    """Draws of means of stratum means.

    `values` (K, S, C): the mean over the images of a cell, seed and prompt, NaN throughout where a cell lacks the seed.
    `counts` and `strata` (C,): a prompt's images and its task. `runs` (K,): cells with the same number are of one scale
    and share seeds. Raises ValueError for other missing values and for a cell without any seed.
    """
    array, task = np.asarray(values, dtype=np.float64), np.unique(np.asarray(strata), return_inverse=True)[1]
    images = np.asarray(counts, dtype=np.float64)
    absent = np.isnan(array)
    if (absent.any(2) != absent.all(2)).any():
        raise ValueError("a cell lacks some of its prompts: every cell needs the same ones")
    tasks = task.max() + 1
    weights = images / np.bincount(task, weights=images)[task] / tasks  # (C,), a cell's mean is values @ weights
    by_seed = array @ weights  # (K, S)
    n_seeds = _count(by_seed)
    of_prompt = np.nanmean(array, axis=1)  # (K, C)
    size = np.bincount(task)[task]  # prompts of a prompt's task
    rng = numpy_stream(rng_seed, "prompts of a curve")
    centered = (of_prompt - _by_task(of_prompt * weights, task)[:, task] * tasks) * weights
    centered *= np.sqrt(size / np.maximum(size - 1, 1))
    times = np.zeros((draws, len(task)))
    for stratum in range(tasks):
        inside = np.flatnonzero(task == stratum)
        times[:, inside] = rng.multinomial(len(inside), np.full(len(inside), 1 / len(inside)), size=draws)
    # What is left of a seed and a prompt together, within tasks: the sampling noise of the pictures.
    residual = (array - by_seed[..., None] - of_prompt[:, None] + (of_prompt @ weights)[:, None, None]) * weights
    residual -= _by_task(residual, task)[..., task] / size
    noise = (np.nansum(residual**2 * size / np.maximum(size - 1, 1), axis=(1, 2))) / np.maximum(
        n_seeds * (n_seeds - 1), 1
    )
    shift = _seeds(by_seed, np.asarray(runs), noise, draws, rng_seed)
    mean = np.nanmean(by_seed, axis=1)
    return Draws(mean, mean + times @ centered.T + shift, n_seeds, True)


def draw_scores(by_seed: ArrayLike, runs: ArrayLike, *, draws: int = 1000, rng_seed: int = 0) -> Draws:
    """Draws of scores that have no single images: `by_seed` (K, S), NaN where a seed is missing; `runs` as above.

    With one seed a draw is the score itself: there is nothing to learn an interval from.
    """
    values = np.asarray(by_seed, dtype=np.float64)
    shift = _seeds(values, np.asarray(runs), np.zeros(len(values)), draws, rng_seed)
    mean = np.nanmean(values, axis=1)
    return Draws(mean, mean + shift, _count(values), False)


def _seeds(by_seed: Floats, runs: NDArray[np.int64], noise: Floats, draws: int, rng_seed: int) -> Floats:
    """What training again adds to the cells, (D, K); `noise` (K,) is counted elsewhere.

    A cell with a single seed varies as those with more do in the mean, by itself.
    """
    n = _count(by_seed)
    several = n > 1
    if not several.any():
        return np.zeros((draws, len(by_seed)))
    deviations = np.nan_to_num(by_seed - np.nanmean(by_seed, axis=1, keepdims=True))
    deviations /= np.sqrt(np.maximum(n * (n - 1), 1))[:, None]
    total = float((deviations**2).sum())
    own = max(0.0, 1 - float(noise[several].sum()) / total) if total else 0.0
    rng = numpy_stream(rng_seed, "seeds of a curve")
    scales = np.unique(runs)
    df = (int(n[several].min()) - 1) * min(len(np.unique(runs[several])), BEARING)
    spread = np.sqrt(own * df / rng.chisquare(df, size=(draws, 1)))
    shift = np.empty((draws, len(by_seed)))
    for run in scales:
        inside = np.flatnonzero(runs == run)
        shift[:, inside] = spread * (rng.standard_normal((draws, by_seed.shape[1])) @ deviations[inside].T)
    one_seed = np.sqrt((n[several] * (deviations[several] ** 2).sum(1)).mean())
    shift[:, ~several] = spread * one_seed * rng.standard_normal((draws, int((~several).sum())))
    return shift


def _count(by_seed: Floats) -> NDArray[np.int64]:
    n = (~np.isnan(by_seed)).sum(1)
    if not n.all():
        raise ValueError("a cell has no score of any seed")
    return n


def _by_task(values: Floats, task: NDArray[np.int64]) -> Floats:
    """(..., C) summed over the prompts of each task: (..., G)."""
    return np.asarray(values @ (task[:, None] == np.arange(task.max() + 1)))
