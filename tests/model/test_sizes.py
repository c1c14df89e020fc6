"""The family's one dial, and its closed forms against the model itself."""

from __future__ import annotations

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from lensbench.model.sizes import backward_flops, forward_flops, lens, parameter_count, train_flops_per_image
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


@settings(max_examples=12, deadline=None)
@given(
    depth=st.sampled_from([1, 2, 3, 5, 8]),
    side=st.integers(1, 6),
    text=st.integers(1, 60),
    patch=st.integers(1, 4),
    encoder=st.integers(1, 300),
    layers=st.integers(1, 3),
    batch=st.integers(1, 2),
)
@example(depth=1, side=6, text=1, patch=4, encoder=1, layers=1, batch=1)  # where the data's products weigh most
def test_flops_agree_with_torch(depth, side, text, patch, encoder, layers, batch):
    config = lens(
        depth,
        patch_size=patch,
        out_channels=3,
        in_channels=3 * patch**2,
        enc_hidden_dim=encoder,
        selected_layer_index=tuple(range(layers)),
    )
    with torch.device("meta"):
        model = LensTransformer(config)
    model.to_empty(device="cpu")
    latents = torch.zeros(batch, side * side, config.in_channels)
    features = [torch.zeros(batch, text, encoder) for _ in range(layers)]
    given_ = (latents, torch.zeros(batch), features, torch.ones(batch, text, dtype=torch.bool), (side, side))
    with sdpa_kernel(SDPBackend.MATH):  # torch's counter knows no CPU flash attention
        with FlopCounterMode(display=False) as forward:
            loss = model(*given_).sum()
        with FlopCounterMode(display=False) as backward:
            loss.backward()
    measured = forward.get_total_flops(), backward.get_total_flops()
    shape = (config, side * side, text)
    assert measured[0] == pytest.approx(batch * forward_flops(*shape), rel=0.01)
    assert measured[1] == pytest.approx(batch * backward_flops(*shape), rel=0.01)
    assert sum(measured) == pytest.approx(batch * train_flops_per_image(*shape), rel=0.01)
