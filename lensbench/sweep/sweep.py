"""A sweep as a value: a base experiment, the factors that vary, the reference arm; its cells, and what they gave.

A sweep file holds one module-level `sweep = Sweep(...)` and may import experiments from the folder beside it
(`from experiments.shapes import experiment`).
"""

from __future__ import annotations

import itertools
import sys
import traceback
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field, ValidationError, ValidationInfo, field_validator

from lensbench import mixture
from lensbench.experiment import Experiment, Part, one_line

if TYPE_CHECKING:
    from collections.abc import Iterator

NONE = "none"  # how a level that is None stands in tables
ARM_PREFIX = "captions."  # factors under it say what is compared; every other one but the seed is a scale


class Sweep(Part):
    """One question: every combination of the factors' levels, applied to the base experiment.

    Raises pydantic's ValidationError (a ValueError) for a factor that is no field of Experiment, a level that does not
    fit, empty or duplicate levels, two combinations that are the same science, or a reference that is no level.
    """

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9_-]*$", max_length=60, description="names results/<name>; a slug")
    base: Experiment = Field(description="what every cell shares")
    factors: dict[str, tuple[Any, ...]] = Field(description="dotted field of Experiment -> its levels")
    reference: dict[str, Any] = Field(description="arm factor -> the level the other arms are compared with")

    @field_validator("factors")
    @classmethod
    def every_combination_fits(cls, factors: dict[str, tuple[Any, ...]], info: ValidationInfo) -> Any:
        if "captions.set" not in factors:
            raise ValueError("captions.set must be a factor: a sweep compares caption sets")
        factors = factors | {"captions.set": tuple(_set_name(level) for level in factors["captions.set"])}
        for dotted, levels in factors.items():
            if not levels:
                raise ValueError(f"{dotted} has no levels")
            if repeated := [level for i, level in enumerate(levels) if level in levels[:i]]:
                raise ValueError(f"{dotted} has the level {repeated[0]!r} twice")
        if "base" in info.data:
            _expand(info.data["base"], factors)
        return factors

    @field_validator("reference")
    @classmethod
    def reference_is_a_level(cls, reference: dict[str, Any], info: ValidationInfo) -> Any:
        if "factors" not in info.data:
            return reference
        factors = info.data["factors"]
        reference = {dotted: _set_name(v) if dotted == "captions.set" else v for dotted, v in reference.items()}
        for dotted, level in reference.items():
            if dotted not in factors or dotted == "seed":
                raise ValueError(f"{dotted} is not a factor that can be compared")
            if level not in factors[dotted]:
                raise ValueError(f"{dotted}={level!r} is not one of its levels ({_names(factors[dotted])})")
        for dotted in factors:
            if dotted.startswith(ARM_PREFIX) and dotted not in reference:
                raise ValueError(f"no reference level for {dotted}: name one of {_names(factors[dotted])}")
        return reference


@dataclass(frozen=True)
class Cell:
    """One training run of a sweep: its id (directory name), its factor levels and its experiment."""

    id: str
    levels: dict[str, Any]  # dotted field -> level, as it stands in tables; the seed is always one
    experiment: Experiment

    def label(self) -> str:
        """The levels for people, e.g. `set=alt depth=2 seed=0`."""
        return " ".join(f"{dotted.rpartition('.')[2]}={level}" for dotted, level in self.levels.items())


@dataclass(frozen=True)
class Results:
    """What the complete cells of a sweep gave, and which are missing and why."""

    sweep_name: str
    factors: dict[str, list[Any]]  # dotted field -> levels as they stand in the frames; "seed" is always one
    reference: dict[str, Any]  # arm factor -> reference level
    records: Any  # DataFrame: one row a number
    outcomes: Any  # DataFrame: one row a judged image
    missing: list[dict[str, Any]]  # {"cell", <one key per factor>, "reason"}
    notes: list[str]

    @property
    def complete(self) -> bool:
        """Whether no cell is missing."""
        return not self.missing


def cells(sweep: Sweep) -> list[Cell]:
    """The sweep's cells, the seed outermost and the arms innermost: any prefix is already paired."""
    return _expand(sweep.base, sweep.factors)


