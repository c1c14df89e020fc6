"""The Frechet distance between two sets of image features, in float64.

The distance is named after its features: FID on Inception-v3 (2015-12-05) and on nothing else, FD-shapes on the
shapes judge. Its bias is about 1/N and differs by model, so compare distances at one N only.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]


def frechet_distance(mean_a: ArrayLike, covariance_a: ArrayLike, mean_b: ArrayLike, covariance_b: ArrayLike) -> float:
    """|mean_a - mean_b|^2 + tr(A + B - 2 (A^(1/2) B A^(1/2))^(1/2)) for means (F,) and covariances (F, F).

    The last trace is the sum of the roots of the eigenvalues of A B, in one of two ways that are real by construction:
    from the symmetric L' B L with A = L L' (Cholesky) where both covariances are safely of full rank, which is the
    quicker, else as the singular values of R' S, A = R R' and B = S S', where no root of rounding noise is taken.
    Dowson and Landau 1982; as FID, Heusel et al. 2017 (arXiv 1706.08500). Raises ValueError for shapes that do not
    fit, values that are not finite or a covariance that is not symmetric.
    """
    a, b = _checked(mean_a, covariance_a, "a"), _checked(mean_b, covariance_b, "b")
    if a[0].shape != b[0].shape:
        raise ValueError(f"features of {len(a[0])} and of {len(b[0])} dimensions; both sets need the same extractor")
    offset = a[0] - b[0]
    overlap = _overlap(a[1], b[1])
    distance = offset @ offset + np.trace(a[1]) + np.trace(b[1]) - 2 * overlap
    return max(float(distance), 0.0)


@dataclass
class Moments:
    """Count, mean (F,) and covariance (F, F) of features that arrive in batches; two of them merge, from whatever
    shard, process or file.

    Sums are of deviations from the running mean (Chan et al. 1983), so a large common offset costs no digits.
    """

    count: int = 0
    mean: Floats = field(default_factory=lambda: np.zeros(0))
    scatter: Floats = field(default_factory=lambda: np.zeros((0, 0)))  # sum of outer products of the deviations

    def update(self, features: ArrayLike) -> Moments:
        """Take in features (N, F); returns itself. Raises ValueError for another shape or values not finite."""
        batch = np.asarray(features, dtype=np.float64)
        if batch.ndim != 2:
            raise ValueError(f"features have shape {batch.shape}; (images, dimensions) is needed")
        if not np.isfinite(batch).all():
            raise ValueError("features are not finite; check the images and the extractor")
        if not len(batch):
            return self
        mean = batch.mean(0)
        centered = batch - mean
        return self.merge(Moments(len(batch), mean, centered.T @ centered))

    def merge(self, other: Moments) -> Moments:
        """Take in what another has seen; returns itself."""
        if not self.count:
            self.count, self.mean, self.scatter = other.count, other.mean.copy(), other.scatter.copy()
        elif other.count:
            if self.mean.shape != other.mean.shape:
                raise ValueError(f"features of {len(self.mean)} and of {len(other.mean)} dimensions do not merge")
            total = self.count + other.count
            offset = other.mean - self.mean
            self.scatter += other.scatter  # in place: a few of these matrices are most of the memory
            self.scatter += np.outer(offset * (self.count * other.count / total), offset)
            self.mean = self.mean + offset * (other.count / total)
            self.count = total
        return self

    @property
    def covariance(self) -> Floats:
        """(F, F), with N - 1 in the denominator. Raises ValueError below two images."""
        if self.count < 2:
            raise ValueError(f"{self.count} images have no covariance; give at least two")
        return self.scatter / (self.count - 1)

    @property
    def full_rank(self) -> bool:
        """Whether there are enough images for a covariance of full rank: more than dimensions."""
        return self.count > len(self.mean)


def distance(features_a: ArrayLike, features_b: ArrayLike) -> float:
    """The Frechet distance of features (N, F) and (M, F).

    Warns when a set has no more images than dimensions: its covariance is singular and the distance badly biased,
    fit for comparing models at that same N at most. Raises ValueError below two images or for features that differ
    in dimension.
    """
    a, b = Moments().update(features_a), Moments().update(features_b)
    value = frechet_distance(a.mean, a.covariance, b.mean, b.covariance)
    if not (a.full_rank and b.full_rank):
        warnings.warn(
            f"Frechet distance of {len(a.mean)} dimensions from {a.count} and {b.count} images: the covariance is "
            "singular; take more images than dimensions",
            stacklevel=2,
        )
    return value


def _checked(mean: ArrayLike, covariance: ArrayLike, name: str) -> tuple[Floats, Floats]:
    m = np.atleast_1d(np.asarray(mean, dtype=np.float64))
    c = np.atleast_2d(np.asarray(covariance, dtype=np.float64))
    if m.ndim != 1 or c.shape != (len(m), len(m)):
        raise ValueError(f"mean_{name} has shape {m.shape} and covariance_{name} {c.shape}; (F,) and (F, F) are needed")
    if not (np.isfinite(m).all() and np.isfinite(c).all()):
        raise ValueError(f"mean_{name} or covariance_{name} is not finite; check the features")
    apart = float(np.abs(c - c.T).max(initial=0))
    if apart > 1e-6 * float(np.abs(c).max(initial=0)):
        raise ValueError(f"covariance_{name} is not symmetric; it is not a covariance")
    return m, c if apart == 0 else (c + c.T) / 2


def _overlap(a: Floats, b: Floats) -> float:
    """The sum of the roots of the eigenvalues of A B."""
    from scipy import linalg

    factor = _factor(a)
    if factor is None or _factor(b) is None:
        return float(np.linalg.svd(_root(a).T @ _root(b), compute_uv=False).sum())
    # Products with a triangle, at half the work; of the result eigvalsh reads a triangle too.
    inner = linalg.blas.dtrmm(1.0, factor, b, side=1, lower=1)
    inner = linalg.blas.dtrmm(1.0, factor, inner, lower=1, trans_a=1, overwrite_b=1)
    values = linalg.eigvalsh(inner, check_finite=False, overwrite_a=True)
    return float(np.sqrt(np.maximum(values, 0.0)).sum())


def _factor(covariance: Floats) -> Floats | None:
    """The Cholesky factor; None for a covariance that is singular or so nearly that roots of its noise would count."""
    from scipy import linalg

    try:
        factor: Floats = linalg.cholesky(covariance, lower=True, check_finite=False)
    except linalg.LinAlgError:
        return None
    diagonal = np.diag(factor)
    return factor if float(diagonal.min()) > 1e-3 * float(diagonal.max()) else None


def _root(covariance: Floats) -> Floats:
    """R (F, rank) with R R' = covariance; eigenvalues that are rounding noise, which may be negative, count as zero."""
    values, vectors = np.linalg.eigh(covariance)
    kept = values > len(values) * np.finfo(np.float64).eps * max(float(values[-1]), 0.0)
    root: Floats = vectors[:, kept] * np.sqrt(values[kept])
    return root
