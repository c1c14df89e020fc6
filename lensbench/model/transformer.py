"""The Lens denoiser: a double-stream rectified-flow transformer with the published structure and parameter names.

- every block is double-stream: image and text tokens have their own weights and meet in one joint attention
- fused QKV, RMSNorm on queries and keys, SwiGLU without bias, affine RMSNorm before attention and MLP
- the time, and nothing else, modulates; text is never pooled
- rotary positions on three axes (frame, height, width), image centred on zero, text beyond the image's edge
- text features of several encoder layers, each normalised, concatenated on channels
- only the image stream is read out

Source: "Lens: Rethinking Training Efficiency for Foundational Text-to-Image Models" (arXiv 2605.21573), its published
inference code and configs. A published checkpoint loads with `strict=True`.

The last block's text output is never read, so it is not computed: its `to_add_out`, `txt_norm2` and `txt_mlp` exist,
because published checkpoints have them, and never get a gradient (nor would they if it were computed).
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - the field's name for it
from torch import Tensor, nn

TIME_CHANNELS = 256  # sinusoids the time is expanded into
THETA = 10_000.0  # base of the rotary and of the sinusoidal frequencies
EPS = 1e-6
TEXT_EPS = 1e-5
QUERY_KEY_BIAS_STD = 1.5  # at the start


@dataclasses.dataclass(frozen=True)
class LensConfig:
    """Shape of a Lens denoiser, with the names of the published config.json; the defaults are the published Lens.

    Raises ValueError, one line, for shapes that cannot be.
    """

    patch_size: int = 2  # side of a patch, in latent positions
    in_channels: int = 128  # channels of a token: patch_size**2 * out_channels
    out_channels: int = 32  # channels of a latent position
    num_layers: int = 48
    attention_head_dim: int = 64
    num_attention_heads: int = 24
    inner_dim: int = 0  # width: num_attention_heads * attention_head_dim; 0 fills it in
    enc_hidden_dim: int = 2880  # width of the text encoder
    axes_dims_rope: tuple[int, ...] = (8, 28, 28)  # channels of a head rotated by frame, height, width
    gate_mlp: bool = True
    rms_norm: bool = True
    multi_layer_encoder_feature: bool = True
    selected_layer_index: tuple[int, ...] = (5, 11, 17, 23)  # 0-based layers of the text encoder

    def __post_init__(self) -> None:
        object.__setattr__(self, "axes_dims_rope", tuple(self.axes_dims_rope))
        object.__setattr__(self, "selected_layer_index", tuple(self.selected_layer_index))
        width = self.num_attention_heads * self.attention_head_dim
        object.__setattr__(self, "inner_dim", self.inner_dim or width)
        for name in ("patch_size", "in_channels", "out_channels", "num_layers", "inner_dim", "enc_hidden_dim"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)}: must be at least 1")
        if self.inner_dim != width:
            raise ValueError(
                f"inner_dim={self.inner_dim} is not num_attention_heads * attention_head_dim = {width}: leave it out"
            )
        if self.in_channels != self.patch_size**2 * self.out_channels:
            raise ValueError(
                f"in_channels={self.in_channels} is not patch_size**2 * out_channels = "
                f"{self.patch_size**2 * self.out_channels}: a velocity must have the shape of its latents"
            )
        if len(self.axes_dims_rope) != 3 or any(d < 0 or d % 2 for d in self.axes_dims_rope):
            raise ValueError(f"axes_dims_rope={self.axes_dims_rope}: needs three even numbers (frame, height, width)")
        if sum(self.axes_dims_rope) != self.attention_head_dim:
            raise ValueError(
                f"axes_dims_rope={self.axes_dims_rope} does not add up to attention_head_dim={self.attention_head_dim}"
            )
        if not self.selected_layer_index:
            raise ValueError("selected_layer_index is empty: name at least one layer of the text encoder")
        for name in ("gate_mlp", "rms_norm", "multi_layer_encoder_feature"):
            if getattr(self, name) is not True:
                raise ValueError(
                    f"{name}={getattr(self, name)}: every published Lens has true, and nothing else is built"
                )

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> LensConfig:
        """The config of a published config.json; diffusers' own keys (`_class_name`, ...) are passed over.

        Raises ValueError for a key that Lens does not have.
        """
        known = {field.name for field in dataclasses.fields(cls)}
        unknown = sorted(key for key in values if key not in known and not key.startswith("_"))
        if unknown:
            raise ValueError(f"unknown keys in a Lens config: {', '.join(unknown)}")
        return cls(**{key: value for key, value in values.items() if key in known})

    @property
    def mlp_dim(self) -> int:
        """Hidden width of the SwiGLU."""
        return int(self.inner_dim / 3 * 8)


class UnitRMS(torch.autograd.Function):
    """x / rms(x) over the last axis. Torch's own, on the CPU, takes two to six times as long, forward and backward."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, eps: float) -> Tensor:
        norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
        inverse = torch.rsqrt(norm.square() / x.shape[-1] + eps)
        unit = x * inverse
        ctx.save_for_backward(unit, inverse)
        return unit

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        unit, inverse = ctx.saved_tensors
        along = torch.linalg.vecdot(grad, unit).unsqueeze(-1) / unit.shape[-1]
        return torch.addcmul(grad, unit, along, value=-1).mul_(inverse), None


