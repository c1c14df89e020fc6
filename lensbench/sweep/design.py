"""A sweep as a value: a base experiment, the factors that vary, what must stay equal, what is asked; and its cells."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Self

from pydantic import Field, PrivateAttr, ValidationInfo, field_validator, model_validator

from lensbench import mixture
from lensbench.experiment import Experiment, Part
from lensbench.sweep.levels import levels_shown
from lensbench.sweep.questions import Question
from lensbench.sweep.search import Tuning

NONE = "none"  # how a level that is None stands in tables
ARM_PREFIX = "captions."  # factors under it say what is compared; every other one but the seed is a scale
EVALUATION_PREFIX = "evaluation."  # factors under it multiply evaluations, not trainings
STEPS = "training.steps"
Match = Literal["flops", "samples", "caption_tokens"]


@dataclass(frozen=True)
class Cell:
    """One training run of a sweep: its id (directory name), its factor levels and its experiment.

    Where fields of the evaluation are factors, `scored` has a cell for each of their levels: the same training, with
    all levels and an evaluation of its own. Then `experiment` is that of the first.
    """

    id: str
    levels: dict[str, Any]  # dotted field -> level, as it stands in tables; the seed is always one
    experiment: Experiment
    scored: tuple[Cell, ...] = ()

    @property
    def evaluations(self) -> tuple[Cell, ...]:
        """This training with each of its evaluations, in the order of the factors' levels: itself if there is one."""
        return self.scored or (self,)

    def label(self) -> str:
        """The levels for people, e.g. `set=alt depth=2 seed=0`."""
        return levels_shown(self.levels)


