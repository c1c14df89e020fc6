"""The caption policy of an experiment: which text a training image is given."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Self

from pydantic import Field, ValidationInfo, field_validator, model_validator

from lensbench import mixture
from lensbench.experiment.part import Added, Part, Where

SHAPES_CAPTION_SETS = ("alt", "brief", "detailed", "dose")


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

    given: Annotated[Path | None, Where] = Field(
        None, description="set='given': your own captions, see lensbench.captions.given; what they are is hashed"
    )
    given_digest: Annotated[str | None, Added] = Field(
        None, pattern="^[0-9a-f]{64}$", description="set='given': sha256 of the captions, checked when they are read"
    )
    given_template: Annotated[str | None, Added] = Field(
        None, min_length=1, description="set='given': how a structured caption becomes text, as in 'a {color} {shape}'"
    )
    given_limit: Annotated[int | None, Added] = Field(
        None, ge=1, description="set='given': the first so many captions of an image alone"
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
        if any(name.startswith("given") for name in self.sets) and not (self.given and self.given_digest):
            raise ValueError("set='given' needs given=FILE and given_digest; lensbench.captions.given reads it")
        if "dose" not in self.sets and (self.present != 1.0 or self.wrong != 0.0):
            raise ValueError(f"present and wrong are for set='dose', not for set={self.set!r}")
        return self
