"""How much of the machine's time the training loop leaves to the denoiser.

Command: python benchmarks/training.py [--depth 8] [--demo-depth 3] [--precision fp32] [--data-workers 0] [--rounds 5]
Whole loop: `lensbench.training.run.train` itself, from cached features to averaged weights, with its progress, its
numbers of every step and its signals. Bare: the same batches, already in memory and on the device, through the same
denoiser; `forward+backward` is what benchmarks/denoiser.py times, with this loss; `with optimizer` clips, steps the
optimizer and moves the average as well. Nothing else is in it: no schedule, no check that the loss is a number, no
numbers kept. All in one process, in turns; medians over the steps of a turn without its first three, and over turns.

`demo`: the recipe of experiments/shapes.py on detailed captions, as `make demo` trains it. Watching (held-out loss and
a sheet of pictures) is timed as often as that recipe does it.
`lens`: 256 image tokens, texts of the lengths in benchmarks/denoiser.py, a batch of 8, AdamW; the features are random.
Padding: tokens computed over tokens of images and texts, when a batch is computed in 1 part or in 4, by text length.
"""

from __future__ import annotations

import argparse
import functools
import json
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))  # for the recipe of the demo
from benchmarks.denoiser import ENCODER_WIDTH, LAYERS, LONGEST, SPREAD, TOKENS_A_WORD, WORDS
from experiments.shapes import experiment as shapes
from lensbench.captions.texts import training_texts
from lensbench.data.corpus import open_corpus
from lensbench.data.features import ArrayRows, KeptFeatures, encode_texts
from lensbench.data.latents import StoredLatents, encode_images
from lensbench.experiment import Experiment
from lensbench.model.autoencoder import open_autoencoder
from lensbench.model.flow import flow_loss
from lensbench.model.sizes import denoiser_config
from lensbench.model.text_encoder import open_text_encoder
from lensbench.model.transformer import LensConfig
from lensbench.scoring.evaluation_plan import plan
from lensbench.sweep.looking import Amount, look
from lensbench.sweep.provenance import hardware
from lensbench.sweep.quiet import quiet
from lensbench.training import files
from lensbench.training.datamodule import Step, TrainingBatches
from lensbench.training.milestones import watched_steps
from lensbench.training.module import new_denoiser
from lensbench.training.optimizer import new_optimizer
from lensbench.training.run import train
from lensbench.training.watch import Probe

FIRST = 3  # steps of a turn that are not counted: the machine gets ready
LENS_IMAGES, LENS_BATCH, LENS_SIDE, LENS_STEPS = 512, 8, 16, 15


@dataclass(frozen=True)
class Workload:
    """What is trained, and how it is looked at."""

    name: str
    experiment: Experiment
    batches: TrainingBatches
    config: LensConfig
    watches: int = 0  # in a full run of the recipe, of `full_steps`
    full_steps: int = 1
    probe: Probe | None = None


def demo(depth: int, changes: dict[str, object], folder: Path) -> Workload:
    """The cell of the demo with detailed captions; a turn has as many steps as lie between two looks on average."""
    watches, full = len(watched_steps(shapes)), shapes.training.steps
    experiment = shapes.replace(
        {
            "captions.set": "detailed",
            "images": 1024,
            "model.depth": depth,
            "training.steps": full // watches,
            "training.watch_steps": 1,
            "evaluation.at": (1.0,),
        }
        | changes
    )
    corpus = open_corpus(experiment.corpus, experiment.images)
    encoder = open_text_encoder(experiment.text_encoder)
    autoencoder = open_autoencoder(experiment.autoencoder, experiment.model.patch_size)
    texts = training_texts(corpus, experiment.captions, corpus.train_keys, experiment.text_encoder)
    features = {name: encode_texts(of_set, encoder, folder) for name, of_set in texts.items()}
    latents = encode_images(corpus, corpus.train_keys, autoencoder, folder)
    batches = TrainingBatches(experiment, latents, texts, features, corpus.train_keys)
    what = plan(experiment, corpus)
    probe = functools.partial(
        look,
        plan=what,
        features=encode_texts(what.texts(), encoder, folder),
        autoencoder=autoencoder,
        real=encode_images(corpus, what.keys, autoencoder, folder),
        amount=lambda step: Amount(step, step * experiment.training.batch, 0.0),
        directory=folder,
    )
    config = denoiser_config(experiment, encoder.width)
    return Workload(f"demo, depth {depth}", experiment, batches, config, watches, full, probe)


