"""The figures of a report: how scores grow with training, and what the captions change, task by task.

Drawn without a display, the same to the byte from the same results and the same matplotlib.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from itertools import product
from math import isnan
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lensbench.metrics import GENEVAL, is_known
from lensbench.metrics import metric as named
from lensbench.report.chance import Chance
from lensbench.report.chance_line import chance_along, chance_handle
from lensbench.report.grid import MEAN, Grid, Group
from lensbench.report.levels import Level
from lensbench.report.notes import number_of_seeds
from lensbench.report.paired import Comparison

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's colors, told apart with any color vision; the reference is gray.
PALETTE = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00")
REFERENCE = "#666666"
MARKERS = "sD^vPX"
PAGE = 9.2  # inches of a page that a figure may be high
CURVES = 2.15  # inches of a row of panels
LETTERS_AN_INCH = 14  # of a legend; the sample of a line takes about six
LEGEND_ROWS, LEGEND_ROW = 3, 0.19  # rows of a legend that a figure has room for; inches that a further one takes
STYLE: Any = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 8,
    "axes.titlesize": 9,
    "axes.labelsize": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#444444",
    "axes.linewidth": 0.7,
    "axes.grid": True,
    "grid.color": "#e6e6e6",
    "grid.linewidth": 0.7,
    "axes.axisbelow": True,
    "xtick.color": "#444444",
    "ytick.color": "#444444",
    "xtick.major.width": 0.7,
    "ytick.major.width": 0.7,
    "legend.frameon": False,
    "pdf.fonttype": 42,
    "svg.hashsalt": "lensbench",
    "figure.dpi": 200,
}


def figures(grid: Grid, folder: Path) -> list[Path]:
    """Draw every figure there are numbers for into `folder`, each as PNG and PDF."""
    return [*draw(curves, grid, folder / "curves"), *draw(differences, grid, folder / "differences")]


def draw(make: Callable[[Grid], Figure | None], grid: Grid, path: Path) -> list[Path]:
    """A figure as PNG and PDF; none where `make` has nothing to show."""
    import matplotlib as mpl

    mpl.use("Agg")
    path.parent.mkdir(parents=True, exist_ok=True)
    with mpl.rc_context(STYLE):
        figure = make(grid)
        return [] if figure is None else save(figure, path)


def titled(stem: str, titles: Mapping[str, str]) -> str:
    """What a figure's file shows: its title or, of another metric's, `pareto_fid`, that with the metric."""
    base, _, name = stem.partition("_")
    if stem not in titles and base in titles and is_known(name):
        return f"{titles[base]}, by {named(name).label}"
    return titles.get(stem, stem.replace("-", " ").replace("_", " ").capitalize())


def drawn_scales(scales: Sequence[Level], inches: float) -> tuple[Level, ...]:
    """Which of `scales` have a row of panels, each so high: all or, where a page does not hold them, the last.

    Where they fit, those are whole blocks: every level of the innermost factor.
    """
    fit = max(1, int(PAGE // inches))
    if len(scales) <= fit:
        return tuple(scales)
    outer = scales[-1].settings[:-1]
    block = sum(scale.settings[:-1] == outer for scale in scales)
    return tuple(scales[-(fit // block * block or fit) :])


def of_scales(grid: Grid, shown: Sequence[Level]) -> list[str]:
    """What a figure says that shows some of the scales."""
    which = f"the last {len(shown)}" if len(shown) > 1 else "the last"
    return [f"{which} of {len(grid.scales)} scales"] if len(shown) < len(grid.scales) else []


def curves(grid: Grid) -> Figure | None:
    """Score against training images seen: a line an arm, its 95 % band, a column a prompt form, a row a scale.

    At the steps that were scored; those at which training was watched are for `losses`.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    metric = grid.shown_metric
    if metric is None:
        return None
    factor = named(metric).factor
    forms = grid.forms(metric)
    there = {scale for scale, _, name, _ in grid.numbers if name == metric}
    scales = drawn_scales([scale for scale in grid.scales if scale.index in there], CURVES)
    figure = Figure(figsize=(3.1 * len(forms) + 0.5, CURVES * len(scales) + 0.55), layout="constrained")
    panels = figure.subplots(len(scales), len(forms), sharex="row", sharey=True, squeeze=False)
    styles = arm_styles(grid)
    scored = {
        (scale, arm, form): _points(grid, scale, arm, metric, form)
        for scale, arm, form in product(scales, grid.arms, forms)
    }
    curved = any(len(points) > 1 for points in scored.values())
    incomplete, top, by_chance = False, 0.0, False
    for (i, scale), (j, form) in product(enumerate(scales), enumerate(forms)):
        axes = panels[i, j]
        lines = {arm: scored[scale, arm, form] for arm in grid.arms}
        groups = [group for points in lines.values() for _, group in points]
        incomplete |= any(group.seeds < group.expected for group in groups)
        top = max([top, *(factor * value for g in groups for value in (g.value, g.high) if not isnan(value))])
        chances = _chances(grid, scale, metric, form)
        by_chance |= chance_along(axes, chances, factor)
        if curved:
            for arm, points in lines.items():
                line(axes, points, factor, *styles[arm.index])
            axes.xaxis.set_major_locator(MaxNLocator(5))
            axes.xaxis.set_major_formatter(FuncFormatter(_thousands))
        else:
            _dots(axes, grid, lines, factor)
        if i == 0:
            axes.set_title(f"{form} prompts" if form else "", fontweight="bold")
        if i == len(scales) - 1:
            axes.set_xlabel("training images seen" if curved else "training captions")
    for scale, axes in zip(scales, panels[:, 0], strict=True):
        what = named(metric).axis
        axes.set_ylabel(f"{scale.label}\n{what}" if scale.label else what)
        if named(metric).bounded:
            most = named(metric).factor
            axes.set_ylim(0, min(most, 1.05 * top) if top else most)
    if curved:
        legend(figure, grid, styles, by_chance)
    said = ["dotted: chance"] if by_chance else []
    footnote(figure, grid, incomplete, *said, *of_scales(grid, scales))
    return figure


