"""Images in the sizes they are trained in, from every kind of corpus."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from lensbench.data.buckets import Size
from lensbench.data.corpus import Corpus, open_corpus
from lensbench.data.importing import Asked, import_corpus
from lensbench.data.latents import Latents, PatchedImages
from lensbench.data.sized import SizedLatents, encode_sizes
from lensbench.experiment import Buckets, Experiment, FolderCorpus
from lensbench.model.autoencoder import Pixels, open_autoencoder

EXPERIMENT = Experiment().replace({"corpus.size_px": 32, "model.patch_size": 4, "images": 40})
SHAPES = [(64, 64), (40, 80), (80, 40), (30, 30), (96, 54), (16, 20)]  # height, width


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    for n in range(24):
        height, width = SHAPES[n % len(SHAPES)]
        pixels = np.random.default_rng(n).integers(0, 256, (height, width, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{n}.png")
        (folder / f"{n}.alt.txt").write_text(f"picture {n}")
    return folder


@pytest.fixture(scope="module", params=["folder", "imported"])
def corpus(request: pytest.FixtureRequest, pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    path = pictures
    if request.param == "imported":
        path = tmp_path_factory.mktemp("imported") / "corpus"
        import_corpus(Asked(str(pictures), "folder"), path, workers=1, report=lambda done, total: None)
    config = FolderCorpus(path=path, size_px=32, caption_sets=("alt",), short_prompts="alt", detailed_prompts="alt")
    return open_corpus(config, 40)


def encoded(corpus: Corpus, buckets: Buckets | None) -> Latents | SizedLatents:
    experiment = EXPERIMENT.replace({"training.buckets": buckets})
    pixels = open_autoencoder(experiment.autoencoder, experiment.model.patch_size)
    assert isinstance(pixels, Pixels)

    def encode(keys: Sequence[str], size: Size | None) -> Latents:
        return PatchedImages(corpus.images(list(keys), size), pixels)

    return encode_sizes(experiment, corpus, encode)


def test_every_image_in_its_sizes(corpus: Corpus) -> None:
    found = encoded(corpus, Buckets(sides=(32, 48), ratios=("1:2", "9:16", "1:1", "16:9", "2:1")))
    assert isinstance(found, SizedLatents)
    assert len(found) == len(corpus.train_keys)
    native = corpus.native_sizes(corpus.train_keys)
    assert set(map(tuple, native.tolist())) <= set(SHAPES)
    grids = {
        (64, 64): [(8, 8), (12, 12)],
        (40, 80): [(6, 11), (8, 17)],
        (80, 40): [(11, 6), (17, 8)],
        (30, 30): [(8, 8)],  # smaller than either area: seen at the smallest
        (96, 54): [(11, 6), (16, 9)],
        (16, 20): [(8, 8)],
    }
    for row, shape in enumerate(map(tuple, native.tolist())):
        sizes = [size for size in found.choices[row] if size >= 0]
        assert [found.grid(size) for size in sizes] == grids[shape]
        for size in sizes:
            tokens = found.gather(size, np.array([row]))
            height, width = found.grid(size)
            image = corpus.images([corpus.train_keys[row]], Size(4 * height, 4 * width))
            expected = open_autoencoder(EXPERIMENT.autoencoder, 4).encode(image)[0]
            assert torch.equal(tokens, expected)


def test_without_buckets_every_image_is_the_corpuss_square(corpus: Corpus) -> None:
    found = encoded(corpus, None)
    assert not isinstance(found, SizedLatents)
    assert found.grid == (8, 8)


def test_the_world_is_drawn_at_every_side() -> None:
    world = open_corpus(EXPERIMENT.corpus, 12)
    found = encoded(world, Buckets(sides=(16, 32, 64)))
    assert isinstance(found, SizedLatents)
    assert [found.grid(size) for size in range(3)] == [(4, 4), (8, 8), (16, 16)]
    assert (found.choices == [0, 1, 2]).all()


def test_a_side_that_is_not_whole_tokens_is_refused() -> None:
    with pytest.raises(ValueError, match=r"training.buckets.sides: 30 is no multiple of 4 pixels"):
        EXPERIMENT.replace({"training.buckets": Buckets(sides=(32, 30))})
    with pytest.raises(ValueError, match="images has 1 numbers for 2 sides"):
        Buckets(sides=(32, 48), images=(3,))
    with pytest.raises(ValueError, match="name each once"):
        Buckets(sides=(32, 32))
    with pytest.raises(ValueError, match="ratios"):
        Buckets(ratios=("2x3",))


def test_the_images_of_a_group_have_about_a_batchs_tokens() -> None:
    base = EXPERIMENT.replace({"training.batch": 24, "training.buckets": Buckets(sides=(32, 48, 64))})
    assert [base.group_images(side) for side in range(3)] == [24, 11, 6]
    stated = base.replace({"training.buckets": Buckets(sides=(32, 48, 64), images=(24, 10, 6), groups=2)})
    assert [stated.group_images(side) for side in range(3)] == [24, 10, 6]
    assert stated.images_a_step == pytest.approx(2 * 40 / 3)
    assert len({base.hash(), stated.hash(), EXPERIMENT.hash()}) == 3
