"""Curves that only fall, and where they reach a level: errors against a scale, nothing assumed but the direction."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]


def falling(values: ArrayLike) -> Floats:
    """The least-squares fit of `values` (..., K) that never rises, many curves at once.

    By the min-max formula of isotonic regression (Barlow et al. 1972, theorem 1.4), whose K^2 means are few for the
    points of a curve.
    """
    array = np.asarray(values, dtype=np.float64)
    k = array.shape[-1]
    sums = np.concatenate([np.zeros((*array.shape[:-1], 1)), np.cumsum(array, axis=-1)], axis=-1)
    first, last = np.arange(k)[:, None], np.arange(k)[None, :]
    means = (sums[..., None, 1:] - sums[..., :-1, None]) / np.maximum(last - first + 1, 1)  # (..., first, last)
    out = np.empty_like(array)
    for place in range(k):
        # falling: the smallest over starts of the largest over ends
        out[..., place] = means[..., : place + 1, place:].max(-1).min(-1)
    return out


def reach(curves: ArrayLike, log_x: ArrayLike, level: ArrayLike) -> Floats:
    """log x at which falling `curves` (D, K) over `log_x` (K,) first reach `level` (D,), straight between the points.

    -inf where a curve is there from its first point, +inf where it never gets there: nothing is extrapolated.
    """
    y, x, wanted = np.asarray(curves, dtype=float), np.asarray(log_x, dtype=float), np.asarray(level, dtype=float)
    there = y <= wanted[:, None]
    place = there.argmax(1)
    rows = np.arange(len(y))
    before, after = np.maximum(place - 1, 0), np.maximum(place, 1)
    high, low = y[rows, before], y[rows, after]
    part = np.divide(high - wanted, high - low, out=np.zeros_like(wanted), where=high > low)
    between = x[before] + part * (x[after] - x[before])
    found = np.where(place == 0, -np.inf, between)
    return np.where(there.any(1), found, np.inf)
