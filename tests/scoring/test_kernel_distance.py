from __future__ import annotations

import numpy as np
import pytest
import torch
from torchmetrics.image.kid import poly_mmd

from lensbench.scoring import kernel_distance as module
from lensbench.scoring.kernel_distance import cmmd, kernel_distance
from lensbench.streams import numpy_stream


def _gaussians(count: int, dimensions: int, *, seed: int, shift: float = 0.0) -> np.ndarray:
    return (numpy_stream(seed, "test").standard_normal((count, dimensions)) + shift).astype(np.float32)


def test_whole_sets_give_torchmetrics_unbiased_estimate() -> None:
    a, b = _gaussians(60, 16, seed=0), _gaussians(60, 16, seed=1, shift=0.3)
    found = kernel_distance(a, b)
    assert found.value == pytest.approx(float(poly_mmd(torch.from_numpy(a), torch.from_numpy(b))), rel=1e-4)
    assert (found.subsets, found.subset_size) == (1, 60)
    assert np.isnan(found.spread)


def test_subsets_are_the_same_whether_or_not_the_whole_kernel_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = _gaussians(1100, 8, seed=0), _gaussians(1300, 8, seed=1, shift=0.1)
    monkeypatch.setattr(module, "SUBSETS", 4)
    whole = kernel_distance(a, b, seed=3)
    monkeypatch.setattr(module, "_WHOLE", 0)
    apart = kernel_distance(a, b, seed=3)
    assert whole.subset_size == 1000
    assert apart == pytest.approx(whole, rel=1e-6)
    assert kernel_distance(a, b, seed=4).value != apart.value


def test_it_is_unbiased_where_there_is_no_difference_however_few_the_images(monkeypatch: pytest.MonkeyPatch) -> None:
    values = [
        kernel_distance(_gaussians(30, 8, seed=2 * i), _gaussians(30, 8, seed=2 * i + 1)).value for i in range(400)
    ]
    assert abs(np.mean(values)) < 4 * np.std(values) / 20
    assert min(values) < 0 < max(values)


def test_kid_agrees_with_clean_fid(clean_fid) -> None:
    a, b = _gaussians(80, 16, seed=0), _gaussians(80, 16, seed=1, shift=0.3)
    assert kernel_distance(a, b).value == pytest.approx(clean_fid.kernel_distance(a, b, num_subsets=1), rel=1e-4)


def test_cmmd_is_the_plain_double_sum_and_zero_for_equal_sets() -> None:
    a, b = _gaussians(40, 5, seed=0) * 6, _gaussians(70, 5, seed=1) * 6 + 3

    def mean(x: np.ndarray, y: np.ndarray) -> float:
        return float(np.mean([np.exp(-((u - v) ** 2).sum() / 200) for u in x.astype(float) for v in y.astype(float)]))

    assert cmmd(a, b) == pytest.approx(1000 * (mean(a, a) + mean(b, b) - 2 * mean(a, b)), rel=1e-9)
    assert cmmd(a, a) == pytest.approx(0, abs=1e-9)


def test_what_has_no_kernel_distance_is_refused() -> None:
    for function in (kernel_distance, cmmd):
        with pytest.raises(ValueError, match="at least two"):
            function(np.zeros((1, 3)), np.zeros((5, 3)))
        with pytest.raises(ValueError, match=r"\(N, F\) and \(M, F\)"):
            function(np.zeros((4, 3)), np.zeros((5, 2)))
        with pytest.raises(ValueError, match="not finite"):
            function(np.full((4, 3), np.nan), np.zeros((5, 3)))
