"""The images of a run as the denoiser sees them: tokens (N, H*W, C) on a grid (H, W).

Pixels are kept as bytes and cut into patches when a batch is taken; those of an imported corpus, which need not fit in
memory, are decoded once and kept on disk. So are the latents of a learned autoencoder, (H*W, C) float16 an image. On
disk they lie in a store (lensbench.data.rowstore) an autoencoder and size: a row an image, by its key. The key of a
photograph is the sha256 of its file, so corpora that share photographs share their rows.

float16 rather than bfloat16: latents of about unit variance lie well inside its range, and it keeps three more bits (an
error of 2^-11 of a value against 2^-8). Latents beyond its range are refused, not cut.

An image is encoded among eight, which are filled up: measured on a CPU, the last bits of its latents then depend on it
alone, as they do not when it is encoded among fewer or more.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from lensbench.data.buckets import Size
from lensbench.data.corpus import Corpus, ShapesWorld
from lensbench.data.imported import ImportedCorpus
from lensbench.data.pictures import RULES_VERSION
from lensbench.data.rowstore import Cost, RowStore, StoredRows, names_of
from lensbench.model.autoencoder import Autoencoder, Pixels

VERSION = 1  # raise it whenever the same image gives other bits: it is part of what names a store
TOGETHER = 8  # images that are encoded at a time
BATCH = 64  # images in memory at a time, decoded; whole times TOGETHER

Report = Callable[[int, int], None]  # images done, of all


class Latents(Protocol):
    """The tokens of a fixed list of images."""

    @property
    def grid(self) -> tuple[int, int]: ...

    def __len__(self) -> int: ...

    def gather(self, rows: np.ndarray) -> torch.Tensor:
        """The tokens of the images at `rows` (B,) of the list: float32 (B, H*W, C), on the CPU."""
        ...


@dataclass(frozen=True)
class PatchedImages:
    """Images (N, 3, H, W) uint8, in memory or on disk, cut into patches when they are asked for."""

    images: torch.Tensor | StoredRows
    pixels: Pixels

    @property
    def grid(self) -> tuple[int, int]:
        """Patches down and across."""
        tall, wide = self.images.shape[-2:]
        return tall // self.pixels.stride, wide // self.pixels.stride

    def __len__(self) -> int:
        return len(self.images)

    def gather(self, rows: np.ndarray) -> torch.Tensor:
        """Tokens in [-1, 1], as in `Latents`."""
        if isinstance(self.images, StoredRows):
            return self.pixels.encode(torch.from_numpy(self.images[rows]))[0]
        return self.pixels.encode(self.images[torch.from_numpy(rows)])[0]


@dataclass(frozen=True)
class StoredLatents:
    """Latents (N, H*W, C), float16 as a rule, in memory or on disk, read as they are asked for."""

    values: np.ndarray | StoredRows
    grid: tuple[int, int]

    def __len__(self) -> int:
        return len(self.values)

    def gather(self, rows: np.ndarray) -> torch.Tensor:
        """Tokens as in `Latents`."""
        return torch.from_numpy(self.values[rows].astype(np.float32))


@dataclass(frozen=True)
class OnlineLatents:
    """Latents computed when they are asked for, to the same bits as those that are kept; nothing is written."""

    corpus: Corpus
    keys: Sequence[str]
    autoencoder: Autoencoder
    size: Size | None  # None: the corpus's own
    device: torch.device

    @property
    def grid(self) -> tuple[int, int]:
        """Tokens down and across."""
        return _grid(self.corpus, self.size, self.autoencoder)

    def __len__(self) -> int:
        return len(self.keys)

    def gather(self, rows: np.ndarray) -> torch.Tensor:
        """Tokens as in `Latents`."""
        keys = [self.keys[row] for row in rows]
        images = self.corpus.images(keys, self.size)
        if isinstance(self.autoencoder, Pixels):
            return self.autoencoder.encode(images)[0]
        return _halves(images, keys, self.autoencoder, self.device).float()


@dataclass(frozen=True)
class ImageRows:
    """The rows of some images in the store of an autoencoder, or of decoded pixels: their cost, and their latents."""

    corpus: Corpus
    keys: Sequence[str]  # in the order that is asked for
    distinct: Sequence[str]
    names: np.ndarray  # of the distinct keys
    autoencoder: Autoencoder
    size: Size | None  # None: the corpus's own
    store: RowStore
    device: torch.device

    @property
    def tokens(self) -> int:
        """Of an image."""
        tall, wide = _grid(self.corpus, self.size, self.autoencoder)
        return tall * wide

    def cost(self) -> Cost:
        """What they take."""
        return self.store.cost(self.names, np.ones(len(self.names), dtype=np.int64))

    def mend(self) -> list[Path]:
        """Set damaged files aside: see `RowStore.mend`."""
        return self.store.mend(self.names)

    def fill(self, report: Report | None = None) -> None:
        """Compute those that are missing: see `RowStore.fill`. Raises as `encode_images` does."""
        compute = self._decoded if isinstance(self.autoencoder, Pixels) else self._encoded
        self.store.fill(self.names, np.ones(len(self.names), dtype=np.int64), compute, report)

    def latents(self) -> Latents:
        """Their latents, in the order of `keys`. Raises ValueError when one of them is missing."""
        values = self.store.rows(names_of(self.keys))
        if isinstance(self.autoencoder, Pixels):
            return PatchedImages(values, self.autoencoder)
        return StoredLatents(values, _grid(self.corpus, self.size, self.autoencoder))

    def _decoded(self, rows: np.ndarray) -> Iterator[list[np.ndarray]]:
        for keys in _batches(rows, self.distinct):
            yield list(self.corpus.images(keys, self.size).numpy()[:, None])

    def _encoded(self, rows: np.ndarray) -> Iterator[list[np.ndarray]]:
        for keys in _batches(rows, self.distinct):
            images = self.corpus.images(keys, self.size)
            yield list(_halves(images, keys, self.autoencoder, self.device).numpy()[:, None])


def image_rows(
    corpus: Corpus,
    keys: Sequence[str],
    autoencoder: Autoencoder,
    cache: Path,
    *,
    device: torch.device | str = "cpu",
    size: Size | None = None,
) -> ImageRows | None:
    """The rows of the images of `keys` in their store under `cache`; None where they need none.

    That is so for pixels of images that are in memory: cutting them costs less than reading back what was cut.
    """
    height, width = size or _own_size(corpus)
    made_from: dict[str, Any] = {"version": VERSION, "height": height, "width": width}
    if isinstance(corpus, ShapesWorld):
        made_from["world"] = corpus.digest
    else:  # the name of an image is the digest of its file
        made_from["rules"] = RULES_VERSION
    if not isinstance(autoencoder, Pixels):
        (tall, wide), made_from["autoencoder"] = _grid(corpus, size, autoencoder), autoencoder.digest
        store = RowStore(cache, "latents", made_from, np.float16, (tall * wide, autoencoder.channels))
    elif isinstance(corpus, ImportedCorpus):
        store = RowStore(cache, "pixels", made_from, np.uint8, (3, height, width))
    else:
        return None
    distinct = list(dict.fromkeys(keys))
    return ImageRows(corpus, keys, distinct, names_of(distinct), autoencoder, size, store, torch.device(device))


def encode_images(
    corpus: Corpus,
    keys: Sequence[str],
    autoencoder: Autoencoder,
    cache: Path | None,
    *,
    device: torch.device | str = "cpu",
    size: Size | None = None,
    report: Report | None = None,
) -> Latents:
    """The latents of the images of `keys`, in their order, of the corpus's own size or of `size`.

    Read from `cache` or computed on `device` and put there; in memory where it is None. `report(done, total)` is called
    after every batch. Raises OSError when the disk has no room for them, ValueError when they do not fit float16 or
    what is there is damaged, and as `autoencoder.encode` does.
    """
    if cache is not None and (rows := image_rows(corpus, keys, autoencoder, cache, device=device, size=size)):
        rows.fill(report)
        return rows.latents()
    if isinstance(autoencoder, Pixels):
        return PatchedImages(corpus.images(keys, size), autoencoder)
    tall, wide = _grid(corpus, size, autoencoder)
    values = np.empty((len(keys), tall * wide, autoencoder.channels), dtype=np.float16)
    for start in range(0, len(keys), BATCH):
        chosen = keys[start : start + BATCH]
        images = corpus.images(chosen, size)
        values[start : start + len(chosen)] = _halves(images, chosen, autoencoder, torch.device(device)).numpy()
        if report is not None:
            report(start + len(chosen), len(keys))
    return StoredLatents(values, (tall, wide))


def online_images(
    corpus: Corpus,
    keys: Sequence[str],
    autoencoder: Autoencoder,
    *,
    device: torch.device | str = "cpu",
    size: Size | None = None,
) -> Latents:
    """The latents of the images of `keys`, computed as they are asked for; pixels that are in memory stay there."""
    if isinstance(autoencoder, Pixels) and not isinstance(corpus, ImportedCorpus):
        return encode_images(corpus, keys, autoencoder, None, size=size)
    return OnlineLatents(corpus, keys, autoencoder, size, torch.device(device))


def _halves(images: torch.Tensor, keys: Sequence[str], autoencoder: Autoencoder, device: torch.device) -> torch.Tensor:
    """The latents of images as they are kept: float16 (N, H*W, C), on the CPU."""
    found = []
    for part in images.split(TOGETHER):
        filled = part.new_zeros(TOGETHER, *part.shape[1:])
        filled[: len(part)] = part
        found.append(autoencoder.encode(filled.to(device))[0][: len(part)].cpu())
    latents = torch.cat(found)
    halves = latents.to(torch.float16)
    whole = halves.isfinite().flatten(1).all(1)
    if not whole.all():
        row = int((~whole).nonzero()[0])
        raise ValueError(
            f"the autoencoder's latents of image {keys[row]} do not fit float16 (largest "
            f"{float(latents[row].abs().max()):g}): its statistics are not those of its latents"
        )
    return halves


def _batches(rows: np.ndarray, keys: Sequence[str]) -> Iterator[list[str]]:
    for start in range(0, len(rows), BATCH):
        yield [keys[row] for row in rows[start : start + BATCH]]


def _own_size(corpus: Corpus) -> Size:
    return Size(corpus.config.size_px, corpus.config.size_px)


def _grid(corpus: Corpus, size: Size | None, autoencoder: Autoencoder) -> tuple[int, int]:
    height, width = size or _own_size(corpus)
    return height // autoencoder.stride, width // autoencoder.stride
