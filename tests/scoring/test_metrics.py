"""What can be asked for, what it is then called, and when it is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from lensbench.metrics import MEASURES
from lensbench.scoring import metrics
from lensbench.scoring.extractors import FunctionExtractor, features
from lensbench.scoring.feature_pass import extract, in_two
from lensbench.scoring.frechet import Moments
from lensbench.scoring.images_folder import open_images, read_image
from lensbench.scoring.metrics import Wanted, check, metric_of, open_extractor, parse, register
from tests.scoring.conftest import save_pictures


def test_published_names_and_measures_of_any_extractor_can_be_asked_for() -> None:
    for text in (
        "fid, kid,fd:dinov2,fd_dinov2,clip_score:clip-l14",
        "fid, kid,fd:dinov2,fd-dinov2,clip-score:clip-l14",
    ):
        assert parse(text) == [
            Wanted("fd", "inception"),
            Wanted("kd", "inception"),
            Wanted("fd", "dinov2"),
            Wanted("clip_score", "clip-l14"),
        ]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("fido", "no metric 'fido'"),
        ("", "no metric ''"),
        ("fd:vgg", "no extractor 'vgg'"),
        ("clip-score:dinov2", "CLIP"),
    ],
)
def test_what_there_is_not_is_one_line(text: str, said: str) -> None:
    with pytest.raises(ValueError, match=said) as raised:
        parse(text)
    assert "\n" not in str(raised.value)


def test_a_published_name_is_for_the_published_extractor_alone() -> None:
    assert metric_of("fd", "inception").name == "fid"
    for other in ("inception_77371f20", "inception_torchmetrics", "dinov2_24x2", "shapes", "clip_vit_l14"):
        for measure in ("fd", "kd", "mmd", "fd_infinity"):
            assert metric_of(measure, other).name not in ("fid", "kid", "cmmd", "fid_infinity", "fd_dinov2")
    assert metric_of("fd", "dinov2_vitl14").name == "fd_dinov2"
    assert metric_of("fd_infinity", "dinov2_24x2").name == "fd_infinity_dinov2_24x2"
    assert metric_of("mmd", "clip_vit_l14_336").name == "cmmd"


def test_an_extractor_of_ones_own_can_be_asked_for_and_passes_for_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "EXTRACTORS", dict(metrics.EXTRACTORS))
    mine = FunctionExtractor("means", "v1", lambda images: images.mean((1, 2)), 3)
    register("mine", mine)
    assert parse("fd:mine") == [Wanted("fd", "mine")]
    assert open_extractor("mine", {}, "cpu", "clean") is mine
    with pytest.raises(ValueError, match="taken are"):
        register("mine", mine)
    for known in ("dinov2_vitl14", "shapes"):
        with pytest.raises(ValueError, match="as a published one is"):
            register("sly", FunctionExtractor(known, "v1", lambda images: images, 3))


@pytest.mark.parametrize(
    ("measure", "refused", "doubtful", "fine"), [("fd", 512, 2048, 2049), ("kd", 19, 999, 1000), ("prdc", 5, 999, 1000)]
)
def test_few_images_are_refused_or_warned_about_on_either_side(
    measure: str, refused: int, doubtful: int, fine: int
) -> None:
    of = MEASURES[measure]
    for sides in (lambda n: (n, fine), lambda n: (fine, n)):
        with pytest.raises(ValueError, match=f"{refused:,}.* pictures"):
            check(of, *sides(refused), 2048)
        check(of, *sides(refused + 1), 2048)
        assert len(check(of, *sides(doubtful), 2048)) == 1
    assert check(of, fine, fine, 2048) == []
    assert check(of, fine, None, 2048) == []


def test_fd_infinity_says_how_many_it_needs() -> None:
    of = MEASURES["fd_infinity"]
    with pytest.raises(ValueError, match="at least 4,098"):
        check(of, 4097, 50_000, 2048)
    assert check(of, 4098, 50_000, 2048) == []


def test_shapes_features_are_those_of_the_judge(tmp_path: Path) -> None:
    from lensbench.scoring.detectors import ShapesJudge

    pictures = np.random.default_rng(0).integers(0, 256, (3, 48, 48, 3), dtype=np.uint8)
    extractor = open_extractor("shapes", {}, "cpu", "clean")
    expected = ShapesJudge.load().features(torch.from_numpy(pictures).permute(0, 3, 1, 2) / 255)
    np.testing.assert_allclose(features(extractor, pictures), expected, atol=1e-6)
    with pytest.raises(ValueError, match="squares, not at 20x10"):
        extractor.prepare(np.zeros((10, 20, 3), np.uint8))


@pytest.mark.parametrize(("batch", "workers"), [(1, 1), (7, 3), (64, 2)])
def test_a_pass_gives_the_features_of_every_picture_in_order(tmp_path: Path, batch: int, workers: int) -> None:
    images = open_images(save_pictures(tmp_path, 23, seed=0))
    mean = FunctionExtractor("means", "v1", lambda pictures: pictures.mean((1, 2)), 3)
    spread = FunctionExtractor("spreads", "v1", lambda pictures: pictures.std((1, 2)), 3)
    told: list[tuple[int, int]] = []
    found = extract(
        images,
        {"a": mean, "b": spread},
        keep=frozenset(["a"]),
        batch=batch,
        workers=workers,
        report=lambda done, total: told.append((done, total)),
    )
    pixels = np.stack([read_image(path) for path in images.files])
    np.testing.assert_allclose(found["a"].rows, pixels.mean((1, 2)), rtol=1e-6)
    assert found["b"].rows is None
    np.testing.assert_allclose(found["b"].whole().covariance, np.cov(pixels.std((1, 2)).T), rtol=1e-6)
    second = in_two(23, 0)
    for half in (0, 1):
        part = found["a"].half(half)
        assert part.count == (12, 11)[half]
        assert part.rows is not None
        expected = Moments().update(pixels[second == bool(half)].mean((1, 2)))
        np.testing.assert_allclose(part.mean, expected.mean)
        np.testing.assert_allclose(part.rows.mean(0), part.mean, rtol=1e-6)
    assert told[-1] == (23, 23)


def test_floats_that_were_cast_to_bytes_are_refused(tmp_path: Path) -> None:
    from PIL import Image

    for i in range(4):
        ones = np.random.default_rng(i).integers(0, 2, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(ones).save(tmp_path / f"{i}.png")
    mean = FunctionExtractor("means", "v1", lambda pictures: pictures.mean((1, 2)), 3)
    with pytest.raises(ValueError, match=r"zeros and ones alone: floats in \[0, 1\]"):
        extract(open_images(tmp_path), {"a": mean})


def test_pictures_of_several_sizes_and_a_function_that_does_not_resize(tmp_path: Path) -> None:
    save_pictures(tmp_path / "a", 2, seed=0)
    save_pictures(tmp_path / "b", 2, seed=1, side=32)
    mean = FunctionExtractor("means", "v1", lambda pictures: pictures.mean((1, 2)), 3)
    with pytest.raises(ValueError, match="a does not resize and the pictures differ in size"):
        extract(open_images(tmp_path), {"a": mean})
