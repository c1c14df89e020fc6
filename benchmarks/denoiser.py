"""How fast the denoiser is against a plain implementation of the same equations, and against the machine.

Command: python benchmarks/denoiser.py [--depth 8] [--batch 8] [--side 16] [--seconds 20]
Plain: complex rotary, an additive mask over all keys, every text padded to the longest, torch's own RMS norm; bf16 by
autocast. Same weights, same inputs; in float32 the outputs agree to 1e-5. Text lengths: `mixed` is drawn around the
mean of the captions that Lens is trained on (109 words, taken as 1.3 tokens a word, spread by a quarter, at most 160),
`equal` is 160 for all. Tokens a second count real tokens only. Each pair is timed in turns in one process; medians.
`at most` is the ratio if everything in ours but its matrix products and its fused attention took no time.
"""

from __future__ import annotations

import argparse
import itertools
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, cast

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from lensbench.model.layers import RMSNorm, sinusoids
from lensbench.model.peak import matmul_peak
from lensbench.model.sizes import forward_flops, lens
from lensbench.model.transformer import LensConfig, LensTransformer
from lensbench.sweep.provenance import hardware

LONGEST = 160
WORDS, TOKENS_A_WORD, SPREAD = 109, 1.3, 0.25
ENCODER_WIDTH, LAYERS = 1024, (6, 13, 20, 27)  # Qwen3-0.6B's, of Lens-Toy


class PlainLens(LensTransformer):
    """The same parameters, computed the way one writes it first."""

    def forward(
        self,
        latents: Tensor,
        timestep: Tensor,
        text_features: Sequence[Tensor],
        text_mask: Tensor,
        grid: tuple[int, int],
    ) -> Tensor:
        rotary = complex_rotary(self.config, grid, text_mask.shape[1], latents.device)
        keys = torch.cat([text_mask.new_ones(latents.shape[:2]), text_mask], dim=1)
        mask = torch.zeros(keys.shape, device=latents.device).masked_fill(~keys, -torch.inf)[:, None, None, :]
        image = self.img_in(latents)
        text = self.txt_in(
            torch.cat([rms(x, cast(RMSNorm, n)) for n, x in zip(self.txt_norm, text_features, strict=True)], dim=-1)
        )
        embed = self.time_text_embed.timestep_embedder
        waves = sinusoids(1000 * timestep.float()).to(embed.linear_1.weight.dtype)
        time_ = embed.linear_2(F.silu(embed.linear_1(waves)))
        for block in self.transformer_blocks:
            image, text = plain_block(block, image, text, time_, rotary, mask)
        scale, shift = self.norm_out.linear(F.silu(time_)).unsqueeze(1).chunk(2, dim=-1)
        return self.proj_out(F.layer_norm(image, image.shape[-1:], eps=1e-6) * (1 + scale) + shift)


def rms(x: Tensor, norm: RMSNorm) -> Tensor:
    return F.rms_norm(x, x.shape[-1:], norm.weight.to(x.dtype), norm.eps)


