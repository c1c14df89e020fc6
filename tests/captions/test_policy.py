"""Which visits go without text depends on the seed and the step, not on the caption set."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lensbench.captions.policy import dropped_text
from lensbench.experiment import Captions

SETS = st.sampled_from(["alt", "brief", "detailed", "a folder's own"])


@given(SETS, SETS, st.floats(0, 0.99), st.integers(0, 2**31), st.integers(0, 10**6), st.integers(1, 128))
def test_two_arms_with_one_seed_drop_the_same_visits(
    a: str, b: str, share: float, seed: int, step: int, n: int
) -> None:
    first = dropped_text(Captions(set=a, dropout=share), seed, step, n)
    second = dropped_text(Captions(set=b, dropout=share), seed, step, n)
    assert first.dtype == bool
    assert first.shape == (n,)
    np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5])
def test_the_share_is_the_policys(share: float) -> None:
    masks = np.stack([dropped_text(Captions(dropout=share), 3, step, 64) for step in range(500)])
    assert masks.mean() == pytest.approx(share, abs=0.01)


def test_steps_and_seeds_draw_anew() -> None:
    policy = Captions(dropout=0.5)
    drawn = {dropped_text(policy, seed, step, 64).tobytes() for seed in range(3) for step in range(3)}
    assert len(drawn) == 9
