"""Flow matching as Lens does it: x_t = (1 - t) x_0 + t eps, velocity eps - x_0, Euler from noise with guidance.

Source: arXiv 2605.21573 and its published pipeline; the time shift is FLUX.2's.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

# (latents (B, N, C), timestep (B,), text features K x (B, T, E), text mask (B, T), grid) -> velocity (B, N, C)
Denoiser = Callable[[Tensor, Tensor, Sequence[Tensor], Tensor, tuple[int, int]], Tensor]


def timestep_mean(image_tokens: int) -> float:
    """Mean of the logit of training timesteps: linear in the tokens, 1.0 at 256 to 1.3 at 4096, and on beyond them."""
    return 1.0 + 0.3 * (image_tokens - 256) / (4096 - 256)


def draw_timesteps(generator: torch.Generator, n: int, mean: float) -> Tensor:
    """`n` timesteps in (0, 1), sigmoid of N(mean, 1); 1 is pure noise."""
    return torch.sigmoid(mean + torch.randn(n, generator=generator))


def flow_loss(
    model: Denoiser,
    latents: Tensor,
    noise: Tensor,
    timesteps: Tensor,
    text_features: Sequence[Tensor],
    text_mask: Tensor,
    grid: tuple[int, int],
) -> Tensor:
    """Mean squared error of the velocity, a sample (B,), at `timesteps` (B,) between latents and noise (B, N, C)."""
    noisy = torch.lerp(latents, noise, timesteps[:, None, None].to(latents.dtype))
    velocity = model(noisy, timesteps, text_features, text_mask, grid)
    return (velocity.float() - (noise - latents).float()).square().mean(dim=(1, 2))


def shift_exponent(steps: int, image_tokens: int) -> float:
    """FLUX.2's empirical mu: how far `sigmas` leans to noise, growing with the tokens, falling with the steps."""
    few = 8.73809524e-05 * image_tokens + 1.89833333  # at 10 steps
    many = 0.00016927 * image_tokens + 0.45666666  # at 200 steps
    if image_tokens > 4300:
        return many
    return few + (steps - 10) / (200 - 10) * (many - few)


def sigmas(steps: int, image_tokens: int) -> list[float]:
    """`steps + 1` noise levels falling from 1 to 0: linspace(1, 1/steps, steps), shifted by mu, and a final 0.

    Raises ValueError for fewer than one step.
    """
    if steps < 1:
        raise ValueError(f"steps={steps}: sampling needs at least one step")
    shift = math.exp(shift_exponent(steps, image_tokens))
    even = [1 - i / steps for i in range(steps)]  # linspace(1, 1/steps, steps)
    return [shift / (shift + (1 / level - 1)) for level in even] + [0.0]


def guide(conditional: Tensor, unconditional: Tensor, scale: float) -> Tensor:
    """Classifier-free guidance of velocities (B, N, C); each token keeps the norm of its conditional velocity."""
    guided = unconditional + scale * (conditional - unconditional)
    norm = torch.linalg.vector_norm(conditional, dim=-1, keepdim=True)
    return guided * (norm / torch.linalg.vector_norm(guided, dim=-1, keepdim=True).clamp_min(1e-12))


def guidance_schedule(scale: float, interval: tuple[float, float], steps: int, image_tokens: int) -> tuple[float, ...]:
    """One guidance scale a step: `scale` while the noise level is within `interval` (low, high), ends included, else 1.

    Guidance in a limited interval is Kynkäänniemi et al. 2024 (arXiv 2404.07724); (0, 1) is every step. Raises
    ValueError for a scale or an interval that cannot be.
    """
    low, high = interval
    if not 0 <= low < high <= 1:
        raise ValueError(f"guidance_interval={low:g} {high:g}: must be two noise levels, 0 <= low < high <= 1")
    if not (math.isfinite(scale) and scale >= 1):
        raise ValueError(f"guidance={scale:g}: must be at least 1, which is none")
    return tuple(scale if low <= level <= high else 1.0 for level in sigmas(steps, image_tokens)[:-1])


@torch.no_grad()
def sample(
    model: Denoiser,
    noise: Tensor,
    text_features: Sequence[Tensor],
    text_mask: Tensor,
    grid: tuple[int, int],
    steps: int,
    guidance: float | Sequence[float],
    first: list[Tensor] | None = None,
) -> Tensor:
    """Latents (B, N, C) from noise (B, N, C) in Euler steps.

    `guidance` is one scale, or one for each step. At a scale other than 1 the unconditional half (zero features, no
    real token) rides in the same batch; at 1 there is none. The state is kept in the type of the noise, and the model
    is given it in the type of the text features. Raises ValueError when there is not one scale a step.

    `first` is for sampling the same again at other scales: the velocities of a guided first step (2B, N, C) are left
    there and, where they are there, taken. The same noise and text have the same velocities at every scale, to the bit.
    A first step at 1 neither leaves nor takes them: in a batch of B the last bits may differ.
    """
    levels = sigmas(steps, noise.shape[1])
    scales = list(guidance) if isinstance(guidance, Sequence) else [guidance] * steps
    if len(scales) != steps:
        raise ValueError(f"guidance has {len(scales)} scales for {steps} steps: give one number, or one for each step")
    alone = both = (list(text_features), text_mask)
    if any(scale != 1 for scale in scales):
        both = (
            [torch.cat([layer, torch.zeros_like(layer)]) for layer in text_features],
            torch.cat([text_mask, torch.zeros_like(text_mask)]),
        )
    latents = noise
    for step, ((level, following), scale) in enumerate(zip(itertools.pairwise(levels), scales, strict=True)):
        kept = first if step == 0 and scale != 1 else None
        if kept:
            velocity = kept[0].to(noise.device)
        else:
            features, mask = alone if scale == 1 else both
            batch = latents if scale == 1 else torch.cat([latents, latents])
            timestep = torch.full((batch.shape[0],), level, dtype=torch.float32, device=noise.device)
            velocity = model(batch.to(features[0].dtype), timestep, features, mask, grid).to(noise.dtype)
            if kept is not None:
                kept.append(velocity.cpu())
        if scale != 1:
            conditional, unconditional = velocity.chunk(2)
            velocity = guide(conditional, unconditional, scale)
        latents = latents + (following - level) * velocity
    return latents
