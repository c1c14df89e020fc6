"""`Experiment`: everything one training run and its evaluation need, as one frozen value with two content hashes.

`hash` is of the training: corpus, captions, model, recipe, seed. `evaluation_hash` is of what is measured afterwards.
A training is done once; any number of evaluations can follow. Fields marked `Where` say where or how the work is done
(paths, devices, labels), not what science it is: they are left out of the hashes, so the same science has the same
hashes on every machine.
"""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal, Self

from pydantic import Field, ValidationError, model_validator

from lensbench.experiment.captions import SHAPES_CAPTION_SETS, Captions
from lensbench.experiment.corpus import Corpus, FolderCorpus, ShapesCorpus
from lensbench.experiment.encoders import (
    FLUX2,
    LATENTS,
    TEXT_ENCODERS,
    Autoencoder,
    LatentShape,
    TextEncoder,
)
from lensbench.experiment.evaluation import GUIDANCE_GRID, Evaluation, further_guidances
from lensbench.experiment.part import Added, Before, Part, Where, before, canonical_json, one_line, sha256_of
from lensbench.experiment.training import Buckets, Model, Start, Training
from lensbench.forms import REGISTRY, Form

__all__ = [
    "DIRECTORY_DIGITS",
    "FLUX2",
    "GUIDANCE_GRID",
    "LATENTS",
    "SHAPES_CAPTION_SETS",
    "TEXT_ENCODERS",
    "Added",
    "Autoencoder",
    "Buckets",
    "Captions",
    "Corpus",
    "Evaluation",
    "Experiment",
    "FolderCorpus",
    "Form",
    "LatentShape",
    "Model",
    "Part",
    "ShapesCorpus",
    "Start",
    "TextEncoder",
    "Training",
    "Where",
    "canonical_json",
    "further_guidances",
    "one_line",
    "sha256_of",
]

DIRECTORY_DIGITS = 12  # of a hash, in the name of a directory
MOST_SHAPES = 10_000_000  # training images of the shapes world: whose keys fit in memory


