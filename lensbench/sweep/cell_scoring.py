"""One evaluation of a trained cell: every checkpoint scored, images kept, `records.parquet` last."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pandas as pd

from lensbench.captions.texts import arm_digest
from lensbench.experiment import Experiment
from lensbench.model.checkpoint import load, weights_digest
from lensbench.records import OUTCOMES, RECORDS, read, write
from lensbench.sampling.image_sets import weights_of
from lensbench.scoring.evaluate import Checkpoint, evaluate
from lensbench.scoring.scores import Scores
from lensbench.sweep.cell_parts import Parts, device, instruments_of
from lensbench.sweep.cell_records import origin_of, recorded_costs, write_records
from lensbench.sweep.cellfiles import EVALUATIONS, evaluation_folder
from lensbench.sweep.cost import Counter
from lensbench.sweep.looking import Amount
from lensbench.sweep.progress import Progress
from lensbench.training import files
from lensbench.training.milestones import scoring_steps


def score_cell(parts: Parts, experiment: Experiment, directory: Path, counter: Counter) -> None:
    """Make the evaluation of `experiment` from the cell's checkpoints; images that are there are not sampled again.

    Raises ValueError, one line, where a checkpoint is not there or real images are damaged.
    """
    began = time.perf_counter()
    folder = evaluation_folder(directory, experiment)
    folder.mkdir(parents=True, exist_ok=True)
    told = json.loads(experiment.evaluation.model_dump_json())
    (folder / "evaluation.json").write_text(json.dumps(told, indent=1) + "\n")
    what = parts.plan(experiment)
    tools = instruments_of(what)
    features = parts.features(what.texts(), "prompts")
    real = parts.latents(what.keys, "held-out images")
    parts.encoder.unload()
    amounts = read_amounts(directory)
    steps = scoring_steps(experiment)
    total, done = sum(what.images(final=step == steps[-1]) for step in steps), 0

    def seen(n: int) -> None:
        nonlocal done
        done += n
        parts.report(Progress("scoring", done, total, "images sampled"))

    rows, outcomes = [], []
    key = {"cell": experiment.cell_id(), "evaluation_hash": experiment.evaluation_hash()}
    for step in steps:
        path = files.checkpoint(directory, step)
        if not path.is_dir():
            raise ValueError(f"{path}: not there, so that nothing can be scored; lensbench run trains the cell again")
        denoiser = load(path).to(device())
        weights = weights_digest(denoiser)
        found = evaluate(
            Checkpoint(
                denoiser=denoiser,
                step=step,
                weights=weights,
                plan=what,
                instruments=tools,
                features=features,
                text_encoder=parts.encoder.digest,
                autoencoder=parts.autoencoder,
                real=real,
                folder=folder,
                cache=parts.cache,
                report=seen,
            ),
            final=step == steps[-1],
        )
        rows += [(step, row | {"weights_digest": weights}) for row in found.records]
        outcomes += [key | {"step": step} | row for row in found.outcomes]
    counter.note()
    spent = Scores()
    spent.add_record("cell_seconds", "", time.perf_counter() - began, steps[-1])
    for metric, value, source in recorded_costs(directory):
        spent.add_record(metric, "", value, steps[-1], extractor=source)
    rows += [(steps[-1], row) for row in spent.records]
    origin = origin_of(parts, tools.judge_digest) | {"prompts_digest": what.digest()}
    origin |= {"captions_digest": arm_digest(parts.corpus.train_keys, parts.texts)}
    write(pd.DataFrame(outcomes), folder / OUTCOMES.file, OUTCOMES)
    write_records(
        folder, experiment, rows, amounts, origin, what.held_out_digest(), evaluation_hash=key["evaluation_hash"]
    )


def remove_of_other_weights(directory: Path) -> list[str]:
    """Remove the records of evaluations that are not of the checkpoints' weights, by their images and their records;
    their ids.

    Thawed ones have no images, and those of earlier versions do not say their weights: they are not known to be of
    these, and go.
    """
    there = {weights_digest(load(files.checkpoint(directory, step))) for step in files.kept_steps(directory)}
    removed = []
    for path in sorted(directory.glob(f"{EVALUATIONS}/*/{RECORDS.file}")):
        scored = weights_of(path.parent) | _weights_in(path)
        if not scored or scored - there:
            path.unlink()
            removed.append(path.parent.name)
    return removed


def _weights_in(path: Path) -> set[str]:
    """The digests of the weights that records are of; none where they do not say or cannot be read."""
    try:
        table = read(path, RECORDS)
    except ValueError:
        return set()
    return set(table["weights_digest"].dropna()) - {""} if "weights_digest" in table else set()


def read_amounts(directory: Path) -> dict[int, Amount]:
    """How far the training was at each of its checkpoints. Raises ValueError, one line, where that is damaged."""
    path = directory / files.AMOUNTS
    try:
        told = json.loads(path.read_text())
        return {int(step): Amount(**found) for step, found in told.items()}
    except (OSError, ValueError, TypeError, AttributeError):
        raise ValueError(f"{path}: missing or damaged; remove {directory} to train the cell again") from None
