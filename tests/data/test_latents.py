"""Latents: what is kept is what the autoencoder says, the same whenever and wherever an image is met."""

import functools
import json
import shutil
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from lensbench.data.buckets import Size
from lensbench.data.corpus import Corpus, open_corpus
from lensbench.data.latents import (
    TOGETHER,
    Latents,
    OnlineLatents,
    PatchedImages,
    StoredLatents,
    encode_images,
    image_rows,
    online_images,
)
from lensbench.data.rowstore import StoredRows
from lensbench.experiment import FolderCorpus, ShapesCorpus
from lensbench.model.autoencoder import Pixels, patchify
from lensbench.model.flux2_autoencoder import Flux2Autoencoder

CORPUS = open_corpus(ShapesCorpus(size_px=16), 20)
KEYS = CORPUS.train_keys


@dataclass
class Learned:
    """Stands in for a learned autoencoder: patches of pixels, times a weight."""

    weight: float = 3.0
    channels: int = 192
    stride: int = 8
    encoded: list[int] = field(default_factory=list)

    @property
    def digest(self) -> str:
        return f"weight {self.weight}"

    def encode(self, images: torch.Tensor) -> tuple[torch.Tensor, tuple[int, int]]:
        self.encoded.append(len(images))
        return patchify(images.float() / 255 * self.weight, 8)

    def decode(self, latents: torch.Tensor, grid: tuple[int, int]) -> torch.Tensor:
        raise NotImplementedError


def stored(autoencoder: Learned, cache: Path, keys: list[str] = KEYS) -> Latents:
    return encode_images(CORPUS, keys, autoencoder, cache)


def test_latents_are_the_autoencoders_in_the_order_of_the_keys(tmp_path: Path) -> None:
    autoencoder = Learned()
    latents = stored(autoencoder, tmp_path)
    expected, grid = autoencoder.encode(CORPUS.images(KEYS))
    rows = np.array([7, 0, 19, 7])
    found = latents.gather(rows)
    assert latents.grid == grid == (2, 2)
    assert len(latents) == len(KEYS)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected[rows], atol=0, rtol=2**-11)  # float16's rounding


def test_they_are_computed_once_and_read_from_the_disk_where_they_are_needed(tmp_path: Path) -> None:
    first, second = Learned(), Learned()
    reports: list[tuple[int, int]] = []
    encode_images(CORPUS, KEYS, first, tmp_path, report=lambda done, total: reports.append((done, total)))
    again = stored(second, tmp_path)
    assert first.encoded == [TOGETHER] * 3, "filled up"
    assert reports == [(20, 20)]
    assert not second.encoded
    assert isinstance(again, StoredLatents)
    assert isinstance(again.values, StoredRows)
    assert again.values.dtype == np.float16


def test_fewer_images_in_another_order_are_read_and_more_cost_no_more_than_the_new(tmp_path: Path) -> None:
    stored(Learned(), tmp_path, KEYS[:16])
    for keys in (KEYS[:9], list(reversed(KEYS[:16])), [KEYS[3], KEYS[3], KEYS[0]]):
        again = Learned()
        latents = stored(again, tmp_path, keys)
        assert not again.encoded
        expected = again.encode(CORPUS.images(keys))[0]
        torch.testing.assert_close(latents.gather(np.arange(len(keys))), expected, atol=0, rtol=2**-11)
    more = Learned()
    rows = image_rows(CORPUS, KEYS, more, tmp_path)
    assert rows is not None
    cost = rows.cost()
    assert (cost.rows, cost.there, cost.bytes) == (20, 16, 4 * 4 * 192 * 2)
    stored(more, tmp_path)
    assert len(more.encoded) == 1


def test_other_sizes_or_autoencoders_are_other_stores(tmp_path: Path) -> None:
    larger = open_corpus(ShapesCorpus(size_px=24), 20)
    for autoencoder in (Learned(), Learned(weight=2.0)):
        latents = stored(autoencoder, tmp_path)
        expected = autoencoder.encode(CORPUS.images(KEYS))[0]
        torch.testing.assert_close(latents.gather(np.arange(len(KEYS))), expected, atol=0, rtol=2**-11)
    assert encode_images(larger, KEYS, Learned(), tmp_path).grid == (3, 3)
    assert encode_images(CORPUS, KEYS, Learned(), tmp_path, size=Size(32, 32)).grid == (4, 4)
    assert len(list((tmp_path / "latents").iterdir())) == 4


def photographs(folder: Path, size: int, numbers: range) -> Corpus:
    folder.mkdir(exist_ok=True)
    for i in numbers:
        noise = np.random.default_rng(i).integers(0, 256, (24, 40, 3), dtype=np.uint8)
        Image.fromarray(noise).save(folder / f"{i}.png")
        (folder / f"{i}.alt.txt").write_text("a picture")
    config = FolderCorpus(path=folder, size_px=size, caption_sets=("alt",), detailed_prompts="alt")
    return open_corpus(config, 100)


