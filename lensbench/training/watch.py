"""Looking at a model while it is trained: the same questions at ever larger numbers of steps."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning

from lensbench.model.transformer import LensTransformer
from lensbench.publishing import publish
from lensbench.training.datamodule import Step
from lensbench.training.module import LensModule
from lensbench.training.parallel import whole

# What there is to say of the averaged weights after so many steps: rows of one table, at least one.
Probe = Callable[[LensTransformer, int], list[dict[str, int | float | str]]]


class Watch(lightning.Callback):
    """Asks `probe` about the averaged weights after each of `steps` and keeps what it says in a CSV file.

    The file is whole after each of them. A run that is stopped keeps what it has seen. Of several processes the first
    alone is asked, with all of the weights, while the others wait.
    """

    def __init__(self, path: Path, steps: tuple[int, ...], probe: Probe) -> None:
        self.path, self.steps, self.probe = path, frozenset(steps), probe
        self.rows: list[dict[str, int | float | str]] = []

    def on_train_batch_end(
        self, trainer: lightning.Trainer, module: lightning.LightningModule, outputs: Any, batch: Step, index: int
    ) -> None:
        assert isinstance(module, LensModule)
        if module.steps not in self.steps:
            return
        averaged = whole(module.averaged)
        if averaged is not None:
            self.rows += self.probe(averaged.to(module.device), module.steps)
            self._write()

    def state_dict(self) -> dict[str, Any]:
        """The rows so far."""
        return {"rows": list(self.rows)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up the rows of `state_dict()`."""
        self.rows = list(state_dict["rows"])

    def _write(self) -> None:
        partial = self.path.with_suffix(".partial")
        with partial.open("w", newline="") as file:
            table = csv.DictWriter(file, list(self.rows[0]), lineterminator="\n")
            table.writeheader()
            table.writerows(self.rows)
        publish(partial, self.path)
