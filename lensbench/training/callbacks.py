"""What happens beside the training steps: the loss curve, the checkpoints to score, the progress, the end of hope."""

from __future__ import annotations

import csv
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import lightning
import torch

from lensbench.model.checkpoint import save
from lensbench.training import files
from lensbench.training.datamodule import Step
from lensbench.training.module import QUARTILES, LensModule, quartile_losses

MOST_SKIPPED = 10  # steps in a row whose loss or gradient is no number, before training stops; fewer in short runs


class _Row(NamedTuple):
    step: int
    loss: torch.Tensor
    learning_rate: float
    gradient_norm: torch.Tensor
    seconds: float  # since training began
    data_seconds: float  # of them, spent waiting for this step's batch
    skipped: bool
    by_timestep: torch.Tensor  # (4,)


class LossCurve(lightning.Callback):
    """Keeps the numbers of every step and writes them as CSV when training ends.

    `loss_t1` is the loss of timesteps in [0, .25), nearly clean images; `loss_t4` that of [.75, 1), nearly noise.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows: list[_Row] = []
        self.earlier = 0.0  # seconds before this process took the run up
        self.began = self.ended = self.waited = time.perf_counter()

    def on_train_start(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        self.ended = time.perf_counter()
        self.began = self.ended - self.earlier

    def on_train_batch_start(
        self, trainer: lightning.Trainer, module: lightning.LightningModule, batch: Any, index: int
    ) -> None:
        self.waited = time.perf_counter() - self.ended

    def on_train_batch_end(
        self, trainer: lightning.Trainer, module: lightning.LightningModule, outputs: Any, batch: Step, index: int
    ) -> None:
        assert isinstance(module, LensModule)
        rate = trainer.optimizers[0].param_groups[0]["lr"]
        by_timestep = quartile_losses(module.losses, torch.cat([part.timesteps for part in batch.parts]))
        self.ended = time.perf_counter()
        self.rows.append(
            _Row(
                module.steps,
                module.loss,
                rate,
                module.gradient_norm,
                self.ended - self.began,
                self.waited,
                module.skipped,
                by_timestep,
            )
        )

    def state_dict(self) -> dict[str, Any]:
        """The rows so far."""
        return {"rows": [tuple(row) for row in self.rows]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up the rows of `state_dict()`."""
        self.rows = [_Row(*row) for row in state_dict["rows"]]
        self.earlier = self.rows[-1].seconds if self.rows else 0.0

    def on_train_end(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        with self.path.open("w", newline="") as file:
            table = csv.writer(file, lineterminator="\n")
            table.writerow([*_Row._fields[:-1], *(f"loss_t{n + 1}" for n in range(QUARTILES))])
            for row in self.rows:
                numbers = (float(row.loss), row.learning_rate, float(row.gradient_norm))
                shown = [f"{number:.6g}" for number in numbers]
                quartiles = [f"{loss:.6g}" for loss in row.by_timestep.tolist()]
                times = (f"{row.seconds:.3f}", f"{row.data_seconds:.5f}", int(row.skipped))
                table.writerow([row.step, *shown, *times, *quartiles])


class ScoringCheckpoints(lightning.Callback):
    """Saves the averaged weights after the steps at which the model is scored."""

    def __init__(self, directory: Path, steps: tuple[int, ...]) -> None:
        self.directory, self.steps = directory, frozenset(steps)

    def on_train_batch_end(
        self, trainer: lightning.Trainer, module: lightning.LightningModule, outputs: Any, batch: Step, index: int
    ) -> None:
        assert isinstance(module, LensModule)
        if module.steps in self.steps:
            save(module.averaged, files.checkpoint(self.directory, module.steps))


class Report(lightning.Callback):
    """Tells `report(done, total, note)` a few times a second at most."""

    def __init__(self, report: Callable[[int, int, str], None], total: int) -> None:
        self.report, self.total = report, total
        self.last = 0.0

    def on_train_batch_end(
        self, trainer: lightning.Trainer, module: lightning.LightningModule, outputs: Any, batch: Step, index: int
    ) -> None:
        assert isinstance(module, LensModule)
        if time.perf_counter() - self.last > 0.25 or module.steps == self.total:
            self.last = time.perf_counter()
            self.report(module.steps, self.total, f"loss {float(module.loss):.3f}")


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
        parts = [vars(part) for part in batch.parts]
        torch.save({"step": module.steps, "parts": parts, "weights": module.denoiser.state_dict()}, self.path)
        shown = ", ".join(key[:16] for key in batch.parts[0].keys[:3])
        raise ValueError(
            f"the loss is {float(module.loss):g} and the gradient's norm {float(module.gradient_norm):g} at "
            f"step {module.steps} ({self.in_a_row} without a number in a row): lower training.learning_rate and run "
            f"again; its batch (images {shown}, ...) and the weights are in {self.path}"
        )
