"""What happens beside the training steps: the loss curve, the checkpoints to score, the progress."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning
import torch

from lensbench.model.checkpoint import save
from lensbench.training.module import LensModule


class LossCurve(lightning.Callback):
    """Keeps loss, rate and gradient norm of every step and writes them as CSV when training ends."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows: list[tuple[int, torch.Tensor, float, torch.Tensor, float]] = []
        self.began = time.perf_counter()

    def on_train_start(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        self.began = time.perf_counter()

    def on_train_batch_end(
        self, trainer: lightning.Trainer, module: lightning.LightningModule, outputs: Any, batch: Any, step: int
    ) -> None:
        assert isinstance(module, LensModule)
        rate = trainer.optimizers[0].param_groups[0]["lr"]
        seconds = time.perf_counter() - self.began
        self.rows.append((step + 1, outputs["loss"].detach(), rate, module.gradient_norm, seconds))

    def on_train_end(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        lines = [f"{s},{float(loss):.6g},{rate:.6g},{float(norm):.6g},{t:.3f}" for s, loss, rate, norm, t in self.rows]
        self.path.write_text("\n".join(["step,loss,learning_rate,gradient_norm,seconds", *lines]) + "\n")


class ScoringCheckpoints(lightning.Callback):
    """Saves the averaged weights after the steps at which the model is scored."""

    def __init__(self, folder: Path, steps: tuple[int, ...]) -> None:
        self.folder, self.steps = folder, frozenset(steps)

    def on_train_batch_end(
        self, trainer: lightning.Trainer, module: lightning.LightningModule, outputs: Any, batch: Any, step: int
    ) -> None:
        assert isinstance(module, LensModule)
        if step + 1 in self.steps:
            save(module.averaged, self.folder / checkpoint_name(step + 1))


def checkpoint_name(step: int) -> str:
    """The folder of the weights after `step` steps."""
    return f"step-{step:06d}"


class Report(lightning.Callback):
    """Tells `report(done, total, note)` a few times a second at most, and stops a run whose loss is no number."""

    def __init__(self, report: Callable[[int, int, str], None]) -> None:
        self.report = report
        self.last = 0.0

    def on_train_batch_end(
        self, trainer: lightning.Trainer, module: lightning.LightningModule, outputs: Any, batch: Any, step: int
    ) -> None:
        total = int(trainer.max_steps)
        if time.perf_counter() - self.last > 0.25 or step + 1 == total:
            self.last = time.perf_counter()
            loss = float(outputs["loss"])
            if not math.isfinite(loss):
                raise ValueError(f"the loss is {loss} at step {step + 1}: lower training.learning_rate and run again")
            self.report(step + 1, total, f"loss {loss:.3f}")
