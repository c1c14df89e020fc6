"""What scores are called, how they are rounded, and whether more of them is better."""

from __future__ import annotations

from lensbench.report.grid import GENEVAL, MEAN

HEADS = {  # full head, head where room is scarce
    "single_object": ("single", "single"),
    "two_object": ("two", "two"),
    "counting": ("counting", "count"),
    "colors": ("colors", "colors"),
    "position": ("position", "pos."),
    "color_attr": ("color attr.", "attr."),
    MEAN: ("mean", "mean"),
}
NAMES = {  # display name, digits, whether more is better; the first two are on the features of our own judge
    "fid": ("FID", 2, False),
    "fd_shapes": ("FD-shapes", 2, False),
    "shapes_alignment": ("shapes-alignment", 3, True),
    "validation_loss": ("validation loss", 4, False),
}


def better(metric: str) -> bool:
    """Whether more of a metric is better."""
    return metric.partition(".")[0] == GENEVAL or NAMES.get(metric, ("", 0, True))[2]


def metric_name(metric: str) -> str:
    """A score's name for people."""
    return "GenEval" if metric == GENEVAL else NAMES.get(metric, (metric.replace("_", " "), 0, True))[0]


def axis_label(metric: str) -> str:
    """What stands beside an axis of a score, with an arrow where less is better."""
    if metric == GENEVAL:
        return "GenEval mean (%)"
    return metric_name(metric) + ("" if better(metric) else " \N{DOWNWARDS ARROW}")


def unit(metric: str) -> tuple[int, float, bool]:
    """Digits, factor and whether more is better."""
    return NAMES.get(metric, ("", 4, True))[1], 1.0, better(metric)


def heads(name: str) -> tuple[str, str]:
    return HEADS.get(name, (name, name))
