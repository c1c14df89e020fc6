from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import linalg

from lensbench.scoring import frechet
from lensbench.scoring.frechet import Moments, distance, frechet_distance
from lensbench.streams import numpy_stream


def _covariance(seed: int, size: int, rank: int) -> np.ndarray:
    factor = numpy_stream(seed, "test").standard_normal((size, rank))
    return factor @ factor.T / rank


@given(st.floats(-10, 10), st.floats(-10, 10), st.floats(0, 5), st.floats(0, 5))
def test_one_dimension_has_its_closed_form(mean_a: float, mean_b: float, sd_a: float, sd_b: float) -> None:
    found = frechet_distance([mean_a], [[sd_a**2]], [mean_b], [[sd_b**2]])
    assert found == pytest.approx((mean_a - mean_b) ** 2 + (sd_a - sd_b) ** 2, abs=1e-9)


def test_diagonal_covariances_have_their_closed_form() -> None:
    rng = numpy_stream(0, "test")
    mean_a, mean_b, sd_a, sd_b = rng.random((4, 20))
    found = frechet_distance(mean_a, np.diag(sd_a**2), mean_b, np.diag(sd_b**2))
    assert found == pytest.approx(((mean_a - mean_b) ** 2 + (sd_a - sd_b) ** 2).sum(), abs=1e-12)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.integers(2, 12))
def test_agrees_with_the_matrix_root_of_the_textbook(seed: int, size: int) -> None:
    a, b = _covariance(seed, size, 3 * size), _covariance(seed + 1, size, 3 * size)
    mean = np.zeros(size)
    expected = np.trace(a) + np.trace(b) - 2 * np.trace(linalg.sqrtm(a @ b)).real
    assert frechet_distance(mean, a, mean, b) == pytest.approx(expected, abs=1e-7)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 16), st.integers(1, 16))
def test_symmetric_zero_for_itself_and_unmoved_by_rotation_even_when_singular(seed: int, size: int, rank: int) -> None:
    rng = numpy_stream(seed, "means")
    mean_a, mean_b = rng.standard_normal((2, size))
    a, b = _covariance(seed, size, rank), _covariance(seed + 1, size, rank)
    there = frechet_distance(mean_a, a, mean_b, b)
    assert there == pytest.approx(frechet_distance(mean_b, b, mean_a, a), abs=1e-7)
    assert frechet_distance(mean_a, a, mean_a, a) == pytest.approx(0, abs=1e-7)
    turn = np.linalg.qr(rng.standard_normal((size, size)))[0]
    turned = frechet_distance(turn @ mean_a, turn @ a @ turn.T, turn @ mean_b, turn @ b @ turn.T)
    assert turned == pytest.approx(there, abs=1e-6)


def test_a_point_mass_is_as_far_as_the_trace() -> None:
    b = _covariance(1, 6, 20)
    assert frechet_distance(np.zeros(6), np.zeros((6, 6)), np.ones(6), b) == pytest.approx(6 + np.trace(b))


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(0, 9), min_size=1, max_size=6), st.integers(1, 5))
def test_moments_do_not_depend_on_the_batches_nor_on_a_large_offset(sizes: list[int], split: int) -> None:
    features = numpy_stream(0, "test").standard_normal((sum(sizes) + 2, 3)) + 1e6
    parts = np.split(features, np.cumsum(sizes))
    left, right = Moments(), Moments()
    for part in parts[:split]:
        left.update(part)
    for part in parts[split:]:
        right.update(part)
    merged = left.merge(right)
    assert merged.count == len(features)
    np.testing.assert_allclose(merged.mean, features.mean(0), rtol=1e-14)
    np.testing.assert_allclose(merged.covariance, np.cov(features.T), atol=1e-8)


def test_distance_of_features_is_that_of_their_moments_and_grows_with_the_shift() -> None:
    features = numpy_stream(0, "test").standard_normal((200, 8))
    assert distance(features, features) == pytest.approx(0, abs=1e-9)
    assert distance(features, features + 0.5) == pytest.approx(8 * 0.25, rel=1e-9)


