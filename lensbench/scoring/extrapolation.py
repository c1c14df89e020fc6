"""The Frechet distance of infinitely many drawn images: the intercept of a line through distances of fewer.

The distance of N images is too large by about c / N, with a c that differs by model (Chong and Forsyth 2020,
arXiv 1911.07023, section 3), so models may change places with N. What remains is the bias of the reference set.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from lensbench.scoring.frechet import Moments, frechet_distance
from lensbench.streams import numpy_stream

POINTS = 15


class Extrapolation(NamedTuple):
    """The intercept and slope of distance = value + slope / N, and how well the line fits.

    `residual` is the root mean square of the points' distances from the line (two degrees of freedom are its own), and
    `error` the intercept's standard error by it: too small, for the points share images.
    """

    value: float
    slope: float
    residual: float
    error: float
    r2: float
    sizes: tuple[int, ...]
    distances: tuple[float, ...]


def fewest_images(dimensions: int) -> int:
    """How many drawn images the line needs: its smallest subset must still have a covariance of full rank."""
    return 2 * (dimensions + 1)


def frechet_infinity(
    drawn: ArrayLike, mean: ArrayLike, covariance: ArrayLike, *, seed: int = 0, points: int = POINTS
) -> Extrapolation:
    """Extrapolate the distance of features (N, F) from a mean (F,) and covariance (F, F) to infinitely many images.

    `points` random subsets, their sizes evenly spaced from a tenth of the images, or more where that is too few for the
    dimensions, to all of them; a least-squares line in 1 / N. Raises ValueError below `fewest_images`.
    """
    rows = np.asarray(drawn)
    if rows.ndim != 2 or rows.shape[1] != len(np.atleast_1d(mean)):
        raise ValueError(f"features have shape {rows.shape} and the reference {len(np.atleast_1d(mean))} dimensions")
    if points < 3:
        raise ValueError(f"points={points}: a line with a residual needs at least 3")
    total, dimensions = rows.shape
    if total < fewest_images(dimensions):
        raise ValueError(
            f"{total:,} images are too few to extrapolate a distance of {dimensions:,} dimensions; "
            f"draw at least {fewest_images(dimensions):,}"
        )
    sizes = np.linspace(max(total // 10, dimensions + 1), total, points).astype(int)
    distances = np.empty(points)
    for i, size in enumerate(sizes):
        chosen = numpy_stream(seed, "frechet infinity", i).choice(total, size, replace=False)
        found = Moments().update(rows[np.sort(chosen)])
        distances[i] = frechet_distance(found.mean, found.covariance, mean, covariance)
    design = np.column_stack([np.ones(points), 1 / sizes])
    solution = np.linalg.lstsq(design, distances, rcond=None)[0]
    left = distances - design @ solution
    residual = float(np.sqrt((left**2).sum() / (points - 2)))
    error = residual * float(np.sqrt(np.linalg.inv(design.T @ design)[0, 0]))
    spread = float(((distances - distances.mean()) ** 2).sum())
    r2 = 1 - float((left**2).sum()) / spread if spread else float("nan")
    value, slope = (float(x) for x in solution)
    return Extrapolation(value, slope, residual, error, r2, tuple(map(int, sizes)), tuple(map(float, distances)))