class Experiment(Part):
    """One training run and its evaluation."""

    name: Annotated[str, Where] = Field("", description="label for people; no part of the hash")
    corpus: Corpus = Field(ShapesCorpus(), description="the images")
    images: int = Field(4096, ge=1, description="data scale: unique training images the run may use, at most")
    which_images: Annotated[Literal["by_seed", "first"], Before("first")] = Field(
        "by_seed",
        description="which images of the corpus those are: drawn by the seed, so that intervals over seeds contain the "
        "choice, or the first, the same for every seed. All arms of a seed share them, and a larger data scale holds a "
        "smaller one's",
    )
    captions: Captions = Field(Captions(), description="the text each image is given")
    text_encoder: TextEncoder = Field(TextEncoder(), description="frozen features of the text")
    autoencoder: Annotated[Autoencoder, Added] = Field(Autoencoder(), description="images to latents and back")
    model: Model = Field(Model(), description="the denoiser")
    training: Training = Field(Training(), description="the recipe")
    evaluation: Evaluation = Field(Evaluation(), description="what is measured")
    seed: int = Field(0, ge=0, description="seed of weights, images, order, noise, timesteps and caption draws")
    by_hand: Annotated[str, Where] = Field(
        "", description="what of the recipe people chose, and on which arm they looked: told in the report of a sweep"
    )

    @model_validator(mode="after")
    def patches_fit(self) -> Self:
        size, stride = self.corpus.size_px, self.autoencoder.stride(self.model.patch_size)
        if size % stride:
            patch = f"model.patch_size={self.model.patch_size}"
            if self.autoencoder.kind == "pixels":
                raise ValueError(f"{patch} does not divide corpus.size_px={size}")
            raise ValueError(
                f"corpus.size_px={size}: with autoencoder.kind={self.autoencoder.kind!r} and {patch} it must be a "
                f"multiple of {stride}"
            )
        if self.training.buckets and (parts := [side for side in self.training.buckets.sides if side % stride]):
            raise ValueError(
                f"training.buckets.sides: {parts[0]} is no multiple of {stride} pixels, which is one token"
            )
        if self.corpus.kind == "shapes" and self.images > MOST_SHAPES:
            raise ValueError(f"images={self.images:,}: the shapes world has {MOST_SHAPES:,} training images")
        known = SHAPES_CAPTION_SETS if self.corpus.kind == "shapes" else self.corpus.caption_sets
        if self.captions.given is not None:
            known = (*known, *(name for name in self.captions.sets if name.startswith("given")))
        if absent := [name for name in self.captions.sets if name not in known]:
            field = "length_matched_to" if absent[0] == self.captions.length_matched_to else "set"
            raise ValueError(f"captions.{field}={absent[0]!r}: this corpus has {', '.join(known)}")
        return self

    @model_validator(mode="after")
    def captions_fit(self) -> Self:
        policy, encoder = self.captions, self.text_encoder
        if policy.max_tokens is not None and policy.max_tokens >= encoder.max_tokens - encoder.prefix_tokens:
            raise ValueError(
                f"captions.max_tokens={policy.max_tokens} cuts nothing that fits the text encoder's window: "
                f"text_encoder.max_tokens={encoder.max_tokens}"
                + (f", {encoder.prefix_tokens} of them before the text" if encoder.prefix_tokens else "")
            )
        if policy.shuffled and self.images < 2:
            raise ValueError("captions.shuffled needs at least two images")
        return self

    @model_validator(mode="after")
    def judged_by_one(self) -> Self:
        plan = self.evaluation
        if plan.detector is not None and self.corpus.kind == "shapes":
            raise ValueError(f"evaluation.detector={plan.detector!r} is for photographs: shapes have their own judge")
        if self.corpus.kind != "shapes" and (none := [form for form in plan.forms if not REGISTRY[form].photographs]):
            raise ValueError(
                f"evaluation.forms: {none[0]} prompts are written from scenes of the shapes world; photographs have "
                + ", ".join(form.name for form in REGISTRY.values() if form.photographs)
            )
        if plan.detector == "own" and not plan.detector_model.endswith(".py"):
            raise ValueError("evaluation.detector='own' needs evaluation.detector_model=FILE.py")
        return self

    @classmethod
    def stored(cls, text: str | bytes) -> Experiment:
        """An experiment as a run wrote it; what it has no field for is what runs of its time did.

        Raises pydantic's ValidationError (a ValueError) for anything else.
        """
        try:
            told = json.loads(text)
        except ValueError:
            return cls.model_validate_json(text)  # says what is wrong
        return cls.model_validate(before(cls) | told if isinstance(told, dict) else told)

    @property
    def images_seed(self) -> int | None:
        """The seed that draws which images of the corpus are used; None where they are the first."""
        return self.seed if self.which_images == "by_seed" else None

    @property
    def image_tokens(self) -> int:
        """Tokens of one image."""
        return (self.corpus.size_px // self.autoencoder.stride(self.model.patch_size)) ** 2

    def group_images(self, side: int) -> int:
        """How many images of the side at place `side` of training.buckets are computed together."""
        buckets = self.training.buckets
        assert buckets is not None
        if buckets.images is not None:
            return buckets.images[side]
        return max(1, round(self.training.batch * (self.corpus.size_px / buckets.sides[side]) ** 2))

    @property
    def images_a_step(self) -> float:
        """Images of a step; with buckets the mean, as if every side came as often."""
        buckets = self.training.buckets
        if buckets is None:
            return self.training.batch
        return buckets.groups * sum(map(self.group_images, range(len(buckets.sides)))) / len(buckets.sides)

    def canonical_json(self) -> str:
        """The whole science, training and evaluation, as JSON with sorted keys and no spaces."""
        return canonical_json(self.science())

    def training_science(self) -> dict[str, Any]:
        """The science of the training alone: what `hash` is of."""
        return {name: said for name, said in self.science().items() if name != "evaluation"}

    def hash(self) -> str:
        """sha256 of the training's canonical JSON, in hexadecimal. The evaluation is no part of it."""
        return sha256_of(self.training_science())

    def evaluation_hash(self) -> str:
        """sha256 of the evaluation's canonical JSON, in hexadecimal."""
        return sha256_of(self.evaluation.science())

    def hash_with_evaluation(self) -> str:
        """sha256 of the whole science: it names scales of the ladder, and cells of results frozen before schema 2."""
        return sha256_of(self.science())

    def cell_id(self) -> str:
        """The name of this training's directory: the first 12 digits of its hash."""
        return self.hash()[:DIRECTORY_DIGITS]

    def evaluation_id(self) -> str:
        """The name of this evaluation's folder in the cell: the first 12 digits of its hash."""
        return self.evaluation_hash()[:DIRECTORY_DIGITS]

    def replace(self, changes: dict[str, Any]) -> Experiment:
        """A copy with dotted fields changed, e.g. `{"model.depth": 8}`, validated afresh.

        A new kind of text encoder brings its own layers and window unless they are changed too. Raises ValueError
        naming the field when it does not exist or the value does not fit.
        """
        data = self.model_dump()
        # the kind of text encoder first: it changes the fields beside it
        for dotted, value in sorted(changes.items(), key=lambda change: change[0] != "text_encoder.kind"):
            *parents, leaf = dotted.split(".")
            node: Any = data
            for parent in parents:
                node = node.get(parent) if isinstance(node, dict) else None
            if not isinstance(node, dict) or leaf not in node:
                raise ValueError(f"unknown field {dotted!r}: Experiment has no such field")
            if dotted == "text_encoder.kind" and value != node[leaf]:
                node.update(TEXT_ENCODERS.get(str(value), {}), digest=None)
            node[leaf] = value.model_dump() if isinstance(value, Part) else value
        try:
            return Experiment.model_validate(data)
        except ValidationError as error:
            raise ValueError(one_line(error)) from None
