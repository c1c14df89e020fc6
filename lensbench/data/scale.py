"""Which images of a corpus a data scale holds: the first ones, or those that a seed draws.

A seed puts all training images into an order of its own and a data scale holds the first of them, so of two scales with
one seed the larger holds the smaller. The order knows the seed and the corpus, never the arm.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lensbench.streams import numpy_stream

STREAM = "images"
BLOCK = 4096  # places that are drawn at a time


def held(keys: Sequence[str], images: int, seed: int | None) -> list[str]:
    """At most `images` of `keys`: the first, or the first in the order of a seed."""
    if seed is None or images >= len(keys):
        return list(keys[:images])
    return [keys[place] for place in numpy_stream(seed, STREAM).permutation(len(keys))[:images]]


def drawn_places(seed: int, count: int, of: int) -> np.ndarray:
    """The first `count` of an endless draw of distinct places below `of`, which is far larger: int64 (count,).

    No list of `of` places is made.
    """
    assert 2 * count <= of, "most draws find a place that is free"
    rng = numpy_stream(seed, STREAM)
    drawn = np.empty(0, dtype=np.int64)
    while len(drawn) < count:
        blocks = 1 + (count - len(drawn)) // BLOCK
        drawn = np.concatenate([drawn, *(rng.integers(of, size=BLOCK) for _ in range(blocks))])
        _, first = np.unique(drawn, return_index=True)
        drawn = drawn[np.sort(first)]
    return drawn[:count]


def held_by_some(images: int, of: int, seeds: int) -> int:
    """How many images of a corpus of `of` are expected to be held by at least one of so many seeds."""
    if images >= of:
        return of
    return round(of * (1 - (1 - images / of) ** seeds))