class Sweep(Part):
    """One study: every combination of the factors' levels, applied to the base experiment.

    With `blocks`, the union of the combinations of `factors` with each block: what a block does not name stays as in
    the base, so that several things can vary one at a time.

    Raises pydantic's ValidationError (a ValueError) for a factor that is no field of Experiment, a level that does not
    fit, empty or duplicate levels, two combinations that are the same science, a reference that is no level, an
    exclusion that drops nothing or all, a question that no cells answer, and tuning on what is reported.
    """

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9_-]*$", max_length=60, description="names results/<name>; a slug")
    base: Experiment = Field(description="what every cell shares")
    factors: dict[str, tuple[Any, ...]] = Field(description="dotted field of Experiment -> its levels")
    blocks: tuple[dict[str, tuple[Any, ...]], ...] = Field(
        (), description="further factors; each block is crossed with `factors`, never with another block"
    )
    exclude: tuple[dict[str, Any], ...] = Field((), description="levels; cells that have all levels of one are dropped")
    reference: dict[str, Any] = Field(description="arm factor -> the level the other arms are compared with")
    paired: tuple[str, ...] | None = Field(
        None,
        description="factors whose levels share every seed: weights, order, noise; all if none. Levels of the others "
        "get seeds of their own, made of the cell's seed and the level. Arms are always paired",
    )
    match: Match | None = Field(
        None,
        description="what every cell spends alike in training: FLOPs, images seen or tokens of captions read; "
        "training.steps are then derived",
    )
    match_to: Literal["reference", "base"] = Field(
        "reference",
        description="whose training.steps decide how much: the reference arm's at the same scale, or those of the "
        "base, for all scales alike",
    )
    primary: Question | None = Field(
        None, description="the one comparison that decides, tested alone at 5 %; it names its scale and its wording"
    )
    questions: tuple[Question, ...] = Field(
        (), description="the secondary comparisons, tested together; what nothing asks is described and not tested"
    )
    tuning: Tuning | None = Field(None, description="hyper-parameters found for every arm and size with one budget")
    tuned_by: str | None = Field(
        None,
        pattern=r"^[A-Za-z0-9_-]+$",
        description="the stem of a sweep file beside this one, whose tuning found these arms' values: one search, and "
        "several sweeps with what it found. It must have tuned each arm at one scale (tuning.at)",
    )
    derived: tuple[dict[str, Any], ...] = Field(
        (), description="filled in when the sweep is opened: what tuning and matching change, a dict for each cell"
    )
    tuned: dict[str, Any] = Field(
        {}, description="filled in when the sweep is opened: what the tuning found, and the sha256 of its file"
    )
    _drafts: tuple[tuple[Any, ...], list[Cell]] | None = PrivateAttr(None)

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """The sweep with some fields changed, checked as a new one is. Raises pydantic's ValidationError."""
        return type(self).model_validate(dict(self) | dict(update or {}))

    def filled(self, derived: tuple[dict[str, Any], ...], tuned: dict[str, Any]) -> Self:
        """The same sweep with what is filled in when it is opened."""
        return super().model_copy(update={"derived": derived, "tuned": tuned})

    @field_validator("factors")
    @classmethod
    def levels_of_factors(cls, factors: dict[str, tuple[Any, ...]]) -> dict[str, tuple[Any, ...]]:
        if "captions.set" not in factors:
            raise ValueError("captions.set must be a factor: a sweep compares caption sets")
        return _checked_levels(factors)

    @field_validator("blocks")
    @classmethod
    def levels_of_blocks(
        cls, blocks: tuple[dict[str, tuple[Any, ...]], ...], info: ValidationInfo
    ) -> tuple[dict[str, tuple[Any, ...]], ...]:
        for block in blocks:
            if not block:
                raise ValueError("a block is empty: name its factors")
            if twice := [dotted for dotted in block if dotted in info.data.get("factors", {})]:
                raise ValueError(f"{twice[0]} is one of the factors already: name it there or in a block")
            if "seed" in block:
                raise ValueError("seed belongs to the factors: every block is trained with the same seeds")
        return tuple(_checked_levels(block) for block in blocks)

    @field_validator("exclude")
    @classmethod
    def levels_of_exclusions(cls, exclude: tuple[dict[str, Any], ...], info: ValidationInfo) -> Any:
        if not all(exclude):
            raise ValueError("an exclusion that names no level would drop every cell")
        return tuple(_checked_choice(choice, info.data) for choice in exclude)

    @field_validator("reference")
    @classmethod
    def reference_is_a_level(cls, reference: dict[str, Any], info: ValidationInfo) -> Any:
        if "factors" not in info.data:
            return reference
        if "seed" in reference:
            raise ValueError("seed is not a factor that can be compared")
        factors = _every_level(info.data)
        reference = _checked_choice(reference, info.data)
        for dotted in factors:
            if dotted.startswith(ARM_PREFIX) and dotted not in reference:
                raise ValueError(f"no reference level for {dotted}: name one of {_names(factors[dotted])}")
        return reference

    @field_validator("paired")
    @classmethod
    def arms_are_paired(cls, paired: tuple[str, ...] | None, info: ValidationInfo) -> tuple[str, ...] | None:
        if paired is None or "reference" not in info.data:
            return paired
        factors = _every_level(info.data)
        if unknown := [dotted for dotted in paired if dotted not in factors or dotted == "seed"]:
            raise ValueError(f"{unknown[0]} is not a factor that can share seeds ({_names(tuple(factors))})")
        if alone := [dotted for dotted in info.data["reference"] if dotted not in paired]:
            raise ValueError(f"{alone[0]} must be among them: arms are compared in pairs, on the same seeds")
        return paired

    @model_validator(mode="after")
    def matched_to_something(self) -> Self:
        if self.match is None and self.match_to != "reference":
            raise ValueError(f"match_to={self.match_to!r} says nothing without match: give match='flops' or another")
        return self

    @model_validator(mode="after")
    def fits_together(self) -> Self:
        drafted = drafts(self)
        if not drafted:
            raise ValueError("exclude drops every cell")
        wanted = {dotted: self.table_level(dotted, level) for dotted, level in self.reference.items()}
        places = scored_cells(drafted)
        if not any(wanted.items() <= place.levels.items() for place in places):
            shown = " ".join(f"{dotted}={level}" for dotted, level in wanted.items())
            raise ValueError(f"reference: no cell is the reference arm ({shown})")
        for question in self.asked():
            question.check(places, self.reference_arm(), primary=question is self.primary)
        buckets = self.base.training.buckets or any(d.startswith("training.buckets") for d in self.every_factor())
        if self.match and buckets:
            raise ValueError("match: with training.buckets steps have no fixed number of images; match without them")
        if self.tuning:
            if self.tuned_by:
                raise ValueError("tuning and tuned_by: a sweep has a search of its own or another's values, not both")
            self.tuning.check(self.base, drafted, self.every_factor())
        if self.derived and len(self.derived) != len(drafted):
            raise ValueError(f"derived has {len(self.derived)} entries for {len(drafted)} cells: it is not for people")
        return self

    def asked(self) -> tuple[Question, ...]:
        """Every question, the primary one first."""
        return (self.primary, *self.questions) if self.primary else self.questions

    def every_factor(self) -> dict[str, tuple[Any, ...]]:
        """Each factor and its levels, those of blocks too and, where a block leaves one out, the base's own."""
        return _every_level({"base": self.base, "factors": self.factors, "blocks": self.blocks})

    def reference_arm(self) -> dict[str, Any]:
        """The reference's levels as they stand in tables."""
        return {dotted: self.table_level(dotted, level) for dotted, level in self.reference.items()}

    def table_level(self, dotted: str, level: Any) -> Any:
        """A level as it stands in tables."""
        return _table_level(level, self.every_factor()[dotted])


