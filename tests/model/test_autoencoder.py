"""Pixels as latents: exact both ways, in Lens's channel order; and what every autoencoder refuses."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lensbench.experiment import Autoencoder as AutoencoderConfig
from lensbench.model.autoencoder import Pixels, open_autoencoder, patchify, unpatchify


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


@settings(max_examples=30, deadline=None)
@given(p=st.integers(1, 4), rows=st.integers(1, 4), columns=st.integers(1, 4), channels=st.integers(1, 5))
def test_patches_are_torchs_pixel_unshuffle_row_by_row(p, rows, columns, channels):
    images = torch.arange(2.0 * channels * rows * columns * p * p).reshape(2, channels, rows * p, columns * p)
    tokens, grid = patchify(images, p)
    assert grid == (rows, columns)
    # torch's order of channels is (c, p1, p2) too
    assert torch.equal(tokens, torch.nn.functional.pixel_unshuffle(images, p).flatten(2).transpose(1, 2))
    assert torch.equal(unpatchify(tokens, grid, p), images)


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


@pytest.mark.parametrize("shape", [(1, 3, 9, 8), (1, 3, 8, 9), (1, 1, 8, 8), (3, 8, 8), (1, 3, 0, 8)])
def test_images_that_are_not_whole_patches_are_refused(shape):
    with pytest.raises(ValueError, match=r"images: got shape .* expected .* multiples of 4") as caught:
        Pixels(4).encode(torch.zeros(shape))
    assert str(shape) in str(caught.value)


def test_images_of_integers_that_are_not_bytes_are_refused():
    with pytest.raises(ValueError, match=r"images: got torch.int64, expected uint8"):
        Pixels(4).encode(torch.zeros(1, 3, 8, 8, dtype=torch.int64))


@pytest.mark.parametrize("shape", [(1, 5, 48), (1, 6, 47), (6, 48)])
def test_latents_that_do_not_fit_the_grid_are_refused(shape):
    with pytest.raises(ValueError, match=r"latents: got shape .* expected \(B, 6, 48\) for the grid \(2, 3\)"):
        Pixels(4).decode(torch.zeros(shape), (2, 3))


def test_without_an_autoencoder_the_patches_are_of_pixels():
    assert open_autoencoder(AutoencoderConfig(), 5) == Pixels(5)
