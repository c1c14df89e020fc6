"""From a pipeline and prompts to a folder of pictures; the same call goes on where it was interrupted.

A picture depends on its prompt, on the noise of its (prompt index, sample) and on the weights. Batches are laid out
over all pictures, whatever is there already, and one of which some are missing is drawn whole again: an interrupted
folder ends with the very bytes of one drawn at a stretch.
"""

from __future__ import annotations

import resource
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch

from lensbench.data.buckets import bucket, checked_size
from lensbench.data.features import TextFeatures, encode_texts
from lensbench.drawing.meter import Meter, shown
from lensbench.drawing.pipeline import Pipeline
from lensbench.drawing.prompts import Prompts
from lensbench.experiment import Experiment
from lensbench.locks import file_lock
from lensbench.model.flow import guidance_schedule
from lensbench.model.text_encoder import open_text_encoder
from lensbench.scoring.generate import generate, sampling_noise
from lensbench.scoring.picture_folder import PictureFolder
from lensbench.sweep.progress import duration
from lensbench.sweep.provenance import commit, hardware
from lensbench.sweep.worker import check_writable

if TYPE_CHECKING:
    from rich.console import Console

STEPS, GUIDANCE, SIDE = 50, 5.0, 1024  # as Lens's base model is used
PROTOCOL = "geneval"  # whose noise it is: a cell's own prompts give the pictures that the cell was scored on
BATCH_TOKENS, BATCH_MOST = 2**15, 128  # image tokens and pictures in a batch, when the user does not say


class DrawingStoppedError(Exception):
    """The user stopped the drawing; `kept` of `total` pictures are there."""

    def __init__(self, kept: int, total: int) -> None:
        super().__init__(f"interrupted: {kept} of {total} pictures are drawn and kept")
        self.kept, self.total = kept, total


@dataclass(frozen=True)
class Wishes:
    """What a user says about the drawing; what is None is the cell's own or, without a cell, Lens's."""

    steps: int | None = None
    guidance: float | None = None
    guidance_interval: tuple[float, float] = (0.0, 1.0)
    size: int | None = None
    ratio: str | None = None
    height: int | None = None
    width: int | None = None
    seed: int | None = None
    batch: int | None = None


@dataclass(frozen=True)
class Settings:
    """What decides the pictures beside the weights and the prompts; height and width in pixels."""

    steps: int
    guidance: float
    guidance_interval: tuple[float, float]  # noise levels
    height: int
    width: int
    seed: int


def settle(wishes: Wishes, experiment: Experiment | None, stride: int) -> Settings:
    """The settings that wishes come to. Raises ValueError, one line, for wishes that cannot be or contradict."""
    plan = experiment.evaluation if experiment else None
    steps = wishes.steps if wishes.steps is not None else plan.sampling_steps if plan else STEPS
    guidance = wishes.guidance if wishes.guidance is not None else plan.guidance if plan else GUIDANCE
    seed = wishes.seed if wishes.seed is not None else plan.prompt_seed if plan else 0
    sides = (wishes.height, wishes.width)
    if any(side is not None for side in sides):
        if wishes.size is not None or wishes.ratio is not None:
            raise ValueError("give size and ratio, or height and width, not some of both")
        if wishes.height is None or wishes.width is None:
            raise ValueError(f"height={wishes.height}, width={wishes.width}: give both, or size and ratio")
        size = checked_size(wishes.height, wishes.width, stride)
    else:
        own = experiment.corpus.size_px if experiment else SIDE
        size = bucket(own if wishes.size is None else wishes.size, wishes.ratio or "1:1", stride)
    guidance_schedule(guidance, wishes.guidance_interval, steps, 1)  # refuses what cannot be
    if wishes.batch is not None and wishes.batch < 1:
        raise ValueError(f"batch={wishes.batch}: must be at least 1")
    return Settings(steps, guidance, wishes.guidance_interval, size.height, size.width, seed)