def _set_name(level: Any) -> Any:
    # Equal mixtures are one level however they are written; what is no text is refused with the experiment.
    return mixture.canonical(level) if isinstance(level, str) else level


def _expand(base: Experiment, factors: dict[str, tuple[Any, ...]]) -> list[Cell]:
    # a stable sort: seed, then scales, then arms, each group in the order it was written
    order = sorted(factors, key=lambda dotted: (dotted != "seed", dotted.startswith(ARM_PREFIX)))
    out: list[Cell] = []
    by_id: dict[str, Cell] = {}
    given: dict[str, dict[str, Any]] = {}
    for levels in itertools.product(*(factors[dotted] for dotted in order)):
        changes = dict(zip(order, levels, strict=True))
        experiment = base.replace(changes)
        named = {dotted: _level(_field(experiment, dotted), beside) for dotted, beside in factors.items()}
        cell = Cell(experiment.cell_id(), named | {"seed": experiment.seed}, experiment)
        if cell.id in by_id:
            matched = {"captions.length_matched_to": None}
            if changes | matched == given[cell.id] | matched:
                continue  # a set is as long as itself: the level says nothing beside this set
            raise ValueError(f"the cells [{by_id[cell.id].label()}] and [{cell.label()}] are the same experiment")
        by_id[cell.id], given[cell.id] = cell, changes
        out.append(cell)
    return out


def _field(experiment: Experiment, dotted: str) -> Any:
    value: Any = experiment
    for part in dotted.split("."):
        value = getattr(value, part)
    return value


def _level(value: Any, beside: tuple[Any, ...] = ()) -> Any:
    # Numbers and words stand in a table as they are; anything else (a tuple, a Part) by its text. So do the levels of a
    # factor that may be none: a column of a table has one type.
    if None in beside:
        return NONE if value is None else str(value)
    return value if isinstance(value, str | int | float | bool) else str(value)


def _names(levels: tuple[Any, ...]) -> str:
    return ", ".join(str(level) for level in levels)


def load(path: Path) -> Sweep:
    """The `sweep` of a Python file. ValueError, in one line, when there is none or the file raises."""
    sweep = _defined(path).get("sweep")
    if not isinstance(sweep, Sweep):
        found = "no `sweep`" if sweep is None else f"`sweep` is a {type(sweep).__name__}"
        raise ValueError(f"{path}: {found}; a sweep file ends with `sweep = Sweep(...)`")
    return sweep


def load_recipe(path: Path) -> Sweep:
    """The `sweep` of a Python file, or its `experiment` as a sweep of one cell. ValueError as `load` says."""
    defined = _defined(path)
    experiment = defined.get("experiment")
    if "sweep" in defined or not isinstance(experiment, Experiment):
        return load(path)
    return Sweep(
        name="experiment",
        base=experiment,
        factors={"captions.set": (experiment.captions.set,)},
        reference={"captions.set": experiment.captions.set},
    )


def _defined(path: Path) -> dict[str, Any]:
    # What a Python file defines.
    import runpy

    if not path.is_file():
        raise ValueError(f"{path}: no such sweep file; give the path of a Python file that defines `sweep`")
    with _importing_beside(path):
        try:
            return runpy.run_path(str(path), run_name="lensbench_sweep_file")
        except ValidationError as error:
            raise ValueError(f"{_place(error, path)}: {one_line(error)}") from error
        except (Exception, SystemExit) as error:
            message = str(error).splitlines()[0] if str(error).strip() else "no message"
            kind = "" if type(error) is ValueError else f"{type(error).__name__}: "
            raise ValueError(f"{_place(error, path)}: {kind}{message}") from error


@contextmanager
def _importing_beside(path: Path) -> Iterator[None]:
    # sweeps/x.py imports experiments/y.py of the same project. The import path and the imported experiments are put
    # back afterwards, so that two projects loaded by one process do not see each other's files.
    root = str(path.resolve().parent.parent)
    sys.path.insert(0, root)
    try:
        yield
    finally:
        sys.path.remove(root)
        for name in [name for name in sys.modules if name.partition(".")[0] == "experiments"]:
            del sys.modules[name]


