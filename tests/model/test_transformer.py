"""The denoiser: the published structure and names, checked against a plain implementation written from the paper."""

from __future__ import annotations

import dataclasses
import json
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lensbench.model.transformer import LensConfig, LensTransformer

SMALL = LensConfig(
    patch_size=2,
    in_channels=12,
    out_channels=3,
    num_layers=2,
    attention_head_dim=16,
    num_attention_heads=3,
    enc_hidden_dim=20,
    axes_dims_rope=(4, 6, 6),
    selected_layer_index=(0, 2),
)
GRID = (3, 5)

PUBLISHED_CONFIG = """{
  "_class_name": "LensTransformer2DModel", "_diffusers_version": "0.36.0", "attention_head_dim": 64,
  "axes_dims_rope": [8, 28, 28], "enc_hidden_dim": 2880, "gate_mlp": true, "in_channels": 128, "inner_dim": 1536,
  "multi_layer_encoder_feature": true, "num_attention_heads": 24, "num_layers": 48, "out_channels": 32,
  "patch_size": 2, "rms_norm": true, "selected_layer_index": [5, 11, 17, 23]
}"""

BLOCK_NAMES = [
    *(f"attn.norm_{kind}.weight" for kind in ("q", "k", "added_q", "added_k")),
    *(
        f"attn.{name}.{kind}"
        for name in ("img_qkv", "txt_qkv", "to_out.0", "to_add_out")
        for kind in ("weight", "bias")
    ),
    *("img_mod.1.weight", "img_mod.1.bias", "img_norm1.weight", "img_norm2.weight"),
    *("img_mlp.w1.weight", "img_mlp.w2.weight", "img_mlp.w3.weight"),
    *("txt_mod.1.weight", "txt_mod.1.bias", "txt_norm1.weight", "txt_norm2.weight"),
    *("txt_mlp.w1.weight", "txt_mlp.w2.weight", "txt_mlp.w3.weight"),
]
BEFORE = [
    *(f"time_text_embed.timestep_embedder.linear_{i}.{kind}" for i in (1, 2) for kind in ("weight", "bias")),
    *("txt_norm.0.weight", "txt_norm.1.weight"),
    *("txt_in.weight", "txt_in.bias", "img_in.weight", "img_in.bias"),
]
AFTER = ["norm_out.linear.weight", "norm_out.linear.bias", "proj_out.weight", "proj_out.bias"]


