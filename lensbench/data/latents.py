"""The images of a run as the denoiser sees them: tokens (N, H*W, C) on a grid (H, W).

Pixels are kept as bytes and cut into patches when a batch is taken. Those of an imported corpus, which need not fit in
memory, are decoded once and kept on disk in `values.npy`, (images, 3, S, S) uint8, memory-mapped. The latents of a
learned autoencoder are computed once and kept on disk by what made them: the images (their corpus, size and keys) and
the autoencoder. A cache is one folder with `values.npy`, (images, H*W, C) float16, memory-mapped, so that a corpus need
not fit in memory.

float16 rather than bfloat16: latents of about unit variance lie well inside its range, and it keeps three more bits (an
error of 2^-11 of a value against 2^-8). Latents beyond its range are refused, not cut.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch

from lensbench.data.cache import kept
from lensbench.data.corpus import Corpus
from lensbench.data.imported import ImportedCorpus
from lensbench.data.pictures import RULES_VERSION
from lensbench.model.autoencoder import Autoencoder, Pixels

DECODED = 256  # images at a time


class Latents(Protocol):
    """The tokens of a fixed list of images."""

    @property
    def grid(self) -> tuple[int, int]: ...

    def __len__(self) -> int: ...

    def gather(self, rows: np.ndarray) -> torch.Tensor:
        """The tokens of the images at `rows` (B,) of the list: float32 (B, H*W, C)."""
        ...


@dataclass(frozen=True)
class PatchedImages:
    """Images (N, 3, S, S) uint8, cut into patches when they are asked for."""

    images: torch.Tensor
    pixels: Pixels

    @property
    def grid(self) -> tuple[int, int]:
        """Patches down and across."""
        _, _, tall, wide = self.images.shape
        return tall // self.pixels.stride, wide // self.pixels.stride

    def __len__(self) -> int:
        return len(self.images)

    def gather(self, rows: np.ndarray) -> torch.Tensor:
        """Tokens in [-1, 1], as in `Latents`."""
        return self.pixels.encode(self.images[torch.from_numpy(rows)])[0]


@dataclass(frozen=True)
class StoredLatents:
    """Latents (N, H*W, C) float16 in a file, read as they are asked for."""

    values: np.ndarray
    grid: tuple[int, int]

    def __len__(self) -> int:
        return len(self.values)

    def gather(self, rows: np.ndarray) -> torch.Tensor:
        """Tokens as in `Latents`."""
        return torch.from_numpy(self.values[rows].astype(np.float32))


def encode_images(
    corpus: Corpus,
    keys: Sequence[str],
    autoencoder: Autoencoder,
    cache: Path,
    *,
    device: torch.device | str = "cpu",
    batch: int = 32,
    report: Callable[[int, int], None] | None = None,
) -> Latents:
    """The latents of the images of `keys`, in their order; read from `cache` or computed on `device` and put there.

    `report(done, total)` is called after every batch. A cache appears whole (renamed into place) or not at all.
    Raises ValueError when latents do not fit float16, and as `autoencoder.encode` does.
    """
    if isinstance(autoencoder, Pixels):  # cutting costs less than reading back what was cut
        return PatchedImages(_pixels(corpus, keys, cache, report), autoencoder)
    size = corpus.config.size_px
    made_from = {
        "corpus": corpus.digest,
        "size_px": size,
        "keys": hashlib.sha256("\0".join(keys).encode()).hexdigest(),
        "autoencoder": autoencoder.digest,
    }
    where = torch.device(device)
    folder = kept(
        cache, "latents", made_from, lambda empty: _write(empty, corpus, keys, autoencoder, where, batch, report)
    )
    side = size // autoencoder.stride
    return StoredLatents(np.load(folder / "values.npy", mmap_mode="r"), (side, side))


def _pixels(
    corpus: Corpus, keys: Sequence[str], cache: Path, report: Callable[[int, int], None] | None
) -> torch.Tensor:
    """The images of `keys`: uint8 (N, 3, S, S), in memory or in a file."""
    if not isinstance(corpus, ImportedCorpus):
        return corpus.images(keys)
    made_from = {
        "corpus": corpus.digest,
        "size_px": corpus.config.size_px,
        "keys": hashlib.sha256("\0".join(keys).encode()).hexdigest(),
        "rules": RULES_VERSION,
    }
    folder = kept(cache, "pixels", made_from, lambda empty: _write_pixels(empty, corpus, keys, report))
    # Copied where it is written to, which it never is: torch warns of memory that it may not write to.
    return torch.from_numpy(np.load(folder / "values.npy", mmap_mode="c"))


def _write_pixels(
    folder: Path, corpus: ImportedCorpus, keys: Sequence[str], report: Callable[[int, int], None] | None
) -> None:
    size = corpus.config.size_px
    values = np.lib.format.open_memmap(folder / "values.npy", "w+", np.uint8, (len(keys), 3, size, size))
    for start in range(0, len(keys), DECODED):
        corpus.decode(keys[start : start + DECODED], values[start : start + DECODED])
        if report is not None:
            report(min(start + DECODED, len(keys)), len(keys))
    values.flush()


def _write(
    folder: Path,
    corpus: Corpus,
    keys: Sequence[str],
    autoencoder: Autoencoder,
    device: torch.device,
    batch: int,
    report: Callable[[int, int], None] | None,
) -> None:
    shape = (len(keys), (corpus.config.size_px // autoencoder.stride) ** 2, autoencoder.channels)
    values = np.lib.format.open_memmap(folder / "values.npy", "w+", np.float16, shape)
    for start in range(0, len(keys), batch):
        chosen = keys[start : start + batch]
        latents, _ = autoencoder.encode(corpus.images(chosen).to(device))
        halves = latents.to(torch.float16)
        if not halves.isfinite().all():
            raise ValueError(
                f"the autoencoder's latents of images {start} to {start + len(chosen) - 1} do not fit float16 "
                f"(largest {float(latents.abs().max()):g}): its statistics are not those of its latents"
            )
        values[start : start + len(chosen)] = halves.cpu().numpy()
        if report is not None:
            report(start + len(chosen), len(keys))
    values.flush()
