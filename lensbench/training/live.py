"""What training tells while it goes on: the numbers of its steps, into the run's spool, every few seconds."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import lightning

from lensbench import spool
from lensbench.training.curve import LossCurve, Row
from lensbench.training.datamodule import Step
from lensbench.training.module import LensModule
from lensbench.training.watch import Watch

SECONDS = 5.0  # between two tellings


class Live(lightning.Callback):
    """Tells each step once, in order, however often the run is stopped and taken up. `curve` and `watch` come before.

    A step that is computed again after a stop gives the same numbers and is not told again.
    """

    def __init__(self, directory: Path, steps: int, curve: LossCurve, watch: Watch | None) -> None:
        self.directory, self.steps, self.curve, self.watch = directory, steps, curve, watch
        self.trained = self.watched = 0  # the last steps told
        self.next = 0  # the place in curve.rows to go on at
        self.last = 0.0

    def on_train_start(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        for line in spool.of_this_run(spool.read(self.directory)[0]) if trainer.is_global_zero else ():
            self.trained = max(self.trained, line["step"] if "train" in line else 0)
            self.watched = max(self.watched, line["step"] if "held_out" in line else 0)
        self.last = time.monotonic()

    def on_train_batch_end(
        self, trainer: lightning.Trainer, module: lightning.LightningModule, outputs: Any, batch: Step, index: int
    ) -> None:
        assert isinstance(module, LensModule)
        if trainer.is_global_zero and (time.monotonic() - self.last >= SECONDS or module.steps == self.steps):
            self.last = time.monotonic()
            self._tell()

    def _tell(self) -> None:
        began = time.time() - (time.perf_counter() - self.curve.began)
        fresh = self.curve.rows[self.next :]
        rows = [row for row in fresh if row.step > self.trained and spool.is_told(row.step, self.steps)]
        lines: list[dict[str, Any]] = [
            {"t": int(1000 * (began + row.seconds)), "step": row.step, "train": numbers(row)} for row in rows
        ]
        seen = [row for row in self.watch.rows if int(row["step"]) > self.watched] if self.watch else []
        lines += [{"step": row["step"], "held_out": {row["form"]: row["validation_loss"]}} for row in seen]
        if not spool.append(self.directory, lines):
            return  # told with the next
        self.next += len(fresh)
        self.trained = max([self.trained, *(row.step for row in rows)])
        self.watched = max([self.watched, *(int(row["step"]) for row in seen)])


def numbers(row: Row) -> dict[str, float]:
    """What is told of a step, as train.csv has it: either file shows the same run."""
    rounded = (float(row.loss), row.learning_rate, float(row.gradient_norm), *row.by_timestep.tolist())
    return dict(
        zip(spool.CURVES, (*(float(f"{number:.6g}") for number in rounded), round(row.seconds, 5)), strict=True)
    )