def _place(error: BaseException, path: Path) -> str:
    # The innermost line that the user wrote: in the sweep file or in a file beside it.
    if isinstance(error, SyntaxError) and error.filename:
        return f"{error.filename}:{error.lineno}"
    root = path.resolve().parent.parent
    place = str(path)
    for frame in traceback.extract_tb(error.__traceback__):
        file = Path(frame.filename).resolve()
        if file == path.resolve() or file.parent == root / "experiments":
            place = f"{path if file == path.resolve() else file}:{frame.lineno}"
    return place


def collect(sweep: Sweep, runs: Path) -> Results:
    """Read every cell of the sweep from `runs`; a cell that cannot be read, or compared, is listed as missing."""
    import pandas as pd

    from lensbench.sweep.cellfiles import OUTCOME_COLUMNS, RECORD_COLUMNS, read_outcomes, read_records, why_unfinished

    found: list[tuple[Cell, pd.DataFrame, pd.DataFrame]] = []
    missing: dict[str, str] = {}
    every = cells(sweep)
    for cell in every:
        directory = runs / cell.id
        if not (directory / "records.parquet").exists():
            missing[cell.id] = why_unfinished(directory)
            continue
        try:
            records = read_records(directory, cell.experiment)
            found.append((cell, records, read_outcomes(directory, cell.experiment, records)))
        except ValueError as error:
            missing[cell.id] = str(error)
    missing |= _scored_otherwise(found)
    found = [entry for entry in found if entry[0].id not in missing]

    def joined(frames: list[tuple[Cell, pd.DataFrame]], columns: tuple[str, ...]) -> pd.DataFrame:
        factor_names = list(every[0].levels)
        parts = [frame.assign(sweep=sweep.name, **cell.levels) for cell, frame in frames if len(frame)]
        if not parts:
            return pd.DataFrame(columns=["sweep", *factor_names, *columns])
        table = pd.concat(parts, ignore_index=True)
        return table[["sweep", *factor_names, *[c for c in table.columns if c not in {"sweep", *factor_names}]]]

    notes = _commit_notes([records for _, records, _ in found])
    return Results(
        sweep_name=sweep.name,
        factors={dotted: list(dict.fromkeys(cell.levels[dotted] for cell in every)) for dotted in every[0].levels},
        reference={dotted: _level(level, sweep.factors[dotted]) for dotted, level in sweep.reference.items()},
        records=joined([(cell, records) for cell, records, _ in found], RECORD_COLUMNS),
        outcomes=joined([(cell, outcomes) for cell, _, outcomes in found], OUTCOME_COLUMNS),
        missing=[{"cell": c.id, **c.levels, "reason": missing[c.id]} for c in every if c.id in missing],
        notes=notes,
    )


def _scored_otherwise(found: list[tuple[Cell, Any, Any]]) -> dict[str, str]:
    # Numbers from different judges or prompts must not meet in one table: the majority stays, the rest are missing.
    odd: dict[str, str] = {}
    for column, word in (("judge_digest", "judge"), ("prompts_digest", "prompts")):
        # factors may change the evaluation itself; only cells with one and the same plan must agree
        groups: dict[str, list[tuple[str, frozenset[str]]]] = {}
        for cell, records, _ in found:
            plan = cell.experiment.evaluation.model_dump_json() + str(cell.experiment.corpus.size_px)
            groups.setdefault(plan, []).append((cell.id, frozenset(records[column].dropna().astype(str))))
        for group in groups.values():
            digests = [digest for _, digest in group]
            usual = max(digests, key=digests.count)
            for cell_id, digest in group:
                if digest != usual:
                    odd[cell_id] = f"scored with other {word} than most cells; delete its directory to run it again"
    return odd


def _commit_notes(tables: list[Any]) -> list[str]:
    notes = []
    for column in ("commit", "hardware"):
        seen = sorted({str(value) for table in tables for value in table[column].dropna().unique()})
        if len(seen) > 1:
            notes.append(f"the cells do not share one {column}: {', '.join(seen)}")
    return notes