def draw(pipeline: Pipeline, prompts: Prompts, wishes: Wishes, out: Path, console: Console) -> None:
    """Draw every picture of `prompts` that `out` lacks, and say how far it is.

    Raises ValueError when `out` was begun otherwise or another command is drawing into it, or for wishes that cannot
    be; OSError when it cannot be written; DrawingStoppedError when interrupted.
    """
    settings = settle(wishes, pipeline.experiment, pipeline.autoencoder.stride)
    with tempfile.TemporaryDirectory() as cache:

        def prepare() -> tuple[Draws, dict[str, Any]]:
            features, encoder = _encode(pipeline, prompts, Path(cache), console)
            return Drawer(pipeline, features, settings), encoder

        fill(out, prompts, asdict(settings) | pipeline.identity(), prepare, wishes.batch, console)


class Draws(Protocol):
    """What draws pictures of any (prompt index, sample), at fixed settings."""

    @property
    def most(self) -> int:
        """Pictures in a batch, when the user does not say."""
        ...

    def begin(self) -> None:
        """Make ready to draw: move to the accelerator, if there is one."""
        ...

    def draw(self, texts: Sequence[str], keys: Sequence[tuple[int, int]]) -> np.ndarray:
        """One picture a text, (n, H, W, 3) uint8, from the noise of its (prompt index, sample), in one batch."""
        ...

    def session(self) -> dict[str, Any]:
        """What draws: it does not decide the pictures but for rounding."""
        ...


def fill(
    out: Path,
    prompts: Prompts,
    decided_by: Mapping[str, Any],
    prepare: Callable[[], tuple[Draws, dict[str, Any]]],
    batch: int | None,
    console: Console,
) -> None:
    """Draw every picture of `prompts` that the folder `out` lacks.

    `decided_by` is what decides the pictures, among it their height and width; `prepare` gives what draws them and the
    rest of what decides them. Raises as `draw` does.
    """
    folder, pictures = PictureFolder(out), prompts.pictures()
    samples = prompts.samples if len(set(prompts.samples)) > 1 else prompts.samples[0]
    identity = dict(decided_by) | {"samples": samples, "prompts": prompts.digest}
    folder.refuse_other(identity)
    check_writable(out)
    with file_lock(out / ".lock", wait=False) as mine:
        if not mine:
            raise ValueError(f"{out}: another command is drawing into it; wait for it, or choose another folder")
        try:
            drawer, more = prepare()
            folder.begin(prompts.rows, identity | more)
            size = decided_by["height"], decided_by["width"]
            missing = {job for job in pictures if not folder.has(*job, *size)}
            began = time.monotonic()
            if missing:
                if kept := len(pictures) - len(missing):
                    console.print(f"{kept} of {len(pictures)} pictures are there already", highlight=False)
                _draw_missing(drawer, prompts, missing, folder, batch or drawer.most, console)
        except KeyboardInterrupt:
            raise DrawingStoppedError(sum(folder.picture(*job).exists() for job in pictures), len(pictures)) from None
    drawn = (
        f"{len(missing)} drawn now, in {duration(time.monotonic() - began)}" if missing else "all were there already"
    )
    console.print(f"{len(pictures)} pictures in {out}: {drawn}", highlight=False, markup=False, soft_wrap=True)


