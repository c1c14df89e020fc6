"""Train one experiment: from images and texts to the checkpoints that will be scored."""

from __future__ import annotations

import hashlib
import json
import logging
import signal
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

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
from lensbench.training.resume import (
    WHERE,
    ResumePoint,
    ResumePoints,
    damaged,
    finish,
    newest,
    other_science,
    science,
    trained,
)
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
    news: Callable[[str], None] = lambda line: None,
) -> None:
    """Train, from where an earlier call stopped, and leave the files of lensbench.training.files in `directory`.

    It goes on where `identity` is of the same science, though the commit or the hardware have changed since: see
    lensbench.training.resume. `news` is told of that, and of what was damaged and is trained again.
    The checkpoints that the experiment's own evaluation scores are kept, and those of the steps `keep`. `probe` is
    asked about the model along the way, and its answers are kept: see lensbench.training.watch.

    Of several processes that have joined (lensbench.ranks) each calls this, with a `report` and a `probe` of its own;
    they must see the same `directory`, and the first one's `identity` counts.

    Raises ValueError when the loss has stopped being a number or what is there is of other data, KeyboardInterrupt when
    a signal stopped it after a step, ranks.PeerLostError when another process has ended.
    """
    resume, losses = directory / files.RESUME, directory / files.LOSSES
    done = tuple(sorted({*scoring_steps(experiment), *keep}))
    watched = watched_steps(experiment) if probe else ()
    left = [losses, directory / files.SUMMARY, *([directory / files.WATCHED] if watched else [])]
    begun = ranks.told(_begun(directory, done, left, identity) if ranks.rank() == 0 else _Begun())
    if begun.news:
        news(begun.news)
    point = begun.point
    parts = point.parts if point else ()
    if begun.trained:
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
                ResumePoints(resume, identity, experiment.training.resume_seconds, stop, parts),
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
        finish(directory, identity, parts, [*left, *(files.checkpoint(directory, step) for step in done)])


class _Begun(NamedTuple):
    """Whether this run has been trained, or else where it goes on, and what there is to say about that."""

    trained: bool = False
    point: ResumePoint | None = None
    news: str = ""


def _begun(directory: Path, done: Sequence[int], left: Sequence[Path], identity: Mapping[str, str]) -> _Begun:
    """How a run begins; where it begins anew, what is there is removed.

    Raises ValueError where what is there is of another science: it stays until the user decides.
    """
    resume = directory / files.RESUME
    manifests = sorted([directory / files.TRAINED, *resume.glob("step-*.json")])
    if other := other_science(manifests, identity):
        raise ValueError(
            f"{directory}: what is trained there is of other data ({other}): give back what it was trained with, or "
            f"delete {resume} and {directory / files.TRAINED} to train anew"
        )
    spool.identify(directory, hashlib.sha256(json.dumps(science(identity), sort_keys=True).encode()).hexdigest())
    news = ""
    if noted := trained(directory, identity):
        lost = damaged(directory, noted, [*left, *(files.checkpoint(directory, step) for step in done)])
        if not lost:
            return _Begun(trained=True)
        news = f"{lost[0].relative_to(directory)} is missing or damaged: the cell is trained again"
    elif (directory / files.TRAINED).exists():
        news = f"{files.TRAINED} is damaged: the cell is trained again"
    point = newest(resume, identity)
    missing = [step for step in done if point and step <= point.step and not files.checkpoint(directory, step).is_dir()]
    if missing:
        news = f"the checkpoint of step {missing[0]} is missing: the cell is trained again"
    elif point is not None:
        if point.parts and point.parts[-1].until == point.step:
            here = [identity.get(name, "") for name in WHERE]
            was, now = (" on ".join(place) for place in (point.parts[-1][1:], here))
            news = f"goes on from step {point.step}, trained with {was}, now with {now}: not promised to the bit"
        return _Begun(point=point, news=news)
    elif list(resume.glob("step-*.json")):
        news = f"no resume point in {resume} is whole: the cell is trained from the start"
    files.remove(directory)
    return _Begun(news=news)
