"""Quality against compute: which models no other model of the sweep beats in both."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from lensbench.metrics import metric as named
from lensbench.report.chance import chance_note
from lensbench.report.chance_line import chance_across, chance_handle
from lensbench.report.costs import flops_unit
from lensbench.report.figures import MARKERS, STYLE, arm_colors, save
from lensbench.report.grid import Grid
from lensbench.report.levels import Level
from lensbench.report.rows import arm_columns, labels_of, score_cell
from lensbench.report.table import Cell, Column, Row, Table

SAME = 1.01  # costs within a factor of this are one cost: models that were matched to spend the same


class Point(NamedTuple):
    """A model of the sweep: what it cost to train, and its score over seeds."""

    scale: Level
    arm: Level
    flops: float
    score: float
    low: float
    high: float
    on_front: bool  # among all arms
    on_own: bool  # among the models of its arm


def front(costs: Sequence[float], scores: Sequence[float], more: bool) -> list[bool]:
    """Which points no other point dominates: none is as cheap and as good, and cheaper or better.

    `more` says whether a higher score is a better one.
    """
    sign = -1 if more else 1
    points = [(cost, sign * score) for cost, score in zip(costs, scores, strict=True)]
    return [not any(c <= cost and s <= score and (c, s) != (cost, score) for c, s in points) for cost, score in points]


def points(grid: Grid, metric: str, form: str) -> list[Point]:
    """Every model with this score on prompts of this form, the cheapest first; empty where all cost the same."""
    found = []
    for scale in grid.scales:
        for arm in grid.arms:
            rows = grid.rows(scale, arm, metric, form)
            if len(rows):
                group = grid.number(scale, arm, metric, form)
                found.append((scale, arm, float(rows["train_flops"].mean()), group))
    found.sort(key=lambda entry: entry[2])
    if found and found[-1][2] <= SAME * found[0][2]:
        return []
    more = named(metric).more
    on_front = front([entry[2] for entry in found], [entry[3].value for entry in found], more)
    own: dict[int, list[bool]] = {}
    for arm in grid.arms:
        of_arm = [entry for entry in found if entry[1] is arm]
        own[arm.index] = front([entry[2] for entry in of_arm], [entry[3].value for entry in of_arm], more)
    out = []
    for (scale, arm, flops, group), here in zip(found, on_front, strict=True):
        out.append(Point(scale, arm, flops, group.value, group.low, group.high, here, own[arm.index].pop(0)))
    return out


def pareto_table(grid: Grid, metric: str | None = None) -> Table | None:
    """A row for each model, the cheapest first, by prompt form; None for a sweep of one scale.

    `metric` is any score of the registry; left out, it is the one that the sweep is told by.
    """
    metric = metric or grid.shown_metric
    if len(grid.scales) < 2 or metric is None:
        return None
    rows: list[Row] = []
    of_form = {form: points(grid, metric, form) for form in grid.forms(metric)}
    if not any(of_form.values()):
        return None
    head, scale_of = flops_unit(max(point.flops for found in of_form.values() for point in found))
    for form, found in of_form.items():
        for n, point in enumerate(found):
            group = grid.number(point.scale, point.arm, metric, form)
            labels = [Cell(form, form), *labels_of(point.scale), *labels_of(point.arm)]
            spent = Cell(f"{point.flops / scale_of:,.3g}", point.flops)
            marks = [Cell("yes" if on else "", "yes" if on else "no") for on in (point.on_front, point.on_own)]
            score = score_cell(group, named(metric), "", grid.chance(point.scale, point.arm, metric, form))
            rows.append(Row((*labels, spent, score, *marks), opens=n == 0))
    columns = (
        Column("form", "prompts", "prompts", label=True),
        *arm_columns(grid),
        Column("train_flops", head, head, "training"),
        Column("score", named(metric).titled, "score", interval=True),
        Column("front", "of all", "all", "on the front"),
        Column("own", "of its arm", "arm", "on the front"),
    )
    notes = (
        "On the front: no other model has as good a score for as little training, by the estimates; intervals of "
        "neighbors may overlap. [low, high]: 95 % interval.",
        "FLOPs: useful ones of training, forward and backward, padding left out.",
        *filter(None, [chance_note(cell for row in rows for cell in row.cells)]),
    )
    return Table("pareto", "Quality against compute", columns, tuple(rows), notes)


def pareto_figure(grid: Grid, path: Path, metric: str | None = None) -> list[Path]:
    """Scores against training FLOPs, the front of all arms as a line; PNG and PDF. Nothing for one scale."""
    import matplotlib as mpl
    from matplotlib.figure import Figure
    from matplotlib.ticker import NullFormatter

    metric = metric or grid.shown_metric
    if metric is None:
        return []
    of_form = {form: points(grid, metric, form) for form in grid.forms(metric)}
    if len(grid.scales) < 2 or not any(of_form.values()):
        return []
    factor = named(metric).factor
    colors = arm_colors(grid)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(3.1 * len(of_form) + 0.5, 2.6), layout="constrained")
        panels = figure.subplots(1, len(of_form), sharex=True, sharey=True, squeeze=False)[0]
        for axes, (form, found) in zip(panels, of_form.items(), strict=True):
            axes.set_xscale("log")
            best = [point for point in found if point.on_front]
            x, y = [point.flops for point in best], [factor * point.score for point in best]
            axes.step(x, y, where="post", color="#999999", zorder=1)
            for arm in grid.arms:
                look: Any = {"color": colors[arm.label], "marker": MARKERS[arm.index % len(MARKERS)]}
                mine = [point for point in found if point.arm is arm]
                for point in mine:
                    bounds = [factor * point.low, factor * point.high]
                    axes.plot([point.flops] * 2, bounds, color=look["color"], linewidth=1)
                x, y = [point.flops for point in mine], [factor * point.score for point in mine]
                axes.plot(x, y, linestyle="", markersize=5, label=arm.label, **look)
            by_chance = chance_across(axes, [grid.chance(p.scale, p.arm, metric, form) for p in found], factor)
            axes.set_title(f"{form} prompts" if form else "", fontweight="bold")
            axes.set_xlabel("training FLOPs")
            axes.xaxis.set_minor_formatter(NullFormatter())
        panels[0].set_ylabel(named(metric).titled)
        handles, _ = panels[0].get_legend_handles_labels()
        handles += [chance_handle()] if by_chance else []
        figure.legend(handles=handles, loc="outside upper center", ncols=min(4, len(handles)))
        words = f"{named(metric).label}; solid line: no other model has as good a score for as little training"
        figure.supxlabel(words, fontsize=6.5, color="#666666")
        return save(figure, path)
