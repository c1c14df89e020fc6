"""The parts of a Lens block that see one token at a time, and the embedding of the time."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - the field's name for it
from torch import Tensor, nn

from lensbench.model.config import TIME_CHANNELS

SLOWEST = 10_000.0  # period of the slowest sinusoid, against the fastest
EPS = 1e-6


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
    """x / sqrt(mean(x**2) + eps) over the last axis, by whatever is fastest where x is; float32 inside."""
    if torch.compiler.is_compiling():  # one fused kernel, whatever the device
        wide = x.float()
        return (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps)).to(x.dtype)
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


def modulated(x: Tensor, norm: RMSNorm, shift: Tensor, scale: Tensor) -> Tensor:
    """`norm(x) * (1 + scale) + shift`, with the norm's weight folded into the scale, which has one row an image."""
    return torch.addcmul(shift, unit_rms(x, norm.eps), (1 + scale) * norm.weight)


class SwiGLU(nn.Module):
    """`w2(silu(w1 x) * w3 x)`, no bias."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.w1 = nn.Linear(width, hidden, bias=False)
        self.w2 = nn.Linear(hidden, width, bias=False)
        self.w3 = nn.Linear(width, hidden, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.w2(F.silu(self.w1(x)) * self.w3(x))


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


def sinusoids(x: Tensor) -> Tensor:
    """x (B,) as cosines and sines (B, 256) of frequencies falling from 1 to nearly 1 / 10,000, cosines first."""
    half = TIME_CHANNELS // 2
    frequencies = torch.exp(-math.log(SLOWEST) / half * torch.arange(half, device=x.device, dtype=x.dtype))
    angles = x[:, None] * frequencies
    return torch.cat([angles.cos(), angles.sin()], dim=-1)