def cells(sweep: Sweep) -> list[Cell]:
    """The sweep's cells, the seed outermost and the arms innermost: any prefix is already paired.

    Raises ValueError for a sweep whose cells depend on its tuning or captions and that has not been opened: see
    `lensbench.sweep.constraints.resolved`.
    """
    drafted = drafts(sweep)
    if not sweep.derived:
        if sweep.match or sweep.tuning or sweep.tuned_by:
            raise ValueError("the sweep has not been opened: its steps or tuned values are not known yet")
        return list(drafted)
    out: dict[str, Cell] = {}
    for cell, changes in zip(drafted, sweep.derived, strict=True):
        final = cell
        if changes:
            experiment = cell.experiment.replace(changes)
            changed_id = experiment.cell_id()
            scored = tuple(Cell(changed_id, one.levels, one.experiment.replace(changes)) for one in cell.scored)
            final = Cell(changed_id, cell.levels, experiment, scored)
        if final.id in out:
            raise ValueError(
                f"the cells [{out[final.id].label()}] and [{cell.label()}] come out as the same experiment"
            )
        out[final.id] = final
    return list(out.values())


def scored_cells(cells: Iterable[Cell]) -> list[Cell]:
    """One cell for each evaluation: where fields of the evaluation are factors, several have one id."""
    return [place for cell in cells for place in cell.evaluations]


def drafts(sweep: Sweep) -> list[Cell]:
    """The cells before tuning and matching: with the base's hyper-parameters and steps."""
    given = (sweep.base, sweep.factors, sweep.blocks, sweep.exclude, sweep.paired)
    known = sweep._drafts
    if known is None or any(ours is not theirs for ours, theirs in zip(given, known[0], strict=True)):
        known = (given, _expand(sweep))
        sweep._drafts = known
    return known[1]


def _expand(sweep: Sweep) -> list[Cell]:
    every = sweep.every_factor()
    in_base = {dotted: _field(sweep.base, dotted) for dotted in every}
    dropped = [0] * len(sweep.exclude)
    combinations = list(_combinations(sweep))
    of_first_seed: dict[int, Experiment] = {}
    evaluation_ids: dict[int, str] = {}
    scored: dict[str, list[Cell]] = {}  # by the id of the training
    given: dict[tuple[str, str], tuple[int, dict[str, Any]]] = {}
    for seed in sweep.factors.get("seed", (sweep.base.seed,)):
        canonical = _replaced(sweep.base, {"seed": seed}).seed
        for number, (block, levels_given) in enumerate(combinations):
            changes = levels_given | {"seed": seed}
            hits = [i for i, choice in enumerate(sweep.exclude) if choice.items() <= (in_base | changes).items()]
            for i in hits:
                dropped[i] += 1
            if hits:
                continue
            if number not in of_first_seed:
                of_first_seed[number] = _replaced(sweep.base, changes)
                evaluation_ids[number] = of_first_seed[number].evaluation_id()
            experiment = of_first_seed[number]
            levels = {dotted: _table_level(_field(experiment, dotted), beside) for dotted, beside in every.items()}
            levels["seed"] = canonical
            own = canonical if sweep.paired is None else own_seed(canonical, levels, sweep.paired)
            experiment = experiment.model_copy(update={"seed": own})
            cell = Cell(experiment.cell_id(), levels, experiment)
            key = (cell.id, evaluation_ids[number])
            if key in given:
                # Blocks meet in the base; and a set is as long as itself: the level says nothing beside it.
                matched = {"captions.length_matched_to": None}
                if given[key][0] != block or changes | matched == given[key][1] | matched:
                    continue
                twice = f"the cells [{scored[cell.id][0].label()}] and [{cell.label()}] are the same experiment"
                raise ValueError(f"factors: {twice}")
            scored.setdefault(cell.id, []).append(cell)
            given[key] = (block, changes)
    for choice, n in zip(sweep.exclude, dropped, strict=True):
        if not n:
            raise ValueError(f"exclude: no cell has {' and '.join(f'{d}={v!r}' for d, v in choice.items())}")
    return [_training(found) for found in scored.values()]