def differences(grid: Grid) -> Figure | None:
    """Dots and whiskers: what each arm changes, by task, with the intervals of the tables; filled where it is
    significant."""
    from matplotlib.figure import Figure

    rows = [row for row in grid.comparisons() if row.difference.kind == "95%"] if grid.tasks else []
    if not rows:
        return None
    forms = [form for form in grid.forms(GENEVAL) if any(row.form == form for row in rows)]
    names = [*grid.tasks, MEAN]
    numbers = [*(f"{GENEVAL}.{task}" for task in grid.tasks), GENEVAL]
    pairs = [pair for pair in grid.pairs() if any((row.arm, row.other) == pair for row in rows)]
    row_inches = (0.13 * len(pairs) + 0.13) * len(names)
    there = {row.scale.index for row in rows}
    scales = drawn_scales([scale for scale in grid.scales if scale.index in there], row_inches)
    figure = Figure(figsize=(3.1 * len(forms) + 0.6, row_inches * len(scales) + 0.9), layout="constrained")
    panels = figure.subplots(len(scales), len(forms), sharex=True, sharey=True, squeeze=False)
    styles = _pair_styles(grid, pairs)
    for (i, scale), (j, form) in product(enumerate(scales), enumerate(forms)):
        axes = panels[i, j]
        for row in rows:
            if row.scale is scale and row.form == form:
                _whisker(axes, row, names, pairs, styles[pairs.index((row.arm, row.other))])
        axes.axvline(0, color="#444444", linewidth=0.8, zorder=1)
        axes.axhspan(len(names) - 1.5, len(names) - 0.5, color="#f3f3f3", zorder=0, linewidth=0)
        axes.set_yticks(range(len(names)), [named(name).heads[0] for name in numbers])
        axes.set_ylim(len(names) - 0.5, -0.5)
        axes.tick_params(axis="y", length=0)
        axes.grid(axis="y", visible=False)
        if i == 0:
            axes.set_title(f"{form} prompts", fontweight="bold")
        if i == len(scales) - 1:
            axes.set_xlabel("difference in GenEval accuracy (points)")
        if j == 0:
            axes.get_yticklabels()[-1].set_fontweight("bold")
            axes.set_ylabel(scale.label)
    seen = [row.difference for row in rows if row.scale in scales]
    low, high = min(gap.interval[0] for gap in seen), max(gap.interval[1] for gap in seen)
    panels[0, 0].set_xlim(min(100 * low, 0) - 4, max(100 * high, 0) + 4)
    handles = [
        _handle(style, f"{arm.label} \N{MINUS SIGN} {other.label}")
        for style, (arm, other) in zip(styles, pairs, strict=True)
    ]
    _legend_above(figure, handles)
    footnote(
        figure,
        grid,
        any(row.difference.seeds < row.difference.expected for row in rows),
        "filled: significant" if any(row.difference.significant for row in rows) else "described, not tested",
        *of_scales(grid, scales),
    )
    return figure


