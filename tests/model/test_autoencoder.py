"""Pixels as latents: exact both ways, in Lens's channel order."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lensbench.model.autoencoder import Pixels


@settings(max_examples=30, deadline=None)
@given(patch=st.integers(1, 6), rows=st.integers(1, 5), columns=st.integers(1, 5), seed=st.integers(0, 1000))
def test_bytes_come_back_exactly(patch, rows, columns, seed):
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (2, 3, rows * patch, columns * patch), generator=generator, dtype=torch.uint8)
    pixels = Pixels(patch)
    latents, grid = pixels.encode(images)
    assert latents.shape == (2, rows * columns, pixels.channels)
    assert grid == (rows, columns)
    assert latents.abs().max() <= 1
    back = pixels.decode(latents, grid)
    assert torch.equal((back * 255).round().to(torch.uint8), images)


def test_every_byte_value_comes_back():
    images = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16).expand(1, 3, 16, 16)
    pixels = Pixels(4)
    assert torch.equal((pixels.decode(*pixels.encode(images)) * 255).round().to(torch.uint8), images)


def test_floats_and_bytes_agree():
    images = torch.randint(0, 256, (1, 3, 8, 8), dtype=torch.uint8)
    torch.testing.assert_close(Pixels(2).encode(images)[0], Pixels(2).encode(images.float() / 255)[0])


def test_tokens_run_row_by_row_with_channels_c_p1_p2():
    images = torch.zeros(1, 3, 4, 6)
    images[0, 1, 3, 4] = 1.0  # green; row 3 is row 1 of patch row 1, column 4 is column 0 of patch column 2
    latents, grid = Pixels(2).encode(images)
    assert grid == (2, 3)
    assert (latents[0] > 0).nonzero().tolist() == [[1 * 3 + 2, 1 * 4 + 1 * 2 + 0]]


@pytest.mark.parametrize("shape", [(1, 3, 9, 8), (1, 3, 8, 9), (1, 1, 8, 8)])
def test_broken_patches_are_refused(shape):
    with pytest.raises(ValueError, match="whole patches of 4x4"):
        Pixels(4).encode(torch.zeros(shape))
