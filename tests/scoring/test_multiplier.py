"""The caption multiplier: known answers on curves without noise, bounds, floors, and coverage on simulated studies."""

from __future__ import annotations

import importlib.util
import sys
from dataclasses import replace
from math import inf, isnan
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lensbench.scoring.multiplier import ERROR, FLOOR, MULTIPLIERS, NOTHING, ODDS, SHARE, direct, disagree, joint
from lensbench.scoring.resampling import Draws

X = np.log(1024 * 2.0 ** np.arange(6))


def curve(errors, spread=0.01, draws=300, rng_seed=0):
    mean = np.asarray(errors, dtype=float)
    noise = np.random.default_rng(rng_seed).standard_normal((draws, len(mean)))
    return Draws(mean, mean + spread * noise, np.full(len(mean), 3), True)


def law(multiplier=1.0, floor=0.0, x=X):
    return floor + 2.0 * (multiplier * np.exp(x)) ** -0.3


@given(st.floats(0.08, 12))
@settings(deadline=None)
def test_a_shifted_curve_gives_its_shift(multiplier):
    found = direct(X, X, curve(law(), 0.0), curve(law(multiplier), 0.0)).multiplier
    assert found.estimate == pytest.approx(multiplier, rel=1e-6)


@given(st.floats(0.1, 10), st.floats(-3, 3))
@settings(deadline=None)
def test_the_scale_of_the_axis_does_not_matter(multiplier, unit):
    a, b = curve(law()), curve(law(multiplier), rng_seed=1)
    here, there = direct(X, X, a, b).multiplier, direct(X + unit, X + unit, a, b).multiplier
    assert here.estimate == pytest.approx(there.estimate)
    assert (here.low, here.high) == pytest.approx((there.low, there.high))


@given(st.floats(0.1, 10))
@settings(deadline=None)
def test_arm_and_reference_exchanged_give_the_inverse(multiplier):
    a, b = curve(law(), 0.0), curve(law(multiplier), 0.0)
    assert direct(X, X, a, b).multiplier.estimate * direct(X, X, b, a).multiplier.estimate == pytest.approx(1)


def test_what_the_range_cannot_tell_is_a_bound():
    better = direct(X, X, curve(law(), 0.001), curve(law(100), 0.001)).multiplier
    assert (better.estimate, better.low, better.high) == (inf, inf, inf)
    assert better.limits == pytest.approx((1 / 32, 32))
    worse = direct(X, X, curve(law(), 0.001), curve(law(0.01), 0.001)).multiplier
    assert (worse.estimate, worse.high) == (0, 0)
    assert better.outside
    assert worse.outside
    assert not direct(X, X, curve(law(), 0.001), curve(law(3), 0.001)).multiplier.outside


def test_an_interval_that_reaches_the_end_of_the_range_is_open():
    found = direct(X, X, curve(law(), 0.01), curve(law(25), 0.01, rng_seed=1)).multiplier
    assert found.estimate < 32
    assert found.high == inf
    assert found.low > 1


def test_axes_may_differ_between_the_arms():
    """Captions that cost twice the compute an image are worth half as much of it as of images."""
    a, b = curve(law()), curve(law(4))
    assert direct(X, X + np.log(2), a, b).multiplier.estimate == pytest.approx(2, rel=1e-6)


def test_an_error_that_rises_is_told():
    rising = curve([0.2, 0.25, 0.3, 0.4, 0.5, 0.6])
    assert direct(X, X, curve(law()), rising).rises
    assert not direct(X, X, curve(law()), curve(law(2), rng_seed=3)).rises


def test_without_any_spread_there_is_no_interval():
    found = direct(X, X, curve(law(), 0.0), curve(law(2), 0.0)).multiplier
    assert isnan(found.low)
    assert isnan(found.high)


def test_the_joint_fit_needs_enough_cells():
    three = curve(law()[:3])
    assert joint([X[:3]], [X[:3]], three, three) is None
    assert joint([X], [X], curve(law(), 0.0), curve(law(2), 0.0)) is None
    with pytest.raises(ValueError, match="two points"):
        direct(X[:1], X[:1], curve(law()[:1]), curve(law()[:1]))


def test_the_joint_fit_tells_a_shift_from_a_floor_and_from_nothing():
    made = {
        MULTIPLIERS: curve(law(4), 0.004, rng_seed=1),
        FLOOR: curve(law(floor=0.2), 0.004, rng_seed=1),
        NOTHING: curve(law(), 0.004, rng_seed=1),
    }
    for verdict, arm in made.items():
        found = joint([X], [X], curve(law(floor=0.02 if verdict == FLOOR else 0), 0.004), arm)
        assert found is not None
        assert found.verdict == verdict
    found = joint([X], [X], curve(law(), 0.004), made[MULTIPLIERS])
    assert found is not None
    assert found.clear
    assert found.multipliers[0].low < 4 < found.multipliers[0].high


def test_estimators_disagree_where_curves_are_not_shifted():
    """A joint fit far from the measured curves is told; the same fit beside them is not."""
    arm = curve(law(4), 0.004, rng_seed=1)
    measured = direct(X, X, curve(law(), 0.004), arm)
    fitted = joint([X], [X], curve(law(), 0.004), arm)
    assert fitted is not None
    assert not disagree(measured, fitted, 0)
    elsewhere = joint([X], [X], curve(law(), 0.004), curve(law(12), 0.004, rng_seed=1))
    assert elsewhere is not None
    assert disagree(measured, elsewhere, 0)


