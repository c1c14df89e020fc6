"""Which images each step trains on, and in which size: a function of the seed, the images' sizes and the batch sizes.

Every image is visited once an epoch, each epoch in its own order. A visit joins the group of its size; a full group is
trained on in the order in which groups fill up, and what an epoch leaves over goes on into the next. A step is one
group, or several of whatever sizes. With one size that is plainly the epochs' orders one after the other.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from lensbench.streams import numpy_stream


class Group(NamedTuple):
    """Images (B,) that are seen together, in the size at place `size`."""

    size: int
    images: np.ndarray


class ImageOrder:
    """The groups of a run by number. Going back to an earlier group than the last begins anew, at a cost."""

    def __init__(self, seed: int, choices: np.ndarray, batches: Sequence[int]) -> None:
        """`choices` (images, sides): as in lensbench.data.buckets.Layout; `batches`: images of a group, by size."""
        assert (choices >= 0).any(axis=1).all(), "every image has a size"
        assert min(batches) >= 1
        self.seed, self.choices, self.batches = seed, choices, tuple(batches)
        self._begin()

    def group(self, number: int) -> Group:
        """The group of a number, from 0 on."""
        if number < self._first:
            self._begin()
        while number >= self._first + len(self._groups):
            self._next_epoch()
        return self._groups[number - self._first]

    def seen(self, groups: int) -> np.ndarray:
        """How many images the first `groups` groups have, by size: int64 (sizes,)."""
        counts = np.zeros(len(self.batches), dtype=np.int64)
        if len(self.batches) == 1:
            return counts + groups * self.batches[0]
        for number in range(groups):
            size = self.group(number).size
            counts[size] += self.batches[size]
        return counts

    def _begin(self) -> None:
        self._epoch = 0
        self._first = 0  # number of the first group in `_groups`
        self._groups: list[Group] = []
        self._left = [np.empty(0, dtype=np.int64) for _ in self.batches]  # visits that have not filled a group

    def _next_epoch(self) -> None:
        images = len(self.choices)
        order = numpy_stream(self.seed, "order", self._epoch).permutation(images)
        size_of = self._sizes()[order]
        filled: list[tuple[int, Group]] = []  # with the visit that filled it
        for size, batch in enumerate(self.batches):
            visits = np.flatnonzero(size_of == size)
            waiting = len(self._left[size])
            line = np.concatenate([self._left[size], order[visits]])
            full = len(line) // batch
            for n in range(full):
                last = int(visits[(n + 1) * batch - 1 - waiting])
                filled.append((last, Group(size, line[n * batch : (n + 1) * batch])))
            self._left[size] = line[full * batch :]
        self._first += len(self._groups)
        self._groups = [group for _, group in sorted(filled, key=lambda pair: pair[0])]
        self._epoch += 1

    def _sizes(self) -> np.ndarray:
        """The size of every image in this epoch, drawn among those it can be seen in: (images,)."""
        if self.choices.shape[1] == 1:
            return np.asarray(self.choices[:, 0])
        luck = numpy_stream(self.seed, "size", self._epoch).random(self.choices.shape)
        drawn = np.where(self.choices >= 0, luck, -1).argmax(axis=1)
        return np.asarray(self.choices[np.arange(len(drawn)), drawn])


def dealt(groups: Sequence[Group], rank: int, ranks: int) -> Iterator[tuple[int, bool]]:
    """The places among a step's groups that a rank trains on, and whether it takes them whole.

    Whole groups where every rank gets as many; else every rank takes its share of every group.
    """
    whole = len(groups) % ranks == 0
    for place in range(rank, len(groups), ranks) if whole else range(len(groups)):
        yield place, whole
