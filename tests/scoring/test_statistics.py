from __future__ import annotations

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from lensbench.scoring.statistics import (
    clustered_standard_error,
    holm,
    paired_difference,
    stratified_mean,
)
from lensbench.streams import numpy_stream


def design(prompts: tuple[int, ...], samples: int, seeds: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Clusters, strata and seeds of every image; cluster numbers start again in each stratum."""
    cluster = np.concatenate([np.repeat(np.arange(n), samples) for n in prompts])
    stratum = np.concatenate([np.full(n * samples, f"task {i}") for i, n in enumerate(prompts)])
    return (
        np.tile(cluster, seeds),
        np.tile(stratum, seeds),
        np.repeat(np.arange(seeds), sum(prompts) * samples),
    )


def simulate(
    rng: np.random.Generator, seeds: int, seed_sd: float, prompts: tuple[int, ...] = (12, 20, 30)
) -> tuple[np.ndarray, ...]:
    """Differences with true mean 0: a seed effect, a prompt effect and noise of images, with their design."""
    clusters, strata, seed = design(prompts, 2, seeds)
    _, prompt = np.unique([f"{s}/{c}" for s, c in zip(strata, clusters, strict=True)], return_inverse=True)
    values = seed_sd * rng.standard_normal(seeds)[seed] + 0.2 * rng.standard_normal(sum(prompts))[prompt]
    return values + 0.5 * rng.standard_normal(len(values)), clusters, strata, seed


def test_the_estimate_is_the_mean_of_stratum_means() -> None:
    found = stratified_mean([1, 1, 0, 0, 0, 0, 1, 0], [0, 0, 1, 1, 2, 2, 0, 1], ["a"] * 6 + ["b"] * 2)
    assert found.estimate == pytest.approx((2 / 6 + 1 / 2) / 2)
    assert found.low <= found.estimate <= found.high


def test_images_of_a_prompt_are_one_witness_not_many() -> None:
    values = numpy_stream(0, "test").random(60).round()
    once = stratified_mean(values, np.arange(60), np.zeros(60))
    tenfold = stratified_mean(np.repeat(values, 10), np.repeat(np.arange(60), 10), np.zeros(600))
    assert tenfold == once


def test_one_stratum_and_seed_have_the_width_of_the_clustered_standard_error() -> None:
    rng = numpy_stream(1, "test")
    clusters = np.repeat(np.arange(80), 3)
    values = rng.standard_normal(80)[clusters] + rng.standard_normal(240)
    found = stratified_mean(values, clusters, np.zeros(240))
    error = clustered_standard_error(values, clusters)
    assert found.high - found.low == pytest.approx(2 * 1.99 * error, rel=0.05)


def test_a_fraction_stays_within_zero_and_one() -> None:
    values = np.ones(40)
    values[0] = 0
    found = stratified_mean(values, np.arange(40), np.zeros(40), draws=500)
    assert found.high == 1.0
    assert found.low < 0.975


def test_clustered_standard_error_follows_its_formula() -> None:
    values, clusters = [1.0, 0.0, 1.0, 1.0, 0.0], [0, 0, 1, 1, 2]
    sums = np.array([1 - 1.2, 2 - 1.2, 0 - 0.6])
    assert clustered_standard_error(values, clusters) == pytest.approx(np.sqrt(3 / 2 * (sums**2).sum()) / 5)
    with pytest.raises(ValueError, match="at least two prompts"):
        clustered_standard_error([1, 0], [4, 4])


# Properties of the paired difference

arms = st.tuples(st.integers(0, 10**6), st.integers(1, 3), st.integers(1, 3))


def draw_arms(case: tuple[int, int, int]) -> tuple[np.ndarray, ...]:
    number, seeds, samples = case
    clusters, strata, seed = design((5, 11), samples, seeds)
    a, b = numpy_stream(number, "test").integers(2, size=(2, len(seed))).astype(float)
    return a, b, clusters, strata, seed


@settings(max_examples=25, deadline=None)
@given(arms)
def test_swapping_the_arms_mirrors_the_difference(case: tuple[int, int, int]) -> None:
    a, b, *where = draw_arms(case)
    there, back = paired_difference(a, b, *where), paired_difference(b, a, *where)
    assert (there.estimate, there.low, there.high) == pytest.approx((-back.estimate, -back.high, -back.low), abs=1e-12)
    assert there.p == back.p


@settings(max_examples=25, deadline=None)
@given(arms, st.floats(-3, 3))
def test_a_shift_of_one_arm_shifts_the_interval(case: tuple[int, int, int], shift: float) -> None:
    a, b, *where = draw_arms(case)
    found, shifted = paired_difference(a, b, *where), paired_difference(a + shift, b, *where)
    for before, after in ((found.estimate, shifted.estimate), (found.low, shifted.low), (found.high, shifted.high)):
        assert after == pytest.approx(before + shift, abs=1e-9)
    both = paired_difference(a + shift, b + shift, *where)
    assert both.estimate == pytest.approx(found.estimate, abs=1e-9)
    assert both.p == pytest.approx(found.p, abs=1e-3)


@settings(max_examples=25, deadline=None)
@given(arms, st.randoms(use_true_random=False))
def test_the_order_of_the_rows_does_not_matter(case: tuple[int, int, int], shuffler: object) -> None:
    columns = draw_arms(case)
    order = np.arange(len(columns[0]))
    shuffler.shuffle(order)  # type: ignore[attr-defined]
    found = paired_difference(*columns)
    again = paired_difference(*(column[order] for column in columns))
    assert (again.estimate, again.low, again.high) == pytest.approx((found.estimate, found.low, found.high), abs=1e-9)
    assert again.p == pytest.approx(found.p, abs=1e-3)


@settings(max_examples=10, deadline=None)
@given(arms)
def test_equal_arms_differ_by_nothing_and_are_no_test(case: tuple[int, int, int]) -> None:
    a, _, *where = draw_arms(case)
    found = paired_difference(a, a, *where)
    assert (found.estimate, found.low, found.high) == (0, 0, 0)
    assert np.isnan(found.p)


@settings(max_examples=50, deadline=None)
@given(arms, st.floats(0.5, 0.9999))
def test_an_interval_leaves_out_zero_exactly_where_p_is_below_its_level(
    case: tuple[int, int, int], level: float
) -> None:
    found = paired_difference(*draw_arms(case))
    low, high = found.interval(level)
    assert found.p == pytest.approx(1 - level, abs=1e-5) or (low > 0 or high < 0) == (found.p < 1 - level)
    assert found.interval(0.95) == (found.low, found.high)


def test_pairing_removes_what_the_arms_share() -> None:
    rng = numpy_stream(2, "test")
    prompt, clusters = rng.standard_normal(100), np.arange(100)
    a = prompt + 0.1 + 0.1 * rng.standard_normal(100)
    found = paired_difference(a, prompt, clusters, np.zeros(100))
    assert found.high - found.low < 0.06
    assert found.low > 0
    assert found.p < 1e-12


def test_p_has_no_floor_of_few_prompts() -> None:
    clusters, strata, seeds = design((5,), 10, 3)  # counting: five prompts, every image right against every one wrong
    found = paired_difference(np.ones(150), np.zeros(150), clusters, strata, seeds)
    assert found.p < 1e-6
    assert found.low > 0.8
    two = paired_difference(np.ones(2), np.zeros(2), np.arange(2), np.zeros(2))
    assert two.p > 0.05  # and two images prove nothing


def sign_flips(values: np.ndarray, clusters: np.ndarray) -> float:
    """p by trying every pattern of signs of the prompts, for one stratum and seed."""
    sums = np.bincount(clusters, weights=values)
    signs = 1 - 2 * (np.arange(2 ** len(sums))[:, None] >> np.arange(len(sums)) & 1)
    return float((np.abs(signs @ sums) >= abs(sums.sum()) - 1e-9).mean())


def test_p_agrees_with_sign_flips_where_both_can_tell() -> None:
    rng = numpy_stream(3, "test")
    for _ in range(20):
        values = rng.standard_normal(14) + 0.3
        p = paired_difference(values, np.zeros(14), np.arange(14), np.zeros(14)).p
        assert p == pytest.approx(sign_flips(values, np.arange(14)), abs=0.03)


def test_seeds_are_counted_and_one_seed_says_sampling_only() -> None:
    rng = numpy_stream(4, "test")
    values, *where = simulate(rng, 3, 0.2)
    assert not stratified_mean(values, *where).sampling_only
    assert stratified_mean(values, *where).seeds == 3
    assert stratified_mean(values[:124], *(column[:124] for column in where)).sampling_only


def test_disagreeing_seeds_widen_the_interval_and_weaken_p() -> None:
    clusters, strata, seeds = design((20, 20), 1, 3)
    noise = numpy_stream(5, "test").standard_normal((3, 40))
    noise = (noise - noise.mean(1, keepdims=True)).ravel()  # so that only the shift makes seeds disagree
    agreeing = paired_difference(0.5 + noise, np.zeros(120), clusters, strata, seeds)
    shift = np.array([-0.6, 0.0, 0.6])[seeds]
    split = paired_difference(0.5 + noise + shift, np.zeros(120), clusters, strata, seeds)
    assert split.estimate == pytest.approx(agreeing.estimate)
    assert split.high - split.low > 2 * (agreeing.high - agreeing.low)
    assert agreeing.p < 0.01
    assert split.p > 0.05


# Long-run behavior on simulated data


@pytest.mark.parametrize(("seeds", "seed_sd"), [(1, 0.0), (2, 0.0), (2, 0.08), (3, 0.0), (3, 0.1), (5, 0.3)])
def test_intervals_cover_the_truth_about_as_often_as_they_say(seeds: int, seed_sd: float) -> None:
    rng = numpy_stream(seeds, "coverage", round(seed_sd * 100))
    intervals = [stratified_mean(*simulate(rng, seeds, seed_sd), draws=300, rng_seed=i) for i in range(250)]
    covered = np.mean([found.low <= 0 <= found.high for found in intervals])
    assert 0.90 <= covered <= 0.997


@pytest.mark.parametrize("seeds", [2, 3])
def test_small_p_of_an_arm_against_itself_are_as_rare_as_they_say(seeds: int) -> None:
    rng = numpy_stream(seeds, "tails")
    p = []
    for _ in range(4000):
        values, *where = simulate(rng, seeds, 0.3, (6, 8))
        p.append(paired_difference(values, np.zeros_like(values), *where).p)
    for level in (0.05, 0.00625):
        expected = 4000 * level
        assert np.sum(np.array(p) < level) <= 1.3 * expected + 2 * np.sqrt(expected)


@pytest.mark.parametrize(("seeds", "seed_sd"), [(1, 0.0), (3, 0.15)])
def test_p_of_a_comparison_of_an_arm_with_itself_is_uniform(seeds: int, seed_sd: float) -> None:
    rng = numpy_stream(seeds, "a/a")
    p = []
    for _ in range(250):
        values, *where = simulate(rng, seeds, seed_sd, (15, 20))
        p.append(paired_difference(values, np.zeros_like(values), *where).p)
    assert stats.kstest(p, "uniform").pvalue > 0.01
    assert np.mean(np.array(p) < 0.05) < 0.09


def test_a_real_difference_is_found() -> None:
    rng = numpy_stream(6, "power")
    p = []
    for _ in range(40):
        values, *where = simulate(rng, 3, 0.05)
        p.append(paired_difference(values + 0.5, np.zeros_like(values), *where).p)
    assert np.mean(np.array(p) < 0.05) > 0.9


def test_two_thousand_draws_of_a_large_table_take_little_time() -> None:
    clusters, strata, seeds = design((67,) * 6, 2, 3)
    a, b = numpy_stream(7, "test").integers(2, size=(2, len(seeds)))
    paired_difference(a, b, clusters, strata, seeds)  # imports
    took = []
    for _ in range(5):
        start = time.process_time()
        paired_difference(a, b, clusters, strata, seeds)
        took.append(time.process_time() - start)
    assert min(took) < 0.2


# Holm


def test_holm_on_a_worked_example() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([]) == []
    with pytest.raises(ValueError, match=r"\[0, 1\]"):
        holm([0.2, float("nan")])


@given(st.lists(st.floats(0, 1), min_size=1, max_size=30), st.randoms(use_true_random=False))
def test_holm_lies_between_raw_and_bonferroni_and_keeps_the_order(p: list[float], shuffler: object) -> None:
    adjusted = holm(p)
    assert all(raw <= a <= min(1, raw * len(p)) + 1e-15 for raw, a in zip(p, adjusted, strict=True))
    order = np.argsort(p, kind="stable")
    assert (np.diff(np.array(adjusted)[order]) >= 0).all()
    shuffled = list(range(len(p)))
    shuffler.shuffle(shuffled)  # type: ignore[attr-defined]
    assert holm([p[i] for i in shuffled]) == [adjusted[i] for i in shuffled]


# Refusals


def test_seeds_that_were_not_judged_on_the_same_images_are_refused() -> None:
    clusters, strata, seeds = design((3, 4), 2, 2)
    values = np.zeros(len(seeds))
    gone = np.arange(len(seeds)) != 15  # the second image of prompt 0 of task 0 of seed 1
    with pytest.raises(ValueError, match="seed 1 has 1 images of prompt 0 of task 0, seed 0 has 2"):
        stratified_mean(values[gone], clusters[gone], strata[gone], seeds[gone])


def test_missing_values_and_columns_of_other_lengths_are_refused() -> None:
    with pytest.raises(ValueError, match="1 of 3 values are missing"):
        stratified_mean([1, np.nan, 0], [0, 1, 2], [0, 0, 0])
    with pytest.raises(ValueError, match="clusters has shape"):
        stratified_mean([1, 0, 0], [0, 1], [0, 0, 0])
    with pytest.raises(ValueError, match="a pair needs one value of each"):
        paired_difference([1, 0], [1], [0, 1], [0, 0])
    with pytest.raises(ValueError, match="no values"):
        stratified_mean([], [], [])


def test_a_single_prompt_has_a_mean_but_no_interval() -> None:
    found = paired_difference([1, 0], [0, 0], [0, 0], [0, 0])
    assert found.estimate == 0.5
    assert np.isnan(found.low)
    assert np.isnan(found.high)
    assert np.isnan(found.p)