def plain_block(
    block: Any, image: Tensor, text: Tensor, time_: Tensor, rotary: Tensor, mask: Tensor
) -> tuple[Tensor, Tensor]:
    """One block, both streams, the whole text stream computed even in the last."""
    attn = block.attn
    i = block.img_mod(time_).unsqueeze(1).chunk(6, dim=-1)
    t = block.txt_mod(time_).unsqueeze(1).chunk(6, dim=-1)
    h = rms(image, block.img_norm1) * (1 + i[1]) + i[0]
    g = rms(text, block.txt_norm1) * (1 + t[1]) + t[0]
    iq, ik, iv = (x.unflatten(-1, (-1, attn.head_dim)) for x in attn.img_qkv(h).chunk(3, dim=-1))
    tq, tk, tv = (x.unflatten(-1, (-1, attn.head_dim)) for x in attn.txt_qkv(g).chunk(3, dim=-1))
    q = torch.cat([rms(iq, attn.norm_q), rms(tq, attn.norm_added_q)], dim=1)
    k = torch.cat([rms(ik, attn.norm_k), rms(tk, attn.norm_added_k)], dim=1)
    v = torch.cat([iv, tv], dim=1)
    q, k = (torch.view_as_real(torch.view_as_complex(x.float().unflatten(-1, (-1, 2))) * rotary) for x in (q, k))
    q, k, v = q.flatten(-2).to(v.dtype).transpose(1, 2), k.flatten(-2).to(v.dtype).transpose(1, 2), v.transpose(1, 2)
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask.to(v.dtype)).transpose(1, 2).flatten(2)
    image_out, text_out = out.split([image.shape[1], text.shape[1]], dim=1)
    image = image + i[2] * attn.to_out[0](image_out)
    text = text + t[2] * attn.to_add_out(text_out)
    image = image + i[5] * block.img_mlp(rms(image, block.img_norm2) * (1 + i[4]) + i[3])
    text = text + t[5] * block.txt_mlp(rms(text, block.txt_norm2) * (1 + t[4]) + t[3])
    return image, text


