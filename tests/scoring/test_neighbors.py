from __future__ import annotations

import numpy as np
import pytest

from lensbench.scoring import neighbors
from lensbench.scoring.neighbors import neighborhoods
from lensbench.streams import numpy_stream


def _plain(drawn: np.ndarray, real: np.ndarray) -> tuple[float, float, float, float]:
    """The definitions, distance by distance."""

    def distances(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        return np.sqrt(((x[:, None] - y[None]) ** 2).sum(-1))

    def radius(x: np.ndarray, k: int) -> np.ndarray:
        return np.sort(distances(x, x), axis=1)[:, k]  # the nearest is itself

    cross = distances(drawn, real)
    precision = (cross <= radius(real, 3)).any(1).mean()
    recall = (cross <= radius(drawn, 3)[:, None]).any(0).mean()
    density = (cross <= radius(real, 5)).sum() / (5 * len(drawn))
    coverage = (cross.min(0) <= radius(real, 5)).mean()
    return precision, recall, density, coverage


@pytest.mark.parametrize(("shift", "scale"), [(0, 1), (1, 1), (0, 0.3), (100, 1)])
def test_agrees_with_the_definitions_in_blocks_of_any_size(
    shift: float, scale: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = numpy_stream(0, "test")
    drawn, real = rng.standard_normal((90, 4)) * scale + shift, rng.standard_normal((70, 4))
    expected = _plain(drawn, real)
    assert neighborhoods(drawn, real) == pytest.approx(expected, abs=1e-9)
    monkeypatch.setattr(neighbors, "_BLOCK", 7)
    assert neighborhoods(drawn, real) == pytest.approx(expected, abs=1e-9)
    assert neighborhoods(drawn + 1e4, real + 1e4) == pytest.approx(expected, abs=0.05)  # a common offset


def test_modes_left_out_cost_recall_and_coverage_and_outliers_cost_precision() -> None:
    rng = numpy_stream(1, "test")
    real = np.concatenate([rng.standard_normal((200, 3)), rng.standard_normal((200, 3)) + 50])
    one_mode = rng.standard_normal((400, 3))
    found = neighborhoods(one_mode, real)
    assert found.precision > 0.9
    assert found.recall < 0.6
    assert found.coverage < 0.6
    far = neighborhoods(rng.standard_normal((400, 3)) + 500, real)
    assert (far.precision, far.density, far.coverage) == (0, 0, 0)
    same = neighborhoods(real[::2], real[1::2])
    assert same.density == pytest.approx(1, abs=0.15)


def test_too_few_images_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 6"):
        neighborhoods(np.zeros((5, 2)), np.zeros((9, 2)))
    with pytest.raises(ValueError, match=r"\(N, F\)"):
        neighborhoods(np.zeros((9, 2)), np.zeros((9, 3)))