def make(config: LensConfig = SMALL, seed: int = 0) -> LensTransformer:
    """A model with no parameter at a special value, so that every part of it shows in the output."""
    torch.manual_seed(seed)
    model = LensTransformer(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return model


def inputs(lengths: list[int], tokens: int, config: LensConfig = SMALL, grid: tuple[int, int] = GRID, seed: int = 1):
    generator = torch.Generator().manual_seed(seed)
    batch = len(lengths)
    latents = torch.randn(batch, grid[0] * grid[1], config.in_channels, generator=generator)
    timestep = torch.rand(batch, generator=generator)
    mask = torch.arange(tokens)[None] < torch.tensor(lengths)[:, None]
    features = [
        torch.randn(batch, tokens, config.enc_hidden_dim, generator=generator) * mask[:, :, None]
        for _ in config.selected_layer_index
    ]
    return latents, timestep, features, mask, grid


def plain_lens(w: dict[str, torch.Tensor], config: LensConfig, latents, timestep, features, mask, grid):
    """Lens from its description, one image and one head at a time, in float64."""
    heads, d = config.num_attention_heads, config.attention_head_dim

    def linear(name, x):
        y = x @ w[f"{name}.weight"].T
        return y + w[f"{name}.bias"] if f"{name}.bias" in w else y

    def rms(name, x, eps):
        return x / (x.pow(2).mean(-1, keepdim=True) + eps).sqrt() * w[f"{name}.weight"]

    def silu(x):
        return x / (1 + torch.exp(-x))

    def mlp(name, x):
        return linear(f"{name}.w2", silu(linear(f"{name}.w1", x)) * linear(f"{name}.w3", x))

    def turn(vector, position):  # one head of one token, by its three coordinates
        out, start = vector.clone(), 0
        for axis, channels in enumerate(config.axes_dims_rope):
            for pair in range(channels // 2):
                angle = position[axis] * 10_000 ** (-2 * pair / channels)
                i = start + 2 * pair
                out[i] = vector[i] * math.cos(angle) - vector[i + 1] * math.sin(angle)
                out[i + 1] = vector[i] * math.sin(angle) + vector[i + 1] * math.cos(angle)
            start += channels
        return out

    height, width = grid
    image_places = [
        (0, r - (height - height // 2), c - (width - width // 2)) for r in range(height) for c in range(width)
    ]
    results = []
    for b in range(len(latents)):
        n, t = latents.shape[1], mask.shape[1]
        first = max(height // 2, width // 2)
        places = image_places + [(first + i,) * 3 for i in range(t)]
        real = [True] * n + mask[b].tolist()
        angles = (
            1000 * timestep[b].double() * torch.exp(-math.log(10_000) * torch.arange(128, dtype=torch.float64) / 128)
        )
        time = torch.cat([angles.cos(), angles.sin()])
        embed = "time_text_embed.timestep_embedder.linear_"
        time = silu(linear(f"{embed}2", silu(linear(f"{embed}1", time))))
        x = linear("img_in", latents[b].double())
        y = torch.cat([rms(f"txt_norm.{i}", f[b].double(), 1e-5) for i, f in enumerate(features)], dim=-1)
        y = linear("txt_in", y)
        for block in range(config.num_layers):
            p = f"transformer_blocks.{block}"
            mods = [linear(f"{p}.{s}_mod.1", time).chunk(6) for s in ("img", "txt")]
            (s1, c1, g1, s2, c2, g2), (ts1, tc1, tg1, ts2, tc2, tg2) = mods
            qkv = [
                linear(f"{p}.attn.img_qkv", rms(f"{p}.img_norm1", x, 1e-6) * (1 + c1) + s1),
                linear(f"{p}.attn.txt_qkv", rms(f"{p}.txt_norm1", y, 1e-6) * (1 + tc1) + ts1),
            ]
            mixed = []
            for h in range(heads):
                parts = [stream.view(-1, 3, heads, d)[:, :, h] for stream in qkv]
                q = torch.cat(
                    [rms(f"{p}.attn.norm_{a}q", s[:, 0], 1e-6) for a, s in zip(("", "added_"), parts, strict=True)]
                )
                k = torch.cat(
                    [rms(f"{p}.attn.norm_{a}k", s[:, 1], 1e-6) for a, s in zip(("", "added_"), parts, strict=True)]
                )
                v = torch.cat([s[:, 2] for s in parts])
                q = torch.stack([turn(row, place) for row, place in zip(q, places, strict=True)])
                k = torch.stack([turn(row, place) for row, place in zip(k, places, strict=True)])
                scores = q @ k[real].T / math.sqrt(d)
                mixed.append(torch.softmax(scores, -1) @ v[real])
            joint = torch.cat(mixed, dim=-1)
            x = x + g1 * linear(f"{p}.attn.to_out.0", joint[:n])
            y = y + tg1 * linear(f"{p}.attn.to_add_out", joint[n:])
            x = x + g2 * mlp(f"{p}.img_mlp", rms(f"{p}.img_norm2", x, 1e-6) * (1 + c2) + s2)
            y = y + tg2 * mlp(f"{p}.txt_mlp", rms(f"{p}.txt_norm2", y, 1e-6) * (1 + tc2) + ts2)
        scale, shift = linear("norm_out.linear", time).chunk(2)
        centred = x - x.mean(-1, keepdim=True)
        x = centred / (centred.pow(2).mean(-1, keepdim=True) + 1e-6).sqrt() * (1 + scale) + shift
        results.append(linear("proj_out", x))
    return torch.stack(results)


@pytest.mark.parametrize("grid", [(3, 5), (4, 4), (1, 2)])
def test_agrees_with_a_plain_implementation(grid):
    model, given_ = make(), inputs([4, 0, 7], 7, grid=grid)
    weights = {name: value.double() for name, value in model.state_dict().items()}
    expected = plain_lens(weights, SMALL, *given_)
    got = model(*given_)
    assert expected.std() > 0.1
    torch.testing.assert_close(got.double(), expected, atol=2e-4, rtol=2e-4)


def test_published_lens_has_its_parameters():
    with torch.device("meta"):
        model = LensTransformer(LensConfig.from_dict(json.loads(PUBLISHED_CONFIG)))
    assert sum(p.numel() for p in model.parameters()) == 4_104_225_152
    assert model.config == LensConfig()


def test_state_dict_has_the_published_names_in_order():
    blocks = [f"transformer_blocks.{n}.{name}" for n in range(2) for name in BLOCK_NAMES]
    assert list(make().state_dict()) == [*BEFORE, *blocks, *AFTER]


def test_gradient_reaches_every_parameter_that_is_read():
    model = make()
    model(*inputs([4, 0, 7], 7)).square().sum().backward()
    # The last block's text output is never read, in the published model as here.
    unread = {
        f"transformer_blocks.1.{n}" for n in BLOCK_NAMES if "to_add_out" in n or "txt_mlp" in n or "txt_norm2" in n
    }
    without = {name for name, p in model.named_parameters() if p.grad is None}
    assert without == unread
    still = {name for name, p in model.named_parameters() if p.grad is not None and not p.grad.any()}
    assert still == {"transformer_blocks.1.attn.norm_added_q.weight"}  # queries of that same text output


def test_gradients_agree_with_differences():
    model = make().double()
    latents, timestep, features, mask, grid = inputs([2, 0], 3, grid=(2, 2))
    features = [f.double() for f in features]
    weight = model.transformer_blocks[0].attn.norm_k.weight

    def loss(x):
        return model(x, timestep, features, mask, grid).square().mean()

    x = latents.double().requires_grad_()
    (slope,) = torch.autograd.grad(loss(x), x)
    step = torch.randn_like(x)
    h = 1e-3
    with torch.no_grad():
        difference = (loss(x + h * step) - loss(x - h * step)) / (2 * h)
    assert weight.requires_grad
    torch.testing.assert_close((slope * step).sum(), difference, rtol=1e-3, atol=1e-6)


def test_float32_gradients_agree_with_float64():
    # On the CPU float32 has its own norm, with its own backward pass; float64 takes torch's.
    given_ = inputs([4, 0, 7], 7)
    model = make()
    model(*given_).square().mean().backward()
    exact = make().double()
    latents, timestep, features, mask, grid = given_
    exact(latents.double(), timestep, [f.double() for f in features], mask, grid).square().mean().backward()
    for (name, p), q in zip(model.named_parameters(), exact.parameters(), strict=True):
        if p.grad is not None:
            assert (p.grad - q.grad).norm() <= 1e-3 * q.grad.norm() + 1e-6, name


@settings(max_examples=15)
@given(lengths=st.lists(st.integers(0, 6), min_size=1, max_size=4), padding=st.integers(1, 9), fill=st.floats(-50, 50))
def test_padding_changes_nothing(lengths, padding, fill):
    model = make()
    latents, timestep, features, mask, grid = inputs(lengths, 6)
    # Whatever stands in the padding; but a row without a real token is unconditional, and zero all through.
    filled = fill * mask.any(1).float()[:, None, None]
    extra = [torch.cat([f, filled.expand(-1, padding, f.shape[2])], 1) for f in features]
    longer = torch.cat([mask, torch.zeros(len(lengths), padding, dtype=torch.bool)], 1)
    with torch.no_grad():
        short = model(latents, timestep, features, mask, grid)
        long = model(latents, timestep, extra, longer, grid)
    torch.testing.assert_close(short, long, atol=1e-5, rtol=1e-5)


def test_rows_of_a_batch_do_not_see_each_other():
    model = make()
    latents, timestep, features, mask, grid = inputs([4, 0, 7, 2], 7)
    order = torch.tensor([2, 0, 3, 1])
    with torch.no_grad():
        together = model(latents, timestep, features, mask, grid)
        shuffled = model(latents[order], timestep[order], [f[order] for f in features], mask[order], grid)
        alone = model(latents[2:3], timestep[2:3], [f[2:3] for f in features], mask[2:3], grid)
    torch.testing.assert_close(shuffled, together[order], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(alone, together[2:3], atol=1e-5, rtol=1e-5)


def test_text_time_and_place_all_matter():
    model = make()
    latents, timestep, features, mask, grid = inputs([4, 4], 4)
    with torch.no_grad():
        base = model(latents, timestep, features, mask, grid)
        reworded = model(latents, timestep, [f.flip(1) for f in features], mask, grid)
        nothing = [torch.zeros_like(f) for f in features]
        unconditional = model(latents, timestep, nothing, torch.zeros_like(mask), grid)
        later = model(latents, timestep / 2, features, mask, grid)
        turned = model(latents, timestep, features, mask, (grid[1], grid[0]))
    assert unconditional.isfinite().all()
    for other in (reworded, unconditional, later, turned):
        assert (other - base).abs().max() > 1e-3


def test_a_fresh_model_predicts_zero_and_learns():
    torch.manual_seed(0)
    model = LensTransformer(SMALL)
    given_ = inputs([4, 0], 5)
    assert not model(*given_).any()
    target = torch.randn_like(given_[0])
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    losses = []
    for _ in range(60):
        loss = (model(*given_) - target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]


def test_training_after_sampling_of_the_same_shape():
    model, given_ = make(), inputs([4, 3], 4)
    with torch.inference_mode():
        model(*given_)
    model(*given_).sum().backward()


@pytest.mark.parametrize("way", ["autocast", "weights"])
def test_bfloat16_is_close(way):
    model, given_ = make(), inputs([4, 0, 7], 7)
    exact = model(*given_).detach()
    if way == "autocast":
        with torch.autocast("cpu", torch.bfloat16):
            got = model(*given_)
        got.float().sum().backward()
    else:
        latents, timestep, features, mask, grid = given_
        with torch.no_grad():
            got = make().bfloat16()(latents.bfloat16(), timestep, [f.bfloat16() for f in features], mask, grid)
    assert (got.float() - exact).norm() < 0.05 * exact.norm()


def test_wrong_shapes_are_refused():
    model = make()
    latents, timestep, features, mask, grid = inputs([4, 0], 5)
    with pytest.raises(ValueError, match="do not fill a 2x2 grid"):
        model(latents, timestep, features, mask, (2, 2))
    with pytest.raises(ValueError, match="1 layers of text features, but the model reads 2"):
        model(latents, timestep, features[:1], mask, grid)
    with pytest.raises(ValueError, match="do not match their mask"):
        model(latents, timestep, features, mask[:, :4], grid)
    features[1][1, 0] = 1.0
    with pytest.raises(ValueError, match="all false in a row whose features are not zero"):
        model(latents, timestep, features, mask, grid)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"inner_dim": 100}, "inner_dim=100 is not"),
        ({"in_channels": 13}, "velocity must have the shape"),
        ({"axes_dims_rope": (4, 6, 8)}, "does not add up"),
        ({"axes_dims_rope": (5, 5, 6)}, "three even numbers"),
        ({"axes_dims_rope": (8, 8)}, "three even numbers"),
        ({"num_layers": 0}, "num_layers=0"),
        ({"selected_layer_index": ()}, "selected_layer_index is empty"),
        ({"gate_mlp": False}, "gate_mlp=False"),
        ({"rms_norm": False}, "rms_norm=False"),
        ({"multi_layer_encoder_feature": False}, "multi_layer_encoder_feature=False"),
    ],
)
def test_impossible_configs_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(SMALL, **changes)


def test_unknown_config_keys_are_named():
    with pytest.raises(ValueError, match="guidance_embeds, pooled"):
        LensConfig.from_dict({"num_layers": 2, "pooled": 1, "guidance_embeds": True})
