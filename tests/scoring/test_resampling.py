"""Draws of whole studies: their spread is that of studies made anew, and what cells share stays shared."""

from __future__ import annotations

import numpy as np
import pytest

from lensbench.scoring.resampling import draw_images, draw_scores
from lensbench.scoring.statistics import stratified_mean

TASKS = np.arange(60) % 3
COUNTS = np.full(60, 4)


def judged(rng, *, seeds=3, prompt=0.0, seed=0.0, cells=1, noise=0.2):
    """(K, S, C): a mean of 0.5, what prompts and seeds add to every cell, and each picture's own noise."""
    of_prompt, of_seed = prompt * rng.standard_normal(60), seed * rng.standard_normal((1, seeds, 1))
    return 0.5 + of_prompt + of_seed + noise * rng.standard_normal((cells, seeds, 60))


def spreads(draws=300, **noise):
    """The spread of the mean over studies, and the spread that draws of one study have, in the mean."""
    rng = np.random.default_rng(0)
    found = [draw_images(judged(rng, **noise), COUNTS, TASKS, [0], draws=draws, rng_seed=i) for i in range(200)]
    means = np.array([one.mean[0] for one in found])
    within = np.array([np.quantile(one.draws[:, 0], (0.025, 0.975)) for one in found])
    covered = ((within[:, 0] <= 0.5) & (within[:, 1] >= 0.5)).mean()
    return means.std(), float(np.mean([one.errors[0] for one in found])), covered


@pytest.mark.parametrize("noise", [{"prompt": 0.2}, {"prompt": 0.05, "noise": 0.6}])
def test_the_draws_spread_as_studies_do_where_seeds_do_nothing(noise):
    between, within, covered = spreads(seeds=5, **noise)
    assert 0.9 * between < within < 1.25 * between
    assert 0.91 <= covered <= 0.99


@pytest.mark.parametrize("seeds", [2, 3, 5])
def test_few_seeds_that_vary_are_covered(seeds):
    """The fall from the first to the last of six cells of a curve, each with seeds of its own."""
    rng = np.random.default_rng(0)
    covered = []
    for trial in range(200):
        values = np.concatenate([judged(rng, seeds=seeds, seed=0.05, prompt=0) for _ in range(6)])
        values += 0.1 * rng.standard_normal(60)
        drawn = draw_images(values, COUNTS, TASKS, np.arange(6), draws=300, rng_seed=trial).draws
        low, high = np.quantile(drawn[:, 0] - drawn[:, -1], (0.025, 0.975))
        covered.append(low <= 0 <= high)
    assert 0.92 <= np.mean(covered) <= 0.99


def test_the_mean_is_the_mean_of_tasks():
    rng = np.random.default_rng(1)
    values, counts = rng.random((1, 2, 6)), np.array([1, 2, 3, 4, 5, 6])
    tasks = np.array([0, 0, 0, 1, 1, 2])
    images = [(s, c, values[0, s, c]) for s in range(2) for c in range(6) for _ in range(counts[c])]
    seeds, prompts, value = (np.array(column) for column in zip(*images, strict=True))
    expected = stratified_mean(value, prompts, tasks[prompts.astype(int)], seeds).estimate
    assert np.isclose(draw_images(values, counts, tasks, [0]).mean[0], expected)


def test_what_cells_owe_to_prompts_and_seeds_of_a_scale_is_common_to_them():
    rng = np.random.default_rng(2)
    values = judged(rng, prompt=0.3, seed=0.2, noise=0.02)
    both = np.concatenate([values, values + 0.1])
    together, apart = (draw_images(both, COUNTS, TASKS, runs) for runs in ([0, 0], [0, 1]))
    assert np.allclose(together.draws[:, 1] - together.draws[:, 0], 0.1)
    assert (apart.draws[:, 1] - apart.draws[:, 0]).std() > 0.1


def test_one_seed_gives_no_spread_of_its_own():
    assert draw_scores([[0.4], [0.3]], [0, 1]).errors.tolist() == [0, 0]
    assert draw_images(judged(np.random.default_rng(0), seeds=1, prompt=0.1), COUNTS, TASKS, [0]).errors[0] > 0.01


def test_a_cell_that_lacks_seeds_varies_as_the_others_do():
    found = draw_scores([[1.0, 1.2, 0.8], [0.5, 0.7, 0.4], [0.2, np.nan, np.nan]], [0, 1, 2])
    assert found.seeds.tolist() == [3, 3, 1]
    assert found.errors[2] > found.errors[:2].max()


def test_missing_prompts_and_cells_without_seeds_are_refused():
    values = judged(np.random.default_rng(0))
    values[0, 0, 3] = np.nan
    with pytest.raises(ValueError, match="prompts"):
        draw_images(values, COUNTS, TASKS, [0])
    with pytest.raises(ValueError, match="no score of any seed"):
        draw_scores([[np.nan, np.nan]], [0])


def test_the_same_seed_gives_the_same_draws():
    values = judged(np.random.default_rng(0), prompt=0.1)
    first, again = (draw_images(values, COUNTS, TASKS, [0], rng_seed=3) for _ in range(2))
    assert (first.draws == again.draws).all()
