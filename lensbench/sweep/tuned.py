"""What a tuning found, in a file beside the sweep's: SWEEP.tuned.json, for version control like the sweep itself.

The file is written once every arm at every scale has its trials. It says which tuning it is of: a changed search,
budget, corpus or base experiment is another tuning, and the file is then refused.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lensbench.experiment import Captions, Experiment
from lensbench.publishing import publish_text
from lensbench.sweep.design import Cell, Sweep, drafts, scored_cells


def tuned_file(sweep_file: Path) -> Path:
    """Where the findings of a sweep's tuning lie."""
    return sweep_file.with_name(f"{sweep_file.stem}.tuned.json")


def units(sweep: Sweep) -> dict[str, Cell]:
    """What is tuned: each arm at each scale that `tuning.at` leaves, by its name, with the first of its cells."""
    assert sweep.tuning is not None
    found: dict[str, Cell] = {}
    for cell in drafts(sweep):
        if sweep.tuning.is_at(cell.levels):
            found.setdefault(sweep.tuning.unit(cell.levels), cell)
    return found


def reported_images(sweep: Sweep) -> int:
    """How many held-out images the sweep's cells are scored on."""
    plans = [cell.experiment.evaluation for cell in scored_cells(drafts(sweep))]
    return max(plan.validation_skip + plan.held_out_images for plan in plans)


def trial_experiment(sweep: Sweep, cell: Cell, values: dict[str, Any], seed: int) -> Experiment:
    """What a trial of a unit trains with one seed."""
    assert sweep.tuning is not None
    return sweep.tuning.trial(cell.experiment, values, seed, reported_images(sweep))


def tuning_digest(sweep: Sweep) -> str:
    """sha256 of the search, its budget, and what its trials train apart from what is searched."""
    assert sweep.tuning is not None
    trained = {name: trial_experiment(sweep, cell, {}, 0).hash_with_evaluation() for name, cell in units(sweep).items()}
    told = json.dumps([sweep.tuning.model_dump(mode="json"), trained], sort_keys=True)
    return hashlib.sha256(told.encode()).hexdigest()


def own_values(sweep: Sweep, told: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """What the sweep's own tuning found, by the id of each draft."""
    assert sweep.tuning is not None
    values = {entry["unit"]: entry["values"] for entry in told["units"]}
    return {cell.id: dict(values[sweep.tuning.unit(cell.levels)]) for cell in drafts(sweep)}


def values_elsewhere(sweep: Sweep, other: Sweep, told: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """What the tuning of `other` found for the arms of `sweep`, by the id of each draft.

    An arm is another's where the whole caption policy is. Raises ValueError, one line, where an arm was not tuned, or
    at several scales, or the tuning has seen what this sweep reports.
    """
    assert other.tuning is not None
    where = f"tuned_by={sweep.tuned_by!r}"
    if taken := sorted(set(other.tuning.search) & set(sweep.every_factor())):
        raise ValueError(f"{where}: {taken[0]} was tuned there and is a factor here: tune it or vary it")
    reported = [cell.experiment for cell in scored_cells(drafts(sweep))]
    if shared := sorted({experiment.seed for experiment in reported} & set(other.tuning.seeds)):
        raise ValueError(f"{where}: seed {shared[0]} is reported here and was tuned on there")
    if other.tuning.prompt_seed in {experiment.evaluation.prompt_seed for experiment in reported}:
        raise ValueError(f"{where}: prompt_seed={other.tuning.prompt_seed} is reported here and was tuned on there")
    if reported_images(sweep) > (kept := reported_images(other)):
        raise ValueError(f"{where}: more held-out images are scored here than the {kept} that tuning left alone there")
    values = {entry["unit"]: entry["values"] for entry in told["units"]}
    of_arms: dict[Captions, list[dict[str, Any]]] = {}
    for name, cell in units(other).items():
        of_arms.setdefault(cell.experiment.captions, []).append(values[name])
    found = {}
    for cell in drafts(sweep):
        same = of_arms.get(cell.experiment.captions, [])
        if len(same) != 1:
            what = f"tuned at {len(same)} scales, where tuning.at must leave one" if same else "not tuned there"
            raise ValueError(f"{where}: the captions of [{cell.label()}] were {what}")
        found[cell.id] = dict(same[0])
    return found


def write_tuned(sweep: Sweep, found: list[dict[str, Any]], path: Path) -> None:
    """Write the findings of a complete tuning, whole or not at all."""
    assert sweep.tuning is not None
    told = {
        "sweep": sweep.name,
        "tuning": sweep.tuning.model_dump(mode="json"),
        "tuning_digest": tuning_digest(sweep),
        "units": found,
    }
    publish_text(path, json.dumps(told, indent=1) + "\n")


def read_tuned(sweep: Sweep, path: Path) -> dict[str, Any]:
    """What the file says of a sweep's tuning, and `digest`, its sha256.

    `units` has for each arm at each scale its name, levels, values, objective and trials, each with its number, state,
    objective, values and steps. Raises ValueError, one line, where there is no file or it is another tuning's.
    """
    if not path.is_file():
        raise ValueError(f"{path}: not there: the sweep is tuned first, with lensbench tune")
    text = path.read_bytes()
    try:
        told: dict[str, Any] = json.loads(text)
        found = {entry["unit"]: dict(entry["values"]) for entry in told["units"]}
        digest = told["tuning_digest"]
    except (ValueError, KeyError, TypeError):
        raise ValueError(f"{path}: not what lensbench tune writes; remove it and tune again") from None
    if digest != tuning_digest(sweep):
        raise ValueError(f"{path}: of another tuning (the search, the base or the corpus has changed): tune again")
    if lacking := [name for name in units(sweep) if name not in found]:
        raise ValueError(f"{path}: has no values for [{lacking[0]}]; remove it and tune again")
    return told | {"digest": hashlib.sha256(text).hexdigest()}
