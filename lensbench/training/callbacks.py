"""What happens beside the training steps: the checkpoints to score, the progress, the end of hope."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning
import torch

from lensbench import ranks
from lensbench.model.checkpoint import save
from lensbench.training import files, parallel
from lensbench.training.curve import LossCurve, peak_memory
from lensbench.training.datamodule import Step
from lensbench.training.module import LensModule

MOST_SKIPPED = 10  # steps in a row whose loss or gradient is no number, before training stops; fewer in short runs


class ScoringCheckpoints(lightning.Callback):
    """Saves the averaged weights after the steps at which the model is scored."""

    def __init__(self, directory: Path, steps: tuple[int, ...]) -> None:
        self.directory, self.steps = directory, frozenset(steps)

    def on_train_batch_end(
        self, trainer: lightning.Trainer, module: lightning.LightningModule, outputs: Any, batch: Step, index: int
    ) -> None:
        assert isinstance(module, LensModule)
        if module.steps in self.steps and (averaged := parallel.whole(module.averaged)) is not None:
            save(averaged, files.checkpoint(self.directory, module.steps))


class Report(lightning.Callback):
    """Tells `report(done, total, note)` a few times a second at most. `curve` must come before it."""

    def __init__(self, report: Callable[[int, int, str], None], total: int, curve: LossCurve) -> None:
        self.report, self.total, self.curve = report, total, curve
        self.last = 0.0

    def on_train_batch_end(
        self, trainer: lightning.Trainer, module: lightning.LightningModule, outputs: Any, batch: Step, index: int
    ) -> None:
        assert isinstance(module, LensModule)
        if time.perf_counter() - self.last > 0.25 or module.steps == self.total:
            self.last = time.perf_counter()
            self.report(module.steps, self.total, self._note(trainer, module))

    def _note(self, trainer: lightning.Trainer, module: LensModule) -> str:
        speed, (memory, _) = self.curve.recent(), peak_memory(module.device)
        parts = [
            f"loss {float(module.loss):.3f}",
            f"{trainer.world_size * speed.images_per_second:,.0f} images/s",
            f"{trainer.world_size * speed.tokens_per_second:,.0f} tokens/s",
            f"{speed.peak_flops_share:.0%} of a matrix product's FLOP/s",
            f"{speed.data_wait_share:.1%} waiting for data",
            f"{memory / 1e9:.1f} GB",
        ]
        return ", ".join(parts)


class NoNumbers(lightning.Callback):
    """Stops a run whose loss or gradient was no number too often in a row, and keeps what shows it again.

    Raises ValueError naming the images and the file.
    """

    def __init__(self, path: Path, steps: int) -> None:
        self.path = path
        self.most = min(MOST_SKIPPED, max(1, steps // 10))
        self.in_a_row = 0

    def on_train_batch_end(
        self, trainer: lightning.Trainer, module: lightning.LightningModule, outputs: Any, batch: Step, index: int
    ) -> None:
        assert isinstance(module, LensModule)
        self.in_a_row = self.in_a_row + 1 if module.skipped else 0
        if self.in_a_row < self.most:
            return
        denoiser = parallel.whole(module.denoiser)
        if denoiser is not None:
            parts = [vars(part) for part in batch.parts]
            torch.save({"step": module.steps, "parts": parts, "weights": denoiser.state_dict()}, self.path)
        ranks.wait_for_all()  # for the file: the first process that ends with an error takes the others with it
        shown = ", ".join(key[:16] for key in batch.parts[0].keys[:3])
        raise ValueError(
            f"the loss is {float(module.loss):g} and the gradient's norm {float(module.gradient_norm):g} at "
            f"step {module.steps} ({self.in_a_row} without a number in a row): lower training.learning_rate and run "
            f"again; its batch (images {shown}, ...) and the weights are in {self.path}"
        )
