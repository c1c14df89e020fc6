"""The denoiser of an experiment and the recipe that trains it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from lensbench.experiment.part import Added, Part, Where


class Model(Part):
    """The Lens denoiser: one dial for size."""

    depth: int = Field(3, ge=1, le=64, description="blocks; the width is 32 x depth; from 8 on an even number")
    patch_size: int = Field(
        4, ge=1, le=64, description="side of a patch, in pixels or in positions of the latents; one patch is one token"
    )

    @model_validator(mode="after")
    def whole_heads(self) -> Self:
        if self.depth > 8 and self.depth % 2:
            raise ValueError(f"depth={self.depth}: from 8 on the depth must be even, as a head has 64 channels")
        return self


class Buckets(Part):
    """Training in several sizes, as the second stage of Lens does (arXiv 2605.21573).

    An image keeps the aspect ratio nearest to its own, and is seen, once an epoch, in one of the areas that are no
    larger than its own; the smallest is always one of them. Scores are taken at corpus.size_px.
    """

    sides: tuple[int, ...] = Field(
        (512, 768, 1024), min_length=1, description="sides of the squares with the areas, in pixels"
    )
    ratios: tuple[Annotated[str, Field(pattern=r"^[1-9]\d*:[1-9]\d*$")], ...] = Field(
        ("1:2", "9:16", "2:3", "3:4", "1:1", "4:3", "3:2", "16:9", "2:1"), min_length=1, description="width:height"
    )
    images: tuple[Annotated[int, Field(ge=1)], ...] | None = Field(
        None, description="images computed together, a number for each side; training.batch images' tokens if none"
    )
    groups: int = Field(1, ge=1, description="how many times that a step has, each time of whatever size")

    @model_validator(mode="after")
    def one_number_a_side(self) -> Self:
        if len(set(self.sides)) < len(self.sides):
            raise ValueError(f"sides={self.sides}: name each once")
        if self.images is not None and len(self.images) != len(self.sides):
            raise ValueError(f"images has {len(self.images)} numbers for {len(self.sides)} sides")
        return self


class Start(Part):
    """A checkpoint to start from, as the second stage of a training does; what it is, not where it lies, is hashed."""

    path: Annotated[Path, Where] = Field(description="a cell's checkpoints/step-NNNNNN, or any that `generate` reads")
    weights: str = Field(
        pattern="^[0-9a-f]{64}$", description="sha256 of its weights, as an error says where it is another"
    )


class Training(Part):
    """The training recipe."""

    steps: int = Field(1400, ge=1, description="optimiser steps")
    batch: int = Field(32, ge=1, description="images in a step; with buckets see there")
    optimizer: Literal["adamw", "muon"] = Field(
        "muon", description="of the blocks' matrices; everything else is AdamW's. Lens itself is trained with adamw"
    )
    learning_rate: float = Field(6e-3, gt=0, description="peak rate of AdamW")
    muon_learning_rate: float = Field(0.02, gt=0, description="peak rate of Muon")
    rate_depth: Annotated[int | None, Added] = Field(
        None, ge=1, description="depth the rates were found at: at depth d AdamW's for matrices is rate_depth / d of it"
    )
    start: Annotated[Start | None, Added] = Field(
        None, description="a checkpoint to start from; random weights if none"
    )
    buckets: Annotated[Buckets | None, Added] = Field(
        None, description="sizes to train in; every image a square of corpus.size_px if none"
    )
    warmup_steps: int = Field(30, ge=0, description="linear warm-up from zero")
    schedule: Literal["constant", "cosine", "wsd"] = Field(
        "wsd", description="rate after the warm-up; wsd holds it, then falls in a line to zero over the last 30 %"
    )
    betas: tuple[float, float] = Field((0.9, 0.98), description="AdamW's moment decays")
    weight_decay: float = Field(0.0, ge=0, description="decoupled weight decay, on matrices only")
    clip: float = Field(0.3, gt=0, description="largest norm of the gradient")
    ema_decay: float = Field(0.99, ge=0, lt=1, description="decay per step of the averaged weights used for sampling")
    precision: Annotated[Literal["fp32", "bf16"], Added] = Field(
        "fp32", description="of the computation: bf16 is autocast; weights, averages and optimiser stay in fp32"
    )
    compiled: Annotated[bool, Where] = Field(
        False, description="torch.compile the denoiser: a minute or two at the start, then faster steps"
    )
    accumulate: Annotated[int, Where] = Field(
        1, ge=1, description="parts that a batch is computed in, by text length; more when a GPU's memory runs out"
    )
    activation_checkpointing: Annotated[bool, Where] = Field(
        False, description="keep little of the forward pass and compute it twice: a third slower, far less memory"
    )
    features: Annotated[Literal["cached", "online"], Where] = Field(
        "cached",
        description="of texts and images: encoded once and kept on disk, or, to the same numbers, with each step anew",
    )
    data_workers: Annotated[int, Where] = Field(
        0, ge=0, description="processes that make the steps ahead of time; 0 makes each when it is needed"
    )
    watch_steps: Annotated[int, Where] = Field(
        5,
        ge=0,
        description="how often training is watched: after the last step, a half of them, a quarter, ...; 0 is never",
    )
    watch_images: Annotated[int, Where] = Field(
        8, ge=0, description="prompts that are sampled then in each form, always from the same noise"
    )
    devices: Annotated[int, Where] = Field(
        1,
        ge=1,
        description="processes that train together on this machine, one a GPU or, without any, a share of the cores; "
        "where torchrun or srun starts them, they say how many",
    )
    strategy: Annotated[Literal["ddp", "fsdp"], Where] = Field(
        "ddp", description="with several processes: each has the whole model (ddp) or its part of it (fsdp)"
    )
    resume_seconds: Annotated[float, Where] = Field(
        300, gt=0, description="how often the whole state is written, so that a killed run goes on from there"
    )

    @model_validator(mode="after")
    def encoded_in_one_process(self) -> Self:
        if self.features == "online" and self.data_workers:
            raise ValueError(
                f"data_workers={self.data_workers}: with features='online' the encoders are in the training process, "
                "and it must be 0"
            )
        return self
