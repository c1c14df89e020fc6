"""The whole evaluator against the bare networks on the same images, and its memory as the number of images grows.

    .venv/bin/python benchmarks/scoring.py [--images 64]

Images of held-out captions lie in the cell already, as they do when a metric is added to a finished sweep. The
evaluator reads them, gives each to a CLIP (ViT-B/32), a DINOv2 (ViT-S/14), both random, and the shapes judge, writes
the features, and takes a Frechet distance, a kernel distance, their floors, and CLIPScore with its intervals. The bare
networks see the same images in batches of the same size and nothing else is done. Both have one thread and take turns;
the ratio is that of CPU seconds, which other work on the machine changes less than the clock's.

Every round is of a cell of its own: an evaluation takes over the features that another one of its cell has, and would
then be faster than the networks. The features of the reference are there, as they are for all cells but the first.

Memory is the most that the evaluator holds above what the process held before it: after a first round, so that the
networks' own room is there. Goals: 0.9 of the bare networks' images a second; as much memory for four times the images.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import numpy as np
import torch

from lensbench.data.latents import PatchedImages
from lensbench.experiment import Experiment
from lensbench.model.autoencoder import Pixels
from lensbench.model.sizes import denoiser_config
from lensbench.model.transformer import LensTransformer
from lensbench.scoring import evaluate
from lensbench.scoring.evaluate import Checkpoint
from lensbench.scoring.evaluation_plan import Plan, plan
from lensbench.scoring.feature_file import BATCH
from lensbench.scoring.instruments import Instruments, open_instruments
from lensbench.streams import numpy_stream
from lensbench.sweep.cell_parts import corpus_of
from lensbench.sweep.provenance import hardware
from lensbench.sweep.quiet import quiet

SIDE = 64  # pixels
ROUNDS = 3


def models(folder: Path) -> dict[str, str]:
    """A CLIP and a DINOv2 of published sizes with random weights, in files as the published ones."""
    from transformers import CLIPConfig, CLIPModel, Dinov2Config, Dinov2Model

    from tests.scoring.conftest import clip_tokenizer

    torch.manual_seed(0)
    CLIPModel(CLIPConfig()).save_pretrained(folder / "clip")
    clip_tokenizer(folder / "clip")
    small = Dinov2Config(hidden_size=384, num_hidden_layers=12, num_attention_heads=6, image_size=518, patch_size=14)
    Dinov2Model(small).save_pretrained(folder / "dinov2")
    return {"clip-b32": str(folder / "clip"), "dinov2": str(folder / "dinov2")}


def experiment_of(images: int, weights: dict[str, str]) -> Experiment:
    """An evaluation of held-out captions alone."""
    changes: dict[str, object] = {
        "corpus.size_px": SIDE,
        "images": 32,
        "model.depth": 1,
        "model.patch_size": 8,
        "evaluation.forms": ("short",),
        "evaluation.scene_images": images,
        "evaluation.validation_images": 1,
        "evaluation.weights": weights,
        "evaluation.metrics": ("kd:dinov2", "kd:shapes", "fd:shapes", "clip_score:clip-b32"),
    }
    return Experiment().replace(changes)


def pixels(images: int) -> np.ndarray:
    """Smooth noise, uint8 (N, S, S, 3)."""
    coarse = numpy_stream(0, "benchmark").integers(0, 255, (images, 8, 8, 3), dtype=np.uint8)
    return coarse.repeat(SIDE // 8, 1).repeat(SIDE // 8, 2)


class NoFeatures:
    """Nothing is sampled and no loss taken: no text is asked for."""


class Spent(NamedTuple):
    """Seconds by the clock and of CPU."""

    clock: float
    cpu: float


def spent(work: Callable[[], None]) -> Spent:
    """What a piece of work takes."""
    clock, cpu = time.perf_counter(), time.process_time()
    work()
    return Spent(time.perf_counter() - clock, time.process_time() - cpu)


def checkpoint_of(what: Plan, tools: Instruments, cell: Path, cache: Path, images: np.ndarray) -> Checkpoint:
    """A checkpoint whose images lie in the folder of its only evaluation."""
    autoencoder = Pixels(what.experiment.model.patch_size)
    checkpoint = Checkpoint(
        denoiser=LensTransformer(denoiser_config(what.experiment, what.experiment.text_encoder.width)),
        step=1,
        weights="w",
        plan=what,
        instruments=tools,
        features=NoFeatures(),  # type: ignore[arg-type]
        text_encoder="t",
        autoencoder=autoencoder,
        real=PatchedImages(what.corpus.images(what.keys[:1]), autoencoder),
        folder=cell / "evaluations" / "own",
        cache=cache,
        report=lambda n: None,
    )
    texts, keys = what.held_out["short"][: len(images)], [(i, 0) for i in range(len(images))]

    def sample(*given: Any) -> np.ndarray:
        return images[[key for key, _ in given[6]]]

    with mock.patch.object(evaluate, "sample_images", sample):
        for _ in evaluate._images(checkpoint, f"{evaluate.SCENES}-short", evaluate.SCENES, texts, keys, None):
            pass
    return checkpoint


def bare(what: Plan, tools: Instruments, images: np.ndarray) -> None:
    """The networks alone on the same images, in batches as the evaluator's."""
    texts = what.held_out["short"]
    for start in range(0, len(images), BATCH):
        batch = images[start : start + BATCH]
        for extractor in tools.extractors.values():
            extractor.embed(np.stack([extractor.prepare(image) for image in batch]))
        for scorer in tools.scorers.values():
            scorer.score([scorer.prepare(image) for image in batch], texts[start : start + BATCH])


