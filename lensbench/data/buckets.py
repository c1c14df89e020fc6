"""The sizes that Lens is trained and sampled at: three areas times nine aspect ratios, with sides of whole tokens.

Source: arXiv 2605.21573, stage 2 of its training. It gives areas and ratios; here a side is the multiple of the stride
nearest to the exact side. Any other size of whole tokens can be drawn as well.
"""

from __future__ import annotations

import math
from typing import NamedTuple

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
    wide, tall = map(int, ratio.split(":"))
    height, width = side * math.sqrt(tall / wide), side * math.sqrt(wide / tall)
    return Size(*(max(1, int(exact / stride + 0.5)) * stride for exact in (height, width)))


def buckets(stride: int = STRIDE) -> list[Size]:
    """The 27 sizes of Lens's training, area by area, from the tallest to the widest."""
    return [bucket(side, ratio, stride) for side in SIDES for ratio in RATIOS]


def checked_size(height: int, width: int, stride: int) -> Size:
    """The size, whatever its area and ratio. Raises ValueError for a side that is not whole tokens."""
    _check_side("height", height, stride)
    _check_side("width", width, stride)
    return Size(height, width)


def _check_side(name: str, pixels: int, stride: int) -> None:
    if pixels < stride or pixels % stride:
        below = pixels // stride * stride
        near = " or ".join(str(side) for side in (below, below + stride) if side >= stride)
        raise ValueError(f"{name}={pixels}: must be a multiple of {stride} pixels, which is one token; try {near}")
