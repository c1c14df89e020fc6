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

from lensbench.experiment import Experiment
from lensbench.publishing import publish_text
from lensbench.sweep.design import ARM_PREFIX, Cell, Sweep, drafts, field_of


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
    plans = [cell.experiment.evaluation for cell in drafts(sweep)]
    return max(plan.validation_skip + max(plan.validation_images, plan.scene_images) for plan in plans)


def trial_experiment(sweep: Sweep, cell: Cell, values: dict[str, Any], seed: int) -> Experiment:
    """What a trial of a unit trains with one seed."""
    assert sweep.tuning is not None
    return sweep.tuning.trial(cell.experiment, values, seed, reported_images(sweep))


def tuning_digest(sweep: Sweep) -> str:
    """sha256 of the search, its budget, and what its trials train apart from what is searched."""
    assert sweep.tuning is not None
    trained = {name: trial_experiment(sweep, cell, {}, 0).hash() for name, cell in units(sweep).items()}
    told = json.dumps([sweep.tuning.model_dump(mode="json"), trained], sort_keys=True)
    return hashlib.sha256(told.encode()).hexdigest()


def arm_values(told: Mapping[str, Any], experiment: Experiment) -> dict[str, Any]:
    """What a tuning of other scales found for the arm of an experiment.

    Raises ValueError, one line, where it tuned no such arm, or tuned it at several scales.
    """
    same = [
        entry
        for entry in told["units"]
        if all(str(field_of(experiment, d)) == str(v) for d, v in entry["levels"].items() if d.startswith(ARM_PREFIX))
    ]
    if len(same) != 1:
        arm = experiment.captions.set + (", shuffled" if experiment.captions.shuffled else "")
        found = "no values" if not same else f"values at {len(same)} scales, where tuning.at must leave one,"
        raise ValueError(f"tuned_by={told['sweep']!r}: its tuning has {found} for captions {arm}")
    return dict(same[0]["values"])


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
