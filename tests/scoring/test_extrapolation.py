from __future__ import annotations

import numpy as np
import pytest

from lensbench.scoring.extrapolation import fewest_images, frechet_infinity
from lensbench.scoring.frechet import Moments, frechet_distance
from lensbench.streams import numpy_stream


def test_the_intercept_is_nearer_to_the_known_distance_than_that_of_all_images() -> None:
    """Gaussians apart by 0.5 in each of 32 dimensions: 8, and a bias that the line takes away."""
    errors, biases = [], []
    for seed in range(6):
        drawn = numpy_stream(seed, "test").standard_normal((600, 32)) + 0.5
        found = frechet_infinity(drawn, np.zeros(32), np.eye(32), seed=seed)
        seen = Moments().update(drawn)
        biases.append(frechet_distance(seen.mean, seen.covariance, np.zeros(32), np.eye(32)) - 8)
        errors.append(found.value - 8)
        assert found.slope > 0
        assert len(found.sizes) == 15
        assert (found.sizes[0], found.sizes[-1]) == (60, 600)
        assert found.r2 > 0.9
        assert 0 < found.error < 0.5
        assert 0 < found.residual < 1
    assert abs(np.mean(errors)) < 0.5 * np.mean(biases)


def test_the_fit_is_the_least_squares_line_through_its_points() -> None:
    drawn = numpy_stream(0, "test").standard_normal((300, 8))
    found = frechet_infinity(drawn, np.zeros(8), np.eye(8))
    slope, value = np.polyfit(1 / np.array(found.sizes), found.distances, 1)
    assert (found.value, found.slope) == pytest.approx((value, slope))
    line = value + slope / np.array(found.sizes)
    assert found.residual == pytest.approx(np.sqrt(((found.distances - line) ** 2).sum() / 13))
    assert frechet_infinity(drawn, np.zeros(8), np.eye(8)) == found
    assert frechet_infinity(drawn, np.zeros(8), np.eye(8), seed=1).value != found.value


def test_too_few_images_for_a_line_are_refused_with_the_number_needed() -> None:
    with pytest.raises(ValueError, match=f"at least {fewest_images(32)}"):
        frechet_infinity(np.zeros((fewest_images(32) - 1, 32)), np.zeros(32), np.eye(32))
    with pytest.raises(ValueError, match="dimensions"):
        frechet_infinity(np.zeros((100, 3)), np.zeros(32), np.eye(32))
