"""The images of a run in several sizes: which image is seen in which, and its latents in each."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from lensbench.data.buckets import Size, layout
from lensbench.data.corpus import Corpus
from lensbench.data.latents import Latents
from lensbench.experiment import Experiment


@dataclass(frozen=True)
class SizedLatents:
    """The latents of a list of images: for each size, those of the images that are seen in it, in their order.

    `choices` (images, sides) and `side_of` (sizes,): as in lensbench.data.buckets.Layout.
    """

    choices: np.ndarray
    side_of: tuple[int, ...]
    of_size: tuple[Latents, ...]

    @classmethod
    def of_one_size(cls, latents: Latents) -> SizedLatents:
        """Every image in the one size of `latents`."""
        return cls(np.zeros((len(latents), 1), dtype=np.int64), (0,), (latents,))

    def __len__(self) -> int:
        return len(self.choices)

    @functools.cached_property
    def members(self) -> list[np.ndarray]:
        """For each size, the images that are seen in it, rising."""
        return [members(self.choices, size) for size in range(len(self.of_size))]

    def grid(self, size: int) -> tuple[int, int]:
        """The grid (H, W) of the size at place `size`."""
        return self.of_size[size].grid

    def gather(self, size: int, images: np.ndarray) -> torch.Tensor:
        """The tokens (B, H*W, C) of images (B,), all of which are seen in that size."""
        return self.of_size[size].gather(np.searchsorted(self.members[size], images))


def members(choices: np.ndarray, size: int) -> np.ndarray:
    """The images that are seen in the size at place `size`, rising."""
    return np.flatnonzero((choices == size).any(axis=1))


def encode_sizes(
    experiment: Experiment, corpus: Corpus, encode: Callable[[Sequence[str], Size | None], Latents]
) -> Latents | SizedLatents:
    """The latents of the training images in the sizes of `training.buckets`, or in the corpus's own if there are none.

    `encode(keys, size)` gives the latents of images in a size, None for the corpus's own.
    """
    buckets, keys = experiment.training.buckets, corpus.train_keys
    if buckets is None:
        return encode(keys, None)
    stride = experiment.autoencoder.stride(experiment.model.patch_size)
    sizes = layout(corpus.native_sizes(keys), buckets.sides, buckets.ratios, stride)
    of_size = [encode([keys[i] for i in members(sizes.choices, n)], size) for n, size in enumerate(sizes.sizes)]
    return SizedLatents(sizes.choices, sizes.side_of, tuple(of_size))
