"""The images of an experiment."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from lensbench.experiment.part import Part, Where


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
