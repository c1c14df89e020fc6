"""The whole evaluator against the bare networks on the same images, and its memory as the number of images grows.

    .venv/bin/python benchmarks/scoring.py [--images 256]

Images of held-out captions lie in the cell already, as they do when a metric is added to a finished sweep. The
evaluator reads them, gives each to a CLIP (ViT-B/32), a DINOv2 (ViT-S/14), both random, and the shapes judge, writes
the features, and takes a Frechet distance, a kernel distance, their floors, and CLIPScore with its intervals. The bare
networks see the same images in batches of the same size and nothing else is done. Goal: 0.9 of their images a second;
memory that does not grow with the number of images.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from lensbench.data.latents import PatchedImages
from lensbench.experiment import Experiment
from lensbench.model.autoencoder import Pixels
from lensbench.model.sizes import denoiser_config
from lensbench.model.transformer import LensTransformer
from lensbench.sampling.image_sets import ImageSet, sampled
from lensbench.scoring import evaluate
from lensbench.scoring.evaluate import Checkpoint
from lensbench.scoring.evaluation_plan import Plan, plan
from lensbench.scoring.feature_file import BATCH
from lensbench.scoring.image_scores import scored as values_of
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


def scored(what: Plan, tools: Instruments, folder: Path, cache: Path, images: np.ndarray) -> float:
    """Seconds of the evaluator on images that lie there. References are known from the round before."""
    denoiser = LensTransformer(denoiser_config(what.experiment, what.experiment.text_encoder.width))
    checkpoint = Checkpoint(
        denoiser=denoiser,
        step=1,
        weights="w",
        plan=what,
        instruments=tools,
        features=NoFeatures(),  # type: ignore[arg-type]
        text_encoder="t",
        autoencoder=Pixels(what.experiment.model.patch_size),
        real=PatchedImages(what.corpus.images(what.keys[:1]), Pixels(what.experiment.model.patch_size)),
        folder=folder,
        cache=cache,
        report=lambda n: None,
    )

    def keep(wanted: ImageSet, *args: object) -> Iterator[object]:
        return sampled(wanted, folder, lambda texts, keys: images[[key for key, _ in keys]], lambda n: None)

    evaluate.sampled = keep  # type: ignore[assignment]
    evaluate._scenes(checkpoint, "short")  # the images, and the features of the reference
    for path in folder.rglob("features/*.npy"):
        path.unlink()
    began = time.perf_counter()
    evaluate._scenes(checkpoint, "short")
    return time.perf_counter() - began


def bare(what: Plan, tools: Instruments, images: np.ndarray) -> float:
    """Seconds of the networks alone on the same images."""
    texts = what.held_out["short"]
    began = time.perf_counter()
    for extractor in tools.extractors.values():
        for start in range(0, len(images), BATCH):
            extractor.embed(np.stack([extractor.prepare(image) for image in images[start : start + BATCH]]))
    for scorer in tools.scorers.values():
        values_of(scorer, list(images), texts)
    return time.perf_counter() - began


def one(images: int, weights: dict[str, str]) -> None:
    """Print the seconds of both for a number of images, and the memory that the evaluator took, as JSON."""
    quiet()
    experiment = experiment_of(images, weights)
    what = plan(experiment, corpus_of(experiment.corpus, experiment.images))
    tools = open_instruments(what, "cpu")
    seen = pixels(images)
    with tempfile.TemporaryDirectory() as name:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        took = [scored(what, tools, Path(name) / f"e{n}", Path(name) / "cache", seen) for n in range(ROUNDS)]
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    alone = [bare(what, tools, seen) for _ in range(ROUNDS)]
    print(json.dumps({"evaluator": statistics.median(took), "bare": statistics.median(alone), "grown_kb": grown}))


def main() -> None:
    """Print the ratio and the memory."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=256)
    parser.add_argument("--weights", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.weights:
        one(options.images, json.loads(options.weights))
        return
    print(f"{hardware()}; {SIDE} px; medians of {ROUNDS}")
    with tempfile.TemporaryDirectory() as name:
        weights = json.dumps(models(Path(name)))
        for images in (options.images, 4 * options.images):
            command = [sys.executable, __file__, "--images", str(images), "--weights", weights]
            told = json.loads(
                subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1]
            )
            ratio = told["bare"] / told["evaluator"]
            print(
                f"{images:,} images: evaluator {images / told['evaluator']:.1f} images/s, bare networks "
                f"{images / told['bare']:.1f}, ratio {ratio:.3f} (goal 0.9); its memory grew by "
                f"{told['grown_kb'] / 1024:.0f} MB"
            )


if __name__ == "__main__":
    main()
