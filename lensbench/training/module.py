"""The LightningModule: flow-matching loss, optimiser, averaged weights."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from typing import Any

import lightning
import torch
from torch.optim import Optimizer

from lensbench.experiment import Experiment, Training
from lensbench.model.flow import flow_loss
from lensbench.model.transformer import LensConfig, LensTransformer
from lensbench.streams import stream_key
from lensbench.training.datamodule import Batch
from lensbench.training.optimizer import new_optimizer

DECAY_SHARE = 0.3  # of the steps, under schedule="wsd"


def new_denoiser(config: LensConfig, seed: int) -> LensTransformer:
    """A denoiser whose weights depend on (config, seed) alone; the global generator is left as it was."""
    with torch.random.fork_rng():
        torch.manual_seed(stream_key(seed, "weights"))
        return LensTransformer(config)


def rate_factor(training: Training, step: int) -> float:
    """The share of the peak learning rate at a step: linear warm-up, then the schedule."""
    if step < training.warmup_steps:
        return (step + 1) / training.warmup_steps
    if training.schedule == "constant":
        return 1.0
    if training.schedule == "wsd":  # warm-up, stable, decay
        return min(1.0, (training.steps - step) / max(1, round(DECAY_SHARE * training.steps)))
    done = (step - training.warmup_steps) / max(1, training.steps - training.warmup_steps)
    return 0.5 * (1 + math.cos(math.pi * min(1.0, done)))


class LensModule(lightning.LightningModule):
    """Trains `denoiser`; `averaged` follows it as an exponential moving average and is what is sampled from."""

    averaged: LensTransformer

    def __init__(self, experiment: Experiment, config: LensConfig) -> None:
        super().__init__()
        self.experiment = experiment
        self.denoiser = new_denoiser(config, experiment.seed)
        self.averaged = copy.deepcopy(self.denoiser).requires_grad_(False)
        self.gradient_norm = torch.tensor(float("nan"))  # of the last step, before clipping

    def training_step(self, batch: Batch, step: int) -> torch.Tensor:
        return flow_loss(
            self.denoiser,
            batch.latents,
            batch.noise,
            batch.timesteps,
            batch.text_features,
            batch.text_mask,
            batch.grid,
        ).mean()

    @torch.no_grad()
    def on_train_batch_end(self, outputs: torch.Tensor | Mapping[str, Any] | None, batch: Batch, step: int) -> None:
        # The average starts short, so that the first weights do not linger in it.
        decay = min(self.experiment.training.ema_decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(list(self.averaged.parameters()), list(self.denoiser.parameters()), 1 - decay)

    def configure_gradient_clipping(
        self, optimizer: Optimizer, gradient_clip_val: float | None = None, gradient_clip_algorithm: str | None = None
    ) -> None:
        self.gradient_norm = torch.nn.utils.clip_grad_norm_(
            self.denoiser.parameters(), self.experiment.training.clip, foreach=True
        )

    def configure_optimizers(self) -> Any:
        optimizer = new_optimizer(self.denoiser, self.experiment.training)
        scheduler = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: rate_factor(self.experiment.training, step)
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}
