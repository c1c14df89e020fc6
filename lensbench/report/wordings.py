"""What a report says of its prompt forms: what each is, and which caption sets are worded alike."""

from __future__ import annotations

from lensbench.captions.policy import set_label
from lensbench.forms import FORMS, REGISTRY, told, trained_on
from lensbench.report.grid import Grid
from lensbench.report.levels import SET_NAMES


def caption_sets(grid: Grid) -> tuple[str, ...]:
    """The caption sets and mixtures that the arms of a sweep read; none where they are no factor."""
    return tuple(map(str, grid.results.factors.get("captions.set", ())))


def wordings(grid: Grid, metric: str) -> list[str]:
    """A line for each prompt form that a metric was measured in."""
    lines = []
    sets = caption_sets(grid)
    for form in grid.forms(metric):
        if form not in FORMS:
            continue
        alike = [set_label(name, SET_NAMES) for name in sets if trained_on(form, name)]
        told_alike = f"worded like the training captions of: {'; '.join(alike)}" if alike else "no arm is trained on it"
        lines.append(f"{told(form)} ({told_alike})" if sets else told(form))
    return lines


def wordings_note(grid: Grid, metric: str) -> str:
    """The lines of `wordings` as a table's note; "" where every form is one that tables of old results have untold."""
    if all(form not in FORMS or REGISTRY[form].photographs for form in grid.forms(metric)):
        return ""
    return f"{'. '.join(wordings(grid, metric))}."
