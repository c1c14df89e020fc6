"""Score against scale: every arm along one factor of scale, a column of panels for each level of the others."""

from __future__ import annotations

from itertools import product
from math import isnan
from typing import TYPE_CHECKING, Any

from lensbench.metrics import metric as named
from lensbench.report.chance_line import chance_along
from lensbench.report.figures import arm_styles, footnote, legend, line
from lensbench.report.grid import Grid, Group
from lensbench.report.levels import Level, factor_label

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FEWEST = 3  # levels of the factor along the axis: two are a line through two points
MOST_COLUMNS = 4
NAMES = {"images": "unique training images", "training.steps": "training steps"}


def scales(grid: Grid) -> Figure | None:
    """Rows: prompt forms; columns: the levels of the other scale factors; a line an arm with its 95 % band.

    Along the axis is the data scale, or the first factor that has three levels in numbers. None where no factor has,
    or the others have more levels than a page has columns.
    """
    metric, along = grid.shown_metric, _along(grid)
    if metric is None or along is None or len(_others(grid, along)) > MOST_COLUMNS:
        return None
    return _figure(grid, metric, along)


def _along(grid: Grid) -> str | None:
    numeric = [
        name
        for name in grid.scale_factors
        if len(values := {dict(scale.settings)[name] for scale in grid.scales}) >= FEWEST
        and all(isinstance(value, int | float) and value > 0 for value in values)
    ]
    return "images" if "images" in numeric else next(iter(numeric), None)


def _others(grid: Grid, along: str) -> dict[tuple[tuple[str, Any], ...], list[Level]]:
    """The scales by their levels of every factor but the one along the axis, each in that one's order."""
    found: dict[tuple[tuple[str, Any], ...], list[Level]] = {}
    for scale in sorted(grid.scales, key=lambda scale: float(dict(scale.settings)[along])):
        found.setdefault(tuple(one for one in scale.settings if one[0] != along), []).append(scale)
    return dict(sorted(found.items(), key=lambda one: one[1][0].index))


def _figure(grid: Grid, metric: str, along: str) -> Figure:
    from matplotlib.figure import Figure
    from matplotlib.ticker import NullLocator

    forms, columns, factor = grid.forms(metric), _others(grid, along), named(metric).factor
    figure = Figure(figsize=(max(2.2 * len(columns) + 0.7, 4.0), 2.1 * len(forms) + 0.8), layout="constrained")
    panels = figure.subplots(len(forms), len(columns), sharex=True, sharey="row", squeeze=False)
    styles, rows, by_chance = arm_styles(grid), [list[Group]() for _ in forms], False
    for (i, form), (j, (settings, scales)) in product(enumerate(forms), enumerate(columns.items())):
        axes = panels[i, j]
        for arm in grid.arms:
            points = [(float(dict(scale.settings)[along]), grid.number(scale, arm, metric, form)) for scale in scales]
            points = [(x, group) for x, group in points if group.seeds]
            rows[i] += [group for _, group in points]
            line(axes, points, factor, *styles[arm.index])
        levels = [dict(scale.settings)[along] for scale in scales]
        chances = {
            float(level): [grid.chance(scale, arm, metric, form) for arm in grid.arms]
            for level, scale in zip(levels, scales, strict=True)
        }
        by_chance |= chance_along(axes, chances, factor)
        axes.set_xscale("log")
        axes.set_xticks(levels, [f"{level:,}" for level in levels])
        axes.xaxis.set_minor_locator(NullLocator())
        if i == 0:
            axes.set_title(", ".join(factor_label(*one) for one in settings), fontweight="bold")
        if i == len(forms) - 1:
            axes.set_xlabel(NAMES.get(along, along.rpartition(".")[2].replace("_", " ")))
        if j == 0:
            axes.set_ylabel(f"{form} prompts\n{named(metric).axis}" if form else named(metric).axis)
    if named(metric).bounded:
        for row, groups in zip(panels, rows, strict=True):
            ends = (factor * v for group in groups for v in (group.value, group.high) if not isnan(v))
            row[0].set_ylim(0, min(factor, 1.05 * max(ends, default=factor)) or factor)
    legend(figure, grid, styles, by_chance)
    said = ["dotted: chance"] if by_chance else []
    footnote(figure, grid, any(group.seeds < group.expected for groups in rows for group in groups), *said)
    return figure
