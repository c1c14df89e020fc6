"""What draws: a denoiser on disk, with the autoencoder and the text encoder that belong to it.

A checkpoint is one of three things:
- a cell's directory, whose experiment says what belongs to it
- a published pipeline, with `transformer/`, `vae/`, `text_encoder/` and `tokenizer/`
- a denoiser alone, a folder or one safetensors file, of which the caller says what belongs to it
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from lensbench.experiment import Autoencoder as AutoencoderConfig
from lensbench.experiment import Experiment, one_line
from lensbench.experiment import TextEncoder as TextEncoderConfig
from lensbench.model.autoencoder import Autoencoder, open_autoencoder
from lensbench.model.checkpoint import load, weights_digest
from lensbench.model.transformer import LensTransformer

ENCODER_KINDS = ("gpt_oss", "qwen3")  # of a published pipeline, named as in the model_type of their config.json


@dataclass(frozen=True)
class Parts:
    """What a user says belongs to a denoiser: kinds, and the folders or hub ids of the models; None is not said."""

    text_encoder: str | None = None
    text_encoder_model: str | None = None
    autoencoder: str | None = None
    autoencoder_model: str | None = None


@dataclass(frozen=True)
class Pipeline:
    """A denoiser and its autoencoder. The text encoder is only named: it is opened for the encoding alone.

    `name` is for people; `experiment` is a cell's.
    """

    name: str
    denoiser: LensTransformer
    autoencoder: Autoencoder
    text_encoder: TextEncoderConfig
    experiment: Experiment | None = None

    def identity(self) -> dict[str, str]:
        """What its pictures depend on, the text encoder apart."""
        return {"checkpoint": weights_digest(self.denoiser), "autoencoder": self.autoencoder.digest or "pixels"}


def open_pipeline(path: Path, parts: Parts, step: int | None = None) -> Pipeline:
    """The pipeline of a checkpoint, on the CPU; `step` is one of a cell's checkpoints, the last when None.

    Raises ValueError, one line, when there is no checkpoint, or its parts are missing or do not fit together.
    """
    if not path.exists():
        raise ValueError(f"{path}: no such checkpoint; give a cell's directory, a pipeline's or a denoiser's")
    if (path / "experiment.json").exists():
        return _open_cell(path, parts, step)
    if step is not None:
        raise ValueError(f"step={step}: {path} is no cell, so it has one checkpoint only; leave step out")
    denoiser = load(path)
    if (path / "transformer").is_dir():
        parts = _published_parts(path, parts)
    if parts.text_encoder is None or parts.autoencoder is None:
        lacking = "text-encoder" if parts.text_encoder is None else "autoencoder"
        kinds = "minilm, qwen3 or gpt_oss" if parts.text_encoder is None else "pixels or flux2"
        raise ValueError(f"{path} does not say what the denoiser was trained with: give --{lacking} {kinds}")
    config = denoiser.config
    text_encoder = _checked(
        TextEncoderConfig,
        "text_encoder",
        kind=parts.text_encoder,
        model=parts.text_encoder_model,
        layers=config.selected_layer_index,
        width=config.enc_hidden_dim,
    )
    autoencoder = _checked(AutoencoderConfig, "autoencoder", kind=parts.autoencoder, model=parts.autoencoder_model)
    return _fitted(path.resolve().name, denoiser, open_autoencoder(autoencoder, config.patch_size), text_encoder)


def _open_cell(path: Path, parts: Parts, step: int | None) -> Pipeline:
    try:
        experiment = Experiment.stored((path / "experiment.json").read_text(encoding="utf-8"))
    except ValidationError as error:
        raise ValueError(f"{path / 'experiment.json'}: not an experiment of this version ({one_line(error)})") from None
    for name, said, own in (
        ("text-encoder", parts.text_encoder, experiment.text_encoder.kind),
        ("autoencoder", parts.autoencoder, experiment.autoencoder.kind),
    ):
        if said not in (None, own):
            raise ValueError(f"--{name} {said}: the cell was trained with {own}; leave it out")
    moved = {
        f"{part}.model": model
        for part, model in (("text_encoder", parts.text_encoder_model), ("autoencoder", parts.autoencoder_model))
        if model is not None
    }
    experiment = experiment.replace(moved)
    found = {int(folder.name.removeprefix("step-")): folder for folder in (path / "checkpoints").glob("step-[0-9]*")}
    if not found:
        raise ValueError(f"{path}: the cell has no checkpoint yet; run its sweep first")
    chosen = max(found) if step is None else step
    if chosen not in found:
        raise ValueError(f"step={chosen}: the cell has checkpoints at {', '.join(map(str, sorted(found)))}")
    autoencoder = open_autoencoder(experiment.autoencoder, experiment.model.patch_size)
    name = f"cell {experiment.cell_id()}, step {chosen}"
    return _fitted(name, load(found[chosen]), autoencoder, experiment.text_encoder, experiment)


def _published_parts(path: Path, parts: Parts) -> Parts:
    """What a pipeline's folder says, where the user has not said otherwise."""
    kind, model = parts.text_encoder, parts.text_encoder_model
    config = path / "text_encoder" / "config.json"
    if kind is None and config.is_file():
        try:
            model_type = json.loads(config.read_text(encoding="utf-8")).get("model_type")
        except (ValueError, AttributeError) as error:
            raise ValueError(f"{config}: not the config of a model ({error})") from None
        if model_type not in ENCODER_KINDS:
            raise ValueError(f"{config}: model_type is {model_type!r}, expected {' or '.join(ENCODER_KINDS)}")
        kind, model = model_type, model or str(path)
    autoencoder, where = parts.autoencoder, parts.autoencoder_model
    if autoencoder is None and (path / "vae").is_dir():
        autoencoder, where = "flux2", where or str(path)
    return Parts(kind, model, autoencoder, where)


def _fitted(
    name: str,
    denoiser: LensTransformer,
    autoencoder: Autoencoder,
    text_encoder: TextEncoderConfig,
    experiment: Experiment | None = None,
) -> Pipeline:
    if denoiser.config.in_channels != autoencoder.channels:
        raise ValueError(
            f"{name}: the denoiser's tokens have {denoiser.config.in_channels} channels, the autoencoder's "
            f"{autoencoder.channels}; give the autoencoder that it was trained with"
        )
    return Pipeline(name, denoiser.eval(), autoencoder, text_encoder, experiment)


def _checked(part: Any, name: str, **values: Any) -> Any:
    """A part of an experiment from the values that are given. ValueError, one line, when they do not fit."""
    try:
        return part(**{key: value for key, value in values.items() if value is not None})
    except ValidationError as error:
        raise ValueError(f"{name}: {one_line(error)}") from None
