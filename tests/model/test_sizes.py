"""The family's one dial, and its closed forms against the model itself."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from lensbench.model.sizes import forward_flops, lens, parameter_count, train_flops_per_image
from lensbench.model.transformer import LensConfig, LensTransformer

POSSIBLE = [*range(1, 9), *range(10, 49, 2)]


def test_depth_48_is_lens():
    assert lens(48) == LensConfig()
    assert parameter_count(lens(48)) == 4_104_225_152


def test_depth_32_is_lens_toy():
    assert 1.2e9 < parameter_count(lens(32)) < 1.25e9


@settings(max_examples=25, deadline=None)
@given(
    depth=st.sampled_from(POSSIBLE),
    patch=st.integers(1, 8),
    out=st.integers(1, 32),
    encoder=st.integers(1, 3000),
    layers=st.integers(1, 5),
)
def test_parameter_count_is_exact(depth, patch, out, encoder, layers):
    config = lens(
        depth,
        patch_size=patch,
        out_channels=out,
        in_channels=out * patch**2,
        enc_hidden_dim=encoder,
        selected_layer_index=tuple(range(layers)),
    )
    with torch.device("meta"):
        model = LensTransformer(config)
    assert config.inner_dim == 32 * depth
    assert parameter_count(config) == sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize(("depth", "head"), [(1, 32), (7, 32), (8, 64), (48, 64)])
def test_head_widths(depth, head):
    config = lens(depth)
    assert config.attention_head_dim == head == sum(config.axes_dims_rope)
    assert config.num_attention_heads * head == 32 * depth


@pytest.mark.parametrize("depth", [-1, 0, 9, 11, 47])
def test_impossible_depths_are_refused(depth):
    with pytest.raises(ValueError, match=f"depth={depth}"):
        lens(depth)


@pytest.mark.parametrize(("depth", "grid", "text"), [(1, (4, 4), 10), (3, (4, 4), 1), (4, (6, 6), 30), (8, (2, 8), 60)])
def test_flops_agree_with_torch(depth, grid, text):
    config = lens(depth, in_channels=48, out_channels=3, patch_size=4, enc_hidden_dim=96, selected_layer_index=(1, 3))
    model = LensTransformer(config)
    image, batch = grid[0] * grid[1], 2
    latents = torch.randn(batch, image, 48)
    features = [torch.randn(batch, text, 96) for _ in range(2)]
    given_ = (latents, torch.rand(batch), features, torch.ones(batch, text, dtype=torch.bool), grid)
    with sdpa_kernel(SDPBackend.MATH):  # torch's counter knows no CPU flash attention
        with FlopCounterMode(display=False) as forward:
            loss = model(*given_).sum()
        with FlopCounterMode(display=False) as backward:
            loss.backward()
    expected = forward_flops(config, image, text)
    assert forward.get_total_flops() == pytest.approx(batch * expected, rel=0.01)
    # Two forward passes, but where inputs are data and need no gradient: one product of the two, 2 FLOPs each.
    first = (image * 48 + 256) * config.inner_dim
    assert backward.get_total_flops() == pytest.approx(batch * (2 * expected - 2 * first), rel=0.01)
    assert train_flops_per_image(config, image, text) == 3 * expected
