"""Train one experiment: from images and texts to the checkpoints that will be scored."""

from __future__ import annotations

import logging
import signal
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import lightning

from lensbench.experiment import Experiment
from lensbench.model.transformer import LensConfig
from lensbench.stopping import stop_requests
from lensbench.training import files
from lensbench.training.callbacks import LossCurve, NoNumbers, Report, ScoringCheckpoints
from lensbench.training.datamodule import LensData, TrainingBatches
from lensbench.training.module import LensModule
from lensbench.training.resume import ResumePoints, finish, finished, newest


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
    identity: Mapping[str, str],
) -> None:
    """Train, from where an earlier call stopped, and leave the files of lensbench.training.files in `directory`.

    It goes on only where `identity` (the experiment, its data, the code) is the same; otherwise it starts anew.

    Raises ValueError when the loss has stopped being a number, KeyboardInterrupt when a signal stopped it after a step.
    """
    resume, losses = directory / files.RESUME, directory / files.LOSSES
    done = scoring_steps(experiment)
    if finished(resume, identity) and _has(directory, done) and losses.exists():
        report(experiment.training.steps, experiment.training.steps, "trained before")
        return
    point = newest(resume, identity)
    if point is None or not _has(directory, [step for step in done if step <= point.step]):
        point = None
        files.remove(directory)
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="lightning")
    module = LensModule(experiment, config)
    if experiment.training.compiled:
        module.denoiser.compile_velocity()
    with stop_requests() as stop:
        trainer = lightning.Trainer(
            max_epochs=1,  # of `StepsFrom`: every step of the run
            accelerator="auto",
            devices=1,
            precision="bf16-mixed" if experiment.training.precision == "bf16" else "32-true",
            callbacks=[
                LossCurve(losses),
                ScoringCheckpoints(directory, done),
                Report(report, experiment.training.steps),
                NoNumbers(directory / files.REPRODUCER, experiment.training.steps),
                ResumePoints(resume, identity, experiment.training.resume_seconds, stop),
            ],
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        try:
            trainer.fit(module, datamodule=LensData(batches), ckpt_path=point and point.state, weights_only=True)
        except SystemExit:  # what Lightning makes of a KeyboardInterrupt
            stopped = True
        else:
            stopped = False
    if stopped:  # the signal goes on to whoever handles it outside
        signal.raise_signal(stop.signal or signal.SIGINT)
        raise KeyboardInterrupt
    finish(resume, identity)


def _has(directory: Path, steps: Sequence[int]) -> bool:
    return all(files.checkpoint(directory, step).is_dir() for step in steps)