def kept_kb(name: str) -> int:
    """A size of this process that Linux tells: VmRSS now, VmHWM the most since it was last forgotten."""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(f"{name}:"))
    return int(line.split()[1])


def one(images: int, weights: dict[str, str]) -> None:
    """Print what both take for a number of images in each round, and the memory of the evaluator, as JSON."""
    quiet()
    torch.set_num_threads(1)
    experiment = experiment_of(images, weights)
    what = plan(experiment, corpus_of(experiment.corpus, experiment.images))
    assert what.scene_images == images, f"this corpus has {len(what.keys)} held-out images"
    tools = open_instruments(what, "cpu")
    seen = pixels(images)
    rounds: list[tuple[Spent, Spent]] = []
    grown = 0
    with tempfile.TemporaryDirectory() as name:
        for number in range(ROUNDS + 1):
            checkpoint = checkpoint_of(what, tools, Path(name) / f"cell-{number}", Path(name) / "cache", seen)
            Path("/proc/self/clear_refs").write_text("5")  # forgets the most that was held
            before = kept_kb("VmRSS")
            whole = spent(lambda of=checkpoint: evaluate._scenes(of, "short"))  # type: ignore[misc]
            peak = kept_kb("VmHWM") - before
            alone = spent(lambda: bare(what, tools, seen))
            if number:  # the first takes the features of the reference, too, and makes the networks' room
                rounds.append((whole, alone))
                grown = max(grown, peak)
    print(json.dumps({"rounds": rounds, "grown_kb": grown}))


def main() -> None:
    """Print the ratio and the memory."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--weights", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.weights:
        one(options.images, json.loads(options.weights))
        return
    load = ", ".join(f"{minutes:.1f}" for minutes in os.getloadavg())
    print(f"{hardware()}, one used; {SIDE} px; {ROUNDS} rounds; load {load} at the start")
    with tempfile.TemporaryDirectory() as name:
        weights = json.dumps(models(Path(name)))
        for images in (options.images, 4 * options.images):
            command = [sys.executable, __file__, "--images", str(images), "--weights", weights]
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
            told = json.loads(done.stdout.splitlines()[-1])
            rounds = [(Spent(*whole), Spent(*alone)) for whole, alone in told["rounds"]]
            ratios = [alone.cpu / whole.cpu for whole, alone in rounds]
            clock = statistics.median(alone.clock / whole.clock for whole, alone in rounds)
            whole, alone = (statistics.median(pair[side].cpu for pair in rounds) for side in (0, 1))
            print(
                f"{images:,} images: evaluator {images / whole:.2f} images a CPU second, bare networks "
                f"{images / alone:.2f}, ratio {statistics.median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f}; "
                f"by the clock {clock:.3f}; goal 0.9); memory {told['grown_kb'] / 1024:.0f} MB"
            )
    load = ", ".join(f"{minutes:.1f}" for minutes in os.getloadavg())
    print(f"load {load} at the end")


if __name__ == "__main__":
    main()