def lens(depth: int, changes: dict[str, object]) -> Workload:
    """A model of Lens's family at 256 px, on random latents and text features."""
    experiment = Experiment().replace(
        {
            "autoencoder.kind": "flux2",
            "corpus.size_px": 16 * LENS_SIDE,
            "images": LENS_IMAGES,
            "text_encoder.layers": LAYERS,
            "text_encoder.max_tokens": 512,
            "model.patch_size": 2,
            "model.depth": depth,
            "training.optimizer": "adamw",
            "training.learning_rate": 1e-4,
            "training.batch": LENS_BATCH,
            "training.steps": LENS_STEPS,
            "training.warmup_steps": 2,
        }
        | changes
    )
    draw = np.random.default_rng(0)
    tokens = LENS_SIDE**2
    latents = draw.standard_normal((LENS_IMAGES, tokens, 128), dtype=np.float32).astype(np.float16)
    mean = WORDS * TOKENS_A_WORD
    lengths = np.clip(draw.normal(mean, SPREAD * mean, LENS_IMAGES), 8, LONGEST).astype(np.int64)
    texts = [f"text {n}" for n in range(LENS_IMAGES)]
    values = draw.standard_normal((int(lengths.sum()), len(LAYERS), ENCODER_WIDTH), dtype=np.float32)
    rows = ArrayRows(np.concatenate([[0], np.cumsum(lengths)]), values.astype(np.float16))
    features = KeptFeatures({text: n for n, text in enumerate(texts)}, rows)
    (name,) = experiment.captions.shares
    stored = StoredLatents(latents, (LENS_SIDE, LENS_SIDE))
    batches = TrainingBatches(experiment, stored, {name: texts}, {name: features}, texts)
    return Workload(f"lens, depth {depth}", experiment, batches, denoiser_config(experiment, ENCODER_WIDTH))


class Bare:
    """The denoiser and its optimizer, a step at a time, and nothing around them."""

    def __init__(self, of: Workload, device: torch.device) -> None:
        self.recipe, self.device = of.experiment.training, device
        self.denoiser = new_denoiser(of.config, 0).to(device)
        self.averaged = new_denoiser(of.config, 0).to(device).requires_grad_(False)
        self.optimizer = new_optimizer(self.denoiser, self.recipe, of.experiment.model.depth)
        steps = range(len(of.batches))
        self.steps = [Step(tuple(p.to(device) for p in of.batches[n].parts), of.batches[n].images) for n in steps]

    def turn(self, *, optimizer: bool) -> float:
        """Seconds a step."""
        times = []
        for step in self.steps:
            began = time.perf_counter()
            self._gradients(step)
            if optimizer:
                torch.nn.utils.clip_grad_norm_(self.denoiser.parameters(), self.recipe.clip, foreach=True)
                self.optimizer.step()
                with torch.no_grad():
                    torch._foreach_lerp_(list(self.averaged.parameters()), list(self.denoiser.parameters()), 0.01)
            self.denoiser.zero_grad(set_to_none=True)
            if self.device.type == "cuda":
                torch.cuda.synchronize()
            times.append(time.perf_counter() - began)
        return statistics.median(times[FIRST:])

    def _gradients(self, step: Step) -> None:
        for part in step.parts:
            context: AbstractContextManager[None] = nullcontext()
            if self.recipe.precision == "bf16":
                context = torch.autocast(self.device.type, torch.bfloat16)
            with context:
                of = (part.latents, part.noise, part.timesteps, part.text_features, part.text_mask, part.grid)
                losses = flow_loss(self.denoiser, *of)
            (losses.sum() / step.images).backward()


@dataclass(frozen=True)
class Turn:
    """The whole loop, once."""

    seconds: float  # a step
    looking: float  # seconds of one look
    data_wait: float  # share of the time
    peak: float  # share of a matrix product's FLOP/s


