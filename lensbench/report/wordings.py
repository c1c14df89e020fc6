"""What a report says of its prompt forms: what each is, and which caption sets are worded alike."""

from __future__ import annotations

from lensbench.captions.policy import set_label
from lensbench.forms import FORMS, told, trained_on
from lensbench.report.grid import Grid
from lensbench.report.levels import SET_NAMES


def caption_sets(grid: Grid) -> tuple[str, ...]:
    """The caption sets and mixtures that the arms of a sweep read; none where they are no factor."""
    return tuple(map(str, grid.results.factors.get("captions.set", ())))


def wordings(grid: Grid, metric: str) -> list[str]:
    """A line for each prompt form that a metric was measured in."""
    lines = []
    for form in grid.forms(metric):
        if form not in FORMS:
            continue
        alike = [set_label(name, SET_NAMES) for name in caption_sets(grid) if trained_on(form, name)]
        told_alike = f"worded like the training captions of: {'; '.join(alike)}" if alike else "no arm is trained on it"
        lines.append(f"{told(form)} ({told_alike})")
    return lines
