"""Precision, recall, density and coverage: how much of each set lies within the other's nearest-neighbor balls.

Improved precision and recall, k = 3: Kynkaanniemi et al. 2019 (arXiv 1904.06991, section 3). Density and coverage,
k = 5: Naeem et al. 2020 (arXiv 2002.09797, section 3). All four depend on how many images each set has.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

PRECISION_K, DENSITY_K = 3, 5
FEWEST = DENSITY_K + 1
_BLOCK = 1024

Rows = NDArray[np.float32]


class Neighborhoods(NamedTuple):
    """Shares of the drawn (precision) and real (recall, coverage) images; density's mean is 1 for one distribution."""

    precision: float
    recall: float
    density: float
    coverage: float


def neighborhoods(drawn: ArrayLike, real: ArrayLike) -> Neighborhoods:
    """The four numbers for features (N, F) of drawn and (M, F) of real images.

    Distances are computed in blocks, so memory is a block times N. Raises ValueError below six images or for features
    that do not fit.
    """
    x, y = _centered(drawn, real)
    x_radius = _radii(x)[0]
    y_small, y_large = _radii(y)
    precise, dense, recalled, covered = 0, 0, 0, 0
    reached = np.zeros(len(y), dtype=bool)
    nearest = np.full(len(y), np.inf, dtype=np.float32)
    for squares in _blocks(x, y):  # (b, M), drawn by rows
        rows = len(squares)
        precise += int((squares <= y_small).any(1).sum())
        dense += int((squares <= y_large).sum())
        reached |= (squares <= x_radius[:rows, None]).any(0)
        x_radius = x_radius[rows:]
        np.minimum(nearest, squares.min(0), out=nearest)
    recalled, covered = int(reached.sum()), int((nearest <= y_large).sum())
    return Neighborhoods(precise / len(x), recalled / len(y), dense / (DENSITY_K * len(x)), covered / len(y))


def _centered(drawn: ArrayLike, real: ArrayLike) -> tuple[Rows, Rows]:
    x, y = (np.asarray(side, dtype=np.float64) for side in (drawn, real))
    if x.ndim != 2 or y.ndim != 2 or x.shape[1] != y.shape[1]:
        raise ValueError(f"features have shapes {x.shape} and {y.shape}; (N, F) and (M, F) are needed")
    if min(len(x), len(y)) < FEWEST:
        raise ValueError(f"{len(x)} and {len(y)} images have no {DENSITY_K} neighbors each; give at least {FEWEST}")
    if not (np.isfinite(x).all() and np.isfinite(y).all()):
        raise ValueError("features are not finite; check the images and the extractor")
    middle = y.mean(0)  # a large common offset would cost the distances their digits
    return (x - middle).astype(np.float32), (y - middle).astype(np.float32)


def _blocks(x: Rows, y: Rows) -> Iterator[Rows]:
    """Squared distances (b, M) of blocks of `x` from all of `y`."""
    y_squares = np.einsum("mf,mf->m", y, y)
    for start in range(0, len(x), _BLOCK):
        part = x[start : start + _BLOCK]
        squares = part @ y.T
        squares *= -2
        squares += y_squares
        squares += np.einsum("nf,nf->n", part, part)[:, None]
        yield np.maximum(squares, 0, out=squares)


def _radii(rows: Rows) -> tuple[Rows, Rows]:
    """Squared distances of each row from its third and from its fifth neighbor."""
    small, large = np.empty(len(rows), dtype=np.float32), np.empty(len(rows), dtype=np.float32)
    start = 0
    for squares in _blocks(rows, rows):
        stop = start + len(squares)
        squares[np.arange(len(squares)), np.arange(start, stop)] = np.inf  # not a neighbor of itself
        nearest = np.partition(squares, (PRECISION_K - 1, DENSITY_K - 1), axis=1)
        small[start:stop], large[start:stop] = nearest[:, PRECISION_K - 1], nearest[:, DENSITY_K - 1]
        start = stop
    return small, large
