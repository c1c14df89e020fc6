"""Latents: what is kept is what the autoencoder says, and a cache is whole or absent."""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from lensbench.data.corpus import open_corpus
from lensbench.data.latents import Latents, PatchedImages, StoredLatents, encode_images
from lensbench.experiment import FolderCorpus, ShapesCorpus
from lensbench.model.autoencoder import Pixels, patchify

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
    return encode_images(CORPUS, keys, autoencoder, cache, batch=8)


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
    encode_images(CORPUS, KEYS, first, tmp_path, batch=8, report=lambda done, total: reports.append((done, total)))
    again = stored(second, tmp_path)
    assert first.encoded == [8, 8, 4]
    assert reports == [(8, 20), (16, 20), (20, 20)]
    assert not second.encoded
    assert isinstance(again, StoredLatents)
    assert isinstance(again.values, np.memmap)
    assert again.values.dtype == np.float16


def test_other_images_sizes_or_autoencoders_are_other_caches(tmp_path: Path) -> None:
    larger = open_corpus(ShapesCorpus(size_px=24), 20)
    for autoencoder in (Learned(), Learned(weight=2.0)):
        for keys in (KEYS, KEYS[:9], list(reversed(KEYS))):
            latents = stored(autoencoder, tmp_path, keys)
            expected = autoencoder.encode(CORPUS.images(keys))[0]
            torch.testing.assert_close(latents.gather(np.arange(len(keys))), expected, atol=0, rtol=2**-11)
    assert encode_images(larger, KEYS, Learned(), tmp_path).grid == (3, 3)
    assert len(list((tmp_path / "latents").iterdir())) == 7


def test_photographs_of_another_size_are_another_cache(tmp_path: Path) -> None:
    """The digest of a folder is that of its files, whatever size they are read at."""
    for i in range(6):
        noise = np.random.default_rng(i).integers(0, 256, (24, 24, 3), dtype=np.uint8)
        Image.fromarray(noise).save(tmp_path / f"{i}.png")
        (tmp_path / f"{i}.alt.txt").write_text("a picture")
    for size in (16, 24):
        config = FolderCorpus(path=tmp_path, size_px=size, caption_sets=("alt",), detailed_prompts="alt")
        corpus = open_corpus(config, 4)
        latents = encode_images(corpus, corpus.train_keys, Learned(), tmp_path / "cache")
        expected, grid = Learned().encode(corpus.images(corpus.train_keys))
        assert latents.grid == grid == (size // 8, size // 8)
        torch.testing.assert_close(latents.gather(np.arange(len(latents))), expected, atol=0, rtol=2**-11)


def test_an_interrupted_cache_is_not_taken_for_a_whole_one(tmp_path: Path) -> None:
    def interrupt(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        encode_images(CORPUS, KEYS, Learned(), tmp_path, batch=8, report=interrupt)
    assert not list((tmp_path / "latents").iterdir())
    autoencoder = Learned()
    assert len(stored(autoencoder, tmp_path)) == len(KEYS)
    assert sum(autoencoder.encoded) == len(KEYS)


@pytest.mark.parametrize("weight", [1e6, float("nan")])
def test_latents_that_float16_cannot_hold_are_refused(tmp_path: Path, weight: float) -> None:
    with pytest.raises(ValueError, match="images 0 to 7 do not fit float16"):
        stored(Learned(weight=weight), tmp_path)
    assert not list((tmp_path / "latents").iterdir())


def test_pixels_are_kept_as_bytes_and_nothing_is_written(tmp_path: Path) -> None:
    latents = encode_images(CORPUS, KEYS, Pixels(4), tmp_path)
    rows = np.array([3, 3, 1])
    assert isinstance(latents, PatchedImages)
    assert latents.images.dtype == torch.uint8
    assert torch.equal(latents.gather(rows), Pixels(4).encode(CORPUS.images([KEYS[i] for i in rows]))[0])
    assert latents.grid == (4, 4)
    assert len(latents) == len(KEYS)
    assert not list(tmp_path.iterdir())