def loop(of: Workload, *, watched: bool) -> Turn:
    """Train from new weights."""
    looks: list[float] = []

    def timed(*given: object) -> list[dict[str, int | float | str]]:
        assert of.probe is not None
        began = time.perf_counter()
        rows = of.probe(*given)  # type: ignore[arg-type]
        looks.append(time.perf_counter() - began)
        return rows

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        train(of.experiment, of.config, of.batches, folder, lambda *r: None, {}, timed if watched else None)
        seconds = pd.read_csv(folder / files.LOSSES)["seconds"]
        told = json.loads((folder / files.SUMMARY).read_text())
    step = float(np.median(np.diff(seconds)[FIRST - 1 :]))
    return Turn(step, sum(looks), told["data_wait_share"], told["peak_flops_share"])


def bench(of: Workload, device: torch.device, rounds: int) -> None:
    """Time the workload in turns and print what came out."""
    bare = Bare(of, device)
    turns: dict[str, list[float]] = {"forward+backward": [], "with optimizer": [], "whole loop": [], "watched": []}
    loops: list[Turn] = []
    for _ in range(rounds):
        turns["forward+backward"].append(bare.turn(optimizer=False))
        turns["with optimizer"].append(bare.turn(optimizer=True))
        loops.append(loop(of, watched=False))
        turns["whole loop"].append(loops[-1].seconds)
        if of.probe is not None:
            turn = loop(of, watched=True)
            turns["watched"].append(turn.seconds + turn.looking * of.watches / of.full_steps)
            loops.append(turn)
    found = {name: statistics.median(times) for name, times in turns.items() if times}
    images = of.experiment.training.batch
    print(f"{of.name}, batch {images}, {of.experiment.training.precision}, {of.experiment.training.optimizer}")
    for name in ("forward+backward", "with optimizer"):
        print(f"  bare, {name:18s} {images / found[name]:8.1f} images/s")
    for name in ("whole loop", "watched"):
        if name in found:
            ratios = [
                f"{found[bare] / found[name]:.3f} of bare {bare}" for bare in ("forward+backward", "with optimizer")
            ]
            print(f"  {name:24s} {images / found[name]:8.1f} images/s: {', '.join(ratios)}")
    wait, peak = (statistics.median(values) for values in ([t.data_wait for t in loops], [t.peak for t in loops]))
    print(f"  waiting for data {wait:.2%} of the time; {peak:.0%} of a matrix product's FLOP/s")
    if of.probe is not None:
        look_seconds = statistics.median(t.looking for t in loops if t.looking)
        share = look_seconds * of.watches / (found["whole loop"] * of.full_steps)
        print(f"  a look {look_seconds:.2f} s, {of.watches} in {of.full_steps} steps: {share:.1%} of training")


def padding(of: Workload, made: Callable[[dict[str, object]], Workload]) -> None:
    """Print the padding in 1 part and in 4."""
    shares = []
    for parts in (1, 4):
        batches = made({"training.accumulate": parts}).batches
        steps = [batches[n] for n in range(min(len(batches), 100))]
        shares.append(sum(step.padded_tokens for step in steps) / sum(step.tokens for step in steps))
    print(f"  padding {shares[0]:.3f} in one part, {shares[1]:.3f} in four", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--depth", type=int, nargs="*", default=[8], help="of `lens`")
    parser.add_argument("--demo-depth", type=int, nargs="*", default=[3], help="of `demo`")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--data-workers", type=int, default=0)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    quiet()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    print(
        f"{hardware()}; torch {torch.__version__}, Python {platform.python_version()}, {torch.get_num_threads()} "
        f"threads; {options.data_workers} data workers",
        flush=True,
    )
    how: dict[str, object] = {
        "training.precision": options.precision,
        "training.data_workers": options.data_workers,
    }
    with tempfile.TemporaryDirectory() as name:
        ways: list[Callable[[dict[str, object]], Workload]] = []
        ways += [lambda more, d=depth: demo(d, how | more, Path(name)) for depth in options.demo_depth]  # type: ignore[misc]
        ways += [lambda more, d=depth: lens(d, how | more) for depth in options.depth]  # type: ignore[misc]
        for made in ways:
            workload = made({})
            bench(workload, device, options.rounds)
            padding(workload, made)


if __name__ == "__main__":
    main()
