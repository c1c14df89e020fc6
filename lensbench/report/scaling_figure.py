"""The curves behind the multiplier: every arm along every axis, and an arrow for how far apart two of them are."""

from __future__ import annotations

from collections.abc import Sequence
from math import exp, inf
from pathlib import Path
from textwrap import wrap
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from lensbench.metrics import Metric, leading
from lensbench.metrics import metric as named
from lensbench.report.chance_line import chance_across, chance_handle
from lensbench.report.figures import MARKERS, REFERENCE, STYLE, arm_colors, save
from lensbench.report.grid import Grid
from lensbench.report.multiplier import NONE_HERE, UNKNOWN, multiplier_words, no_multiplier
from lensbench.report.scaling import AXES, COMPUTE, DATA, PARAMETERS, SAMPLES, Curve, Worth
from lensbench.scoring.isotonic import falling
from lensbench.scoring.resampling import Draws

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

LABELS = {
    DATA: "unique training images",
    PARAMETERS: "parameters",
    SAMPLES: "training images seen",
    COMPUTE: "training FLOPs",
}
LETTERS = 20  # of the small print that fit an inch
DASHES: tuple[Any, ...] = ("-", (0, (5, 1.5)), (0, (2, 1)), (0, (5, 1, 1, 1)), (0, (1, 1)), (0, (7, 2, 2, 2)))


def multiplier_figures(grid: Grid, worths: Sequence[Worth], folder: Path) -> list[Path]:
    """A figure for the score that the sweep is told by, and one for the held-out loss, as PNG and PDF."""
    import matplotlib as mpl

    mpl.use("Agg")
    if not worths:
        return []
    there = leading({worth.metric for worth in worths})
    chosen = [metric for metric in there if metric == there[0] or named(metric).kind == "loss"]
    drawn: list[Path] = []
    folder.mkdir(parents=True, exist_ok=True)
    with mpl.rc_context(STYLE):
        for metric in chosen:
            figure = _figure(grid, [worth for worth in worths if worth.metric == metric])
            drawn += save(figure, folder / ("multiplier" if metric == chosen[0] else f"multiplier_{metric}"))
    return drawn


def _figure(grid: Grid, worths: list[Worth]) -> Figure:
    """Rows are axes, columns prompt forms; lines fall as errors do, or rise as a score does of which more is better."""
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    metric = worths[0].metric
    axes_there = [axis for axis in AXES if any(worth.axis == axis for worth in worths)]
    forms = [form for form in grid.forms(metric) if any(worth.form == form for worth in worths)]
    size = (max(3.3 * len(forms) + 0.5, 4.2), 2.3 * len(axes_there) + 0.7)
    figure = Figure(figsize=size, layout="constrained")
    panels = figure.subplots(len(axes_there), len(forms), sharey=True, squeeze=False)
    shown = [arm for arm in grid.arms if arm is grid.reference or any(worth.arm is arm for worth in worths)]
    styles, by_chance = _styles(grid), False
    for i, axis in enumerate(axes_there):
        for j, form in enumerate(forms):
            inside = [worth for worth in worths if (worth.axis, worth.form) == (axis, form)]
            _panel(panels[i, j], inside, styles, grid)
            if inside:
                chances = [grid.chance(scale, arm, metric, form) for scale in grid.scales for arm in shown]
                by_chance |= chance_across(panels[i, j], chances, named(metric).factor)
            panels[i, j].set_xlabel(LABELS[axis] + (f" ({inside[0].where})" if inside and inside[0].where else ""))
            if i == 0 and form:
                panels[i, j].set_title(f"{form} prompts", fontweight="bold")
        panels[i, 0].set_ylabel(named(metric).axis)
    if named(metric).bounded:
        panels[0, 0].set_ylim(0, min(1.04 * named(metric).factor, panels[0, 0].get_ylim()[1]))
    handles = [
        Line2D([], [], color=color, marker=marker, linestyle=dash, label=arm.label, markersize=4)
        for arm in shown
        for color, marker, dash in [styles[arm.label]]
    ]
    handles += [chance_handle()] if by_chance else []
    figure.legend(handles=handles, loc="outside upper center", ncols=min(len(handles), 4), handlelength=3)
    assert grid.reference is not None
    words = f"bands: 95 %; arrows: how much more {grid.reference.label} needs for the same score (dotted: a bound)"
    if any(not worth.measurable for worth in worths):
        words += f"; {NONE_HERE}: an arm is at chance"
    wrapped = "\n".join(wrap(words, int(LETTERS * size[0])))
    figure.supxlabel(wrapped, fontsize=6.5, color="#666666")
    return figure


def _styles(grid: Grid) -> dict[str, tuple[str, str, Any]]:
    """Color, marker and dash of each arm, so that lines are told apart without color too."""
    colors, found, k = arm_colors(grid), {}, 0
    for arm in grid.arms:
        if arm is grid.reference:
            found[arm.label] = (REFERENCE, "o", DASHES[0])
        else:
            found[arm.label] = (colors[arm.label], MARKERS[k % len(MARKERS)], DASHES[(k + 1) % len(DASHES)])
            k += 1
    return found


