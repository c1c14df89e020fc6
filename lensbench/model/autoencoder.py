"""Images to latents and back. The embedded default has no autoencoder: the latents are the pixels, in patches."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from lensbench.experiment import Autoencoder as AutoencoderConfig


class Autoencoder(Protocol):
    """Images to tokens and back, frozen. It works where its input lies."""

    @property
    def channels(self) -> int:
        """Channels of a token."""
        ...

    @property
    def stride(self) -> int:
        """Pixels from one token to the next, on either axis."""
        ...

    @property
    def digest(self) -> str:
        """sha256 of the weights and of their config; empty where there are none."""
        ...

    def encode(self, images: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """Latents (B, H*W, C) and their grid (H, W), of images (B, 3, H*stride, W*stride), uint8 or float in [0, 1].

        Raises ValueError when the images are not RGB in whole strides.
        """
        ...

    def decode(self, latents: Tensor, grid: tuple[int, int]) -> Tensor:
        """Images (B, 3, H*stride, W*stride), float, in [0, 1] but for what goes beyond it: nothing is clamped.

        Raises ValueError when the latents are not of this grid and this many channels.
        """
        ...


def open_autoencoder(config: AutoencoderConfig, patch_size: int) -> Autoencoder:
    """The autoencoder of an experiment, on the CPU, with tokens of `patch_size` positions a side.

    Raises ValueError, one line, when its weights are missing or not the expected ones, or it has no such patches.
    """
    config.stride(patch_size)  # refuses patches that it has no statistics of
    if config.kind == "pixels":
        return Pixels(patch_size)
    from lensbench.model.flux2_autoencoder import Flux2Autoencoder

    return Flux2Autoencoder(config.model, config.digest)


@dataclass(frozen=True)
class Pixels:
    """Patches of pixels as tokens, in [-1, 1]; the channel order (c, p1, p2) is Lens's patchify."""

    patch_size: int  # side of a patch, in pixels
    digest = ""

    @property
    def channels(self) -> int:
        """Channels of a token."""
        return 3 * self.patch_size**2

    @property
    def stride(self) -> int:
        """Pixels from one token to the next, on either axis."""
        return self.patch_size

    def encode(self, images: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """Latents (B, H*W, C) in [-1, 1] and their grid, as in `Autoencoder`; exact."""
        check_images(images, self.stride)
        return patchify(2 * as_floats(images) - 1, self.patch_size)

    def decode(self, latents: Tensor, grid: tuple[int, int]) -> Tensor:
        """Images as in `Autoencoder`; exact."""
        check_latents(latents, grid, self.channels)
        return (unpatchify(latents, grid, self.patch_size) + 1) / 2


def patchify(images: Tensor, p: int) -> tuple[Tensor, tuple[int, int]]:
    """(B, C, H*p, W*p) to tokens (B, H*W, C*p*p), row by row, channels ordered (c, p1, p2), and the grid (H, W)."""
    batch, channels, tall, wide = images.shape
    height, width = tall // p, wide // p
    patches = images.reshape(batch, channels, height, p, width, p).permute(0, 2, 4, 1, 3, 5)
    return patches.reshape(batch, height * width, channels * p * p), (height, width)


def unpatchify(tokens: Tensor, grid: tuple[int, int], p: int) -> Tensor:
    """The inverse of `patchify`: (B, H*W, C*p*p) to (B, C, H*p, W*p)."""
    batch, _, channels = tokens.shape
    height, width = grid
    patches = tokens.reshape(batch, height, width, channels // p**2, p, p).permute(0, 3, 1, 4, 2, 5)
    return patches.reshape(batch, channels // p**2, height * p, width * p)


def as_floats(images: Tensor) -> Tensor:
    """Images in [0, 1]: bytes divided by 255, floats as they are."""
    return images.float() / 255 if images.dtype == torch.uint8 else images


def check_images(images: Tensor, stride: int) -> None:
    """ValueError unless `images` are RGB, bytes or floats, and each side is a multiple of `stride`."""
    shape = tuple(images.shape)
    if len(shape) != 4 or shape[1] != 3 or shape[2] % stride or shape[3] % stride or not all(shape[2:]):
        raise ValueError(f"images: got shape {shape}, expected (B, 3, H, W) with H and W multiples of {stride}")
    if images.dtype != torch.uint8 and not images.is_floating_point():
        raise ValueError(f"images: got {images.dtype}, expected uint8, or floats in [0, 1]")


def check_latents(latents: Tensor, grid: tuple[int, int], channels: int) -> None:
    """ValueError unless `latents` are (B, H*W, channels) for the grid (H, W)."""
    shape, expected = tuple(latents.shape), (grid[0] * grid[1], channels)
    if len(shape) != 3 or shape[1:] != expected:
        raise ValueError(f"latents: got shape {shape}, expected (B, {expected[0]}, {expected[1]}) for the grid {grid}")
