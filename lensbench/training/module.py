"""The LightningModule: one step of flow matching, whatever it takes, and the averaged weights.

Optimisation is manual, so that a step is one unit: it is computed in as many parts as memory allows, left out when it
is no number, and counted either way.
"""

from __future__ import annotations

import copy
import math
from typing import Any

import lightning
import torch
from torch import Tensor

from lensbench.experiment import Experiment, Start, Training
from lensbench.model.checkpoint import load, weights_digest
from lensbench.model.flow import flow_loss
from lensbench.model.transformer import LensConfig, LensTransformer
from lensbench.streams import stream_key
from lensbench.training.datamodule import Batch, Step
from lensbench.training.optimizer import new_optimizer

DECAY_SHARE = 0.3  # of the steps, under schedule="wsd"
QUARTILES = 4  # of the timesteps, whose losses are told apart


def new_denoiser(config: LensConfig, seed: int) -> LensTransformer:
    """A denoiser whose weights depend on (config, seed) alone; the global generator is left as it was."""
    with torch.random.fork_rng():
        torch.manual_seed(stream_key(seed, "weights"))
        return LensTransformer(config)


def started_from(start: Start, config: LensConfig) -> LensTransformer:
    """The denoiser of a checkpoint. Raises ValueError when it is another model or has other weights than said."""
    denoiser = load(start.path, config, dtype=torch.float32)
    if (found := weights_digest(denoiser)) != start.weights:
        raise ValueError(f"training.start.weights is {start.weights}, but those in {start.path} are {found}")
    return denoiser.requires_grad_()


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
    """Trains `denoiser`; `averaged` follows it as an exponential moving average and is what is sampled from.

    After a step, `losses` holds the loss of each image that this process computed, `loss` the mean over all of them,
    `gradient_norm` the norm before clipping, and `skipped` whether the step was left out because one of the two is no
    number. `steps` counts the steps, those left out too.
    """

    averaged: LensTransformer
    losses: Tensor
    loss: Tensor
    gradient_norm: Tensor

    def __init__(self, experiment: Experiment, config: LensConfig) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.experiment = experiment
        start = experiment.training.start
        self.denoiser = new_denoiser(config, experiment.seed) if start is None else started_from(start, config)
        self.averaged = copy.deepcopy(self.denoiser).requires_grad_(False)
        self.denoiser.checkpointing = experiment.training.activation_checkpointing
        self.pieces = 1  # that a part of a step is computed in
        self.steps = 0
        self.skipped = False

    def training_step(self, batch: Step, index: int) -> None:
        optimizer, schedule = self.optimizers(), self.lr_schedulers()
        assert isinstance(optimizer, lightning.pytorch.core.optimizer.LightningOptimizer)
        assert isinstance(schedule, torch.optim.lr_scheduler.LambdaLR)
        self.losses = self._gradients(batch, optimizer)
        self.loss = self.losses.sum() / batch.images
        self.gradient_norm = torch.nn.utils.clip_grad_norm_(
            self.denoiser.parameters(), self.experiment.training.clip, foreach=True
        )
        self.skipped = not math.isfinite(float(self.loss + self.gradient_norm))
        if not self.skipped:
            optimizer.step()
            self.follow(self.steps)
        schedule.step()
        self.steps += 1

    def _gradients(self, step: Step, optimizer: Any) -> Tensor:
        """Leave the gradients of the mean loss in the weights; the losses. In more pieces where memory runs out."""
        most = max(map(len, step.parts))
        while True:
            optimizer.zero_grad()
            try:
                pieces = (piece for part in step.parts for piece in part.split(self.pieces))
                return torch.cat([self._piece(piece, step.images) for piece in pieces])
            except torch.OutOfMemoryError:
                if self.pieces >= most:
                    raise
                self.pieces = min(2 * self.pieces, most)
            # outside the handler: the exception held on to what is to be freed
            optimizer.zero_grad()
            torch.cuda.empty_cache()

    def _piece(self, piece: Batch, of: int) -> Tensor:
        losses = flow_loss(
            self.denoiser, piece.latents, piece.noise, piece.timesteps, piece.text_features, piece.text_mask, piece.grid
        )
        self.manual_backward(losses.sum() / of)
        return losses.detach()

    @torch.no_grad()
    def follow(self, step: int) -> None:
        """Move the average towards the weights after step `step`, counted from 0."""
        # The average starts short, so that the first weights do not linger in it.
        decay = min(self.experiment.training.ema_decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(list(self.averaged.parameters()), list(self.denoiser.parameters()), 1 - decay)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["steps"], checkpoint["pieces"] = self.steps, self.pieces

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.steps, self.pieces = checkpoint["steps"], checkpoint["pieces"]

    def configure_optimizers(self) -> Any:
        optimizer = new_optimizer(self.denoiser, self.experiment.training, self.experiment.model.depth)
        scheduler = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: rate_factor(self.experiment.training, step)
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


def quartile_losses(losses: Tensor, timesteps: Tensor) -> Tensor:
    """Mean loss (4,) of the images whose timestep is in [0, .25), [.25, .5), ...; NaN where there is none."""
    quartile = (timesteps * QUARTILES).long().clamp(max=QUARTILES - 1)
    sums = torch.zeros(QUARTILES, device=losses.device).index_add(0, quartile, losses.float())
    return sums / torch.bincount(quartile, minlength=QUARTILES)