@dataclass(frozen=True)
class Drawer:
    """Pictures of any (prompt index, sample), at fixed settings."""

    pipeline: Pipeline
    features: TextFeatures
    settings: Settings

    @property
    def grid(self) -> tuple[int, int]:
        """Tokens of a picture, (H, W)."""
        stride = self.pipeline.autoencoder.stride
        return self.settings.height // stride, self.settings.width // stride

    @property
    def most(self) -> int:
        """As many pictures as have `BATCH_TOKENS` tokens."""
        return max(1, min(BATCH_MOST, BATCH_TOKENS // (self.grid[0] * self.grid[1])))

    def begin(self) -> None:
        """Move the denoiser to the accelerator, if there is one."""
        self.pipeline.denoiser.to("cuda" if torch.cuda.is_available() else "cpu")

    def draw(self, texts: Sequence[str], keys: Sequence[tuple[int, int]]) -> np.ndarray:
        """One picture a text, (n, H, W, 3) uint8, from the noise of its (prompt index, sample), in one batch."""
        s, autoencoder = self.settings, self.pipeline.autoencoder
        tokens = self.grid[0] * self.grid[1]
        return generate(
            self.pipeline.denoiser,
            autoencoder,
            self.features,
            texts,
            sampling_noise(s.seed, PROTOCOL, keys, tokens, autoencoder.channels),
            self.grid,
            steps=s.steps,
            guidance=guidance_schedule(s.guidance, s.guidance_interval, s.steps, tokens),
            batch=len(texts),
        )

    def session(self) -> dict[str, Any]:
        """As in `Draws`."""
        denoiser = self.pipeline.denoiser
        return {
            "checkpoint": self.pipeline.name,
            "parameters": {"denoiser": parameters(denoiser)},
            "precision": str(next(denoiser.parameters()).dtype).removeprefix("torch."),
        }


def _encode(pipeline: Pipeline, prompts: Prompts, cache: Path, console: Console) -> tuple[TextFeatures, dict[str, Any]]:
    """Features of all prompts, the same whichever are still to draw, and what they depend on.

    The encoder is gone afterwards: it can be larger than the denoiser.
    """
    texts = [row["prompt"] for row in prompts.rows]
    encoder = open_text_encoder(pipeline.text_encoder)
    if encoder.width != pipeline.denoiser.config.enc_hidden_dim:
        raise ValueError(
            f"the denoiser reads text features of width {pipeline.denoiser.config.enc_hidden_dim}, but the text "
            f"encoder {pipeline.text_encoder.kind} gives {encoder.width}"
        )
    console.print(f"encoding {len(texts)} prompts", highlight=False)
    features = encode_texts(texts, encoder, cache)
    encoder.unload()
    if cut := encoder.truncated(texts):
        console.print(f"{cut} of them are longer than {encoder.max_tokens} tokens and lose their end", highlight=False)
    made_by = {
        "text_encoder": encoder.digest,
        "text_encoder_layers": list(encoder.layers),
        "text_encoder_max_tokens": encoder.max_tokens,
    }
    return features, made_by


def _draw_missing(
    drawer: Draws,
    prompts: Prompts,
    missing: set[tuple[int, int]],
    folder: PictureFolder,
    batch: int,
    console: Console,
) -> None:
    pictures, rows = prompts.pictures(), prompts.rows
    folder.note_session(drawer.session() | {"prompts": prompts.name, "batch": batch} | _here())
    drawer.begin()
    # Texts of like length share a batch, so that little of it is padding.
    order = sorted(pictures, key=lambda job: len(rows[job[0]]["prompt"]))
    meter = Meter(len(pictures) - len(missing), len(pictures))
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    seconds: list[float] = []  # an image, of each whole batch
    try:
        with shown(console, meter) as count:
            for start in range(0, len(order), batch):
                chosen = order[start : start + batch]
                if missing.isdisjoint(chosen):
                    continue
                began = time.perf_counter()
                try:
                    images = drawer.draw([rows[prompt]["prompt"] for prompt, _ in chosen], chosen)
                except torch.OutOfMemoryError:
                    raise ValueError(
                        f"the accelerator's memory is too small for {batch} pictures in a batch; continue with a "
                        "smaller --batch: what is drawn is kept"
                    ) from None
                if len(chosen) == min(batch, len(order)):
                    seconds.append((time.perf_counter() - began) / len(chosen))
                for job, image in zip(chosen, images, strict=True):
                    if job in missing:
                        folder.save(*job, image)
                count(len(missing.intersection(chosen)))
    finally:
        if seconds:
            folder.note_cost(statistics.median(seconds), peak_memory())


def parameters(network: torch.nn.Module) -> int:
    """How many numbers a network has."""
    return sum(parameter.numel() for parameter in network.parameters())


def peak_memory() -> dict[str, int]:
    """The most memory that this process has had, in bytes: of the accelerator, or of the machine where it has none."""
    if torch.cuda.is_available():
        return {"accelerator": torch.cuda.max_memory_allocated()}
    return {"process": 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss}


def _here() -> dict[str, Any]:
    versions = {name: version(name) for name in ("torch", "transformers", "diffusers")}
    return {"hardware": hardware(), "lensbench": commit(), **versions}