def test_fewer_images_than_dimensions_are_warned_about() -> None:
    features = numpy_stream(0, "test").standard_normal((20, 20))
    with pytest.warns(UserWarning, match="20 dimensions from 20 and 20 images"):
        distance(features, features)


def test_what_cannot_be_compared_is_refused() -> None:
    eye = np.eye(3)
    with pytest.raises(ValueError, match="dimensions"):
        frechet_distance(np.zeros(3), eye, np.zeros(2), np.eye(2))
    with pytest.raises(ValueError, match="not finite"):
        frechet_distance(np.zeros(3), eye * np.nan, np.zeros(3), eye)
    with pytest.raises(ValueError, match="symmetric"):
        frechet_distance(np.zeros(2), [[1, 0.5], [0, 1]], np.zeros(2), np.eye(2))
    with pytest.raises(ValueError, match="at least two"):
        distance(np.zeros((1, 3)), np.zeros((5, 3)))
    with pytest.raises(ValueError, match="not finite"):
        distance(np.full((5, 3), np.inf), np.zeros((5, 3)))


def test_agrees_with_clean_fids_own_function(clean_fid) -> None:
    rng = numpy_stream(0, "test")
    for scale in (1, np.geomspace(1e-3, 1, 48)):
        a, b = rng.standard_normal((400, 48)) * scale, rng.standard_normal((300, 48)) * scale + 0.1
        assert distance(a, b) == pytest.approx(clean_fid.fid_from_feats(a, b), rel=1e-6)


def test_agrees_with_torchmetrics_on_any_extractor() -> None:
    """Its FrechetInceptionDistance takes a network of one's own."""
    import torch
    from torchmetrics.image.fid import FrechetInceptionDistance

    class Means(torch.nn.Module):
        num_features = 12

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.nn.functional.adaptive_avg_pool2d(x.double(), 2).flatten(1)

    drawn, real = torch.randint(0, 200, (2, 80, 3, 8, 8), generator=torch.Generator().manual_seed(0)).byte()
    theirs = FrechetInceptionDistance(feature=Means()).set_dtype(torch.float64)
    theirs.update(drawn, real=False)
    theirs.update(real, real=True)
    ours = distance(Means()(drawn).numpy(), Means()(real).numpy())
    assert ours == pytest.approx(float(theirs.compute()), rel=1e-6)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.integers(2, 12), st.floats(1e-9, 1e3))
def test_cholesky_and_singular_values_agree(seed: int, size: int, least: float) -> None:
    """One covariance is nearly singular, from where the one way is taken to where the other is."""
    a, b = _covariance(seed, size, 3 * size), _covariance(seed + 1, size, 1) + least * np.eye(size)
    mean = np.zeros(size)
    quick = frechet_distance(mean, a, mean, b)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(frechet, "_factor", lambda covariance: None)
        assert quick == pytest.approx(frechet_distance(mean, a, mean, b), rel=1e-7, abs=1e-7 * (1 + least))


def test_50_000_features_are_streamed_in_little_memory_and_sets_are_left_alone() -> None:
    import tracemalloc

    part = numpy_stream(0, "test").standard_normal((1000, 256)).astype(np.float32)
    tracemalloc.start()
    seen = Moments()
    for i in range(50):
        seen.update(part + i)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert seen.count == 50_000
    assert peak < 12 * 2**20  # the features themselves are 51 MB, a covariance half a MB
    other = Moments().update(part)
    before = other.scatter.copy()
    Moments().merge(other).merge(other)
    np.testing.assert_array_equal(other.scatter, before)


@pytest.mark.parametrize("least", [1e-2, 1e-6, 1e-8, 1e-12, 0.0])
def test_many_small_eigenvalues_do_not_add_up_to_noise(least: float) -> None:
    """Half the directions of A have almost no spread; that of 2 x is tr A away from x, in closed form."""
    turn = np.linalg.qr(numpy_stream(0, "test").standard_normal((400, 400)))[0]
    a = (turn * np.where(np.arange(400) < 200, least, 1.0)) @ turn.T
    mean = np.zeros(400)
    assert frechet_distance(mean, a, mean, 4 * a) == pytest.approx(np.trace(a), abs=2e-8)
