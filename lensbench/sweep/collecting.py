"""What the cells of a sweep gave: read from their directories, refused where it cannot be compared."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lensbench.records import mixed
from lensbench.sweep import constraints
from lensbench.sweep.design import Cell, Sweep, cells, scored_cells

if TYPE_CHECKING:
    from lensbench.sweep.questions import Question


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
    # what the sweep was asked: {"arm": levels, "other": levels, "scale": levels, "metric", "form": None for every one}
    questions: list[dict[str, Any]] = field(default_factory=list)
    tuning: dict[str, Any] = field(default_factory=dict)  # what tuning found: see lensbench.sweep.tuned; empty if none

    @property
    def complete(self) -> bool:
        """Whether no cell is missing."""
        return not self.missing


def collect(sweep: Sweep, runs: Path) -> Results:
    """Read every cell of the sweep from `runs`; a cell that cannot be read, or compared, is listed as missing."""
    import pandas as pd

    from lensbench.records import OUTCOMES, RECORDS
    from lensbench.scoring.measured import left_out
    from lensbench.sweep.cellfiles import is_complete, read_complete, why_unfinished

    found: list[tuple[Cell, pd.DataFrame, pd.DataFrame]] = []
    missing: dict[str, str] = {}
    trainings = cells(sweep)
    for cell in trainings:
        directory = runs / cell.id
        if not is_complete(directory, cell):
            missing[cell.id] = why_unfinished(directory)
            continue
        try:
            found += read_complete(directory, cell)
        except ValueError as error:
            missing[cell.id] = str(error)
    missing |= _scored_otherwise(found)
    found = [entry for entry in found if entry[0].id not in missing]
    every = scored_cells(trainings)

    def joined(frames: list[tuple[Cell, pd.DataFrame]], columns: tuple[str, ...]) -> pd.DataFrame:
        factor_names = list(every[0].levels)
        parts = [frame.assign(sweep=sweep.name, **cell.levels) for cell, frame in frames if len(frame)]
        if not parts:
            return pd.DataFrame(columns=["sweep", *factor_names, *columns])
        table = pd.concat(parts, ignore_index=True)
        return table[["sweep", *factor_names, *[c for c in table.columns if c not in {"sweep", *factor_names}]]]

    records = joined([(cell, records) for cell, records, _ in found], RECORDS.in_cell)
    notes = _notes_of_origin(records) + constraints.notes(sweep, every) + _notes_of_the_recipe(trainings)
    if absent := left_out(cell.experiment for cell in every):
        notes.append(f"not measured: {absent}")
    return Results(
        sweep_name=sweep.name,
        factors={dotted: list(dict.fromkeys(cell.levels[dotted] for cell in every)) for dotted in every[0].levels},
        reference=sweep.reference_arm(),
        records=records,
        outcomes=joined([(cell, outcomes) for cell, _, outcomes in found], OUTCOMES.in_cell),
        missing=[{"cell": c.id, **c.levels, "reason": missing[c.id]} for c in every if c.id in missing],
        notes=notes,
        questions=[asked(sweep, question) for question in sweep.asked()],
        tuning=sweep.tuned,
    )


def asked(sweep: Sweep, question: Question) -> dict[str, Any]:
    """A question in the words of the tables: the levels of both arms and of the scale, the metric, the form and the
    role."""
    arm, other = question.arms(sweep.reference_arm())
    scale = {dotted: sweep.table_level(dotted, level) for dotted, level in question.at.items()}
    role = "primary" if question is sweep.primary else "post hoc" if question.post_hoc else "secondary"
    told = {"arm": arm, "other": other, "scale": scale, "metric": question.metric, "form": question.form}
    return told | {"role": role}


def _scored_otherwise(found: list[tuple[Cell, Any, Any]]) -> dict[str, str]:
    # Numbers of other judges, prompts or weights must not meet in one table: the majority stays, the rest are missing.
    odd: dict[str, str] = {}
    for word, made_by in _MADE_BY.items():
        # factors may change the evaluation itself; only cells with one and the same plan must agree
        groups: dict[str, list[tuple[str, frozenset[str]]]] = {}
        for cell, records, _ in found:
            plan = cell.experiment.evaluation.model_dump_json() + str(cell.experiment.corpus.size_px)
            groups.setdefault(plan, []).append((cell.id, made_by(records)))
        for group in groups.values():
            there = [digest for _, digest in group]
            usual = max(there, key=there.count)
            for cell_id, digest in group:
                if digest != usual:
                    odd[cell_id] = f"scored with other {word} than most cells; delete its evaluations to score it again"
    return odd


def _digests(records: Any, column: str) -> frozenset[str]:
    return frozenset(records[column].dropna().astype(str)) - {""}


def _measured_with(records: Any) -> frozenset[str]:
    """Each metric with the weights, the resize and the real images that its protocol names."""
    if "protocol" not in records:
        return frozenset()
    told = records[["metric", "protocol"]].drop_duplicates()
    pairs = [
        (metric, json.loads(said)) for metric, said in told.itertuples(index=False) if isinstance(said, str) and said
    ]
    return frozenset(json.dumps([metric, *(said.get(name) for name in _NAMED)]) for metric, said in pairs)


_NAMED = ("weights", "resize", "reference_digest")  # in a protocol, of what measures
_MADE_BY: dict[str, Callable[[Any], frozenset[str]]] = {
    "judge": functools.partial(_digests, column="judge_digest"),
    "prompts": functools.partial(_digests, column="prompts_digest"),
    "weights, resize or real images": _measured_with,
}


def _notes_of_the_recipe(trainings: list[Cell]) -> list[str]:
    """What intervals over seeds do not contain, and what people chose and on which arm they looked."""
    every = [cell.experiment for cell in trainings]
    notes = []
    if len({e.seed for e in every}) > 1 and any(e.which_images == "first" for e in every):
        notes.append("every seed trains on the same images: no interval contains which images a data scale holds")
    return notes + [f"chosen by hand: {told}" for told in dict.fromkeys(e.by_hand for e in every) if told]


def _notes_of_origin(records: Any) -> list[str]:
    notes = []
    for column in ("commit", "hardware"):
        if seen := mixed(records, column):
            notes.append(f"the cells do not share one {column}: {', '.join(seen)}")
    moved = set(records["cell"][records["resumed"].notna()]) if "resumed" in records else set()
    if moved:
        notes.append(
            f"the training of {len(moved)} cell(s) went on with another commit or on other hardware than it began "
            "with: its digits are not promised to the bit"
        )
    return notes
