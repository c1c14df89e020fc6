"""The training of a cell: encode the texts, train, and write the facts of it, `records.parquet` last."""

from __future__ import annotations

import functools
import json
import math
import time
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from lensbench import spool
from lensbench.captions.texts import arm_digest
from lensbench.data.features import OnlineFeatures, TextFeatures
from lensbench.data.sized import encode_sizes
from lensbench.model.sizes import denoiser_config
from lensbench.publishing import publish_text
from lensbench.scoring.scores import Scores
from lensbench.sweep.amounts import flops_per_image
from lensbench.sweep.cell_parts import Parts
from lensbench.sweep.cell_records import origin_of, recorded_costs, write_records
from lensbench.sweep.cost import Counter
from lensbench.sweep.looking import Amount, look
from lensbench.sweep.progress import Progress
from lensbench.training import files
from lensbench.training.datamodule import TrainingBatches
from lensbench.training.milestones import watched_steps
from lensbench.training.resume import also_left, trained
from lensbench.training.run import train

KEPT_OF_SPEED = ("images_per_second", "peak_flops_share", "data_wait_share", "padding", "peak_memory_bytes")


def train_cell(parts: Parts, directory: Path, steps: Iterable[int], counter: Counter, *, first: bool) -> None:
    """Train the cell, from where an earlier call stopped, keeping the checkpoints of `steps`.

    Each of several processes calls this; the `first` alone writes. Raises as lensbench.training.run.train.
    """
    began = time.perf_counter()
    experiment, corpus, encoder = parts.experiment, parts.corpus, parts.encoder
    kept = tuple(sorted(steps))
    what = parts.plan(experiment)
    train_latents = encode_sizes(experiment, corpus, parts.training_latents)
    held_out_latents = parts.latents(what.keys, "held-out images")
    # Prompts apart from captions: every cell shares theirs, whatever its arm.
    prompt_features = parts.features(what.texts(), "prompts")
    train_features: dict[str, TextFeatures]
    if parts.online:
        train_features = {name: OnlineFeatures(encoder) for name in parts.texts}
    else:  # each set apart, so that progress says which
        train_features = {name: parts.features(of_set, name) for name, of_set in parts.texts.items()}
        encoder.unload()  # it can be larger than the denoiser
    config = denoiser_config(experiment, encoder.width)
    batches = TrainingBatches(experiment, train_latents, parts.texts, train_features, corpus.train_keys)
    token_counts = {name: train_features[name].token_counts(of_set) for name, of_set in parts.texts.items()}
    of_size = [
        flops_per_image(config, experiment.captions, token_counts, math.prod(latents_of_size.grid))
        for latents_of_size in batches.latents.of_size
    ]

    def amount(step: int) -> Amount:
        seen = batches.seen(step)
        return Amount(step, int(seen.sum()), float(seen @ of_size))

    origin = origin_of(parts, "") | {"captions_digest": arm_digest(corpus.train_keys, parts.texts)}
    identity = {"experiment_hash": experiment.hash()} | origin
    if first:
        spool.append(directory, [{"origin": origin}])
    train(
        experiment,
        config,
        batches,
        directory,
        lambda done, total, note: parts.report(Progress("training", done, total, note)),
        identity,
        functools.partial(
            look,
            plan=what,
            features=prompt_features,
            autoencoder=parts.autoencoder,
            real=held_out_latents,
            amount=amount,
            directory=directory,
        ),
        keep=kept,
        news=lambda line: parts.report(Progress("training", 0, experiment.training.steps, line, lasting=True)),
    )
    if not first:
        return
    noted = trained(directory)
    assert noted is not None, "training has ended"
    origin |= {"commit": noted.commit, "hardware": noted.hardware}
    if noted.parts:
        origin |= {"resumed": noted.elsewhere()}
    amounts = {step: amount(step) for step in sorted({*kept, *watched_steps(experiment), experiment.training.steps})}
    told = {str(step): found._asdict() for step, found in amounts.items()}
    also_left(directory, publish_text(directory / files.AMOUNTS, json.dumps(told, indent=1) + "\n"))
    facts = _facts(parts, directory, token_counts)
    facts.add_record("cell_seconds", "", time.perf_counter() - began, experiment.training.steps)
    counter.note()
    for metric, value, source in recorded_costs(directory):
        facts.add_record(metric, "", value, experiment.training.steps, extractor=source)
    rows = [(experiment.training.steps, row) for row in facts.records]
    for step, form, loss, n, low, high in _watched(directory):
        watched = Scores()
        watched.add_record("validation_loss", form, loss, n, low, high)
        rows += [(step, row) for row in watched.records]
    write_records(directory, experiment, rows, amounts, origin, what.held_out_digest(), evaluation_hash="")


def _facts(parts: Parts, directory: Path, token_counts: Mapping[str, np.ndarray]) -> Scores:
    """What is to be known of the training beside its scores."""
    experiment, corpus, facts = parts.experiment, parts.corpus, Scores()
    images, shares, last = len(corpus.train_keys), experiment.captions.shares, experiment.training.steps
    train_seconds = float(pd.read_csv(directory / files.LOSSES)["seconds"].iloc[-1])
    facts.add_record("train_seconds", "", train_seconds, last)
    facts.add_record("training_images", "", images, images)
    facts.add_record("dropped_images", "", corpus.dropped, images)
    facts.add_record("set_aside_images", "", len(corpus.set_aside), images)
    # Of a mixture: the mean over its sets by their shares.
    truncated = sum(share * parts.encoder.truncated(parts.texts[name]) for name, share in shares.items())
    tokens = sum(share * float(token_counts[name].mean()) for name, share in shares.items())
    facts.add_record("truncated_captions", "", truncated, images)
    facts.add_record("caption_tokens", "", tokens, images)
    told = json.loads((directory / files.SUMMARY).read_text())
    for metric in KEPT_OF_SPEED:
        facts.add_record(metric, "", told[metric], last)
    return facts


def _watched(directory: Path) -> list[tuple[int, str, float, int, float, float]]:
    """What training was watched for: step, form, held-out loss, images, and the interval of the loss."""
    if not (directory / files.WATCHED).exists():
        return []
    table = pd.read_csv(directory / files.WATCHED, float_precision="round_trip")
    columns = table[["step", "form", "validation_loss", "n", "low", "high"]]
    return list(columns.itertuples(index=False, name=None))