def _training(scored: list[Cell]) -> Cell:
    """The one training of cells that differ in their evaluations alone."""
    first = scored[0]
    levels = {d: level for d, level in first.levels.items() if not d.startswith(EVALUATION_PREFIX)}
    if len(levels) == len(first.levels):
        if len(scored) == 1:
            return first
        raise AssertionError("without a factor of the evaluation a training has one evaluation")
    return Cell(first.id, levels, first.experiment, tuple(scored))


def _combinations(sweep: Sweep) -> Iterator[tuple[int, dict[str, Any]]]:
    """Every combination of levels but the seed's, with the number of its block: blocks, then scales, then arms."""
    for number, block in enumerate(sweep.blocks or ({},)):
        factors = {dotted: levels for dotted, levels in (sweep.factors | block).items() if dotted != "seed"}
        # a stable sort: scales, then arms, each group in the order it was written
        order = sorted(factors, key=lambda dotted: dotted.startswith(ARM_PREFIX))
        for levels in itertools.product(*(factors[dotted] for dotted in order)):
            yield number, dict(zip(order, levels, strict=True))


def _replaced(base: Experiment, changes: dict[str, Any]) -> Experiment:
    try:
        return base.replace(changes)
    except ValueError as error:
        raise ValueError(f"factors: {error}") from None


def own_seed(seed: int, levels: dict[str, Any], paired: tuple[str, ...]) -> int:
    """The seed of a cell whose unpaired factors have these levels: `seed` itself where every factor is paired."""
    own = {
        dotted: level
        for dotted, level in sorted(levels.items())
        if dotted not in (*paired, "seed") and not dotted.startswith(EVALUATION_PREFIX)
    }
    if not own:
        return seed
    return int.from_bytes(hashlib.sha256(json.dumps([seed, own]).encode()).digest()[:4]) // 2


def _checked_levels(factors: dict[str, tuple[Any, ...]]) -> dict[str, tuple[Any, ...]]:
    factors = dict(factors)
    if "captions.set" in factors:
        factors["captions.set"] = tuple(_set_name(level) for level in factors["captions.set"])
    for dotted, levels in factors.items():
        if dotted == EVALUATION_PREFIX.rstrip("."):
            raise ValueError("evaluation as a whole is no factor: name its fields, as in evaluation.guidance")
        if not levels:
            raise ValueError(f"{dotted} has no levels")
        if repeated := [level for i, level in enumerate(levels) if level in levels[:i]]:
            raise ValueError(f"{dotted} has the level {repeated[0]!r} twice")
    return factors


def _checked_choice(choice: dict[str, Any], data: dict[str, Any]) -> dict[str, Any]:
    """Levels by factor, each one that the sweep has."""
    if "factors" not in data or "blocks" not in data or "base" not in data:
        return choice
    factors = _every_level(data)
    choice = {dotted: _set_name(v) if dotted == "captions.set" else v for dotted, v in choice.items()}
    for dotted, level in choice.items():
        if dotted not in factors:
            raise ValueError(f"{dotted} is not a factor of the sweep ({_names(tuple(factors))})")
        if level not in factors[dotted]:
            raise ValueError(f"{dotted}={level!r} is not one of its levels ({_names(factors[dotted])})")
    return choice


def _every_level(data: dict[str, Any]) -> dict[str, tuple[Any, ...]]:
    found = dict(data.get("factors", {}))
    for block in (blocks := data.get("blocks", ())):
        for dotted, levels in block.items():
            beside = () if len(blocks) == 1 or "base" not in data else (_field(data["base"], dotted),)
            known = list(found.get(dotted, ()))
            for level in (*beside, *levels):
                if level not in known:
                    known.append(level)
            found[dotted] = tuple(known)
    return found


def _set_name(level: Any) -> Any:
    # Equal mixtures are one level however they are written; what is no text is refused with the experiment.
    return mixture.canonical(level) if isinstance(level, str) else level


def _field(experiment: Experiment, dotted: str) -> Any:
    value: Any = experiment
    for part in dotted.split("."):
        if not hasattr(value, part):
            raise ValueError(f"factors: unknown field {dotted!r}: Experiment has no such field")
        value = getattr(value, part)
    return value


def _table_level(value: Any, beside: tuple[Any, ...] = ()) -> Any:
    # Numbers and words stand in a table as they are; anything else (a tuple, a Part) by its text. So do the levels of a
    # factor that may be none: a column of a table has one type.
    if None in beside:
        return NONE if value is None else str(value)
    return value if isinstance(value, str | int | float | bool) else str(value)


def _names(levels: tuple[Any, ...]) -> str:
    return ", ".join(str(level) for level in levels)
