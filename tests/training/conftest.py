"""A run of forty steps on random latents and text, for what does not depend on what is learned."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from lensbench.data.features import ArrayRows, KeptFeatures
from lensbench.data.latents import StoredLatents
from lensbench.experiment import Experiment
from lensbench.model.checkpoint import load
from lensbench.model.sizes import denoiser_config
from lensbench.training import files
from lensbench.training.datamodule import TrainingBatches
from lensbench.training.run import train

STEPS = 40
EXPERIMENT = Experiment().replace(
    {
        "corpus.size_px": 16,
        "images": 24,
        "text_encoder.layers": (0,),
        "model.depth": 1,
        "training.steps": STEPS,
        "training.batch": 4,
        "training.warmup_steps": 2,
        "training.resume_seconds": 0.02,
        "evaluation.at": (0.25, 1.0),
    }
)


class ShortRun:
    """The run, its parts and what came out of it."""

    steps = STEPS
    experiment = EXPERIMENT
    identity: Mapping[str, str] = {"experiment": EXPERIMENT.hash(), "commit": "a", "hardware": "CPU, 1 thread"}

    @staticmethod
    def batches(experiment: Experiment = EXPERIMENT) -> TrainingBatches:
        draw = torch.Generator().manual_seed(5)
        side = experiment.corpus.size_px // experiment.model.patch_size
        channels = 3 * experiment.model.patch_size**2
        latents = torch.randn(experiment.images, side * side, channels, generator=draw)
        texts = [f"text {n}" for n in range(experiment.images)]
        values = torch.randn(3 * len(texts), 1, 384, generator=draw).numpy()
        offsets = torch.arange(0, 3 * len(texts) + 1, 3).numpy()
        features = KeptFeatures({text: n for n, text in enumerate(texts)}, ArrayRows(offsets, values))
        (name,) = experiment.captions.shares
        stored = StoredLatents(latents.numpy(), (side, side))
        return TrainingBatches(experiment, stored, {name: texts}, {name: features}, texts)

    @classmethod
    def train(
        cls,
        directory: Path,
        experiment: Experiment = EXPERIMENT,
        identity: Mapping[str, str] = identity,
        news: Callable[[str], None] = pytest.fail,
    ) -> list[int]:
        """Train; the steps that were reported."""
        directory.mkdir(exist_ok=True)
        seen: list[int] = []

        def report(done: int, total: int, note: str) -> None:
            seen.append(done)

        config = denoiser_config(experiment, 384)
        train(experiment, config, cls.batches(experiment), directory, report, identity, news=news)
        return seen

    @staticmethod
    def losses(directory: Path) -> pd.DataFrame:
        return pd.read_csv(directory / files.LOSSES)

    @classmethod
    def outcome(cls, directory: Path) -> tuple[Any, ...]:
        """The losses, the gradient norms and a digest of the averaged weights at every scored step."""
        table = cls.losses(directory)
        assert list(table["step"]) == list(range(1, STEPS + 1))
        digest = hashlib.sha256()
        for step in (STEPS // 4, STEPS):
            for name, tensor in sorted(load(files.checkpoint(directory, step)).state_dict().items()):
                digest.update(name.encode() + tensor.numpy().tobytes())
        return list(table["loss"]), list(table["gradient_norm"]), digest.hexdigest()


@pytest.fixture(scope="session")
def short() -> type[ShortRun]:
    return ShortRun


@pytest.fixture(scope="session")
def undisturbed(short: type[ShortRun], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a run that nothing stopped."""
    directory = tmp_path_factory.mktemp("undisturbed") / "run"
    short.train(directory)
    return directory