def unit_rms(x: Tensor, eps: float) -> Tensor:
    """x / sqrt(mean(x**2) + eps) over the last axis, by whatever is fastest where x is."""
    if x.device.type == "cpu" and x.dtype == torch.float32:
        return UnitRMS.apply(x, eps)
    return F.rms_norm(x, x.shape[-1:], None, eps)


class RMSNorm(nn.Module):
    """Root-mean-square norm of `width` channels with a weight for each."""

    def __init__(self, width: int, eps: float = EPS) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return unit_rms(x, self.eps) * self.weight


class SwiGLU(nn.Module):
    """`w2(silu(w1 x) * w3 x)`, no bias."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.w1 = nn.Linear(width, hidden, bias=False)
        self.w2 = nn.Linear(hidden, width, bias=False)
        self.w3 = nn.Linear(width, hidden, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.w2(F.silu(self.w1(x)) * self.w3(x))


class JointAttention(nn.Module):
    """The weights of one attention over image and text tokens together; `Block` computes it."""

    def __init__(self, width: int, head_dim: int) -> None:
        super().__init__()
        self.norm_q = RMSNorm(head_dim)
        self.norm_k = RMSNorm(head_dim)
        self.norm_added_q = RMSNorm(head_dim)
        self.norm_added_k = RMSNorm(head_dim)
        self.img_qkv = nn.Linear(width, 3 * width)
        self.txt_qkv = nn.Linear(width, 3 * width)
        self.to_out = nn.ModuleList([nn.Linear(width, width)])
        self.to_add_out = nn.Linear(width, width)
        self.head_dim = head_dim

    def forward(
        self, image: Tensor, text: Tensor, rotary: Tensor, mask: Tensor, *, text_out: bool
    ) -> tuple[Tensor, Tensor | None]:
        """image (B, N, D), text (B, T, D), rotary (N+T, 1, 1, d/2), mask (B, 1, 1, N+T) -> both streams, mixed."""
        batch, image_tokens, width = image.shape
        joint = torch.cat([self.img_qkv(image), self.txt_qkv(text)], dim=1)  # (B, S, 3D), S = N + T
        tokens = joint.shape[1]
        joint = joint.view(batch, tokens, 3, -1, self.head_dim)
        queries_keys, values = joint.split([2, 1], dim=2)
        rotated = self.rotate(queries_keys, rotary, image_tokens).to(values.dtype)
        q, k = (x.transpose(1, 2) for x in rotated.unbind(2))  # (B, heads, S, d)
        if not text_out:
            q = q[:, :, :image_tokens]
        out = F.scaled_dot_product_attention(q, k, values.squeeze(2).transpose(1, 2), attn_mask=mask)
        out = out.transpose(1, 2).reshape(batch, -1, width)
        if not text_out:
            return self.to_out[0](out), None
        image_out, rest = out.split([image_tokens, tokens - image_tokens], dim=1)
        return self.to_out[0](image_out), self.to_add_out(rest)

    def rotate(self, x: Tensor, rotary: Tensor, image_tokens: int) -> Tensor:
        """Queries and keys (B, S, 2, heads, d), normalised, then turned by their positions in pairs of channels."""
        image = torch.stack([self.norm_q.weight, self.norm_k.weight])
        text = torch.stack([self.norm_added_q.weight, self.norm_added_k.weight])
        weight = torch.cat(
            [image.expand(image_tokens, -1, -1), text.expand(x.shape[1] - image_tokens, -1, -1)]
        ).unsqueeze(2)  # (S, 2, 1, d)
        pairs = (unit_rms(x, EPS) * weight).float().unflatten(-1, (-1, 2))
        return torch.view_as_real(torch.view_as_complex(pairs) * rotary).flatten(-2)


class Block(nn.Module):
    """One double-stream block: attention, then MLP, both modulated by the time."""

    def __init__(self, width: int, head_dim: int, hidden: int) -> None:
        super().__init__()
        self.attn = JointAttention(width, head_dim)
        self.img_mod = nn.Sequential(nn.SiLU(), nn.Linear(width, 6 * width))
        self.img_norm1 = RMSNorm(width)
        self.img_norm2 = RMSNorm(width)
        self.img_mlp = SwiGLU(width, hidden)
        self.txt_mod = nn.Sequential(nn.SiLU(), nn.Linear(width, 6 * width))
        self.txt_norm1 = RMSNorm(width)
        self.txt_norm2 = RMSNorm(width)
        self.txt_mlp = SwiGLU(width, hidden)

    def forward(
        self,
        image: Tensor,
        text: Tensor,
        time: Tensor,
        rotary: Tensor,
        mask: Tensor,
        *,
        text_out: bool = True,
    ) -> tuple[Tensor, Tensor]:
        """image (B, N, D), text (B, T, D), time (B, 1, D) after its SiLU -> image, text (untouched if not text_out)."""
        # The SiLU is the same for all blocks and was applied once; [1] is the linear.
        shift1, scale1, gate1, shift2, scale2, gate2 = self.img_mod[1](time).chunk(6, dim=-1)
        t_shift1, t_scale1, t_gate1, t_shift2, t_scale2, t_gate2 = self.txt_mod[1](time).chunk(6, dim=-1)
        image_mixed, text_mixed = self.attn(
            modulated(image, self.img_norm1, shift1, scale1),
            modulated(text, self.txt_norm1, t_shift1, t_scale1),
            rotary,
            mask,
            text_out=text_out,
        )
        image = torch.addcmul(image, gate1, image_mixed)
        image = torch.addcmul(image, gate2, self.img_mlp(modulated(image, self.img_norm2, shift2, scale2)))
        if text_out:
            text = torch.addcmul(text, t_gate1, text_mixed)
            text = torch.addcmul(text, t_gate2, self.txt_mlp(modulated(text, self.txt_norm2, t_shift2, t_scale2)))
        return image, text


def modulated(x: Tensor, norm: RMSNorm, shift: Tensor, scale: Tensor) -> Tensor:
    """`norm(x) * (1 + scale) + shift`, with the norm's weight folded into the scale, which has one row an image."""
    return torch.addcmul(shift, unit_rms(x, norm.eps), (1 + scale) * norm.weight)


