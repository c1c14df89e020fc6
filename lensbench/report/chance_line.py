"""The gray line of chance in the figures of scores: where a model stands that does not read its prompt."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from lensbench.report.chance import Chance

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.lines import Line2D

GRAY = "#7a7a7a"
LOOK: Any = {"color": GRAY, "linewidth": 1.1, "linestyle": (0, (1.5, 1.2))}
BAND: Any = {"color": GRAY, "alpha": 0.16, "linewidth": 0}
LABEL = "chance"


def chance_along(axes: Axes, at: Mapping[float, Sequence[Chance]], factor: float) -> bool:
    """Draw chance along an axis and say whether any is known: the mean over arms at each place, within a band from
    the smallest to the largest. A single place is drawn across the panel."""
    known = {x: [one.value for one in found if one.known] for x, found in sorted(at.items())}
    known = {x: values for x, values in known.items() if values}
    if len(known) < 2:
        return chance_across(axes, (one for found in at.values() for one in found), factor)
    x = list(known)
    low, mean, high = (
        [factor * of(values) for values in known.values()] for of in (min, lambda v: sum(v) / len(v), max)
    )
    axes.fill_between(x, low, high, zorder=1, **BAND)
    axes.plot(x, mean, zorder=2.6, **LOOK)
    return True


def chance_across(axes: Axes, chances: Iterable[Chance], factor: float) -> bool:
    """Draw chance across a panel, and say whether any is known: the mean of these, and a band where they differ."""
    values = [factor * one.value for one in chances if one.known]
    if not values:
        return False
    axes.axhspan(min(values), max(values), zorder=1, **BAND)
    axes.axhline(sum(values) / len(values), zorder=2.6, **LOOK)
    return True


def chance_handle() -> Line2D:
    """What a legend shows of it."""
    from matplotlib.lines import Line2D

    return Line2D([], [], label=LABEL, **LOOK)
