"""Figures as SVG within a page: in the page's colors, light or dark, with the value under the pointer."""

from __future__ import annotations

import io
import re
from html import escape
from typing import TYPE_CHECKING, Any

from lensbench.report.figures import STYLE, curves, differences
from lensbench.report.loss_figure import losses
from lensbench.report.scales_figure import scales

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    from lensbench.report.grid import Grid

TITLES = {
    "scales": "Scores against scale",
    "curves": "Scores against training images seen",
    "losses": "Held-out loss along training, against images seen and against compute",
    "differences": "What each arm changes, task by task",
}
# Neutral colors of the figures' style, and what they are called in the page, which knows light from dark.
NEUTRAL = {
    "#ffffff": "var(--card)",
    "#000000": "var(--ink)",
    "#262626": "var(--ink)",
    "#444444": "var(--soft)",
    "#666666": "var(--soft)",
    "#e6e6e6": "var(--rule)",
    "#f3f3f3": "var(--band)",
}


def figures_svg(grid: Grid) -> dict[str, str]:
    """Every figure that there are numbers for, as an SVG element, by its name."""
    import matplotlib as mpl

    mpl.use("Agg")
    with mpl.rc_context({**STYLE, "svg.fonttype": "none"}):
        drawn = {
            "scales": scales(grid),
            "curves": curves(grid),
            "differences": differences(grid),
            "losses": losses(grid),
        }
        return {name: to_svg(figure, name, TITLES[name]) for name, figure in drawn.items() if figure is not None}


def to_svg(figure: Figure, name: str, title: str) -> str:
    """A figure as an SVG element whose markers say their values; its ids begin with `name`. The same to the byte from
    the same figure and the same matplotlib."""
    points = _name_points(figure, of_rows=name == "differences")
    out = io.StringIO()
    figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    svg = out.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r"<!--.*?-->\n?", "", svg, flags=re.DOTALL)
    for gid, texts in points.items():
        svg = _with_titles(svg, gid, texts)
    svg = re.sub(r"\bid=\"", f'id="{name}-', svg)
    svg = re.sub(r"(href=\"#|url\(#)", rf"\g<1>{name}-", svg)
    svg = re.sub("|".join(NEUTRAL), lambda found: NEUTRAL[found.group()], svg)
    head = re.match(r"<svg[^>]*>", svg)
    box = re.search(r'viewBox="[^"]*"', svg)
    assert head
    assert box
    width = float(box.group().split()[-2])
    label = f'role="img" aria-labelledby="{name}-title" style="max-width:{min(1.9 * width, 1180):.0f}px"'
    start = f'<svg xmlns:xlink="http://www.w3.org/1999/xlink" {box.group()} {label}>'
    return f'{start}<title id="{name}-title">{escape(title)}</title>{svg[head.end() :]}'


def _name_points(figure: Figure, of_rows: bool) -> dict[str, list[str]]:
    """Give every line with markers an id, and return what each of its points says."""
    names = _legend(figure)
    points: dict[str, list[str]] = {}
    for axes in figure.axes:
        for line in axes.lines:
            if line.get_marker() in ("None", "", None, " "):
                continue
            gid = f"points-{len(points)}"
            line.set_gid(gid)
            points[gid] = _values(axes, line, names.get((line.get_color(), line.get_marker()), ""), of_rows)
    return points


def _legend(figure: Figure) -> dict[tuple[Any, Any], str]:
    handles: list[Any] = [handle for legend in figure.legends for handle in legend.legend_handles]
    return {(handle.get_color(), handle.get_marker()): str(handle.get_label()) for handle in handles}


def _values(axes: Axes, line: Line2D, name: str, of_rows: bool) -> list[str]:
    told = []
    rows = _row_names(axes) if of_rows else []
    data: Any = line.get_xydata()
    for x, y in data.tolist():
        if of_rows:  # a row a task, and the number on the axis across
            value = f"{rows[round(y)]}: {x:+.1f} points"
        elif axes.get_xlabel().endswith("captions"):  # an arm a place
            value = f"{y:.4g}"
        else:
            value = f"{y:.4g} at {x:,.4g}" if x >= 1e7 else f"{y:.4g} at {x:,.0f}"
        told.append(f"{name}, {value}" if name and of_rows else f"{name}: {value}" if name else value)
    return told


def _row_names(axes: Axes) -> list[str]:
    """The names of the ticks up, also where the panel to the left shows them for all."""
    shared = axes.get_shared_y_axes().get_siblings(axes)
    named = [[tick.get_text() for tick in one.get_yticklabels()] for one in (axes, *shared)]
    return max(named, key=lambda names: sum(map(bool, names)))


def _with_titles(svg: str, gid: str, texts: list[str]) -> str:
    """The SVG with a title in each marker of a group; as it was where a marker was not drawn."""
    start = svg.find(f'<g id="{gid}"')
    if start < 0:
        return svg
    end = re.compile(r"\n   </g>").search(svg, start)
    stop = end.start() if end else len(svg)
    block = svg[start:stop]
    marks = re.findall(r"<use [^>]*/>", block)
    if len(marks) != len(texts):
        return svg
    words = iter(texts)
    titled = re.sub(
        r"<use ([^>]*)/>", lambda found: f"<use {found[1]}><title>{escape(next(words))}</title></use>", block
    )
    return svg[:start] + titled + svg[stop:]
