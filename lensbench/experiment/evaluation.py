"""What an experiment measures, on what prompts, how often."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from lensbench.experiment.part import Added, Form, Part, Where


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
    validation_skip: Annotated[int, Added] = Field(
        0, ge=0, description="held-out images that are left out before those: tuning must not see what is reported"
    )
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
    detector: Annotated[Literal["mask2former", "own"] | None, Added] = Field(
        None,
        description="photographs: who judges GenEval's own prompts, which are not asked where this is none; own: a "
        "file with detect(image)",
    )
    detector_model: Annotated[str, Where] = Field(
        "", description="a folder or hub id of the Mask2Former, or the FILE.py; its digest goes into every record"
    )
    color_model: Annotated[str, Where] = Field("", description="a folder or hub id of the CLIP that names colors")
    detailed_prompts: Annotated[Path | None, Where] = Field(
        None, description="photographs: GenEval's prompts reworded, a file of `lensbench captions rewrite`"
    )
    detailed_prompts_digest: Annotated[str | None, Added] = Field(
        None, pattern="^[0-9a-f]{64}$", description="what that file must say; an error tells it"
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