class TimestepEmbedder(nn.Module):
    """Timesteps (B,) in [0, 1] -> (B, D): 1000 times the timestep as sinusoids, linear, SiLU, linear."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear_1 = nn.Linear(TIME_CHANNELS, width)
        self.linear_2 = nn.Linear(width, width)

    def forward(self, timestep: Tensor) -> Tensor:
        waves = sinusoids(1000 * timestep.float()).to(self.linear_1.weight.dtype)
        return self.linear_2(F.silu(self.linear_1(waves)))


class TimeTextEmbed(nn.Module):
    """Only the published name: Lens embeds the time alone."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.timestep_embedder = TimestepEmbedder(width)

    def forward(self, timestep: Tensor) -> Tensor:
        return self.timestep_embedder(timestep)


class ModulatedLayerNorm(nn.Module):
    """LayerNorm without weights, modulated by the time; here the scale comes before the shift."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, 2 * width)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        scale, shift = self.linear(time).chunk(2, dim=-1)
        return torch.addcmul(shift, F.layer_norm(x, x.shape[-1:], eps=EPS), 1 + scale)


class LensTransformer(nn.Module):
    """The denoiser of a `LensConfig`. Weights are drawn from torch's global generator: see `initialize`."""

    def __init__(self, config: LensConfig) -> None:
        super().__init__()
        self.config = config
        width = config.inner_dim
        # Modules stand in the published order, so that optimiser states line up with published ones too.
        self.time_text_embed = TimeTextEmbed(width)
        self.txt_norm = nn.ModuleList([RMSNorm(config.enc_hidden_dim, TEXT_EPS) for _ in config.selected_layer_index])
        self.txt_in = nn.Linear(config.enc_hidden_dim * len(config.selected_layer_index), width)
        self.img_in = nn.Linear(config.in_channels, width)
        self.transformer_blocks = nn.ModuleList(
            [Block(width, config.attention_head_dim, config.mlp_dim) for _ in range(config.num_layers)]
        )
        self.norm_out = ModulatedLayerNorm(width)
        self.proj_out = nn.Linear(width, config.in_channels)
        self.initialize()

    def initialize(self) -> None:
        """Weights as in DiT (arXiv 2212.09748, section 3.2): Xavier, no bias; time embedder N(0, 0.02^2).

        The modulations start without the time and with open gates: each block is a plain pre-norm block. DiT's closed
        gates keep the text from the image for the first hundreds of steps, which short runs do not have. Queries and
        keys have random biases: with them a head prefers some relative positions from the start, and a model that is
        told positions by rotation alone finds out where its tokens are much sooner. The last projection is zero, so
        the velocity starts at zero.
        """
        for name, parameter in self.named_parameters():
            if name.endswith(("_mod.1.weight", "norm_out.linear.weight", "proj_out.weight", ".bias")):
                nn.init.zeros_(parameter)
                if name.endswith("_mod.1.bias"):
                    with torch.no_grad():  # (shift, scale, gate) of the attention, then of the MLP
                        parameter.view(6, -1)[[2, 5]] = 1.0
                elif name.endswith("_qkv.bias"):
                    nn.init.normal_(parameter[: 2 * self.config.inner_dim], std=QUERY_KEY_BIAS_STD)
            elif name.startswith("time_text_embed."):
                nn.init.normal_(parameter, std=0.02)
            elif parameter.ndim == 2:
                nn.init.xavier_uniform_(parameter)
            else:
                nn.init.ones_(parameter)  # the weight of a norm

    def forward(
        self,
        latents: Tensor,
        timestep: Tensor,
        text_features: Sequence[Tensor],
        text_mask: Tensor,
        grid: tuple[int, int],
    ) -> Tensor:
        """Velocity (B, H*W, C) of `latents` (B, H*W, C), row-major on `grid` (H, W), at `timestep` (B,) in [0, 1].

        `text_features`: one (B, T, E) for each of `selected_layer_index`; `text_mask` (B, T) bool, true where a token
        is real. A row without a real token is unconditional. Padding changes nothing. Raises ValueError on shapes.
        """
        height, width = grid
        image_tokens, text_tokens = latents.shape[1], text_mask.shape[1]
        if image_tokens != height * width:
            raise ValueError(f"{image_tokens} image tokens do not fill a {height}x{width} grid")
        if len(text_features) != len(self.txt_norm):
            raise ValueError(f"{len(text_features)} layers of text features, but the model reads {len(self.txt_norm)}")
        if any(layer.shape[:2] != text_mask.shape for layer in text_features):
            shapes = [tuple(layer.shape) for layer in text_features]
            raise ValueError(f"text features {shapes} do not match their mask {tuple(text_mask.shape)}")
        image = self.img_in(latents)
        text = self.txt_in(torch.cat([norm(x) for norm, x in zip(self.txt_norm, text_features, strict=True)], dim=-1))
        time = F.silu(self.time_text_embed(timestep)).unsqueeze(1)  # (B, 1, D)
        rotary = rotary_table(self.config.axes_dims_rope, grid, text_tokens, latents.device)
        # Added to the attention scores: minus infinity where a key is padding.
        mask = image.new_zeros(text_mask.shape).masked_fill_(~text_mask, -math.inf)
        mask = F.pad(mask, (image_tokens, 0))[:, None, None, :]
        last = len(self.transformer_blocks) - 1
        for n, block in enumerate(self.transformer_blocks):
            image, text = block(image, text, time, rotary, mask, text_out=n < last)
        return self.proj_out(self.norm_out(image, time))


