"""What a sweep will take before it is run: FLOPs, time, disk and dollars, cell by cell and in all."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lensbench.data.corpus import TRAINING_IMAGES
from lensbench.data.scale import held_by_some
from lensbench.experiment import Experiment
from lensbench.model.sizes import denoiser_config, parameter_count
from lensbench.scoring.measured import asked
from lensbench.sweep.amounts import distinct_texts, train_flops, training_images
from lensbench.sweep.cellfiles import TRAINED, is_complete, is_evaluated, is_trained, read_trained, why_unfinished
from lensbench.sweep.design import Cell
from lensbench.sweep.progress import weight
from lensbench.training import files
from lensbench.training.milestones import scoring_steps, watched_steps

PACED = 40  # complete cells whose time is read, at most
RESUME_POINTS = 2  # whole states that a cell keeps while it trains
STATES = {"adamw": 4, "muon": 4}  # numbers a weight in a whole state, at most: weights, their average, two moments
BYTES = 2  # of a number of a text's features


@dataclass(frozen=True)
class Pace:
    """How fast this machine is at one kind of cell: seconds for a training image, a drawn image and a caption."""

    trained: float
    drawn: float
    encoded: float


@dataclass(frozen=True)
class Planned:
    """A cell and what it takes; `seconds` is None where nobody has measured."""

    cell: Cell
    state: str  # "complete", or why it is not
    trained: bool  # and all checkpoints that are still to be scored are there
    to_score: int  # evaluations to make
    parameters: int
    images: int  # unique training images that the corpus has for it
    samples: float
    flops: float
    kept_bytes: float  # checkpoints and pictures
    resume_bytes: float  # while it trains
    seconds: float | None  # of all that it takes; of a trained cell, of its evaluations that are to be made


def planned(every: Sequence[Cell], runs: Path, paces: Mapping[tuple[Any, ...], Pace] | None = None) -> list[Planned]:
    """Every cell with what it takes. Times are those of `paces` (see lensbench.sweep.pilot), or from complete cells."""
    states = {cell.id: _state(runs / cell.id, cell) for cell in every}
    largest: dict[Any, Experiment] = {}
    for cell in every:
        known = largest.setdefault(cell.experiment.corpus, cell.experiment)
        if cell.experiment.images > known.images:
            largest[cell.experiment.corpus] = cell.experiment
    available = {corpus: training_images(experiment) for corpus, experiment in largest.items()}
    pace = None if paces is not None else seconds_a_weight(every, states, runs)
    parameters: dict[tuple[Any, ...], int] = {}
    out = []
    for cell in every:
        e = cell.experiment
        key = (e.model, e.autoencoder, e.text_encoder)
        if key not in parameters:
            parameters[key] = parameter_count(denoiser_config(e, e.text_encoder.width))
        directory = runs / cell.id
        to_score = [one for one in cell.evaluations if not is_evaluated(directory, one.experiment)]
        trained = is_trained(directory) and not _lacking(directory, to_score)
        scored = to_score if trained and to_score else cell.evaluations
        if paces is not None:
            times = [of_pace(one.experiment, paces[kind(e)], training=False) for one in scored]
            seconds: float | None = sum(times) + (
                0.0 if trained and to_score else of_pace(e, paces[kind(e)]) - times[0]
            )
        else:
            weights = [weight(one.experiment, training=False) for one in scored]
            whole = sum(weights) + (0.0 if trained and to_score else weight(e) - weights[0])
            seconds = None if pace is None else pace * whole
        side = e.corpus.size_px
        drawn = sum(drawn_images(one.experiment) for one in scored)
        out.append(
            Planned(
                cell,
                states[cell.id],
                trained,
                len(to_score),
                parameters[key],
                min(e.images, available[e.corpus]),
                e.training.steps * e.images_a_step,
                train_flops(e),
                4.0 * parameters[key] * len(scoring_steps(e)) + drawn * 3 * side**2,
                4.0 * parameters[key] * STATES[e.training.optimizer] * RESUME_POINTS,
                seconds,
            )
        )
    return out


def kind(experiment: Experiment) -> tuple[Any, ...]:
    """What the pace of a cell depends on: cells alike in it take the same time for an image."""
    e, recipe = experiment, experiment.training
    policy = e.captions.model_copy(update={"dropout": 0.0})
    how = (recipe.batch, recipe.optimizer, recipe.precision, recipe.accumulate, recipe.activation_checkpointing)
    return (e.model, e.corpus, e.autoencoder, e.text_encoder, policy, how, e.evaluation.sampling_steps)


def of_pace(experiment: Experiment, pace: Pace, *, training: bool = True) -> float:
    """Seconds of a cell's training, watching and scoring, or of scoring alone; captions are encoded once for all."""
    recipe = experiment.training
    trained = recipe.steps * experiment.images_a_step * pace.trained + watched_images(experiment) * pace.drawn
    return drawn_images(experiment) * pace.drawn + (trained if training else 0.0)


