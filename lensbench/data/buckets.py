"""The sizes that Lens is trained and sampled at: three areas times nine aspect ratios, with sides of whole tokens.

Source: arXiv 2605.21573, stage 2 of its training. It gives areas and ratios; here a side is the multiple of the stride
nearest to the exact side. Any other size of whole tokens can be drawn as well, and any areas and ratios be trained at.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

SIDES = (512, 768, 1024)  # of the squares with the buckets' areas, in pixels
RATIOS = ("1:2", "9:16", "2:3", "3:4", "1:1", "4:3", "3:2", "16:9", "2:1")  # width:height
STRIDE = 16  # pixels from one token to the next with Lens's autoencoder


class Size(NamedTuple):
    """A picture's size in pixels."""

    height: int
    width: int


def bucket(side: int, ratio: str = "1:1", stride: int = STRIDE) -> Size:
    """The size with the area of a square of `side` pixels and the aspect `ratio` (width:height, one of `RATIOS`).

    Raises ValueError for a side that is not whole tokens and for a ratio that Lens does not have.
    """
    _check_side("size", side, stride)
    if ratio not in RATIOS:
        raise ValueError(
            f"ratio={ratio!r}: must be one of {', '.join(RATIOS)} (width:height); or give height and width"
        )
    return _sized(side, ratio, stride)


def buckets(stride: int = STRIDE) -> list[Size]:
    """The 27 sizes of Lens's training, area by area, from the tallest to the widest."""
    return [bucket(side, ratio, stride) for side in SIDES for ratio in RATIOS]


class Layout(NamedTuple):
    """In which sizes a corpus is trained.

    `choices` (images, sides) is, for each image and each side, the size that it is seen in, a place in `sizes`, or -1
    where it is not seen at that area. `side_of` is, for each size, the side (its place among them) whose area it has.
    """

    sizes: tuple[Size, ...]
    side_of: tuple[int, ...]
    choices: np.ndarray


def layout(native: np.ndarray, sides: Sequence[int], ratios: Sequence[str], stride: int) -> Layout:
    """The sizes of images whose own are `native` (images, 2), height and width in pixels.

    An image keeps the ratio nearest to its own, by the logarithm, and is seen at every area that is no larger than its
    own, at the smallest at least. Sizes that no image has are left out.
    """
    exact = np.log([wide / tall for wide, tall in map(_parts, ratios)])
    own = np.log(native[:, 1] / native[:, 0])
    nearest = np.abs(own[:, None] - exact[None]).argmin(axis=1)
    named = [(place, _sized(side, ratio, stride)) for place, side in enumerate(sides) for ratio in ratios]
    every = list(dict.fromkeys(named))  # near ratios of a small area can be one size
    same = np.array([every.index(one) for one in named])
    found = same[len(ratios) * np.arange(len(sides))[None] + nearest[:, None]]
    areas = np.array([size.height * size.width for _, size in every])
    too_large = areas[found] > native.prod(axis=1, dtype=np.int64)[:, None]
    too_large[:, int(np.argmin(sides))] = False
    used = np.unique(found[~too_large])
    places = np.full(len(every), -1)
    places[used] = np.arange(len(used))
    sizes = tuple(every[i][1] for i in used)
    return Layout(sizes, tuple(every[i][0] for i in used), np.where(too_large, -1, places[found]))


def checked_size(height: int, width: int, stride: int) -> Size:
    """The size, whatever its area and ratio. Raises ValueError for a side that is not whole tokens."""
    _check_side("height", height, stride)
    _check_side("width", width, stride)
    return Size(height, width)


def _sized(side: int, ratio: str, stride: int) -> Size:
    wide, tall = _parts(ratio)
    height, width = side * math.sqrt(tall / wide), side * math.sqrt(wide / tall)
    return Size(*(max(1, int(exact / stride + 0.5)) * stride for exact in (height, width)))


def _parts(ratio: str) -> tuple[int, int]:
    wide, tall = map(int, ratio.split(":"))
    return wide, tall


def _check_side(name: str, pixels: int, stride: int) -> None:
    if pixels < stride or pixels % stride:
        below = pixels // stride * stride
        near = " or ".join(str(side) for side in (below, below + stride) if side >= stride)
        raise ValueError(f"{name}={pixels}: must be a multiple of {stride} pixels, which is one token; try {near}")
