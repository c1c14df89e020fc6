"""What is shown of a sweep, and what tells its directory of runs from others."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lensbench.publishing import first_text

if TYPE_CHECKING:
    from lensbench.sweep.sweep import Sweep

FOLDER = "tracking"  # in the directory of the runs: its name, and locks


@dataclass(frozen=True)
class Listing:
    """What is shown of a sweep: its name, its factors in words, and its cells by id with their levels."""

    name: str
    note: str
    cells: dict[str, dict[str, Any]]
    evaluations: dict[str, tuple[str, ...]]  # cell -> the ids of what it is scored on


def listing(sweep: Sweep) -> Listing:
    """The listing of a sweep."""
    from lensbench.sweep.sweep import cells

    note = "Factors: " + ", ".join(f"{dotted} = {list(levels)}" for dotted, levels in sweep.factors.items())
    every = cells(sweep)
    evaluations = {cell.id: tuple(one.experiment.evaluation_id() for one in cell.evaluations) for cell in every}
    return Listing(sweep.name, note, {cell.id: cell.levels for cell in every}, evaluations)


def name_of(folder: Path) -> str:
    """What tells this directory of runs from others; drawn once."""
    return first_text(folder / "id", uuid.uuid4().hex)