def _lacking(directory: Path, to_score: Sequence[Cell]) -> bool:
    """Whether a checkpoint that is to be scored is not there."""
    steps = {step for one in to_score for step in scoring_steps(one.experiment)}
    return not all(files.checkpoint(directory, step).is_dir() for step in steps)


def watched_images(experiment: Experiment) -> int:
    """Images that are sampled while a cell is watched."""
    return len(experiment.evaluation.forms) * len(watched_steps(experiment)) * experiment.training.watch_images


def drawn_images(experiment: Experiment) -> int:
    """Images that are sampled for one evaluation of a cell, at most."""
    e, what = experiment.evaluation, asked(experiment)
    tasks = 6 if what.geneval else 0
    prompts = e.images_per_task * (len(e.at) + len(e.guidances))
    if (choosing := e.choosing()) is not None:
        prompts += choosing.images_per_task * (1 + len(e.guidances))
    return len(e.forms) * (tasks * prompts + what.scene_images)


def seconds_a_weight(every: Sequence[Cell], states: Mapping[str, str], runs: Path) -> float | None:
    """The pace of the sweep's cells that are trained, by what they recorded; None where there is none."""
    found = []
    trained = [cell for cell in every if states[cell.id] in ("complete", TRAINED)]
    for cell in trained[:PACED]:
        try:
            records = read_trained(runs / cell.id, cell.experiment)
        except ValueError:
            continue
        seconds = records.loc[records["metric"] == "cell_seconds", "value"]
        of_training = weight(cell.experiment) - weight(cell.experiment, training=False)
        found += [float(seconds.max()) / of_training] if len(seconds) else []
    return statistics.median(found) if found else None


def encoding(every: Sequence[Cell], paces: Mapping[tuple[Any, ...], Pace] | None = None) -> tuple[float, float]:
    """Bytes and seconds of encoding each caption set and each image once for all cells; nothing when it is online.

    Texts that images of several seeds share are counted with each: there are at most that many.
    """
    texts: dict[tuple[Any, ...], Experiment] = {}
    images: dict[tuple[Any, ...], Experiment] = {}
    seeds: dict[Any, set[int | None]] = {}
    for e in sorted((cell.experiment for cell in every), key=lambda e: e.images):
        seeds.setdefault(e.corpus, set()).add(e.images_seed)
        if e.training.features == "cached":  # of several scales the largest holds the others
            texts[e.corpus, e.text_encoder, e.captions.model_copy(update={"dropout": 0.0})] = e
            images[e.corpus, e.autoencoder] = e
    nbytes = seconds = 0.0
    for e in texts.values():
        times = _of_every_seed(e, len(seeds[e.corpus]))
        captions, tokens = (times * count for count in distinct_texts(e))
        nbytes += tokens * len(e.text_encoder.layers) * e.text_encoder.width * BYTES
        seconds += captions * paces[kind(e)].encoded if paces is not None else 0.0
    for e in images.values():
        count = training_images(e) * _of_every_seed(e, len(seeds[e.corpus]))
        if e.autoencoder.kind != "pixels":
            channels = e.autoencoder.latents.channels * e.model.patch_size**2
            nbytes += count * e.image_tokens * channels * 2
        elif e.corpus.kind == "folder":
            nbytes += count * 3 * e.corpus.size_px**2
    return nbytes, seconds


def _of_every_seed(e: Experiment, seeds: int) -> float:
    """How many times the images of one seed those of so many seeds are expected to be, each counted once."""
    if seeds == 1:
        return 1.0
    of = TRAINING_IMAGES
    if e.corpus.kind == "folder":
        of = training_images(e.model_copy(update={"images": TRAINING_IMAGES}))  # every one that it holds
    return held_by_some(e.images, of, seeds) / min(e.images, of)


def _state(directory: Path, cell: Cell) -> str:
    return "complete" if is_complete(directory, cell) else why_unfinished(directory)
