"""Train one experiment: from images and texts to the checkpoints that will be scored."""

from __future__ import annotations

import hashlib
import json
import logging
import signal
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import lightning

from lensbench import ranks, spool
from lensbench.experiment import Experiment
from lensbench.model.transformer import LensConfig
from lensbench.stopping import stop_requests
from lensbench.training import files, parallel
from lensbench.training.callbacks import NoNumbers, Report, ScoringCheckpoints
from lensbench.training.curve import LossCurve
from lensbench.training.datamodule import LensData, TrainingBatches
from lensbench.training.live import Live
from lensbench.training.milestones import scoring_steps, watched_steps
from lensbench.training.module import LensModule
from lensbench.training.resume import ResumePoint, ResumePoints, finish, finished, newest
from lensbench.training.watch import Probe, Watch


def train(
    experiment: Experiment,
    config: LensConfig,
    batches: TrainingBatches,
    directory: Path,
    report: Callable[[int, int, str], None],
    identity: Mapping[str, str],
    probe: Probe | None = None,
    *,
    keep: Sequence[int] = (),
) -> None:
    """Train, from where an earlier call stopped, and leave the files of lensbench.training.files in `directory`.

    It goes on only where `identity` (the experiment, its data, the code) is the same; otherwise it starts anew.
    The checkpoints that the experiment's own evaluation scores are kept, and those of the steps `keep`. `probe` is
    asked about the model along the way, and its answers are kept: see lensbench.training.watch.

    Of several processes that have joined (lensbench.ranks) each calls this, with a `report` and a `probe` of its own;
    they must see the same `directory`, and the first one's `identity` counts.

    Raises ValueError when the loss has stopped being a number, KeyboardInterrupt when a signal stopped it after a step,
    ranks.PeerLostError when another process has ended.
    """
    resume, losses = directory / files.RESUME, directory / files.LOSSES
    done = tuple(sorted({*scoring_steps(experiment), *keep}))
    watched = watched_steps(experiment) if probe else ()
    left = [losses, directory / files.SUMMARY, *([directory / files.WATCHED] if watched else [])]
    trained, point = ranks.told(_begun(directory, done, left, identity) if ranks.rank() == 0 else (False, None))
    if trained:
        report(experiment.training.steps, experiment.training.steps, "trained before")
        return
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="lightning")
    module = LensModule(experiment, config)
    if experiment.training.compiled:
        parallel.compile_denoiser(module.denoiser, experiment.training)
    with stop_requests() as stop:
        curve = LossCurve(losses, directory / files.SUMMARY)
        watch = Watch(directory / files.WATCHED, watched, probe) if probe else None
        trainer = lightning.Trainer(
            max_epochs=1,  # of `StepLoader`: every step of the run
            accelerator="auto",
            **parallel.trainer_options(experiment.training),
            precision="bf16-mixed" if experiment.training.precision == "bf16" else "32-true",
            callbacks=[
                curve,
                ScoringCheckpoints(directory, done),
                Report(report, experiment.training.steps, curve),
                NoNumbers(directory / files.REPRODUCER, experiment.training.steps),
                *([watch] if watch else []),
                Live(directory, experiment.training.steps, curve, watch),
                ResumePoints(resume, identity, experiment.training.resume_seconds, stop),
            ],
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        try:
            with ranks.peers_watched():
                trainer.fit(module, datamodule=LensData(batches), ckpt_path=point and point.state, weights_only=True)
        except SystemExit:  # what Lightning makes of a KeyboardInterrupt
            stopped = True
        else:
            stopped = False
    if stopped:  # the signal goes on to whoever handles it outside
        signal.raise_signal(stop.signal or signal.SIGINT)
        raise KeyboardInterrupt
    if ranks.rank() == 0:
        finish(resume, identity)


def _begun(
    directory: Path, done: Sequence[int], left: Sequence[Path], identity: Mapping[str, str]
) -> tuple[bool, ResumePoint | None]:
    """Whether this run has been trained, or else where it goes on; where nowhere, what is there is removed."""
    resume = directory / files.RESUME
    spool.identify(directory, hashlib.sha256(json.dumps(dict(identity), sort_keys=True).encode()).hexdigest())
    if finished(resume, identity) and _has(directory, done) and all(path.exists() for path in left):
        return True, None
    point = newest(resume, identity)
    if point is None or not _has(directory, [step for step in done if step <= point.step]):
        files.remove(directory)
        return False, None
    return False, point


def _has(directory: Path, steps: Sequence[int]) -> bool:
    return all(files.checkpoint(directory, step).is_dir() for step in steps)