def test_a_bound_agrees_with_a_fit_beyond_it():
    far = curve(law(100), 0.001, rng_seed=1)
    fitted = joint([X], [X], curve(law(), 0.001), far)
    assert fitted is not None
    assert not disagree(direct(X, X, curve(law(), 0.001), far), fitted, 0)
    near = joint([X], [X], curve(law(), 0.001), curve(law(4), 0.001, rng_seed=1))
    assert near is not None
    assert disagree(direct(X, X, curve(law(), 0.001), far), near, 0)


def rising(multiplier=1.0, chance=0.05, x=X, floor=0.0):
    """Errors of a score that rises from chance to the best: the odds of missing what is above chance are a power."""
    odds = floor + 8.0 * (multiplier * np.exp(x - X[0])) ** -1.1
    return (1 - chance) * odds / (1 + odds)


def by_chance(draws, chance):
    return replace(draws, chance=np.full(len(draws.mean), 1 - chance))


@given(st.floats(0.2, 5), st.floats(0.0, 0.3), st.floats(0.0, 0.3))
@settings(deadline=None)
def test_a_shift_between_chance_and_the_best_comes_back_whatever_the_chances(multiplier, first, second):
    a, b = (by_chance(curve(rising(m, c), 0.0), c) for m, c in ((1.0, first), (multiplier, second)))
    assert direct(X, X, a, b).scale == ODDS
    assert direct(X, X, a, b).multiplier.estimate == pytest.approx(multiplier, rel=1e-3)


@given(st.floats(0.1, 10), st.floats(0.0, 0.5))
@settings(deadline=None)
def test_one_chance_for_both_changes_nothing_in_log_error(multiplier, chance):
    a, b = curve(0.5 * law()), curve(0.5 * law(multiplier), rng_seed=1)
    without = direct(X, X, a, b)
    told = direct(X, X, by_chance(a, chance), by_chance(b, chance), scale=SHARE)
    assert without.scale == ERROR
    assert told.multiplier[:3] == pytest.approx(without.multiplier[:3])
    assert told.level == pytest.approx(without.level)


def test_the_points_that_decide_are_the_last_of_the_worse_and_those_around_it():
    reference = curve([0.9, 0.8, 0.7, 0.6, 0.5, 0.4], 0.0)
    arm = curve([0.85, 0.65, 0.45, 0.35, 0.3, 0.2], 0.0)
    assert direct(X, X, reference, arm).deciding == ((5,), (2, 3))
    assert direct(X, X, arm, reference).deciding == ((2, 3), (5,))
    ahead = curve([0.3, 0.25, 0.2, 0.2, 0.2, 0.2], 0.0)
    assert direct(X, X, reference, ahead).deciding == ((5,), (0,))


def test_the_law_is_of_what_predicts_held_out_cells_better():
    x = np.tile(X, 2)
    made = {ODDS: [rising(m, x=x) for m in (1, 3)], SHARE: [0.5 * law(floor=f, x=x) for f in (0.05, 0.5)]}
    for scale, verdict in ((ODDS, MULTIPLIERS), (SHARE, FLOOR)):
        a, b = (by_chance(curve(errors, 0.006, rng_seed=i), 0.05) for i, errors in enumerate(made[scale]))
        found = joint([x], [x], a, b)
        assert found is not None
        assert (found.scale, found.verdict) == (scale, verdict)
        if scale == ODDS:
            assert found.multipliers[0].low < 3 < found.multipliers[0].high


@pytest.fixture(scope="module")
def benchmark_module():
    path = Path(__file__).resolve().parents[2] / "benchmarks" / "multiplier.py"
    spec = importlib.util.spec_from_file_location("benchmark_multiplier", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


def simulated(module, name, trials):
    """What the benchmark finds of a study as reports tell it."""
    study = next(study for study in module.STUDIES if study.name == name)
    return module.coverage(study, trials)[module.EITHER]


@pytest.mark.parametrize("name", ["from chance to the best, 3 seeds", "checkpoints of one run, two seeds"])
def test_intervals_cover_the_truth(benchmark_module, name):
    found = simulated(benchmark_module, name, 16)
    assert found["direct"] >= 0.87
    assert found["joint"] >= 0.87
    assert found["refused"] == 0
    assert found["joint_ratio"] < 8  # wide intervals cover everything


def test_no_multiplier_is_said_where_floors_differ(benchmark_module):
    assert simulated(benchmark_module, "another floor, 20 points lower", 8)["refused"] >= 0.9


def test_no_number_is_given_where_the_reference_is_at_chance(benchmark_module):
    assert simulated(benchmark_module, "shuffled reference, 3 seeds", 4)["given"] == 0
    assert simulated(benchmark_module, "arm near 100 %, 3 seeds", 2)["given"] == 1


@pytest.mark.slow
@pytest.mark.parametrize("name", ["two seeds", "three seeds", "five seeds", "worse captions", "one size"])
def test_intervals_cover_in_92_to_99_of_100_studies(benchmark_module, name):
    found = simulated(benchmark_module, name, 200)
    assert 0.92 <= found["direct"] <= 0.995  # of 200; held-out cells choose the law, which widens the joint one
    assert 0.92 <= found["joint"] <= 0.995


def test_nothing_is_said_where_no_arm_gains_anything() -> None:
    """As where every score is zero: an arm that is there from its first point on is no better for it."""
    x, nothing = np.log([1.0, 2.0, 4.0]), np.ones(3)
    flat = Draws(nothing, np.tile(nothing, (50, 1)), np.full(3, 2), True)
    told = direct(x, x, flat, flat).multiplier
    assert np.isnan(told.estimate)
    learned = np.array([0.9, 0.6, 0.3])
    better = Draws(learned, np.tile(learned, (50, 1)), np.full(3, 2), True)
    assert direct(x, x, flat, better).multiplier.estimate == np.inf, "better from its first point on: a bound"
