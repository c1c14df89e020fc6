"""The numbers of every step, and how well the machine was used: train.csv and training.json.

Nothing here waits for the device: what a step computed there is kept there until the end, and its time is that between
two steps, each of which ends with the one number that training itself must see. Counts are of this process.
"""

from __future__ import annotations

import csv
import functools
import json
import resource
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import lightning
import numpy as np
import torch

from lensbench.model.peak import matmul_peak
from lensbench.model.sizes import train_flops_per_image
from lensbench.model.transformer import LensConfig
from lensbench.publishing import publish, publish_text
from lensbench.training.datamodule import LensData, Step
from lensbench.training.module import QUARTILES, LensModule
from lensbench.training.workers import StepLoader

RECENT = 100  # steps that the speed shown along the way is taken over


class Row(NamedTuple):
    """A step, as a row of train.csv."""

    step: int
    loss: torch.Tensor
    learning_rate: float
    gradient_norm: torch.Tensor
    seconds: float  # since training began
    data_seconds: float  # of them, spent waiting for this step's images and texts
    skipped: bool
    images: int
    tokens: int  # of images and texts, without padding
    padding: float  # tokens computed, padding with them, over `tokens`
    flops: float  # useful ones: of the tokens, forward and backward
    pieces: int  # that each part of the step was computed in, for memory's sake
    by_timestep: torch.Tensor  # (4,)


class Speed(NamedTuple):
    """How fast steps were, and what that is of what the machine could do."""

    images_per_second: float
    tokens_per_second: float
    peak_flops_share: float  # useful FLOP/s over those of a matrix product
    data_wait_share: float  # of the time
    padding: float


def speed(rows: Sequence[Row], peak: float, before: float = 0.0) -> Speed:
    """The speed of consecutive steps, the first of which began `before` seconds into training.

    Rates are medians over the steps, so that writing a checkpoint or looking at samples now and then leaves them
    alone; the share of time spent waiting and the padding are of all the steps together.
    """
    ends = np.array([before, *(row.seconds for row in rows)])
    took = np.maximum(np.diff(ends), 1e-9)
    tokens = np.array([row.tokens for row in rows])
    return Speed(
        float(np.median([row.images for row in rows] / took)),
        float(np.median(tokens / took)),
        float(np.median([row.flops for row in rows] / took)) / peak,
        sum(row.data_seconds for row in rows) / max(ends[-1] - before, 1e-9),
        float(sum(row.padding * row.tokens for row in rows) / tokens.sum()),
    )


def peak_memory(device: torch.device) -> tuple[int, str]:
    """The most bytes held so far, and what they are: of the GPU by torch, or without one of the process by the OS."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device), "GPU memory allocated by torch"
    of = "resident memory of the process, whatever it did before training"
    if sys.platform == "linux":  # where getrusage counts what the parent held when it started this process
        status = Path("/proc/self/status").read_text()
        return 1024 * int(status.partition("VmHWM:")[2].split()[0]), of
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024), of


class LossCurve(lightning.Callback):
    """Keeps the numbers of every step; writes them as CSV when training ends, and their summary as JSON.

    `loss_t1` is the loss of timesteps in [0, .25), nearly clean images; `loss_t4` that of [.75, 1), nearly noise.
    `peak` is the FLOP/s of a matrix product, measured when training starts.
    """

    def __init__(self, path: Path, summary: Path) -> None:
        self.path, self.summary = path, summary
        self.rows: list[Row] = []
        self.earlier = 0.0  # seconds before this process took the run up
        self.began = time.perf_counter()
        self.peak = 0.0

    def on_train_start(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        assert isinstance(module, LensModule)
        precision = module.experiment.training.precision
        self.peak = matmul_peak(torch.bfloat16 if precision == "bf16" else torch.float32, module.device)
        if module.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(module.device)
        self.began = time.perf_counter() - self.earlier

    def on_train_batch_end(
        self, trainer: lightning.Trainer, module: lightning.LightningModule, outputs: Any, batch: Step, index: int
    ) -> None:
        assert isinstance(module, LensModule)
        tokens = batch.tokens
        self.rows.append(
            Row(
                module.steps,
                module.loss,
                trainer.optimizers[0].param_groups[0]["lr"],
                module.gradient_norm,
                time.perf_counter() - self.began,
                _loader(trainer).waited,
                module.skipped,
                sum(map(len, batch.parts)),
                tokens,
                batch.padded_tokens / tokens,
                step_flops(module.denoiser.config, batch),
                module.pieces,
                module.by_timestep,
            )
        )

    def recent(self) -> Speed:
        """The speed of the last steps."""
        before = self.rows[-RECENT - 1].seconds if len(self.rows) > RECENT else 0.0
        return speed(self.rows[-RECENT:], self.peak, before)

    def state_dict(self) -> dict[str, Any]:
        """The rows so far."""
        return {"rows": [tuple(row) for row in self.rows]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up the rows of `state_dict()`."""
        self.rows = [Row(*row) for row in state_dict["rows"]]
        self.earlier = self.rows[-1].seconds if self.rows else 0.0

    def on_train_end(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        if trainer.is_global_zero:
            self._write_table()
            self._write_summary(trainer, module)

    def _write_table(self) -> None:
        partial = self.path.with_suffix(".partial")
        with partial.open("w", newline="") as file:
            table = csv.writer(file, lineterminator="\n")
            table.writerow([*Row._fields[:-1], *(f"loss_t{n + 1}" for n in range(QUARTILES))])
            for row in self.rows:
                numbers = (float(row.loss), row.learning_rate, float(row.gradient_norm))
                shown = [f"{number:.6g}" for number in numbers]
                quartiles = [f"{loss:.6g}" for loss in row.by_timestep.tolist()]
                times = (f"{row.seconds:.5f}", f"{row.data_seconds:.5f}", int(row.skipped))
                counts = (row.images, row.tokens, f"{row.padding:.4f}", f"{row.flops:.6g}", row.pieces)
                table.writerow([row.step, *shown, *times, *counts, *quartiles])
        publish(partial, self.path)

    def _write_summary(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        memory, of = peak_memory(module.device)
        found = speed(self.rows, self.peak)
        processes = trainer.world_size
        told = {
            "seconds": self.rows[-1].seconds,
            **found._asdict(),
            "images_per_second": found.images_per_second * processes,
            "tokens_per_second": found.tokens_per_second * processes,
            "peak_flops": self.peak,
            "peak_flops_of": "a square matrix product in the precision of training, by each process",
            "peak_memory_bytes": memory,
            "peak_memory_of": of,
            "processes": processes,
            "skipped_steps": sum(row.skipped for row in self.rows),
            "data_worker_deaths": _loader(trainer).deaths,
        }
        publish_text(self.summary, json.dumps(told, indent=1) + "\n")


def _loader(trainer: lightning.Trainer) -> StepLoader[Step]:
    data = trainer.datamodule  # type: ignore[attr-defined]
    assert isinstance(data, LensData)
    assert data.loader is not None
    return data.loader


def step_flops(config: LensConfig, step: Step) -> float:
    """Useful FLOPs of what this process computes of a step, forward and backward."""
    total = 0
    for part in step.parts:
        for text_tokens, images in Counter(part.text_tokens).items():
            total += images * _image_flops(config, part.latents.shape[1], text_tokens)
    return float(total)


@functools.lru_cache(maxsize=4096)
def _image_flops(config: LensConfig, image_tokens: int, text_tokens: int) -> int:
    return train_flops_per_image(config, image_tokens, text_tokens)
