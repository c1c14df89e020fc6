"""Train one experiment: from images and texts to the checkpoints that will be scored."""

from __future__ import annotations

import logging
import signal
import warnings
from collections.abc import Callable
from pathlib import Path

import lightning

from lensbench.experiment import Experiment
from lensbench.model.transformer import LensConfig
from lensbench.training.callbacks import LossCurve, Report, ScoringCheckpoints
from lensbench.training.datamodule import LensData, TrainingBatches
from lensbench.training.module import LensModule


def scoring_steps(experiment: Experiment) -> tuple[int, ...]:
    """The steps after which the model is scored, rising and distinct; the last is the end."""
    steps = experiment.training.steps
    return tuple(sorted({max(1, round(share * steps)) for share in experiment.evaluation.at}))


def train(
    experiment: Experiment,
    config: LensConfig,
    batches: TrainingBatches,
    directory: Path,
    report: Callable[[int, int, str], None],
) -> None:
    """Train and leave `train.csv` and `checkpoints/step-NNNNNN/` in `directory`.

    Raises ValueError when the loss stops being a number, KeyboardInterrupt when interrupted.
    """
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="lightning")
    module = LensModule(experiment, config)
    if experiment.training.compiled:
        module.denoiser.compile_velocity()
    trainer = lightning.Trainer(
        max_steps=experiment.training.steps,
        accelerator="auto",
        devices=1,
        precision="bf16-mixed" if experiment.training.precision == "bf16" else "32-true",
        callbacks=[
            LossCurve(directory / "train.csv"),
            ScoringCheckpoints(directory / "checkpoints", scoring_steps(experiment)),
            Report(report),
        ],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    handler = signal.getsignal(signal.SIGINT)
    try:
        trainer.fit(module, datamodule=LensData(batches))
    except SystemExit:  # Lightning turns Ctrl-C into an exit and leaves SIGINT ignored
        signal.signal(signal.SIGINT, handler)
        raise KeyboardInterrupt from None