def sinusoids(x: Tensor) -> Tensor:
    """x (B,) as cosines and sines (B, 256) of frequencies falling from 1 to nearly 1 / 10,000, cosines first."""
    half = TIME_CHANNELS // 2
    frequencies = torch.exp(-math.log(THETA) / half * torch.arange(half, device=x.device, dtype=x.dtype))
    angles = x[:, None] * frequencies
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


@functools.lru_cache(maxsize=512)
def rotary_table(axes: tuple[int, ...], grid: tuple[int, int], text_tokens: int, device: torch.device) -> Tensor:
    """exp(i * angle) (H*W + T, 1, 1, d/2), complex64, of the joint sequence, image first.

    Height and width run from -(n - n//2) to n//2 - 1, the frame is 0; text token i is at max(H//2, W//2) + i on all
    three axes.
    """
    # Cached tensors outlive the call: made under inference mode they could not be trained with.
    with torch.inference_mode(False), torch.no_grad():
        height, width = grid
        rows = torch.arange(height, dtype=torch.float64) - (height - height // 2)
        columns = torch.arange(width, dtype=torch.float64) - (width - width // 2)
        frames = torch.zeros(1, 1, dtype=torch.float64)
        image = torch.stack(torch.broadcast_tensors(frames, rows[:, None], columns[None, :]), dim=-1)
        text = max(height // 2, width // 2) + torch.arange(text_tokens, dtype=torch.float64)
        positions = torch.cat([image.reshape(-1, 3), text[:, None].expand(-1, 3)])  # (S, 3)
        angles = torch.cat(
            [
                positions[:, axis, None] * THETA ** (-torch.arange(0, channels, 2, dtype=torch.float64) / channels)
                for axis, channels in enumerate(axes)
            ],
            dim=1,
        )  # (S, d/2)
        return torch.polar(torch.ones_like(angles), angles)[:, None, None, :].to(device, torch.complex64)