def complex_rotary(config: LensConfig, grid: tuple[int, int], text_tokens: int, device: torch.device) -> Tensor:
    height, width = grid
    rows = torch.arange(height) - (height - height // 2)
    columns = torch.arange(width) - (width - width // 2)
    image = [(0, int(r), int(c)) for r, c in itertools.product(rows, columns)]
    text = [(max(height // 2, width // 2) + i,) * 3 for i in range(text_tokens)]
    positions = torch.tensor(image + text, dtype=torch.float64)
    angles = [
        positions[:, axis, None] * 10_000.0 ** (-torch.arange(0, c, 2, dtype=torch.float64) / c)
        for axis, c in enumerate(config.axes_dims_rope)
    ]
    joint = torch.cat(angles, dim=1)
    return torch.polar(torch.ones_like(joint), joint)[:, None, :].to(device, torch.complex64)


def inputs(config: LensConfig, side: int, lengths: Sequence[int], device: str) -> tuple[Any, ...]:
    generator = torch.Generator().manual_seed(0)
    batch, longest = len(lengths), max(lengths)
    latents = torch.randn(batch, side * side, config.in_channels, generator=generator)
    mask = torch.arange(longest)[None] < torch.tensor(lengths)[:, None]
    features = [
        torch.randn(batch, longest, config.enc_hidden_dim, generator=generator) * mask[:, :, None] for _ in LAYERS
    ]
    timestep = torch.rand(batch, generator=generator)
    moved = [x.to(device) for x in features]
    return latents.to(device), timestep.to(device), moved, mask.to(device), (side, side)


def caption_lengths(batch: int) -> list[int]:
    """Text tokens of `batch` captions; the longest padded length is `LONGEST`."""
    drawn = np.random.default_rng(0).normal(WORDS * TOKENS_A_WORD, SPREAD * WORDS * TOKENS_A_WORD, batch)
    lengths = [int(x) for x in np.clip(drawn, 8, LONGEST)]
    return [LONGEST, *lengths[1:]]


def median_seconds(calls: Sequence[Callable[[], object]], seconds: float, device: str) -> list[float]:
    """The median time of each call, taken in turns for about `seconds` in all."""
    for call in calls:
        call()
        call()
    times: list[list[float]] = [[] for _ in calls]
    began = time.perf_counter()
    while time.perf_counter() - began < seconds or len(times[0]) < 3:
        for call, own in zip(calls, times, strict=True):
            start = time.perf_counter()
            call()
            if device == "cuda":
                torch.cuda.synchronize()
            own.append(time.perf_counter() - start)
    return [statistics.median(own) for own in times]


def products_share(call: Callable[[], object]) -> float:
    """The share of a call's time that its matrix products and its fused attention take."""
    with torch.profiler.profile() as profiler:
        call()
    times = {event.key: event.self_cpu_time_total + event.self_device_time_total for event in profiler.key_averages()}
    products = ("mm", "addmm", "bmm", "baddbmm", "_scaled_dot_product", "_mkl_linear", "_linear_pointwise")
    return sum(t for key, t in times.items() if key.split("::")[-1].startswith(products)) / sum(times.values())


def bench(
    config: LensConfig, side: int, lengths: list[int], name: str, device: str, seconds: float, compiled: bool
) -> None:
    """Time both at forward and at forward and backward, in float32 and in bf16; print one line each."""
    torch.manual_seed(0)
    model = LensTransformer(config)
    with torch.no_grad():  # nothing at a special value
        for p in model.parameters():
            p.add_(0.02 * torch.randn_like(p))
    with torch.device("meta"):
        plain = PlainLens(config)
    plain.load_state_dict(model.state_dict(), assign=True)
    model.to(device)
    plain.to(device).requires_grad_()
    given = inputs(config, side, lengths, device)
    with torch.no_grad():
        a, b = model(*given), plain(*given)
        print(f"{name}: text {lengths}; float32 outputs differ by at most {(a - b).abs().max():.1e}")
        assert torch.allclose(a, b, rtol=1e-5, atol=1e-5) or device == "cuda"
        if compiled:
            model.compile_velocity()
            print(f"  compiled, they differ by at most {(model(*given) - a).abs().max():.1e} from what they were")
    tokens = len(lengths) * side * side + sum(lengths)
    flops = sum(forward_flops(config, side * side, n) for n in lengths)

    def run(net: LensTransformer, context: Callable[[], AbstractContextManager[None]], backward: bool) -> None:
        with context(), torch.set_grad_enabled(backward):
            loss = net(*given).float().square().mean()
        if backward:
            loss.backward()
            net.zero_grad(set_to_none=True)

    for dtype in (torch.float32, torch.bfloat16):
        bf16 = dtype == torch.bfloat16

        def context(bf16: bool = bf16) -> AbstractContextManager[None]:
            return torch.autocast(device, torch.bfloat16) if bf16 else nullcontext()

        peak = matmul_peak(dtype, device, seconds=2.0)
        for backward in (False, True):
            calls = [lambda net=net, b=backward: run(net, context, b) for net in (model, plain)]
            ours, theirs = median_seconds(calls, seconds, device)
            useful = (3 if backward else 1) * flops / ours
            share = products_share(calls[0])
            print(
                f"  {'bf16' if bf16 else 'fp32'} {'forward+backward' if backward else 'forward':16s} "
                f"{tokens / ours:9,.0f} tokens/s  plain {tokens / theirs:9,.0f}  "
                f"ratio {theirs / ours:4.2f}, at most {theirs / ours / share:4.2f}  "
                f"{useful / 1e9:8,.0f} GFLOP/s, {useful / peak:4.0%} of a matmul's {peak / 1e9:,.0f}",
                flush=True,
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--depth", type=int, default=8)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument(
        "--side", type=int, nargs="+", default=[16], help="image tokens on a side: 16 is 256 px, 32 is 512 px"
    )
    parser.add_argument("--seconds", type=float, default=20, help="a pair of timings")
    parser.add_argument("--compile", action="store_true", help="ours by torch.compile")
    options = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    config = lens(options.depth, enc_hidden_dim=ENCODER_WIDTH, selected_layer_index=LAYERS)
    print(
        f"{hardware()}; torch {torch.__version__}, Python {platform.python_version()}; "
        f"depth {options.depth}, batch {options.batch}"
    )
    for side in options.side:
        print(f"{side * side} image tokens{', ours compiled' if options.compile else ''}")
        for name, lengths in (("mixed", caption_lengths(options.batch)), ("equal", [LONGEST] * options.batch)):
            bench(config, side, lengths, name, device, options.seconds, options.compile)


if __name__ == "__main__":
    main()
