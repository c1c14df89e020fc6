"""What an experiment measures, on what prompts, how often."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from lensbench.experiment.part import Added, Part, Where
from lensbench.forms import FORMS, Form, told

GUIDANCE_GRID = (1.0, 2.0, 3.0, 4.0, 6.0, 9.0)  # the same for every arm: none has its best at an end by design


def further_guidances(own: float) -> tuple[float, ...]:
    """The scales of the grid beside the evaluation's own: what `guidances` is where a sweep asks for the grid."""
    return tuple(scale for scale in GUIDANCE_GRID if scale != own)


class Evaluation(Part):
    """What is measured, on what prompts, how often."""

    metrics: Annotated[tuple[str, ...], Added] = Field(
        (),
        description="what is measured beside the held-out loss, as in geneval, clip_score:clip-l14, fid, kid, cmmd, "
        "fd:dinov2, prdc; if none, GenEval where somebody judges it and, on the shapes world, FD-shapes and "
        "shapes-alignment",
    )
    forms: tuple[Form, ...] = Field(
        ("short", "detailed"),
        min_length=1,
        description=f"wordings of each prompt. {'. '.join(map(told, FORMS))}",
    )
    at: tuple[float, ...] = Field(
        (1.0,), min_length=1, description="shares of the steps after which the model is scored"
    )
    prompts_per_task: int = Field(32, ge=1, description="distinct prompts a GenEval task, at most")
    images_per_task: int = Field(64, ge=1, description="images a GenEval task and form, spread over its prompts")
    scene_images: int = Field(
        256, ge=8, description="images for distances and image-text scores, sampled from held-out captions"
    )
    metric_images: Annotated[dict[str, Annotated[int, Field(ge=8)]], Added] = Field(
        {}, description="metric of `metrics` -> how many of those images it takes; scene_images where it is not named"
    )
    reference: Annotated[Path | None, Where] = Field(
        None,
        description="real images that distances are taken to: a folder, an imported corpus (its held-out images), or "
        "statistics (.npz); if none, the held-out images whose captions are sampled",
    )
    reference_digest: Annotated[str | None, Added] = Field(
        None, pattern="^[0-9a-f]{64}$", description="sha256 of those images or that file; an error tells it"
    )
    weights: Annotated[dict[str, str], Where] = Field(
        {}, description="extractor (inception, dinov2, clip-l14, ...) -> the folder, file or hub id of its weights"
    )
    weights_digests: Annotated[dict[str, Annotated[str, Field(pattern="^[0-9a-f]{64}$")]], Added] = Field(
        {}, description="extractor -> the sha256 that its weights must have; every record says which they had"
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
        "each arm at its best too",
    )
    choosing_seed: Annotated[int | None, Added] = Field(
        None,
        ge=0,
        description="prompt_seed of the prompts, and of their noise, that the best guidance is chosen on, half as many "
        "images: it is then reported on every prompt; if none, chosen on every other prompt and reported on the rest",
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

    @field_validator("metrics")
    @classmethod
    def each_metric_once(cls, metrics: tuple[str, ...]) -> tuple[str, ...]:
        if twice := [name for i, name in enumerate(metrics) if name in metrics[:i]]:
            raise ValueError(f"metrics: {twice[0]} stands there twice")
        return metrics

    @model_validator(mode="after")
    def reference_is_known(self) -> Self:
        if self.reference is None and self.reference_digest is not None:
            raise ValueError("reference_digest says which real images, reference where they are: give both")
        if stray := [name for name in self.metric_images if name not in self.metrics]:
            raise ValueError(f"metric_images: {stray[0]} is not among metrics ({', '.join(self.metrics) or 'none'})")
        return self

    @property
    def most_scene_images(self) -> int:
        """How many held-out captions are sampled in each form: as many as the metric that takes most."""
        return max([self.scene_images, *self.metric_images.values()])

    @property
    def held_out_images(self) -> int:
        """How many held-out images are used, for the loss or for their captions."""
        return max(self.validation_images, self.most_scene_images)

    @model_validator(mode="after")
    def chosen_on_other_prompts(self) -> Self:
        if self.choosing_seed is not None and not self.guidances:
            raise ValueError("choosing_seed: there is no guidance to choose: name further scales in guidances")
        if self.choosing_seed == self.prompt_seed:
            raise ValueError(f"choosing_seed={self.choosing_seed} is prompt_seed: choose on other prompts")
        return self

    def choosing(self) -> Evaluation | None:
        """What is asked to choose the guidance, at every scale; None where no prompts are asked for that alone."""
        if self.choosing_seed is None:
            return None
        half = max(1, self.images_per_task // 2)
        own = {"prompt_seed": self.choosing_seed, "images_per_task": half, "guidances": (), "choosing_seed": None}
        return self.model_copy(update=own)

    @model_validator(mode="after")
    def each_guidance_once(self) -> Self:
        if len({self.guidance, *self.guidances}) <= len(self.guidances):
            raise ValueError(f"guidances={self.guidances}: name each scale once, and not guidance={self.guidance:g}")
        return self
