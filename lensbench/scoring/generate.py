"""Images for prompts, from noise that depends on (prompt, sample) and never on the model that draws them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence

import numpy as np
import torch

from lensbench.data.features import TextFeatures
from lensbench.model.autoencoder import Autoencoder
from lensbench.model.flow import sample
from lensbench.model.transformer import LensTransformer
from lensbench.streams import torch_stream

FirstSteps = dict[bytes, list[torch.Tensor]]  # digest of a batch's texts and noise -> the velocities of its first step


def sampling_noise(
    prompt_seed: int, protocol: str, keys: Sequence[tuple[int, int]], image_tokens: int, channels: int
) -> torch.Tensor:
    """Noise (len(keys), N, C), one stream for each (prompt index, sample) of a protocol."""
    return torch.stack(
        [
            torch.randn(
                image_tokens, channels, generator=torch_stream(prompt_seed, f"sampling/{protocol}/{prompt}", number)
            )
            for prompt, number in keys
        ]
    )


@torch.inference_mode()
def generate(
    denoiser: LensTransformer,
    autoencoder: Autoencoder,
    features: TextFeatures,
    texts: Sequence[str],
    noise: torch.Tensor,
    grid: tuple[int, int],
    *,
    steps: int,
    guidance: float | Sequence[float],
    batch: int = 128,
    report: Callable[[int], None] | None = None,
    firsts: FirstSteps | None = None,
) -> np.ndarray:
    """One image a text, (n, S, S, 3) uint8, rounded as a saved picture is. `report(n)` after each batch of n.

    Texts of like length share a batch, so that little of it is padding. The denoiser computes in its own type.
    `guidance` is one scale, or one for each step. `firsts` keeps the velocities of the first step for another scale.
    """
    weights = next(denoiser.parameters())
    order = sorted(range(len(texts)), key=lambda i: (len(texts[i]), i))
    out: dict[int, np.ndarray] = {}
    for start in range(0, len(order), batch):
        chosen = order[start : start + batch]
        text_features, text_mask = features.gather([texts[i] for i in chosen])
        first = None
        if firsts is not None:
            said = repr([texts[i] for i in chosen]).encode() + noise[chosen].numpy().tobytes()
            first = firsts.setdefault(hashlib.sha256(said).digest(), [])
        latents = sample(
            denoiser,
            noise[chosen].to(weights.device),
            [layer.to(weights) for layer in text_features],
            text_mask.to(weights.device),
            grid,
            steps,
            guidance,
            first,
        )
        images = autoencoder.decode(latents, grid).clamp(0, 1).mul(255).round().to(torch.uint8)
        for place, image in zip(chosen, images.permute(0, 2, 3, 1).cpu().numpy(), strict=True):
            out[place] = image
        if report is not None:
            report(len(chosen))
    return np.stack([out[i] for i in range(len(texts))])
