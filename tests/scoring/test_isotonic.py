"""Falling curves against scipy's isotonic regression, and where they reach a level."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import isotonic_regression

from lensbench.scoring.isotonic import falling, reach

CURVES = st.lists(st.floats(-10, 10), min_size=1, max_size=7)


@given(CURVES)
def test_it_is_the_least_squares_fit_that_never_rises(values):
    assert np.allclose(falling(values), isotonic_regression(values, increasing=False).x, atol=1e-9)


@given(st.lists(st.tuples(*[st.floats(-5, 5)] * 4), min_size=1, max_size=5))
def test_many_curves_are_each_by_itself(rows):
    together = falling(np.array(rows))
    assert np.allclose(together, [falling(row) for row in rows])


@given(st.lists(st.floats(0.1, 3), min_size=2, max_size=6), st.floats(0, 1))
def test_the_curve_has_the_level_where_it_is_said_to_reach_it(falls, part):
    curve = np.concatenate([[0.0], -np.cumsum(falls)])
    x = np.arange(len(curve), dtype=float) ** 1.5
    level = part * curve[-1]
    found = reach(curve[None], x, np.array([level]))[0]
    if level == 0:
        assert found == -np.inf
    else:
        assert np.isclose(np.interp(found, x, curve), level)


def test_nothing_is_extrapolated():
    curve, x = np.array([[3.0, 2.0, 1.0]] * 3), np.array([0.0, 1.0, 2.0])
    assert reach(curve, x, np.array([3.5, 0.5, 1.5])).tolist() == [-np.inf, np.inf, 1.5]


def test_of_a_level_stretch_its_beginning_counts():
    assert reach([[3.0, 2.0, 2.0, 1.0]], [0.0, 1.0, 2.0, 3.0], np.array([2.0]))[0] == 1.0