def _points(grid: Grid, scale: Level, arm: Level, metric: str, form: str) -> list[tuple[float, Group]]:
    """(training images seen, score) at every step that was scored."""
    return [
        (seen, grid.number(scale, arm, metric, form, step))
        for seen, step in _scored_steps(grid, scale, arm, metric, form)
    ]


def _chances(grid: Grid, scale: Level, metric: str, form: str) -> dict[float, list[Chance]]:
    """Training images seen -> the chances of the arms that were scored there."""
    found: dict[float, list[Chance]] = {}
    for arm in grid.arms:
        for seen, step in _scored_steps(grid, scale, arm, metric, form):
            found.setdefault(seen, []).append(grid.chance(scale, arm, metric, form, step))
    return found


def _scored_steps(grid: Grid, scale: Level, arm: Level, metric: str, form: str) -> list[tuple[float, int]]:
    """(training images seen, step) of every step that was scored; of watched steps there are no single images."""
    place = (scale.index, arm.index, metric, form)
    frame = grid.numbers.get(place)
    if frame is None:
        return []
    if place in grid.judged:
        frame = frame[frame["step"].isin(grid.judged[place]["step"])]
    steps = frame.groupby("step")["samples_seen"].max().sort_index()
    return [(float(seen), int(step)) for step, seen in zip(steps.index, steps, strict=True)]


def line(axes: Axes, points: list[tuple[float, Group]], factor: float, color: str, marker: str) -> None:
    if not points:
        return
    x = [seen for seen, _ in points]
    y, low, high = (
        [factor * value for value in side] for side in zip(*(group[:3] for _, group in points), strict=True)
    )
    if not any(isnan(value) for value in low):
        axes.fill_between(x, low, high, color=color, alpha=0.16, linewidth=0, zorder=2)
    look: dict[str, Any] = {"markersize": 4.2, "linewidth": 1.6, "markeredgecolor": "white", "markeredgewidth": 0.6}
    axes.plot(x, y, color=color, marker=marker, zorder=3, **look)


def _dots(axes: Axes, grid: Grid, lines: dict[Level, list[tuple[float, Group]]], factor: float) -> None:
    """One step was scored: the arms side by side instead of a curve of one point."""
    styles = arm_styles(grid)
    for arm, points in lines.items():
        color, marker = styles[arm.index]
        for _, group in points:
            if not isnan(group.low):
                axes.plot([arm.index] * 2, [factor * group.low, factor * group.high], color=color, linewidth=1.4)
            axes.plot(arm.index, factor * group.value, color=color, marker=marker, markersize=5)
    axes.set_xticks([arm.index for arm in lines], [arm.label for arm in lines])
    axes.set_xlim(-0.5, len(lines) - 0.5)
    axes.grid(axis="x", visible=False)


def _whisker(
    axes: Axes, row: Comparison, names: list[str], pairs: list[tuple[Level, Level]], style: tuple[str, str]
) -> None:
    color, marker = style
    found = row.difference
    offset = (pairs.index((row.arm, row.other)) - (len(pairs) - 1) / 2) * 0.72 / max(len(pairs), 1)
    y = names.index(row.column) + offset
    axes.plot(
        [100 * end for end in found.interval], [y, y], color=color, linewidth=1.3, solid_capstyle="round", zorder=2
    )
    face = color if found.significant else "white"
    axes.plot(
        100 * found.estimate,
        y,
        marker,
        color=color,
        markerfacecolor=face,
        markersize=4.2,
        markeredgewidth=1.1,
        zorder=3,
    )


def _handle(style: tuple[str, str], label: str) -> Any:
    from matplotlib.lines import Line2D

    return Line2D([], [], color=style[0], marker=style[1], markersize=4.2, linewidth=1.5, label=label)


