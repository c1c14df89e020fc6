"""A short measurement of this machine: a few real training steps, a few pictures and a few encoded captions.

One for each kind of cell (size of model and pictures, captions, recipe), on the threads that a worker will have. With
several workers they share more than cores, memory above all: a sweep may take longer than its pilot says.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from lensbench.captions.texts import training_texts
from lensbench.data.features import encode_texts
from lensbench.data.latents import encode_images
from lensbench.experiment import Experiment
from lensbench.model.checkpoint import load
from lensbench.model.sizes import denoiser_config
from lensbench.scoring.generate import generate, sampling_noise
from lensbench.sweep.cell_parts import autoencoder_of, corpus_of, device, encoder_of
from lensbench.sweep.design import Cell
from lensbench.sweep.planning import Pace, kind
from lensbench.sweep.quiet import quiet
from lensbench.training import files
from lensbench.training.datamodule import TrainingBatches
from lensbench.training.run import train

STEPS = 6  # of training, the first two of which are not counted
WARM = 2
DRAWN = 16  # pictures
FEWEST_IMAGES = 16


def kinds(every: Sequence[Cell]) -> dict[tuple[Any, ...], Experiment]:
    """The kinds of cells there are, each with the first experiment of it."""
    found: dict[tuple[Any, ...], Experiment] = {}
    for cell in every:
        found.setdefault(kind(cell.experiment), cell.experiment)
    return found


def measured(
    of: dict[tuple[Any, ...], Experiment], threads: int, report: Callable[[int], None]
) -> dict[tuple[Any, ...], Pace]:
    """The pace of each kind of cell. `report(n)` after the n-th. Raises ValueError as running the cells would."""
    quiet()
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        out = {}
        for n, (key, experiment) in enumerate(of.items(), 1):
            out[key] = pace(experiment)
            report(n)
        return out
    finally:
        torch.set_num_threads(before)


def pace(experiment: Experiment) -> Pace:
    """The pace of one experiment, with square images of corpus.size_px. No file of it is left."""
    batch = experiment.training.batch
    images = min(experiment.images, max(batch, FEWEST_IMAGES))
    recipe = {"steps": STEPS, "warmup_steps": 0, "buckets": None, "start": None, "devices": 1, "data_workers": 0}
    small = experiment.replace(
        {f"training.{name}": value for name, value in recipe.items()}
        | {"images": images, "evaluation.at": (1.0,), "training.compiled": False, "training.resume_seconds": 1e6}
    )
    corpus = corpus_of(small.corpus, images, small.images_seed)
    autoencoder, encoder = autoencoder_of(small.autoencoder, small.model.patch_size), encoder_of(small.text_encoder)
    keys = corpus.train_keys
    texts = training_texts(corpus, small.captions, keys, small.text_encoder)
    first = next(iter(texts.values()))
    encode_texts(first[:1], encoder, None)  # the weights are read
    began = time.perf_counter()
    features = {name: encode_texts(of_set, encoder, None) for name, of_set in texts.items()}
    distinct = len({text for of_set in texts.values() for text in of_set if text})
    encoded = (time.perf_counter() - began) / max(1, distinct)
    latents = encode_images(corpus, keys, autoencoder, None, device=device())
    config = denoiser_config(small, encoder.width)
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder)
        train(small, config, TrainingBatches(small, latents, texts, features, keys), run, lambda *_: None, {})
        took = pd.read_csv(run / files.LOSSES)["seconds"].diff().iloc[WARM:].median()
        denoiser = load(files.checkpoint(run, STEPS)).to(device())
    chosen = [first[n % len(first)] for n in range(DRAWN)]
    shape = small.autoencoder.latents
    noise = sampling_noise(
        0, "pilot", [(n, 0) for n in range(DRAWN)], small.image_tokens, shape.channels * small.model.patch_size**2
    )
    side = small.corpus.size_px // small.autoencoder.stride(small.model.patch_size)

    def draw(steps: int) -> float:
        began = time.perf_counter()
        some = next(iter(features.values()))
        guidance = small.evaluation.guidance
        generate(denoiser, autoencoder, some, chosen, noise, (side, side), steps=steps, guidance=guidance)
        return time.perf_counter() - began

    draw(1)
    return Pace(float(took) / batch, draw(small.evaluation.sampling_steps) / DRAWN, encoded)
