"""The flow-matching loss on held-out images, at noise and timesteps that depend on an image's place alone."""

from __future__ import annotations

import numpy as np
import torch

from lensbench.data.features import TextFeatures
from lensbench.data.latents import Latents
from lensbench.experiment import Experiment, Form
from lensbench.model.flow import draw_timesteps, flow_loss, timestep_mean
from lensbench.model.transformer import LensTransformer
from lensbench.scoring.evaluation_plan import Plan
from lensbench.streams import torch_stream


def validation_texts(plan: Plan, form: Form) -> list[str]:
    """The texts of the held-out images that the validation loss is taken on."""
    return plan.held_out[form][: plan.experiment.evaluation.validation_images]


@torch.inference_mode()
def validation_losses(
    denoiser: LensTransformer,
    texts: list[str],
    experiment: Experiment,
    features: TextFeatures,
    real: Latents,
    batch: int = 128,
) -> np.ndarray:
    """The loss (N,) of each held-out image with its text, at noise and a timestep that depend on its place alone."""
    device = next(denoiser.parameters()).device
    losses = []
    for start in range(0, len(texts), batch):
        latents = real.gather(np.arange(start, min(start + batch, len(texts))))
        seed = experiment.evaluation.prompt_seed
        noise = torch.randn(latents.shape, generator=torch_stream(seed, "validation noise", start))
        stream = torch_stream(seed, "validation timesteps", start)
        timesteps = draw_timesteps(stream, len(latents), timestep_mean(latents.shape[1]))
        text_features, text_mask = features.gather(texts[start : start + len(latents)])
        loss = flow_loss(
            denoiser,
            latents.to(device),
            noise.to(device),
            timesteps.to(device),
            [layer.to(device) for layer in text_features],
            text_mask.to(device),
            real.grid,
        )
        losses.append(loss.cpu())
    return torch.cat(losses).double().numpy()
