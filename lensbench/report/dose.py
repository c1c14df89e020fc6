"""Dose and response: the score against the share of attributes that captions mention, and the share that is false.

For sweeps of the caption set `dose` over `captions.present` and `captions.wrong`: a table of both, and a figure with
the surface and, because a surface has no bands, its rows as curves with theirs.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from lensbench.metrics import metric as named
from lensbench.report.chance import UNKNOWN, Chance, chance_note, with_chance
from lensbench.report.chance_line import LABEL, LOOK, chance_along
from lensbench.report.figures import MARKERS, draw, palette
from lensbench.report.grid import Grid, Group
from lensbench.report.levels import Level
from lensbench.report.scaling_figure import DASHES
from lensbench.report.table import Cell, Column, Row, Table, bounds, number

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PRESENT, WRONG, SET = "captions.present", "captions.wrong", "captions.set"
Dose = tuple[float, float]  # shares of attributes present and wrong


def doses(grid: Grid) -> dict[Dose, Level]:
    """The arms by their dose: of the set `dose`, and otherwise as the reference is. Empty without two levels."""
    found: dict[Dose, Level] = {}
    if not {PRESENT, WRONG} & set(grid.arm_factors) or grid.reference is None:
        return {}
    fixed = {name: value for name, value in grid.reference.settings if name not in (PRESENT, WRONG, SET)}
    for arm in grid.arms:
        settings = dict(arm.settings)
        of_dose = settings.get(SET, "dose") == "dose" and fixed.items() <= settings.items()
        if of_dose:
            found[float(settings.get(PRESENT, 1.0)), float(settings.get(WRONG, 0.0))] = arm
    return found if len(found) > 1 else {}


def dose_table(grid: Grid, metric: str | None = None) -> Table | None:
    """Rows: scale x prompts x share present; columns: share wrong. None where the sweep has no doses.

    `metric` is any score of the registry; left out, it is the one that the sweep is told by.
    """
    arms = doses(grid)
    metric = metric or grid.shown_metric
    if not arms or metric is None:
        return None
    of = named(metric)
    shares = sorted({wrong for _, wrong in arms})
    rows, above = [], None
    for scale in grid.scales:
        for form in grid.forms(metric):
            for present in sorted({present for present, _ in arms}):
                cells = []
                for wrong in shares:
                    arm = arms.get((present, wrong))
                    group = grid.number(scale, arm, metric, form) if arm is not None else None
                    chance = grid.chance(scale, arm, metric, form) if arm is not None else UNKNOWN
                    cells.append(with_chance(_cell(group, of.digits, of.factor), chance, of, of.factor))
                labels = [Cell(word, word) for word in (scale.label, form)]
                labels = [label for label, shown in zip(labels, (grid.scale_factors, True), strict=True) if shown]
                rows.append(Row((*labels, Cell(f"{present:.0%}", present), *cells), opens=above != (scale, form)))
                above = (scale, form)
    heads = [Column("scale", "scale", "scale", label=True)] if grid.scale_factors else []
    heads += [
        Column("form", "prompts", "prompts", label=True),
        Column("present", "attributes present", "present", label=True),
    ]
    columns = [
        Column(f"wrong_{wrong:g}", f"{wrong:.0%}", f"{wrong:.0%}", "of these wrong", interval=True, key=True)
        for wrong in shares
    ]
    what = f"{of.label}'s mean in percent" if of.unit == "%" else of.label
    over = "prompts and training seeds" if len(grid.seeds) > 1 else "prompts alone, one training seed"
    told = chance_note(cell for row in rows for cell in row.cells)
    notes = (f"{what}, at the last step; [low, high]: 95 % interval over {over}.", *filter(None, [told]))
    return Table("dose", "Score by the captions' attributes", (*heads, *columns), tuple(rows), notes)


def dose_figure(grid: Grid, path: Path, metric: str | None = None) -> list[Path]:
    """The surface at the largest scale, a column a prompt form, with its rows as curves below; none without doses.

    `metric` is any score of the registry; left out, it is the one that the sweep is told by.
    """
    arms, name = doses(grid), metric or grid.shown_metric
    return draw(lambda _: _figure(grid, arms, name), grid, path) if arms and name is not None else []


def _figure(grid: Grid, arms: dict[Dose, Level], metric: str) -> Figure:
    from matplotlib.figure import Figure

    forms, scale = grid.forms(metric), grid.scales[-1]
    factor = named(metric).factor
    presents, wrongs = (sorted({dose[k] for dose in arms}) for k in (0, 1))
    surface = len(presents) > 1 and len(wrongs) > 1
    rows = 2 if surface else 1
    figure = Figure(figsize=(max(3.3 * len(forms) + 0.6, 4.2), 2.6 * rows + 0.5), layout="constrained")
    panels = figure.subplots(rows, len(forms), squeeze=False)
    scores = {
        (form, dose): grid.number(scale, arm, metric, form) for form in forms for dose, arm in sorted(arms.items())
    }
    values = [factor * group.value for group in scores.values() if group.seeds]
    what = named(metric).axis
    for j, form in enumerate(forms):
        of_form = {dose: group for (name, dose), group in scores.items() if name == form and group.seeds}
        if surface:
            drawn = _surface(panels[0, j], of_form, presents, wrongs, factor, (min(values), max(values)))
            if j == len(forms) - 1:
                figure.colorbar(drawn, ax=panels[0, :].tolist(), label=what, shrink=0.9)
        chances = {dose: grid.chance(scale, arm, metric, form) for dose, arm in sorted(arms.items())}
        _curves(panels[-1, j], of_form, chances, presents, wrongs, factor)
        if form:
            panels[0, j].set_title(f"{form} prompts", fontweight="bold")
        panels[-1, j].sharey(panels[-1, 0])
    panels[-1, 0].set_ylabel(what)
    handles, labels = panels[-1, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=min(4, len(labels)), handlelength=3)
    words = [named(metric).label, "bands: 95 %"] + ([scale.label] if scale.label else [])
    figure.supxlabel("; ".join(words), fontsize=6.5, color="#666666")
    return figure


def _surface(
    axes: Axes,
    scores: dict[Dose, Group],
    presents: list[float],
    wrongs: list[float],
    factor: float,
    span: tuple[float, float],
) -> Any:
    """One square a dose, its score written in it."""
    import numpy as np

    table = np.full((len(wrongs), len(presents)), np.nan)
    for (present, wrong), group in scores.items():
        table[wrongs.index(wrong), presents.index(present)] = factor * group.value
    drawn = axes.imshow(table, cmap="cividis", vmin=span[0], vmax=span[1], aspect="auto", origin="lower")
    middle = (span[0] + span[1]) / 2
    for (present, wrong), group in scores.items():
        value, half = factor * group.value, factor * (group.high - group.low) / 2
        digits = 0 if factor > 1 else 3
        words = number(value, digits) + ("" if np.isnan(half) else f"\n± {half:.{digits}f}")
        place = presents.index(present), wrongs.index(wrong)
        axes.text(*place, words, ha="center", va="center", fontsize=7, color="white" if value < middle else "black")
    axes.set_xticks(range(len(presents)), [f"{share:.0%}" for share in presents])
    axes.set_yticks(range(len(wrongs)), [f"{share:.0%}" for share in wrongs])
    axes.grid(visible=False)
    axes.set_xlabel("attributes present")
    axes.set_ylabel("of these wrong")
    return drawn


def _curves(
    axes: Axes,
    scores: dict[Dose, Group],
    chances: dict[Dose, Chance],
    presents: list[float],
    wrongs: list[float],
    factor: float,
) -> None:
    """Score against the share present, a line a share wrong; against the share wrong where all of it is present."""
    along, across = (0, 1) if len(presents) > 1 else (1, 0)
    at: dict[float, list[Chance]] = {}
    for dose, chance in chances.items():
        at.setdefault(100 * dose[along], []).append(chance)
    by_chance = chance_along(axes, at, factor)
    lines = wrongs if across == 1 else presents
    for k, (share, color) in enumerate(zip(lines, palette(len(lines)), strict=True)):
        of_line = sorted((dose[along], group) for dose, group in scores.items() if dose[across] == share)
        x = [100 * place for place, _ in of_line]
        low, high = (
            [factor * side for side in sides] for sides in ([g.low for _, g in of_line], [g.high for _, g in of_line])
        )
        axes.fill_between(x, low, high, color=color, alpha=0.15, linewidth=0)
        words = f"{share:.0%} wrong" if across == 1 else f"{share:.0%} present"
        look: dict[str, Any] = {"marker": MARKERS[k % len(MARKERS)], "linestyle": DASHES[k % len(DASHES)]}
        axes.plot(x, [factor * group.value for _, group in of_line], color=color, label=words, markersize=4, **look)
    if by_chance:
        axes.plot([], [], label=LABEL, **LOOK)
    axes.set_xlabel("attributes present (%)" if along == 0 else "of the attributes wrong (%)")


def _cell(group: Group | None, digits: int, factor: float) -> Cell:
    if group is None or not group.seeds:
        return Cell("missing" if group else "\N{EN DASH}", emphasis="missing" if group else "")
    value, low, high = (factor * number_ for number_ in group[:3])
    text, interval = number(value, digits), bounds(low, high, digits)
    return Cell(text, value, low, high, interval, "95%" if interval else "", seeds=group.seeds, expected=group.expected)