def test_photographs_of_another_size_are_another_store(tmp_path: Path) -> None:
    """The digest of a folder is that of its files, whatever size they are read at."""
    for size in (16, 24):
        corpus = photographs(tmp_path / "photos", size, range(6))
        for asked, grid in ((None, (size // 8,) * 2), (Size(16, 32), (2, 4))):
            latents = encode_images(corpus, corpus.train_keys, Learned(), tmp_path / "cache", size=asked)
            expected, _ = Learned().encode(corpus.images(corpus.train_keys, asked))
            assert latents.grid == grid
            torch.testing.assert_close(latents.gather(np.arange(len(latents))), expected, atol=0, rtol=2**-11)
    stores = [json.loads(path.read_text()) for path in (tmp_path / "cache").rglob("made_from.json")]
    assert sorted((made_from["height"], made_from["width"]) for made_from in stores) == [(16, 16), (16, 32), (24, 24)]


def test_folders_that_share_photographs_share_their_latents(tmp_path: Path) -> None:
    first = photographs(tmp_path / "first", 16, range(8))
    stored_of(first, Learned(), tmp_path / "cache")
    shutil.copytree(tmp_path / "first", tmp_path / "second")
    (tmp_path / "second" / "0.png").rename(tmp_path / "second" / "renamed.png")
    (tmp_path / "second" / "0.alt.txt").rename(tmp_path / "second" / "renamed.alt.txt")
    again = Learned()
    second = photographs(tmp_path / "second", 16, range(8, 10))
    stored_of(second, again, tmp_path / "cache")
    assert sum(again.encoded) == TOGETHER, "two are new"


def stored_of(corpus: Corpus, autoencoder: Learned, cache: Path) -> Latents:
    return encode_images(corpus, [*corpus.train_keys, *corpus.validation_keys], autoencoder, cache)


def test_an_interrupted_run_leaves_nothing_half_done(tmp_path: Path) -> None:
    def interrupt(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        encode_images(CORPUS, KEYS, Learned(), tmp_path, report=interrupt)
    assert not list(tmp_path.rglob("*.rows"))
    assert not list(tmp_path.rglob("*.partial"))
    autoencoder = Learned()
    assert len(stored(autoencoder, tmp_path)) == len(KEYS)
    assert len(autoencoder.encoded) == 3


@given(st.lists(st.integers(0, 19), min_size=1, max_size=12), st.lists(st.integers(0, 19), max_size=12))
@settings(max_examples=25, deadline=None)
def test_cached_and_online_are_equal_whatever_else_was_encoded(
    flux2_folder: Path, tmp_path_factory: pytest.TempPathFactory, wanted: list[int], others: list[int]
) -> None:
    autoencoder = flux2(flux2_folder)
    keys, rows = [KEYS[i] for i in wanted], np.arange(len(wanted))
    cache = tmp_path_factory.mktemp("cache")
    encode_images(CORPUS, [KEYS[i] for i in others], autoencoder, cache)
    found = encode_images(CORPUS, keys, autoencoder, cache).gather(rows)
    online = online_images(CORPUS, KEYS, autoencoder)
    assert isinstance(online, OnlineLatents)
    assert len(online) == len(KEYS)
    assert online.grid == (1, 1)
    assert torch.equal(online.gather(np.array(wanted)), found)
    assert torch.equal(encode_images(CORPUS, keys, autoencoder, None).gather(rows), found)


@functools.cache
def flux2(folder: Path) -> Flux2Autoencoder:
    return Flux2Autoencoder(str(folder))


@pytest.mark.parametrize("weight", [1e6, float("nan")])
def test_latents_that_float16_cannot_hold_are_refused(tmp_path: Path, weight: float) -> None:
    with pytest.raises(ValueError, match=f"latents of image {KEYS[0]} do not fit float16"):
        stored(Learned(weight=weight), tmp_path)
    assert not list(tmp_path.rglob("*.rows"))


def test_pixels_are_kept_as_bytes_and_nothing_is_written(tmp_path: Path) -> None:
    rows = np.array([3, 3, 1])
    for latents in (encode_images(CORPUS, KEYS, Pixels(4), tmp_path), online_images(CORPUS, KEYS, Pixels(4))):
        assert isinstance(latents, PatchedImages)
        assert isinstance(latents.images, torch.Tensor)
        assert latents.images.dtype == torch.uint8
        assert torch.equal(latents.gather(rows), Pixels(4).encode(CORPUS.images([KEYS[i] for i in rows]))[0])
        assert latents.grid == (4, 4)
        assert len(latents) == len(KEYS)
    assert not list(tmp_path.iterdir())
