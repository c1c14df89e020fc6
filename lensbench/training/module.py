"""The LightningModule: one step of flow matching, whatever it takes, and the averaged weights.

Optimisation is manual, so that a step is one unit: it is computed in as many parts as memory allows, left out when it
is no number, and counted either way.
"""

from __future__ import annotations

import contextlib
import copy
import math
from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import Any

import lightning
import torch
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from lensbench import ranks
from lensbench.experiment import Experiment, Start, Training
from lensbench.model.checkpoint import load, weights_digest
from lensbench.model.flow import flow_loss
from lensbench.model.transformer import LensConfig, LensTransformer
from lensbench.streams import stream_key
from lensbench.training import parallel
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

    After a step, `loss` is the mean loss of its images and `by_timestep` that of each quarter of the timesteps,
    `gradient_norm` the norm before clipping, and `skipped` whether the step was left out because `loss` or the norm is
    no number: with several processes, the same in all of them. `steps` counts the steps, those left out too.

    Memory that runs out is no end with one process, or with several under DDP before the gradients are exchanged: the
    step begins anew in smaller pieces. Later, and under FSDP, other processes wait within it for this one: the run ends
    in one line, and goes on from its last resume point when started again with more parts.
    """

    denoiser: LensTransformer
    averaged: LensTransformer
    loss: Tensor
    by_timestep: Tensor
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
        self.sharded = False  # this process has its part of the weights alone
        self.exchanging = False  # other processes wait for this one within the step

    def configure_model(self) -> None:
        if ranks.ranks() > 1:
            parallel.freeze_unread(self.denoiser)
        if self.sharded or not parallel.is_sharded(self.trainer.strategy):
            return
        assert self.device_mesh is not None
        self.sharded = True
        mesh = self.device_mesh["data_parallel"]
        parallel.shard(self.denoiser, mesh, bf16=self.experiment.training.precision == "bf16")
        parallel.shard(self.averaged, mesh, bf16=False)

    def training_step(self, batch: Step, index: int) -> None:
        optimizer, schedule = self.optimizers(), self.lr_schedulers()
        assert isinstance(optimizer, lightning.pytorch.core.optimizer.LightningOptimizer)
        assert isinstance(schedule, torch.optim.lr_scheduler.LambdaLR)
        losses = self._gradients(batch, optimizer)
        sums, counts = by_quartile(losses, torch.cat([part.timesteps for part in batch.parts]))
        numbers = ranks.summed(torch.cat([losses.sum()[None], sums, counts]))
        self.loss = numbers[0] / batch.images
        self.by_timestep = numbers[1 : 1 + QUARTILES] / numbers[1 + QUARTILES :]
        self.gradient_norm = self._clip()
        self.skipped = not math.isfinite(float(self.loss + self.gradient_norm))
        if not self.skipped:
            optimizer.step()
            self.follow(self.steps)
        schedule.step()
        self.steps += 1

    def _clip(self) -> Tensor:
        """Scale the gradients so that their norm is no more than `clip`; what it was, in all processes."""
        parameters = list(self.denoiser.parameters())
        norm = get_total_norm([p.grad for p in parameters if p.grad is not None], foreach=True)
        if isinstance(norm, DTensor):
            norm = norm.full_tensor()
        clip_grads_with_norm_(parameters, self.experiment.training.clip, norm, foreach=True)
        return norm

    def _gradients(self, step: Step, optimizer: Any) -> Tensor:
        """Leave the gradients of the mean loss in the weights; the losses. In more pieces where memory runs out."""
        most = max(map(len, step.parts))
        while True:
            optimizer.zero_grad()
            self.exchanging = self.sharded
            try:
                losses = self._attempt(step)
            except torch.OutOfMemoryError as error:
                if self.exchanging:
                    raise ValueError(
                        "a GPU ran out of memory where its processes wait for each other: raise training.accumulate "
                        f"(it is {self.experiment.training.accumulate}) and run again"
                    ) from error
                if self.pieces >= most:
                    raise
                ranks.highest(1)
                losses = None
            if losses is not None:
                return losses
            self.pieces = min(2 * self.pieces, most)
            # outside the handler: the exception held on to what is to be freed
            optimizer.zero_grad()
            torch.cuda.empty_cache()

    def _attempt(self, step: Step) -> Tensor | None:
        """The losses, with the gradients left in the weights; None when another process has run out of memory."""
        pieces = [piece for part in step.parts for piece in part.split(self.pieces)]
        found = []
        for piece in pieces[:-1]:
            with self._alone():
                losses = self._forward(piece)
                self._backward(losses, step.images)
                found.append(losses.detach())
        losses = self._forward(pieces[-1])
        # Gradients are exchanged in the last backward pass, which nobody may leave: first see that all have got here.
        if not self.sharded and ranks.highest(0) != [0]:
            return None
        self.exchanging = ranks.ranks() > 1
        self._backward(losses, step.images)
        return torch.cat([*found, losses.detach()])

    def _alone(self) -> AbstractContextManager[None]:
        """In it gradients are added up in this process alone."""
        if self.sharded:
            return _unsynchronized(self.denoiser)
        wrapped = self.trainer.strategy.model
        return wrapped.no_sync() if isinstance(wrapped, DistributedDataParallel) else contextlib.nullcontext()

    def _forward(self, piece: Batch) -> Tensor:
        return flow_loss(
            self.denoiser, piece.latents, piece.noise, piece.timesteps, piece.text_features, piece.text_mask, piece.grid
        )

    def _backward(self, losses: Tensor, of: int) -> None:
        # Strategies take the mean over the processes; the gradient wanted is the sum of theirs.
        self.manual_backward(losses.sum() * ranks.ranks() / of)

    @torch.no_grad()
    def follow(self, step: int) -> None:
        """Move the average towards the weights after step `step`, counted from 0."""
        # The average starts short, so that the first weights do not linger in it.
        decay = min(self.experiment.training.ema_decay, (1 + step) / (10 + step))
        averages, weights = (parallel.own(list(model.parameters())) for model in (self.averaged, self.denoiser))
        torch._foreach_lerp_(averages, weights, 1 - decay)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["steps"], checkpoint["pieces"] = self.steps, self.pieces

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.steps = checkpoint["steps"]
        # Under FSDP all processes compute as many pieces, and their shares may differ by an image.
        self.pieces = 1 if self.sharded else checkpoint["pieces"]

    def configure_optimizers(self) -> Any:
        optimizer = new_optimizer(self.denoiser, self.experiment.training, self.experiment.model.depth)
        scheduler = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: rate_factor(self.experiment.training, step)
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


def by_quartile(losses: Tensor, timesteps: Tensor) -> tuple[Tensor, Tensor]:
    """Sums of the losses and numbers of the images, both (4,), whose timestep is in [0, .25), [.25, .5), ..."""
    quartile = (timesteps * QUARTILES).long().clamp(max=QUARTILES - 1)
    sums = torch.zeros(QUARTILES, device=losses.device).index_add(0, quartile, losses.float())
    return sums, torch.bincount(quartile, minlength=QUARTILES).float()


def quartile_losses(losses: Tensor, timesteps: Tensor) -> Tensor:
    """Mean loss (4,) of the images whose timestep is in [0, .25), [.25, .5), ...; NaN where there is none."""
    sums, counts = by_quartile(losses, timesteps)
    return sums / counts


@contextlib.contextmanager
def _unsynchronized(denoiser: Any) -> Iterator[None]:
    denoiser.set_requires_gradient_sync(False)
    try:
        yield
    finally:
        denoiser.set_requires_gradient_sync(True)
