"""The one registry of numbers: every metric, fact and cost that a record can hold, and what is known of it.

    from lensbench.metrics import metric
    metric("fid").direction  # "less"

A new metric is one entry here and the function that computes it. An entry of `REGISTRY` is one name; an entry of
`FAMILIES` makes the names of one measure on many extractors, scales or tasks, as `fd_<extractor>`. Nothing has a
default direction or a default name: a name that is not here is an error.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from difflib import get_close_matches
from math import inf
from typing import Any, Literal

Direction = Literal["more", "less"]
Kind = Literal["score", "distance", "loss", "fact", "cost"]
Per = Literal["image", "set", "run"]
Need = Literal["weights", "reference", "prompts", "judge"]

GENEVAL = "geneval"
GUIDED = "geneval_guided"  # GenEval's verdicts at other guidance scales than the evaluation's own
SCORED: tuple[Kind, ...] = ("score", "distance", "loss")  # the kinds that compare models
UP, DOWN = "\N{UPWARDS ARROW}", "\N{DOWNWARDS ARROW}"


@dataclass(frozen=True, kw_only=True)
class Metric:
    """One number that a record can hold.

    `name` is what records call it, `label` what people do, `head` and `short` what stands above a column of a table
    whose title says the rest, and where room is scarce. A number is shown as `factor` times its value, with `digits`
    and in `unit`.

    `direction` says whether more or less of it is better; a fact and a cost have none. `per` is what has one number:
    an image, a set of images, or a run. `outcome` is what outcomes call its single images, "" where none are kept, and
    `only` the column of outcomes, and its value, of those that are its own. `clusters` and `strata` are what its images
    are resampled by: whole prompts, task by task.

    `bounded`: it lies in [0, 1]. `most`: no image or set has more, None where nothing is known to be the most; that is
    what an error is counted from. `least`: a lower mean is published as this. `needs` is what it takes beside images.
    `variant_of` names the metric that it is a part or another setting of. `own`: it means something within this project
    alone (its judge of drawn shapes, its loss).

    Raises ValueError for a name that cannot stand in a record, and a score without a direction.
    """

    name: str
    label: str
    kind: Kind
    per: Per
    direction: Direction | None = None
    head: str = ""
    short: str = ""
    unit: str = ""
    digits: int = 4
    factor: float = 1.0
    outcome: str = ""
    only: tuple[str, str | float] | None = None
    clusters: str = ""
    strata: str = ""
    bounded: bool = False
    most: float | None = None
    least: float | None = None
    needs: frozenset[Need] = frozenset()
    variant_of: str = ""
    own: bool = False

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[a-z][a-z0-9]*([_.-]?[A-Za-z0-9]+)*", self.name):
            raise ValueError(f"{self.name!r} is no name of a metric: use letters, digits, _ and .")
        if self.is_score != (self.direction is not None):
            raise ValueError(f"{self.name}: a {self.kind} has {'a' if self.is_score else 'no'} direction")
        if self.outcome and self.per != "image":
            raise ValueError(f"{self.name}: outcomes are of single images, and it has one number a {self.per}")

    @property
    def is_score(self) -> bool:
        """Whether it compares models: a score, a distance or a loss."""
        return self.kind in SCORED

    @property
    def more(self) -> bool:
        """Whether more of it is better. Raises ValueError for a fact or a cost, which is neither."""
        if self.direction is None:
            raise ValueError(f"{self.name} is a {self.kind}: neither more nor less of it is better")
        return self.direction == "more"

    @property
    def arrow(self) -> str:
        """The way to better, as an arrow; "" for a fact or a cost."""
        return {"more": UP, "less": DOWN, None: ""}[self.direction]

    @property
    def heads(self) -> tuple[str, str]:
        """What stands above its column, in full and where room is scarce."""
        head = self.head or self.label
        return head, self.short or head

    @property
    def mean(self) -> str:
        """Its name where a mean over tasks is meant: "GenEval mean"."""
        return f"{self.label} mean" if self.strata else self.label

    @property
    def titled(self) -> str:
        """Its name with its unit: "GenEval (%)"."""
        name, comma, rest = self.label.partition(",")
        return f"{name} ({self.unit}){comma}{rest}" if self.unit else self.label

    @property
    def axis(self) -> str:
        """What stands beside an axis of it, with an arrow where less is better."""
        unit = f" ({self.unit})" if self.unit else ""
        return f"{self.mean}{unit}" + ("" if self.direction != "less" else f" {DOWN}")

    @property
    def difference_unit(self) -> str:
        """What a difference of it is counted in, in words: "GenEval points"."""
        return f"{self.label} points" if self.unit == "%" else self.label

    @property
    def widest(self) -> float:
        """The largest difference that two of it can have."""
        return 1.0 if self.bounded else inf

    @property
    def has_error(self) -> bool:
        """Whether an error, which falls to a floor as models grow, can be counted."""
        return self.is_score and (self.direction == "less" or self.bounded or self.most is not None)

    def error(self, value: Any) -> Any:
        """How far values, a number or an array, are from the best: what scaling laws are of.

        Raises ValueError where nothing is known to be the best.
        """
        if not self.has_error:
            raise ValueError(f"{self.name} has no best value: there is no error of it")
        if self.direction == "less":
            return value
        return (1.0 if self.most is None else self.most) - value


REGISTRY: dict[str, Metric] = {}
FAMILIES: dict[str, Callable[[str], Metric]] = {}  # how their names begin -> the metric of what follows
_PLACES: dict[str, int] = {}  # names and beginnings -> their place in the order in which scores are shown
_FOUND: dict[str, Metric] = {}


def metric(name: str) -> Metric:
    """What is known of the number of this name. Raises ValueError, one line, for a name that is not registered."""
    if name not in _FOUND:
        _FOUND[name] = _find(name)
    return _FOUND[name]


def is_known(name: str) -> bool:
    """Whether the registry has this name."""
    try:
        metric(name)
    except ValueError:
        return False
    return True


def register(found: Metric) -> Metric:
    """Add a metric. Raises ValueError for a name that is taken."""
    if found.name in REGISTRY:
        raise ValueError(f"the metric {found.name!r} is registered already")
    REGISTRY[found.name] = found
    _PLACES[found.name] = len(_PLACES)
    _FOUND.pop(found.name, None)  # a family may have made it
    return found


def register_family(begins: str, make: Callable[[str], Metric]) -> None:
    """Add the metrics whose names begin so; `make` gives the one of what follows. ValueError where that is taken."""
    if begins in FAMILIES:
        raise ValueError(f"the metrics {begins}... are registered already")
    FAMILIES[begins] = make
    _PLACES[begins] = len(_PLACES)


def ordered(names: Iterable[str]) -> list[str]:
    """Names in the order in which they are shown: that of the registry, within a family by name."""
    return sorted(names, key=lambda name: (_place(name), name))


def of_kind(*kinds: Kind) -> list[Metric]:
    """Every metric registered by its whole name of these kinds, in the order in which they are shown."""
    return [REGISTRY[name] for name in ordered(REGISTRY) if REGISTRY[name].kind in kinds]


def leading(names: Iterable[str]) -> list[str]:
    """Those of `names` that a study can be told by, the best first: scores of single images, losses, then the rest.

    Parts and other settings of a metric are left out, and so are facts and costs.
    """
    found = [name for name in ordered(names) if metric(name).is_score and not metric(name).variant_of]
    return sorted(found, key=lambda name: _rank(metric(name)))


def _rank(found: Metric) -> int:
    if found.per == "image" and found.kind == "score" and not found.own:
        return 0
    return 1 if found.kind == "loss" else 2


def _find(name: str) -> Metric:
    if name in REGISTRY:
        return REGISTRY[name]
    begins = _family(name)
    if not begins:
        near = get_close_matches(name, REGISTRY, n=1)
        instead = f"; is it {near[0]}?" if near else ""
        raise ValueError(f"{name!r} is no metric of the registry, lensbench/metrics.py: register it there{instead}")
    return FAMILIES[begins](name.removeprefix(begins))


def _family(name: str) -> str:
    """How the names of its family begin, the longest that fits; "" where it is of none."""
    return max((begins for begins in FAMILIES if name.startswith(begins) and name != begins), key=len, default="")


def _place(name: str) -> int:
    metric(name)
    return _PLACES[name if name in REGISTRY else _family(name)]


def _needs(*names: Need) -> frozenset[Need]:
    return frozenset(names)


# What is registered. The order is the one in which scores are shown.

_TASKS = {  # heads of columns, in full and where room is scarce
    "single_object": ("single", "single"),
    "two_object": ("two", "two"),
    "counting": ("counting", "count"),
    "colors": ("colors", "colors"),
    "position": ("position", "pos."),
    "color_attr": ("color attr.", "attr."),
}


def _geneval(name: str, label: str, **further: object) -> Metric:
    told: dict[str, object] = {
        "kind": "score",
        "per": "image",
        "direction": "more",
        "unit": "%",
        "digits": 1,
        "factor": 100.0,
        "outcome": GENEVAL,
        "clusters": "prompt",
        "bounded": True,
        "needs": _needs("prompts", "judge"),
    }
    return Metric(name=name, label=label, **(told | further))  # type: ignore[arg-type]


def _of_task(task: str) -> Metric:
    head, short = _TASKS.get(task, (task.replace("_", " "),) * 2)
    of = {"head": head, "short": short, "only": ("task", task), "variant_of": GENEVAL}
    return _geneval(f"{GENEVAL}.{task}", f"GenEval {head}", **of)


def _of_guidance(scale: str) -> Metric:
    try:
        guidance = float(scale)
    except ValueError:
        raise ValueError(f"{GUIDED}.{scale}: a metric at a guidance scale ends in a number") from None
    of = {"outcome": GUIDED, "only": ("guidance", guidance), "variant_of": GENEVAL, "strata": "task"}
    return _geneval(f"{GUIDED}.{scale}", f"GenEval, guidance {scale}", **of)


def _distance(name: str, label: str, digits: int = 2, **further: object) -> Metric:
    told: dict[str, object] = {"needs": _needs("weights", "reference"), **further}
    return Metric(name=name, label=label, kind="distance", per="set", direction="less", digits=digits, **told)  # type: ignore[arg-type]


def _share(begins: str, bounded: bool) -> None:
    """Precision and its kin on any extractor: how the samples and the reference cover each other."""
    register_family(
        f"{begins}_",
        lambda of: Metric(
            name=f"{begins}_{of}",
            label=f"{begins} {of}",
            kind="score",
            per="set",
            direction="more",
            digits=3,
            bounded=bounded,
            needs=_needs("weights", "reference"),
        ),
    )


def _clip(begins: str, label: str, ends: str, digits: int, most: float, least: float | None = None) -> None:
    """CLIPScore as one of its conventions has it, on any CLIP."""
    register_family(
        begins,
        lambda clip: Metric(
            name=f"{begins}{clip}",
            label=f"{label} {clip}{ends}",
            kind="score",
            per="image",
            direction="more",
            digits=digits,
            outcome=f"{begins}{clip}",
            clusters="prompt",
            most=most,
            least=least,
            needs=_needs("weights", "prompts"),
        ),
    )


def _fact(name: str, label: str, unit: str = "", digits: int = 0, factor: float = 1.0) -> None:
    register(Metric(name=name, label=label, kind="fact", per="run", unit=unit, digits=digits, factor=factor))


def _cost(name: str, label: str, unit: str, digits: int = 0) -> None:
    register(Metric(name=name, label=label, kind="cost", per="run", unit=unit, digits=digits))


register(_geneval(GENEVAL, "GenEval", head="mean", strata="task"))
register_family(f"{GENEVAL}.", _of_task)
for _task in _TASKS:
    register(_of_task(_task))
register_family(f"{GUIDED}.", _of_guidance)
_clip("clip_score_100_", "CLIPScore", " x100", 2, 100.0, least=0.0)  # max(mean(100 cos), 0): torchmetrics
_clip("clip_score_2.5_", "CLIPScore", " x2.5", 3, 2.5)  # 2.5 max(cos, 0), as its paper has it
_clip("clip_cosine_", "CLIP cosine", "", 4, 1.0)
register(_distance("fid", "FID"))
register(_distance("fid_infinity", "FID-infinity"))
register(_distance("kid", "KID", 4))
register(_distance("cmmd", "CMMD", 3))
register(_distance("fd_dinov2", "FD-DINOv2"))
register_family("fd_", lambda of: _distance(f"fd_{of}", f"FD {of}"))
register_family("fd_infinity_", lambda of: _distance(f"fd_infinity_{of}", f"FD-infinity {of}"))
register_family("kd_", lambda of: _distance(f"kd_{of}", f"KD {of}", 4))
register_family("mmd_", lambda of: _distance(f"mmd_{of}", f"MMD {of}", 3))
for _begins, _bounded in (("precision", True), ("recall", True), ("density", False), ("coverage", True)):
    _share(_begins, _bounded)
register(_distance("fd_shapes", "FD-shapes", needs=_needs("judge", "reference"), own=True))
register(
    Metric(
        name="shapes_alignment",
        label="shapes-alignment",
        kind="score",
        per="image",
        direction="more",
        digits=3,
        outcome="shapes_alignment",
        clusters="prompt",
        needs=_needs("judge", "prompts"),
        own=True,  # without `most`: the right image's cosine is far from 1, so there is no error of it
    )
)
register(
    Metric(
        name="validation_loss",
        label="validation loss",
        kind="loss",
        per="image",
        direction="less",
        outcome="validation_loss",
        clusters="prompt",
        needs=_needs("reference", "prompts"),
        own=True,
    )
)
_fact("training_images", "training images")
_fact("dropped_images", "dropped images")
_fact("set_aside_images", "unreadable images")
_fact("truncated_captions", "captions cut")
_fact("caption_tokens", "tokens a caption", digits=1)
_fact("images_per_second", "training images a second", digits=1)
_fact("peak_flops_share", "share of peak FLOPs", "%", 1, 100.0)
_fact("data_wait_share", "share of time waiting for data", "%", 1, 100.0)
_fact("padding", "padding of captions", "%", 1, 100.0)
_fact("peak_memory_bytes", "peak memory", "GiB", 2, 2.0**-30)
_cost("train_seconds", "training", "s")
_cost("cell_seconds", "training and scoring", "s")
_cost("device_hours", "device-hours", "h", 2)
_cost("cost_usd", "cost", "$", 2)
_cost("energy_kwh", "energy", "kWh", 3)
_cost("energy_kwh_estimated", "energy, estimated", "kWh", 3)
