from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch

from lensbench.scoring import extractors
from lensbench.scoring.extractors import (
    INCEPTION_FILE,
    RESIZES,
    FunctionExtractor,
    Inception,
    cache_folder,
    features,
    inception,
    inception_missing,
    one_size,
)
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
    assert not inception_missing(None)


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


def _pictures(count: int, height: int, width: int) -> np.ndarray:
    return numpy_stream(1, "test").integers(0, 256, (count, height, width, 3), dtype=np.uint8)


class _CaughtError(Exception):
    pass


def test_torchmetrics_mode_gives_the_network_what_torchmetrics_does(
    inception_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its own forward, up to its first convolution: torch-fidelity, which has the layers, is not installed."""
    from torchmetrics.image import fid

    monkeypatch.setattr(fid, "vassert", lambda true, message: None)

    class Network:
        INPUT_IMAGE_SIZE = 299
        use_antialias = True

        def Conv2d_1a_3x3(self, x: torch.Tensor) -> torch.Tensor:  # noqa: N802
            raise _CaughtError(x)

    network = Network()
    network.features_list = ["64"]
    extractor = Inception(inception_file, resize="torchmetrics")
    for height, width in ((24, 40), (512, 400)):
        images = _pictures(2, height, width)
        with pytest.raises(_CaughtError) as caught:
            fid.NoTrainInceptionV3._torch_fidelity_forward(network, torch.from_numpy(images).permute(0, 3, 1, 2))
        theirs = caught.value.args[0]
        ours = np.stack([extractor.prepare(image) for image in images])
        np.testing.assert_allclose((ours - 128) / 128, theirs.permute(0, 2, 3, 1).numpy(), atol=1e-5)


def test_clean_and_tensorflow_modes_give_clean_fids_own_features(inception_file: Path) -> None:
    from cleanfid.inception_torchscript import InceptionV3W
    from cleanfid.resize import build_resizer

    images = _pictures(3, 90, 60)
    resized = np.stack([build_resizer("clean")(image) for image in images])
    with torch.inference_mode():
        clean = InceptionV3W(str(inception_file.parent), download=False)(torch.from_numpy(resized).permute(0, 3, 1, 2))
        inside = InceptionV3W(str(inception_file.parent), download=False, resize_inside=True)
        legacy = inside(torch.from_numpy(images).permute(0, 3, 1, 2).float())
    np.testing.assert_allclose(features(Inception(inception_file), images), clean.numpy(), atol=1e-5)
    found = features(Inception(inception_file, resize="tensorflow"), images)
    np.testing.assert_allclose(found, legacy.numpy(), atol=1e-5)


def test_pytorch_fid_mode_is_bilinear_without_antialias_and_standardized_about_127_5(inception_file: Path) -> None:
    """As pytorch-fid 0.3.0's InceptionV3.forward says: interpolate pictures in [0, 1], then 2 x - 1."""
    images = _pictures(2, 400, 360)
    extractor = Inception(inception_file, resize="pytorch-fid")
    x = torch.from_numpy(images).permute(0, 3, 1, 2) / 255
    x = 2 * torch.nn.functional.interpolate(x, size=(299, 299), mode="bilinear", align_corners=False) - 1
    network = torch.jit.load(str(inception_file))
    with torch.inference_mode():
        theirs = network.layers.forward(x).reshape(2, 2048).numpy()
    np.testing.assert_allclose(features(extractor, images), theirs, atol=1e-5)


def test_the_modes_differ_and_none_but_clean_is_called_inception(
    inception_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    digest = hashlib.sha256(inception_file.read_bytes()).hexdigest()
    images = _pictures(2, 500, 500)
    assert Inception(inception_file).name == f"inception_{digest[:8]}"  # other weights than those of 2015-12-05
    monkeypatch.setattr(extractors, "INCEPTION_DIGEST", digest)
    opened = {mode: Inception(inception_file, resize=mode) for mode in RESIZES}
    names = ["inception", "inception_torchmetrics", "inception_pytorch_fid", "inception_tensorflow"]
    assert [opened[mode].name for mode in RESIZES] == names
    found = [features(extractor, images) for extractor in opened.values()]
    for i, one in enumerate(found):
        for other in found[:i]:
            assert np.abs(one - other).max() > 1e-3


def test_pictures_of_several_sizes_are_resized_each_by_itself(inception_file: Path) -> None:
    small, large = _pictures(1, 20, 30)[0], _pictures(1, 40, 50)[0]
    extractor = Inception(inception_file)
    together = features(extractor, [small, large])
    np.testing.assert_allclose(together[1], features(extractor, [large])[0], atol=1e-6)
    with pytest.raises(ValueError, match=r"differ in size \(20x30, 40x50\)"):
        one_size([small, large], "mine")


@pytest.mark.parametrize("picture", [np.zeros((8, 8, 3)), np.zeros((8, 8, 4), np.uint8), [[0]]])
def test_what_is_not_bytes_in_three_channels_is_refused(inception_file: Path, picture: object) -> None:
    with pytest.raises(ValueError, match=r"a picture is uint8 \(H, W, 3\)"):
        features(Inception(inception_file), [picture])


def test_a_network_of_other_width_is_refused(tmp_path: Path) -> None:
    class Narrow(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = torch.nn.AdaptiveAvgPool2d(1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.layers(x)

    torch.jit.script(Narrow()).save(str(tmp_path / "narrow.pt"))
    with pytest.raises(ValueError, match="gives 3 features"):
        features(Inception(tmp_path / "narrow.pt"), _pictures(1, 8, 8))


def test_a_function_is_an_extractor_by_its_own_name() -> None:
    mean = FunctionExtractor("means", "v1", lambda images: images.mean((1, 2)), 3)
    images = _pictures(5, 8, 9)
    np.testing.assert_allclose(features(mean, images, batch=2), images.mean((1, 2)))
    with pytest.raises(ValueError, match=r"\(2, 3\) is needed"):
        features(FunctionExtractor("wrong", "v1", lambda images: images.mean((1, 2, 3)), 3), images[:2])
    with pytest.raises(ValueError, match="not 'inception'"):
        FunctionExtractor("inception", "v1", lambda images: images, 3)
