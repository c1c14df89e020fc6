"""Maximum mean discrepancies between two sets of features: the kernel distance of KID, and that of CMMD.

Unlike Frechet's, these distances do not assume Gaussians, and KID's estimate is unbiased whatever the number of images.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lensbench.streams import numpy_stream

SUBSETS, SUBSET_SIZE = 100, 1000  # as KID is computed by its authors and by clean-fid
CMMD_SIGMA, CMMD_SCALE = 10.0, 1000.0
_BLOCK = 2048  # rows of a kernel matrix at a time
_WHOLE = 3000  # images up to which the whole kernel matrix is computed once, and subsets are taken from it


class KernelDistance(NamedTuple):
    """The mean over subsets, its standard deviation over them (NaN where there is but one), and how they were drawn."""

    value: float
    spread: float
    subsets: int
    subset_size: int


def kernel_distance(a: ArrayLike, b: ArrayLike, *, seed: int = 0) -> KernelDistance:
    """The squared MMD with the cubic kernel (x'y / F + 1)^3 of features (N, F) and (M, F), unbiased.

    The mean over 100 pairs of subsets of 1,000 images, or of as many as the smaller set has, drawn by `seed` without
    replacement; where both sets have no more, the one pair of whole sets. KID on Inception's features (Binkowski et al.
    2018, arXiv 1801.01401, section 4). The spread is that of subsets: it says how well the mean is averaged, not how it
    would vary with other images. Raises ValueError below two images or for features that do not fit.
    """
    x, y = _pair(a, b)
    size = min(SUBSET_SIZE, len(x), len(y))
    count = 1 if size == len(x) == len(y) else SUBSETS
    values = np.empty(count)
    whole = (_cubic(x, x), _cubic(y, y), _cubic(x, y)) if max(len(x), len(y)) <= _WHOLE else None
    for i in range(count):
        rng = numpy_stream(seed, "kernel distance", i)
        of_x, of_y = (rng.choice(len(side), size, replace=False) for side in (x, y))
        if whole is None:
            values[i] = _unbiased(_cubic(x[of_x], x[of_x]), _cubic(y[of_y], y[of_y]), _cubic(x[of_x], y[of_y]))
        else:
            values[i] = _unbiased(whole[0][of_x][:, of_x], whole[1][of_y][:, of_y], whole[2][of_x][:, of_y])
    return KernelDistance(float(values.mean()), float(values.std()) if count > 1 else float("nan"), count, size)


def cmmd(a: ArrayLike, b: ArrayLike) -> float:
    """1,000 times the squared MMD with the kernel exp(-|x - y|^2 / (2 * 10^2)) of features (N, F) and (M, F).

    The estimate with the diagonals, so never negative, and 0 for equal sets, as CMMD's authors compute it on CLIP
    embeddings of length 1 (Jayasumana et al. 2024, arXiv 2401.09603, section 5). Raises ValueError as above.
    """
    x, y = (half.astype(np.float64) for half in _pair(a, b))
    return CMMD_SCALE * max(_rbf_mean(x, x) + _rbf_mean(y, y) - 2 * _rbf_mean(x, y), 0.0)


def _pair(a: ArrayLike, b: ArrayLike) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    x, y = (np.asarray(side, dtype=np.float32) for side in (a, b))
    if x.ndim != 2 or y.ndim != 2 or x.shape[1] != y.shape[1]:
        raise ValueError(f"features have shapes {x.shape} and {y.shape}; (N, F) and (M, F) are needed")
    if min(len(x), len(y)) < 2:
        raise ValueError(f"{len(x)} and {len(y)} images have no kernel distance; give at least two of each")
    if not (np.isfinite(x).all() and np.isfinite(y).all()):
        raise ValueError("features are not finite; check the images and the extractor")
    return x, y


def _cubic(x: NDArray[np.float32], y: NDArray[np.float32]) -> NDArray[np.float64]:
    kernel = (x @ y.T).astype(np.float64)
    kernel /= x.shape[1]
    kernel += 1
    kernel *= kernel * kernel
    return kernel


def _unbiased(xx: NDArray[np.float64], yy: NDArray[np.float64], xy: NDArray[np.float64]) -> float:
    m = len(xx)
    within = sum(float(kernel.sum() - np.trace(kernel)) for kernel in (xx, yy))
    return within / (m * (m - 1)) - 2 * float(xy.mean())


def _rbf_mean(x: NDArray[np.float64], y: NDArray[np.float64]) -> float:
    total, y_squares = 0.0, (y**2).sum(1)
    for start in range(0, len(x), _BLOCK):
        part = x[start : start + _BLOCK]
        squares = (part**2).sum(1)[:, None] + y_squares - 2 * part @ y.T
        total += float(np.exp(squares / (-2 * CMMD_SIGMA**2)).sum())
    return total / (len(x) * len(y))
