"""Which visits go without text, and which set they read, depends on the seed and the visit, not on the arm."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lensbench.captions.policy import drawn_sets, dropped_text, label, set_label
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


def read_from(caption_set: str, seed: int, visits: int = 4000) -> np.ndarray:
    """The set that each visit reads, by name."""
    policy = Captions(set=caption_set)
    return np.array(list(policy.shares))[drawn_sets(policy, seed, 7, visits)]


PERCENT = st.integers(1, 99)


@given(PERCENT, PERCENT, st.integers(0, 2**31))
def test_a_larger_share_of_a_set_is_read_on_a_superset_of_the_visits(a: int, b: int, seed: int) -> None:
    few, many = (read_from(f"{n / 100:g}*detailed+{1 - n / 100:g}*alt", seed, 200) for n in sorted((a, b)))
    assert (few == "detailed")[many != "detailed"].sum() == 0


@given(st.lists(st.integers(1, 5), min_size=3, max_size=3), st.integers(0, 2**31))
def test_a_set_that_grows_against_each_other_one_keeps_its_visits(parts: list[int], seed: int) -> None:
    # a : b : c against 2a : b : c, as shares of 1,000 that sum to one
    def mixture(parts: list[int]) -> str:
        shares = [round(1000 * part / sum(parts)) for part in parts]
        shares[0] += 1000 - sum(shares)
        return "+".join(f"{share / 1000:g}*{name}" for share, name in zip(shares, "abc", strict=True))

    before, after = mixture(parts), mixture([2 * parts[0], *parts[1:]])
    ratio = [Captions(set=after).shares[name] / Captions(set=before).shares[name] for name in "abc"]
    assert ratio[0] > max(ratio[1:])
    assert not ((read_from(before, seed, 200) == "a") & (read_from(after, seed, 200) != "a")).any()


def test_a_mixture_is_read_by_its_shares_and_anew_at_every_step_and_seed() -> None:
    drawn = read_from("0.5*detailed+0.3*alt+0.2*brief", 3, 20_000)
    for name, share in (("detailed", 0.5), ("alt", 0.3), ("brief", 0.2)):
        assert (drawn == name).mean() == pytest.approx(share, abs=0.015)
    policy = Captions(set="0.5*alt+0.5*brief")
    drawn_twice = [drawn_sets(policy, seed, step, 64).tobytes() for seed in range(3) for step in range(3)]
    assert len(set(drawn_twice)) == 9


def test_a_visit_of_one_set_reads_it() -> None:
    assert not drawn_sets(Captions(set="alt"), 0, 0, 50).any()


def test_what_a_visit_reads_and_whether_it_is_dropped_are_drawn_apart() -> None:
    policy = Captions(set="0.5*alt+0.5*brief", dropout=0.5)
    dropped, drawn = dropped_text(policy, 0, 0, 20_000), drawn_sets(policy, 0, 0, 20_000)
    assert drawn[dropped].mean() == pytest.approx(drawn[~dropped].mean(), abs=0.03)


def test_policies_in_words() -> None:
    assert label(Captions(set="alt")) == "alt"
    policy = Captions(set="0.8*dose+0.2*alt", present=0.5, length_matched_to="brief", max_words=9, shuffled=True)
    said = "80 % dose 0.5/0, 20 % alt-text, as long as brief, at most 9 words, shuffled"
    assert label(policy, {"alt": "alt-text"}) == said
    assert set_label("0.125*a+0.875*salt") == "87.5 % salt, 12.5 % a"
