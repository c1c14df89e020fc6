"""What each of several processes runs for test_parallel.py: one short training after the other, with its faults."""

from __future__ import annotations

import json
import math
import os
import signal
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Shard, distribute_tensor

sys.path.insert(0, str(Path(__file__).parent))
from conftest import ShortRun

from lensbench import ranks
from lensbench.data.features import ArrayRows, KeptFeatures
from lensbench.data.latents import StoredLatents
from lensbench.data.sized import SizedLatents
from lensbench.experiment import Experiment
from lensbench.training import module
from lensbench.training.curve import LossCurve
from lensbench.training.datamodule import Step, TrainingBatches
from lensbench.training.optimizer import ShardedMuon

STOP_AFTER = 20


class Run(ShortRun):
    """A short run whose texts have all lengths, in one size or, with buckets, in two."""

    # AdamW, because Muon works in bfloat16, where other sums soon give other weights.
    experiment = ShortRun.experiment.replace(
        {"training.optimizer": "adamw", "training.learning_rate": 1e-3, "training.resume_seconds": 300}
    )

    @staticmethod
    def batches(experiment: Experiment = experiment) -> TrainingBatches:
        draw = np.random.default_rng(5)
        texts = [f"text {n}" for n in range(experiment.images)]
        offsets = np.cumsum([0, *draw.integers(1, 9, len(texts))])
        values = draw.standard_normal((offsets[-1], 1, 384), dtype=np.float32)
        features = KeptFeatures({text: n for n, text in enumerate(texts)}, ArrayRows(offsets, values))
        large = StoredLatents(draw.standard_normal((len(texts), 16, 48), dtype=np.float32), (4, 4))
        small = StoredLatents(draw.standard_normal((len(texts), 4, 48), dtype=np.float32), (2, 2))
        both = np.broadcast_to([0, 1], (len(texts), 2))
        latents = SizedLatents(both, (0, 1), (large, small)) if experiment.training.buckets else large
        (name,) = experiment.captions.shares
        return TrainingBatches(experiment, latents, {name: texts}, {name: features}, texts)


def spoil(fault: str, patch: pytest.MonkeyPatch) -> None:
    """Arrange for a fault, in the last process alone or in all."""
    last = ranks.rank() == ranks.ranks() - 1
    step_of, loss_of, note = TrainingBatches.__getitem__, module.flow_loss, LossCurve.on_train_batch_end

    def no_number(self: TrainingBatches, number: int) -> Step:
        step = step_of(self, number)
        if number in (5, 6):
            step.parts[0].latents[0, 0, 0] = math.inf
        return step

    def full(model: Any, latents: torch.Tensor, *rest: Any) -> torch.Tensor:
        if len(latents) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return loss_of(model, latents, *rest)

    def stop(self: LossCurve, trainer: Any, *rest: Any) -> None:
        note(self, trainer, *rest)
        if trainer.lightning_module.steps == STOP_AFTER:
            os.kill(os.getpid(), signal.SIGTERM)

    if fault == "no number" and last:
        patch.setattr(TrainingBatches, "__getitem__", no_number)
    if (fault == "memory" and last) or fault == "memory everywhere":
        patch.setattr(module, "flow_loss", full)
    if fault == "stop" and last:
        patch.setattr(LossCurve, "on_train_batch_end", stop)


def train(folder: Path, changes: dict[str, Any], fault: str = "") -> dict[str, Any]:
    """Train into a folder; what became of it in this process."""

    def heed(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, heed)
    try:
        with pytest.MonkeyPatch.context() as patch:
            spoil(fault, patch)
            seen = Run.train(folder, Run.experiment.replace(changes))
    except KeyboardInterrupt:
        return {"end": "stopped"}
    except ValueError as error:
        return {"end": str(error)}
    finally:
        signal.signal(signal.SIGTERM, before)
    return {"end": "done", "first": min(seen)}


def muon_on_parts() -> float:
    """The largest difference of weights after three steps of Muon on whole matrices and on parts of them."""
    draw = torch.Generator().manual_seed(0)
    mesh = init_device_mesh("cpu", (ranks.ranks(),))
    whole = [torch.nn.Parameter(torch.randn(shape, generator=draw)) for shape in ((5, 3), (3, 8), (6, 6))]
    parts = [torch.nn.Parameter(distribute_tensor(p.detach().clone(), mesh, [Shard(0)])) for p in whole]
    options: dict[str, Any] = {"lr": 0.02, "weight_decay": 0.1}
    optimizers = torch.optim.Muon(whole, **options), ShardedMuon(parts, **options)
    for _ in range(3):
        for p, part in zip(whole, parts, strict=True):
            p.grad = torch.randn(p.shape, generator=draw)
            part.grad = distribute_tensor(p.grad, mesh, [Shard(0)])
        for optimizer in optimizers:
            optimizer.step()
    gathered = [part.detach().full_tensor() for part in parts if isinstance(part, DTensor)]
    return max(float((a.detach() - b).abs().max()) for a, b in zip(whole, gathered, strict=True))


if __name__ == "__main__":
    root = Path(sys.argv[1])
    with ranks.joined():
        told: dict[str, Any] = {"muon": muon_on_parts()}
        for name, changes, fault in json.loads(sys.argv[2]):
            told[name] = train(root / name, changes, fault)
            (root / f"told-{ranks.rank()}.json").write_text(json.dumps(told))