def _panel(axes: Axes, worths: list[Worth], styles: dict[str, tuple[str, str, Any]], grid: Grid) -> None:
    from matplotlib.ticker import LogLocator, NullFormatter, NullLocator

    axes.set_xscale("log")
    if not worths:
        axes.set_axis_off()
        return
    of = named(worths[0].metric)
    if not of.more:
        axes.set_yscale("log")
    assert grid.reference is not None
    first = worths[0]
    n = len(first.reference_curve.points)
    _line(axes, first.reference_curve, first.draws.of(np.arange(n)), styles[grid.reference.label], of)
    told = []
    for k, worth in enumerate(worths):
        n = len(worth.reference_curve.points)
        own = worth.draws.of(np.arange(n, n + len(worth.arm_curve.points)))
        _line(axes, worth.arm_curve, own, styles[worth.arm.label], of)
        told += _arrow(axes, worth, styles[worth.arm.label][0], of, k - (len(worths) - 1) / 2)
    if told:  # "best" finds the place with the fewest lines
        small = {"fontsize": 7, "labelspacing": 0.25, "handlelength": 1.2, "borderpad": 0.2, "framealpha": 0.7}
        axes.legend(handles=told, loc="best", frameon=True, edgecolor="none", labelcolor="linecolor", **small)
    low, high = axes.get_xlim()
    if high / low < 30:  # too narrow for powers of ten: the measured places themselves
        ticks = np.exp(first.reference_curve.log_x)
        axes.set_xticks(ticks[:: max(1, len(ticks) // 4)], [_amount(x) for x in ticks[:: max(1, len(ticks) // 4)]])
        axes.xaxis.set_minor_locator(NullLocator())
    else:
        axes.xaxis.set_major_locator(LogLocator(numticks=6))
        axes.xaxis.set_minor_formatter(NullFormatter())
    if not of.more:
        axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0), numticks=6))
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axes.yaxis.set_minor_formatter(NullFormatter())


def _line(axes: Axes, curve: Curve, draws: Draws, style: tuple[str, str, Any], of: Metric) -> None:
    color, marker, dash = style
    x = np.exp(curve.log_x)
    low, high = np.quantile(draws.draws, (0.025, 0.975), axis=0)
    smallest = 0.05 * draws.mean.min()  # a loss stands on a log axis
    if draws.errors.any():
        held = (0, of.widest) if of.more else (smallest, inf)
        low, high = (_shown(np.clip(end, *held), of) for end in (low, high))
        axes.fill_between(x, low, high, color=color, alpha=0.14, linewidth=0, zorder=1)
    axes.plot(x, _shown(falling(draws.mean), of), color=color, linestyle=dash, linewidth=1.4, zorder=2)
    look: dict[str, Any] = {"markeredgecolor": "white", "markeredgewidth": 0.5, "markersize": 4.5, "linestyle": ""}
    axes.plot(x, _shown(draws.mean, of), color=color, marker=marker, zorder=3, **look)


def _arrow(axes: Axes, worth: Worth, color: str, of: Metric, place: float) -> list[Line2D]:
    """From the better arm to the worse at the last score of the worse; what it says, for the panel's legend.

    Arrows stand `place` line widths above that score, for most have the reference's.
    """
    from matplotlib.lines import Line2D
    from matplotlib.transforms import offset_copy

    multiplier = worth.direct.multiplier
    text, _ = multiplier_words(multiplier)
    if not worth.measurable:
        return [Line2D([], [], color=color, linestyle="", label=NONE_HERE)]
    if text == UNKNOWN:
        return []
    if no_multiplier(worth):
        return [Line2D([], [], color=color, linestyle="", label="no multiplier")]
    ends = worth.reference_curve.log_x[-1], worth.arm_curve.log_x[-1]
    bound = not 0 < multiplier.estimate < inf
    if worth.direct.ahead:
        tip = exp(ends[0])
        tail = exp(worth.arm_curve.log_x[0]) if bound else tip / multiplier.estimate
    else:
        tip = exp(ends[1])
        tail = exp(worth.reference_curve.log_x[0]) if bound else tip * multiplier.estimate
    level = float(_shown(np.array(worth.direct.level), of))
    width = 1.1
    dash: Literal["-", ":"] = ":" if bound else "-"
    beside = offset_copy(axes.transData, axes.get_figure(root=True), y=2.5 * width * place, units="points")
    look = {"arrowstyle": "<->", "color": color, "linewidth": width, "linestyle": dash, "shrinkA": 0, "shrinkB": 0}
    axes.annotate("", (tip, level), (tail, level), xycoords=beside, textcoords=beside, arrowprops=look, zorder=4)
    return [Line2D([], [], color=color, linestyle=dash, linewidth=width, label=f"{text}\N{MULTIPLICATION SIGN}")]


def _shown(errors: np.ndarray, of: Metric) -> np.ndarray:
    """The scores that have these errors, as they are shown: the error of an error is the score again."""
    return np.asarray(of.factor * of.error(errors))


def _amount(value: float) -> str:
    for size, letter in ((1e18, "E"), (1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:.3g}{letter}"
    return f"{value:.3g}"
