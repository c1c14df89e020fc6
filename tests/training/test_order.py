"""The order of images: each once an epoch, in groups of one size, the same from wherever one looks."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lensbench.streams import numpy_stream
from lensbench.training.order import Group, ImageOrder, dealt

ONE = st.builds(lambda n: np.zeros((n, 1), dtype=np.int64), st.integers(1, 40))


@st.composite
def worlds(draw: st.DrawFn) -> tuple[np.ndarray, list[int]]:
    """Images that may be seen at one to three sides, in sizes of their own; and the batch of each size."""
    images, sides = draw(st.integers(1, 30)), draw(st.integers(1, 3))
    choices = np.array(
        [
            [draw(st.integers(0, 2)) + 3 * side if not side or draw(st.booleans()) else -1 for side in range(sides)]
            for _ in range(images)
        ]
    )
    return choices, [draw(st.integers(1, 7)) for _ in range(3 * sides)]


@given(seed=st.integers(0, 2**31), choices=ONE, batch=st.integers(1, 50))
def test_one_size_is_the_epochs_one_after_the_other(seed: int, choices: np.ndarray, batch: int) -> None:
    images = len(choices)
    order = ImageOrder(seed, choices, [batch])
    seen = np.concatenate([order.group(n).images for n in range(-(-3 * images // batch))])
    for epoch in range(3):
        expected = numpy_stream(seed, "order", epoch).permutation(images)
        assert seen[epoch * images : (epoch + 1) * images].tolist() == expected.tolist()


@given(st.integers(0, 2**31), worlds(), st.integers(1, 60))
def test_every_image_once_an_epoch_in_a_size_of_its_own(
    seed: int, world: tuple[np.ndarray, list[int]], groups: int
) -> None:
    choices, batches = world
    order = ImageOrder(seed, choices, batches)
    visits = np.zeros(len(choices), dtype=int)
    for n in range(groups):
        group = order.group(n)
        assert len(group.images) == batches[group.size]
        assert (choices[group.images] == group.size).any(axis=1).all()
        np.add.at(visits, group.images, 1)
    # what has not been seen yet as often as the rest waits for its group to fill
    waiting = sum(batches) - len(batches)
    assert visits.max() * len(choices) - visits.sum() <= waiting + len(choices) - 1 + visits.max() * waiting
    counts = np.zeros(len(batches), dtype=int)
    for n in range(groups):
        counts[order.group(n).size] += len(order.group(n).images)
    assert order.seen(groups).tolist() == counts.tolist()


@given(st.integers(0, 2**31), worlds(), st.integers(1, 5))
def test_no_visit_is_lost_nor_made_twice(seed: int, world: tuple[np.ndarray, list[int]], epochs: int) -> None:
    # With batches of one nothing waits: every epoch is exact.
    choices, _ = world
    images = len(choices)
    order = ImageOrder(seed, choices, [1] * (3 * choices.shape[1]))
    for epoch in range(epochs):
        seen = [int(order.group(epoch * images + n).images[0]) for n in range(images)]
        assert sorted(seen) == list(range(images))


@given(st.integers(0, 2**31), worlds(), st.lists(st.integers(0, 40), min_size=1, max_size=8))
def test_a_group_is_the_same_from_wherever_one_comes(
    seed: int, world: tuple[np.ndarray, list[int]], numbers: list[int]
) -> None:
    straight = ImageOrder(seed, *world)
    expected = [straight.group(n) for n in range(max(numbers) + 1)]
    jumping = ImageOrder(seed, *world)
    for n in numbers:
        found = jumping.group(n)
        assert found.size == expected[n].size
        assert found.images.tolist() == expected[n].images.tolist()


def test_epochs_and_seeds_have_their_own_order_and_sizes() -> None:
    choices = np.tile(np.arange(3), (64, 1))
    found = {
        tuple((group.size, *group.images) for group in (order.group(epoch * 64 + n) for n in range(64)))
        for seed in (0, 1)
        for epoch in (0, 1)
        for order in [ImageOrder(seed, choices, [1, 1, 1])]
    }
    assert len(found) == 4


def test_sizes_are_drawn_alike() -> None:
    order = ImageOrder(0, np.tile(np.arange(3), (3000, 1)), [4, 4, 4])
    seen = order.seen(700)
    assert seen.sum() == 2800
    assert seen / seen.sum() == pytest.approx([1 / 3] * 3, abs=0.04)


@given(st.integers(1, 12), st.integers(1, 6))
def test_a_step_is_dealt_out_whole(groups: int, ranks: int) -> None:
    step = [Group(0, np.zeros(1, dtype=int))] * groups
    hands = [list(dealt(step, rank, ranks)) for rank in range(ranks)]
    assert len({len(hand) for hand in hands}) == 1
    times = np.zeros(groups, dtype=int)
    for hand in hands:
        for place, whole in hand:
            times[place] += 1
            assert whole == (groups % ranks == 0)
    assert set(times) == {1 if groups % ranks == 0 else ranks}
