"""Other people's models: any diffusers text-to-image pipeline, drawn from the same prompts and seeds as a Lens cell.

Tested with a tiny random Stable Diffusion from disk; no published pipeline has been run by this project, nor a GPU.
"""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from lensbench.drawing.draw import PROTOCOL, Draws, Settings, Wishes, fill, parameters
from lensbench.drawing.prompts import Prompts
from lensbench.model.pretrained import brief, model_folder
from lensbench.streams import stream_key

if TYPE_CHECKING:
    from rich.console import Console

PREFIX = "diffusers:"
INDEX = "model_index.json"
FILES = ("*.json", "*.safetensors", "*.txt", "*.model")  # never a pickle, and no code
GUIDANCE_NAMES = ("guidance_scale", "true_cfg_scale")
BATCH = 4


@dataclass(frozen=True)
class OtherModel:
    """A pipeline on the CPU, the folder or id that it is named by, and the sha256 over its files."""

    name: str
    pipe: Any
    digest: str
    takes: frozenset[str]  # arguments of its call

    def settle(self, wishes: Wishes) -> Settings:
        """The settings that wishes come to, with the pipeline's own defaults. ValueError for what it does not take."""
        if wishes.guidance_interval != (0.0, 1.0):
            raise ValueError("--guidance-interval is for Lens; leave it out for a diffusers pipeline")
        if wishes.ratio is not None:
            raise ValueError("--ratio is for Lens; give a diffusers pipeline --height and --width")
        defaults = {name: p.default for name, p in inspect.signature(self.pipe.__call__).parameters.items()}
        steps = wishes.steps if wishes.steps is not None else defaults["num_inference_steps"]
        guidance = wishes.guidance if wishes.guidance is not None else defaults.get(self.guidance_name)
        height, width = (wishes.height or wishes.size, wishes.width or wishes.size)
        if height is None or width is None:
            height = width = self._own_side()
        if steps < 1 or height < 1 or width < 1:
            raise ValueError(f"steps={steps}, height={height}, width={width}: each must be at least 1")
        return Settings(steps, float(guidance or 0.0), wishes.guidance_interval, height, width, wishes.seed or 0)

    @property
    def guidance_name(self) -> str:
        """The argument that sets the guidance; "" where there is none."""
        return next((name for name in GUIDANCE_NAMES if name in self.takes), "")

    def _own_side(self) -> int:
        network: Any = getattr(self.pipe, "unet", None) or getattr(self.pipe, "transformer", None)
        config = getattr(network, "config", None)
        side = getattr(self.pipe, "default_sample_size", None) or getattr(config, "sample_size", None)
        scale = getattr(self.pipe, "vae_scale_factor", None)
        if not isinstance(side, int) or scale is None:
            raise ValueError(f"{self.name} does not say which size it draws: give --size, or --height and --width")
        return int(side * scale)


@dataclass(frozen=True)
class OtherDrawer:
    """Pictures of any (prompt index, sample) by another model, each from a generator of its own."""

    model: OtherModel
    settings: Settings

    @property
    def most(self) -> int:
        """As in `Draws`."""
        return BATCH

    def begin(self) -> None:
        """Move to the accelerator, if there is one, in half precision."""
        if torch.cuda.is_available():
            self.model.pipe.to("cuda", torch.bfloat16)

    def draw(self, texts: Sequence[str], keys: Sequence[tuple[int, int]]) -> np.ndarray:
        """As in `Draws`. Noise is drawn on the CPU, so that it is the same on every device."""
        s = self.settings
        generators = [
            torch.Generator().manual_seed(stream_key(s.seed, f"sampling/{PROTOCOL}/{prompt}", sample))
            for prompt, sample in keys
        ]
        given: dict[str, Any] = {"num_inference_steps": s.steps, "height": s.height, "width": s.width}
        if self.model.guidance_name:
            given[self.model.guidance_name] = s.guidance
        images = self.model.pipe(prompt=list(texts), generator=generators, output_type="np", **given).images
        found: np.ndarray = np.rint(np.clip(images, 0, 1) * 255).astype(np.uint8)
        if found.shape != (len(texts), s.height, s.width, 3):
            raise ValueError(
                f"{self.model.name} drew pictures of {found.shape[1]} x {found.shape[2]} px where {s.height} x "
                f"{s.width} were asked for: give --height and --width that it can draw"
            )
        return found

    def session(self) -> dict[str, Any]:
        """As in `Draws`."""
        networks = {
            name: parameters(part)
            for name, part in self.model.pipe.components.items()
            if isinstance(part, torch.nn.Module)
        }
        dtype = torch.bfloat16 if torch.cuda.is_available() else self.model.pipe.dtype
        return {
            "checkpoint": self.model.name,
            "pipeline": type(self.model.pipe).__name__,
            "parameters": networks,
            "precision": str(dtype).removeprefix("torch."),
        }


def open_other(name: str) -> OtherModel:
    """The pipeline of a local folder or a hub id, from safetensors alone.

    Raises ValueError, one line, when it cannot be had or does not draw pictures from prompts.
    """
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    from diffusers import DiffusionPipeline
    from diffusers.utils import is_accelerate_available, logging

    folder = model_folder(name, "--model", FILES)
    if not (folder / INDEX).is_file():
        raise ValueError(f"{PREFIX}{name}: no {INDEX} in {folder}, so it is no diffusers pipeline")
    logging.disable_progress_bar()
    try:
        lean = bool(is_accelerate_available())  # it says so at length where it cannot
        pipe = DiffusionPipeline.from_pretrained(
            folder, use_safetensors=True, local_files_only=True, low_cpu_mem_usage=lean
        )
    except Exception as error:  # the library has no one class for what does not fit
        raise ValueError(f"{PREFIX}{name}: cannot be opened ({brief(error)})") from None
    pipe.set_progress_bar_config(disable=True)
    takes = frozenset(inspect.signature(pipe.__call__).parameters)
    if lacking := {"prompt", "generator", "num_inference_steps", "height", "width"} - takes:
        raise ValueError(
            f"{PREFIX}{name}: {type(pipe).__name__} takes no {', '.join(sorted(lacking))}, so it draws no pictures "
            "from prompts and seeds"
        )
    return OtherModel(name, pipe, _digest(folder), takes)


def draw_other(model: OtherModel, prompts: Prompts, wishes: Wishes, out: Path, console: Console) -> None:
    """Draw every picture of `prompts` that `out` lacks, as `draw.draw` does for Lens."""
    settings = model.settle(wishes)

    def prepare() -> tuple[Draws, dict[str, Any]]:
        return OtherDrawer(model, settings), {}

    fill(out, prompts, asdict(settings) | {"checkpoint": model.digest}, prepare, wishes.batch, console)


def _digest(folder: Path) -> str:
    """sha256 over the names and bytes of a pipeline's weights and configs."""
    told = hashlib.sha256()
    for path in sorted(path for pattern in FILES for path in folder.rglob(pattern)):
        with path.open("rb") as file:
            told.update(f"{path.relative_to(folder)}\0{hashlib.file_digest(file, 'sha256').hexdigest()}\n".encode())
    return told.hexdigest()
