"""How the held-out loss falls along training: what a model learns before it gets a single picture right."""

from __future__ import annotations

from itertools import product
from typing import TYPE_CHECKING, Any

from lensbench.report.figures import arm_styles, drawn_scales, legend, of_scales
from lensbench.report.grid import Grid

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LOSSES = 1.9  # inches of a row of panels
LOSS_AXES = {"samples_seen": "training images seen", "train_flops": "training FLOPs"}


def losses(grid: Grid) -> Figure | None:
    """Held-out loss along training, both axes in powers: a line an arm, a thin line a seed, a row a scale.

    A pair of columns a prompt form: against training images seen, and against training FLOPs, where captions of
    another length cost something else. None where training was not watched.
    """
    from matplotlib.figure import Figure

    metric = "validation_loss"
    forms = grid.forms(metric)
    lines = {
        (scale, arm, form): grid.numbers.get((scale.index, arm.index, metric, form))
        for scale, arm, form in product(grid.scales, grid.arms, forms)
    }
    watched = {place: rows for place, rows in lines.items() if rows is not None and len(rows["step"].unique()) > 1}
    if not watched:
        return None
    scales = drawn_scales([scale for scale in grid.scales if any(place[0] is scale for place in watched)], LOSSES)
    watched = {place: rows for place, rows in watched.items() if place[0] in scales}
    figure = Figure(figsize=(3.6 * len(forms) + 0.5, LOSSES * len(scales) + 0.8), layout="constrained")
    panels = figure.subplots(len(scales), 2 * len(forms), sharex="col", sharey=True, squeeze=False)
    styles = arm_styles(grid)
    for (scale, arm, form), rows in watched.items():
        column = 2 * forms.index(form)
        for axes, x in zip(panels[scales.index(scale), column : column + 2], LOSS_AXES, strict=True):
            _loss_line(axes, rows, x, *styles[arm.index], below=arm is grid.reference)
    for axes in panels.flat:
        axes.set_xscale("log")
        axes.set_yscale("log")
        _few_ticks(axes)
    for column, (form, label) in enumerate(product(forms, LOSS_AXES.values())):
        panels[0, column].set_title(f"{form} prompts" if column % 2 == 0 else "", fontweight="bold", loc="left")
        panels[-1, column].set_xlabel(label)
    for scale, axes in zip(scales, panels[:, 0], strict=True):
        axes.set_ylabel(f"{scale.label}\nheld-out loss" if scale.label else "held-out loss")
    legend(figure, grid, styles)
    incomplete = any(
        rows.groupby("step")["seed"].nunique().max() < grid.expected((scale, arm))
        for (scale, arm, _), rows in watched.items()
    )
    several = len(grid.seeds) > 1
    parts = ["thick: mean over seeds; thin: each seed"] if several else ["one training seed"]
    parts += of_scales(grid, scales)
    parts += ["some seeds are missing: see the tables"] if incomplete or grid.results.missing else []
    figure.supxlabel("; ".join(parts), fontsize=6.5, color="#666666")
    return figure


def _loss_line(axes: Axes, rows: pd.DataFrame, x: str, color: str, marker: str, *, below: bool) -> None:
    """`below`: under the others and broader, so that it is seen where another is as good."""
    by_seed = [of_seed.sort_values("step") for _, of_seed in rows.groupby("seed")]
    if len(by_seed) > 1:
        for of_seed in by_seed:
            axes.plot(of_seed[x], of_seed["value"], color=color, linewidth=0.6, alpha=0.6, zorder=2)
    mean = rows.groupby("step")[[x, "value"]].mean().sort_index()
    look: dict[str, Any] = {"markeredgecolor": "white", "markeredgewidth": 0.5}
    look |= {"markersize": 5.6, "linewidth": 3.0} if below else {"markersize": 3.4, "linewidth": 1.3, "zorder": 3}
    axes.plot(mean[x], mean["value"], color=color, marker=marker, **look)


def _few_ticks(axes: Axes) -> None:
    """Logarithmic axes of a small panel: the powers of ten across, a few plain numbers up."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axes.xaxis.set_major_locator(LogLocator(numticks=5))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0), numticks=6))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.minorticks_off()
