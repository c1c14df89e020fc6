from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch

from lensbench.scoring.extractors import INCEPTION_FILE, cache_folder, inception, not_scored
from lensbench.streams import numpy_stream


class _Layers(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.mean((2, 3)).repeat(1, 683)[:, :2048]


class _Stand(torch.nn.Module):
    """Has the outer form of the real file; its features are the mean colors, over and over."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = _Layers()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LENSBENCH_CACHE", str(tmp_path))
    return tmp_path


def test_an_absent_file_is_one_sentence_that_says_what_to_put_where(cache: Path) -> None:
    with pytest.raises(ValueError, match="put https://") as caught:
        inception()
    message = str(caught.value)
    assert str(cache / INCEPTION_FILE) in message
    assert "\n" not in message
    assert not_scored()[0] == message
    with pytest.raises(ValueError, match=r"elsewhere\.pt"):
        inception(cache / "elsewhere.pt")


def test_features_see_the_image_resized_and_scaled(cache: Path) -> None:
    path = cache / INCEPTION_FILE
    torch.jit.script(_Stand()).save(str(path))
    extractor = inception()
    images = numpy_stream(0, "test").integers(0, 256, (35, 24, 24, 3), dtype=np.uint8)
    features = extractor(images)
    assert features.shape == (35, 2048)
    assert features.dtype == np.float64
    np.testing.assert_allclose(features[:, :3], (images.mean((1, 2)) - 128) / 128, atol=0.02)
    assert extractor.digest == hashlib.sha256(path.read_bytes()).hexdigest()
    assert not any("FID" in reason for reason in not_scored())


def test_images_that_are_not_bytes_are_refused(cache: Path) -> None:
    torch.jit.script(_Stand()).save(str(cache / INCEPTION_FILE))
    with pytest.raises(ValueError, match="float64"):
        inception()(np.zeros((2, 8, 8, 3)))
    with pytest.raises(ValueError, match=r"\(2, 3, 8, 8\)"):
        inception()(np.zeros((2, 3, 8, 8), dtype=np.uint8))


def test_another_file_under_that_name_is_refused(cache: Path) -> None:
    (cache / INCEPTION_FILE).write_bytes(b"not weights")
    with pytest.raises(ValueError, match="not the TorchScript Inception"):
        inception()


def test_the_default_folder_is_in_the_home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LENSBENCH_CACHE", raising=False)
    assert cache_folder() == Path.home() / ".cache" / "lensbench"


def test_what_cannot_be_scored_is_one_sentence_each(cache: Path) -> None:
    for name, reason in zip(("FID", "GenEval", "CLIPScore"), not_scored(), strict=True):
        assert reason.startswith(name)
        assert reason.endswith(".")
        assert "\n" not in reason
