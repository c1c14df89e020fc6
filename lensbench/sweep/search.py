"""Tuning as a value: which hyper-parameters are searched, where, with what budget, on what.

Every arm at every scale is tuned alike: the same fields and ranges, the same number of trials of the same number of
steps, on seeds, prompts and held-out images that no reported number comes from.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal, Self

from pydantic import Field, model_validator

from lensbench.experiment import Experiment, Form, Part, Training, Where
from lensbench.metrics import metric

if TYPE_CHECKING:
    from lensbench.sweep.design import Cell

# What decides how much is computed, on what, or where: not for tuning.
FIXED = {"steps", "batch", "start", "buckets", "precision"} | {
    name for name, field in Training.model_fields.items() if Where in field.metadata
}
FEWEST_FOR_WILCOXON = 3  # seeds: with fewer the test says nothing
FEWEST_HELD_OUT = 8


class Range(Part):
    """Numbers from `low` to `high`, both included."""

    low: float
    high: float
    log: bool = Field(False, description="as many trials between 0.001 and 0.01 as between 0.01 and 0.1")
    whole: bool = Field(False, description="whole numbers")

    @model_validator(mode="after")
    def is_a_range(self) -> Self:
        if not self.low < self.high:
            raise ValueError(f"low={self.low:g} is not below high={self.high:g}")
        if self.log and self.low <= 0:
            raise ValueError(f"low={self.low:g}: with log it must be above zero")
        if self.whole and (self.low % 1 or self.high % 1):
            raise ValueError(f"low={self.low:g}, high={self.high:g}: with whole they must be whole numbers")
        return self


class Tuning(Part):
    """Optuna's search, once for each arm at each scale, before the sweep's cells are trained with what it found."""

    search: dict[str, Range | tuple[Any, ...]] = Field(
        min_length=1, description="dotted field of training -> its range, or the values to choose from"
    )
    trials: int = Field(ge=1, description="finished trials of each arm at each scale")
    steps: int | None = Field(None, ge=1, description="of a trial's training; those of the sweep if none")
    seeds: tuple[int, ...] = Field((1000,), min_length=1, description="a trial is trained with each; none is reported")
    prompt_seed: int = Field(1000, ge=0, description="of the prompts and noise of the objective; not the reported one")
    objective: Literal["validation_loss", "geneval"] = Field(
        "validation_loss", description="the loss on held-out images that no cell is scored on, or GenEval"
    )
    form: Form | Literal["best"] = Field(
        "best",
        description="the wording that the objective is measured in; best: that of the evaluation's in which the trial "
        "does best, so that no arm is tuned on a wording that its captions do not have",
    )
    images: int = Field(256, ge=FEWEST_HELD_OUT, description="held-out images of the loss, at most")
    at: dict[str, Any] = Field(
        {},
        description="scale factor -> the one level that is tuned at; what is found there is used at its other levels",
    )
    sampler: Literal["tpe", "gp"] = Field("tpe", description="Optuna's")
    pruner: Literal["none", "asha", "wilcoxon"] = Field(
        "none",
        description="stops trials early: asha by the loss along training, wilcoxon by the seeds so far. A pruned trial "
        "is a finished one; the cells of the sweep are never pruned",
    )
    sampler_seed: int = Field(0, ge=0, description="of Optuna's draws")

    def check(self, base: Experiment, cells: Sequence[Cell], factors: dict[str, tuple[Any, ...]]) -> None:
        """Raises ValueError, one line, for a search that makes no sense or would see what is reported."""
        for dotted, among in self.search.items():
            parent, _, leaf = dotted.partition(".")
            if parent != "training" or leaf in FIXED:
                raise ValueError(f"tuning: {dotted} cannot be tuned: name fields of the recipe, as training.clip")
            if dotted in factors:
                raise ValueError(f"tuning: {dotted} is a factor of the sweep; tune it or vary it")
            for value in (among.low, among.high) if isinstance(among, Range) else among:
                try:
                    base.replace({dotted: int(value) if isinstance(among, Range) and among.whole else value})
                except ValueError as error:
                    raise ValueError(f"tuning: {error}") from None
            if not isinstance(among, Range) and len(set(map(str, among))) < max(2, len(among)):
                raise ValueError(f"tuning: {dotted}: name at least two values, each once")
        self._check_at(cells, factors)
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"tuning: seeds={self.seeds}: name each once")
        reported = {cell.experiment.seed for cell in cells}
        if shared := sorted(reported & set(self.seeds)):
            raise ValueError(f"tuning: seed {shared[0]} is reported: tune on other seeds")
        if self.prompt_seed in {
            scored.experiment.evaluation.prompt_seed for cell in cells for scored in cell.evaluations
        }:
            raise ValueError(f"tuning: prompt_seed={self.prompt_seed} is reported: tune on other prompts")
        if self.objective == "geneval" and base.corpus.kind != "shapes" and base.evaluation.detector is None:
            raise ValueError("tuning: objective='geneval' needs, on photographs, evaluation.detector")
        if self.pruner == "asha" and (self.objective != "validation_loss" or len(self.seeds) > 1):
            raise ValueError("tuning: pruner='asha' looks at the loss along training: validation_loss, with one seed")
        if self.pruner == "wilcoxon" and len(self.seeds) < FEWEST_FOR_WILCOXON:
            raise ValueError(f"tuning: pruner='wilcoxon' compares seeds: give at least {FEWEST_FOR_WILCOXON}")

    def _check_at(self, cells: Sequence[Cell], factors: dict[str, tuple[Any, ...]]) -> None:
        for dotted, level in self.at.items():
            if dotted not in factors or dotted == "seed" or dotted.startswith(("captions.", "evaluation.")):
                raise ValueError(f"tuning: at: {dotted} is no scale factor of the sweep; every arm is tuned by itself")
            if level not in factors[dotted]:
                raise ValueError(f"tuning: at: {dotted}={level!r} is not one of its levels")
        tuned = {self.unit(cell.levels) for cell in cells if self.is_at(cell.levels)}
        for cell in cells:
            if self.unit(cell.levels) not in tuned:
                raise ValueError(f"tuning: at: no cell [{self.unit(cell.levels)}] to tune for [{cell.label()}]")

    def is_at(self, levels: dict[str, Any]) -> bool:
        """Whether a cell of these levels is where tuning happens."""
        return all(str(levels[dotted]) == str(level) for dotted, level in self.at.items())

    def unit(self, levels: dict[str, Any]) -> str:
        """Whose values a cell of these levels gets: those levels without the seed, with `at` in place of its own."""
        return " ".join(
            f"{dotted}={self.at.get(dotted, level)}" for dotted, level in levels.items() if dotted != "seed"
        )

    @property
    def direction(self) -> Literal["minimize", "maximize"]:
        """Which objective is better."""
        return "maximize" if metric(self.objective).more else "minimize"

    def trial(self, experiment: Experiment, values: dict[str, Any], seed: int, reported: int) -> Experiment:
        """What a trial trains: `experiment` with `values`, scored on nothing but the objective.

        `reported` is how many held-out images the sweep's cells are scored on; the trial takes those after them.
        """
        geneval = self.objective == "geneval"
        scoring: dict[str, Any] = {
            "evaluation.forms": experiment.evaluation.forms if self.form == "best" else (self.form,),
            "evaluation.at": (1.0,),
            "evaluation.guidances": (),
            "evaluation.choosing_seed": None,
            "evaluation.prompt_seed": self.prompt_seed,
            "evaluation.validation_skip": reported,
            "evaluation.validation_images": FEWEST_HELD_OUT if geneval else self.images,
            "evaluation.metrics": (self.objective,),
            "evaluation.metric_images": {},
            "evaluation.scene_images": FEWEST_HELD_OUT,
            "training.watch_steps": 5 if self.pruner == "asha" else 0,
            "training.watch_images": 0,
        }
        if not geneval and experiment.evaluation.detector is not None:
            scoring["evaluation.detector"] = None
        steps = experiment.training.steps if self.steps is None else self.steps
        return experiment.replace(values | scoring | {"seed": seed, "training.steps": steps, "name": ""})
