"""Images to latents and back. The embedded default has no autoencoder: the latents are the pixels, in patches."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Pixels:
    """Patches of pixels as tokens; the channel order (c, p1, p2) is Lens's patchify."""

    patch_size: int  # side of a patch, in pixels

    @property
    def channels(self) -> int:
        """Channels of a token."""
        return 3 * self.patch_size**2

    @property
    def stride(self) -> int:
        """Pixels from one token to the next, on either axis."""
        return self.patch_size

    def encode(self, images: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """Latents (B, H*W, C) in [-1, 1] and their grid (H, W), of images (B, 3, S, S), uint8 or float in [0, 1].

        Raises ValueError when the images are not whole patches.
        """
        batch, channels, tall, wide = images.shape
        p = self.patch_size
        if channels != 3 or tall % p or wide % p:
            raise ValueError(f"images of shape {tuple(images.shape)} are not RGB in whole patches of {p}x{p} pixels")
        pixels = images.float() / 255 if images.dtype == torch.uint8 else images
        height, width = tall // p, wide // p
        patches = (2 * pixels - 1).reshape(batch, 3, height, p, width, p).permute(0, 2, 4, 1, 3, 5)
        return patches.reshape(batch, height * width, self.channels), (height, width)

    def decode(self, latents: Tensor, grid: tuple[int, int]) -> Tensor:
        """Images (B, 3, S, S), float, in [0, 1] where the latents are in [-1, 1]; nothing is clamped."""
        height, width = grid
        p = self.patch_size
        patches = latents.reshape(latents.shape[0], height, width, 3, p, p).permute(0, 3, 1, 4, 2, 5)
        return (patches.reshape(latents.shape[0], 3, height * p, width * p) + 1) / 2