def legend(figure: Figure, grid: Grid, styles: list[tuple[str, str]], by_chance: bool = False) -> None:
    """Name the arms above the figure and, `by_chance`, its line of chance."""
    if len(grid.arms) > 1:
        handles = [_handle(styles[arm.index], arm.label) for arm in grid.arms]
        handles += [chance_handle()] if by_chance else []
        title = "training captions" if grid.arm_factors == ("captions.set",) else None
        _legend_above(figure, handles, title)


def _legend_above(figure: Figure, handles: list[Any], title: str | None = None) -> None:
    """The figure grows by what a long legend takes."""
    columns = _legend_columns(figure, handles)
    further = max(0, -(-len(handles) // columns) - LEGEND_ROWS)
    figure.set_figheight(figure.get_figheight() + LEGEND_ROW * further)
    figure.legend(handles=handles, title=title, loc="outside upper center", ncols=columns, handletextpad=0.4)


def _legend_columns(figure: Figure, handles: list[Any]) -> int:
    """How many entries of a legend fit side by side, all as wide as the longest."""
    longest = max(len(str(handle.get_label())) for handle in handles)
    return max(1, min(len(handles), 5, int(LETTERS_AN_INCH * figure.get_figwidth()) // (longest + 6)))


def footnote(figure: Figure, grid: Grid, incomplete: bool, *more: str) -> None:
    several = len(grid.seeds) > 1
    parts = [
        f"{number_of_seeds(grid)} training seeds" if several else "one training seed: sampling interval only",
        "95 % intervals",
    ]
    parts += more
    parts += ["some seeds are missing: see the tables"] if incomplete or grid.results.missing else []
    figure.supxlabel("; ".join(parts), fontsize=6.5, color="#666666")


def arm_styles(grid: Grid) -> list[tuple[str, str]]:
    """Color and marker of each arm: the reference gray, a few arms from the palette, many along one ramp."""
    others = [arm for arm in grid.arms if arm is not grid.reference]
    colors = palette(len(others))
    places = {arm.index: k for k, arm in enumerate(others)}
    return [
        (colors[places[arm.index]], MARKERS[places[arm.index] % len(MARKERS)])
        if arm.index in places
        else (REFERENCE, "o")
        for arm in grid.arms
    ]


def arm_colors(grid: Grid) -> dict[str, str]:
    """The color of each arm, by its label."""
    return {arm.label: color for arm, (color, _) in zip(grid.arms, arm_styles(grid), strict=True)}


def _pair_styles(grid: Grid, pairs: list[tuple[Level, Level]]) -> list[tuple[str, str]]:
    """A difference has the style of its arm; but of several of one arm, only that to the reference."""
    arms, of_arm = arm_styles(grid), Counter(arm.index for arm, _ in pairs)
    plain = [other is grid.reference or of_arm[arm.index] == 1 for arm, other in pairs]
    own = iter(palette(len(grid.arms) + plain.count(False))[len(grid.arms) - 1 :])
    return [arms[arm.index] if is_plain else (next(own), "o") for (arm, _), is_plain in zip(pairs, plain, strict=True)]


def palette(n: int) -> list[str]:
    """So many colors: told apart with any color vision, or along one ramp where they are many."""
    import matplotlib as mpl

    if n <= len(PALETTE):
        return list(PALETTE[:n])
    ramp = mpl.colormaps["viridis"]
    return [mpl.colors.to_hex(ramp(0.9 * k / (n - 1))) for k in range(n)]


def _thousands(value: float, _: int) -> str:
    if value >= 1e6:
        return f"{value / 1e6:g}M"
    return f"{value / 1e3:g}k" if value >= 1e3 else f"{value:g}"


def save(figure: Figure, path: Path) -> list[Path]:
    """Write a figure as PNG and PDF."""
    png, pdf = (path.with_name(f"{path.name}.{kind}") for kind in ("png", "pdf"))  # names of metrics have points
    # No dates and versions in the files: the same results give the same bytes.
    figure.savefig(png, metadata={"Software": None})
    figure.savefig(pdf, metadata={"CreationDate": None, "Producer": None, "Creator": None})
    return [png, pdf]
