"""A denoiser on disk: a folder as diffusers lays it out, `config.json` and `diffusion_pytorch_model.safetensors`.

A published Lens `transformer/` folder loads, split into shards or not; what `save` writes is never split.
"""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lensbench.model.transformer import LensConfig, LensTransformer

CONFIG = "config.json"
WEIGHTS = "diffusion_pytorch_model.safetensors"


def save(model: LensTransformer, directory: Path) -> None:
    """Write config and weights to `directory`, each renamed into place: weights last, so they never lack a config."""
    from safetensors.torch import save_file

    directory.mkdir(parents=True, exist_ok=True)
    values = {"_class_name": "LensTransformer2DModel", **dataclasses.asdict(model.config)}
    config, weights = (directory / f"{name}.partial-{os.getpid()}" for name in (CONFIG, WEIGHTS))
    try:
        config.write_text(json.dumps(values, indent=2) + "\n")
        # A published reader looks for the format among the metadata.
        save_file({n: t.detach().contiguous() for n, t in model.state_dict().items()}, weights, {"format": "pt"})
        os.replace(config, directory / CONFIG)
        os.replace(weights, directory / WEIGHTS)
    finally:
        config.unlink(missing_ok=True)
        weights.unlink(missing_ok=True)


def load(directory: Path) -> LensTransformer:
    """The denoiser in `directory`, on the CPU, in the type it was saved in, bit for bit.

    Raises ValueError, one line, when a file is missing or broken (a checkpoint that is only a pickle is refused), when
    the config is no Lens, or when a tensor is missing, unknown or of another shape.
    """
    directory = Path(directory)
    config = _read_config(directory / CONFIG)
    tensors: dict[str, Tensor] = {}
    for path in _weight_files(directory):
        tensors.update(_read_tensors(path))
    with torch.device("meta"):  # no memory and no random numbers for weights about to be replaced
        model = LensTransformer(config)
    expected = model.state_dict()
    wrong = [f"{name} is missing" for name in expected if name not in tensors]
    wrong += [f"{name} is unknown" for name in tensors if name not in expected]
    wrong += [
        f"{name} has shape {tuple(tensors[name].shape)}, not {tuple(shape.shape)}"
        for name, shape in expected.items()
        if name in tensors and tensors[name].shape != shape.shape
    ]
    if wrong:
        more = f" and {len(wrong) - 4} more" if len(wrong) > 4 else ""
        raise ValueError(f"{directory}: the weights do not fit {CONFIG}: {'; '.join(wrong[:4])}{more}")
    model.load_state_dict(tensors, strict=True, assign=True)
    return model.requires_grad_()


def _read_config(path: Path) -> LensConfig:
    try:
        values: Any = json.loads(path.read_text())
    except FileNotFoundError:
        raise ValueError(f"{path.parent}: no {CONFIG}, so this is no checkpoint of a denoiser") from None
    except ValueError as error:
        raise ValueError(f"{path}: not JSON ({error})") from None
    if not isinstance(values, dict):
        raise ValueError(f"{path}: not a JSON object")
    try:
        return LensConfig.from_dict(values)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path}: {error}") from None


def _weight_files(directory: Path) -> list[Path]:
    """The safetensors of a folder: the one file, or the shards its index names."""
    if (directory / WEIGHTS).exists():
        return [directory / WEIGHTS]
    index = directory / f"{WEIGHTS}.index.json"
    if index.exists():
        try:
            names = sorted(set(json.loads(index.read_text())["weight_map"].values()))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{index}: not an index of shards ({error})") from None
        if any(Path(name).name != name for name in names):
            raise ValueError(f"{index}: names a file outside its folder")
        return [directory / name for name in names]
    pickles = sorted(
        path.name for path in directory.iterdir() if path.suffix in (".bin", ".pt", ".pth", ".ckpt", ".pkl")
    )
    if pickles:
        raise ValueError(
            f"{directory}: {pickles[0]} is a pickle, which can run code when it is opened; convert it to {WEIGHTS}"
        )
    raise ValueError(f"{directory}: no {WEIGHTS}")


def _read_tensors(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        # A copy, because a tensor inside a file map is aligned as the file has it, and matrix products of unaligned
        # weights differ in their last bits: a loaded model must draw what the saved one drew.
        return {name: tensor.clone() for name, tensor in load_file(path).items()}
    except FileNotFoundError:
        raise ValueError(f"{path}: missing, though the index of shards names it") from None
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path}: not a readable safetensors file ({error})") from None
