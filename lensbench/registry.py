"""What a metric and a measure are, and the registry of them: `lensbench.metrics` fills it.

    from lensbench.metrics import metric
    metric("fid").direction  # "less"

Nothing has a default direction or a default name: a name that is not there is an error.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from math import inf
from typing import Any, Literal, NamedTuple

Direction = Literal["more", "less"]
Kind = Literal["score", "distance", "loss", "fact", "cost"]
Per = Literal["image", "set", "run"]
Need = Literal["weights", "reference", "prompts", "judge"]

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


class Published(NamedTuple):
    """A published name for a measure on one extractor: `word` asks for it.

    `metric` is what the number of the extractor with these very weights, `weights` (its `Extractor.name`), is called;
    None where its numbers have their own names anyway.
    """

    word: str
    extractor: str
    weights: str = ""
    metric: Metric | None = None


By = Callable[..., Any] | str  # a function, or "module:function", which is imported when it is first needed
Numbers = Mapping[str, Metric | Callable[[str], Metric]]


@dataclass(frozen=True, kw_only=True)
class Measure:
    """How numbers are made of images: the one entry of what `evaluation.metrics` and `--metrics` can ask for by `name`.

    `numbers` are those that it gives, by their parts: a metric, or a function that makes the one on an extractor of
    what is behind `part_`. They are registered with the entry.

    `by` computes. `per` "image": (images uint8 (n, H, W, 3), their texts) -> (n,). `per` "set": (sampled, real, seed),
    two `lensbench.scoring.feature_pass.Sample`, -> a list of `lensbench.scoring.distances.Value`. `opens`, instead of
    `by`, is a function of `lensbench.scoring.image_scores.Opening` that gives a `Scorer`: of single images, where a
    network is needed.

    `on` says how the names of the extractors begin on which it is measured: ("",) any, () none. `rows` says of a
    measure of sets whether the features themselves are needed, of the sampled images and of the real ones.

    With fewer images than `fewest` it is refused, with fewer than `advised` doubted, and `label` says what is. `check`,
    instead, is a function of the numbers of images, sampled and real (None: not known), and of dimensions: it raises
    ValueError, and returns warnings. `biased`: fewer images give more of it.
    """

    name: str
    label: str
    per: Literal["image", "set"]
    numbers: Numbers
    by: By = ""
    opens: By = ""
    on: tuple[str, ...] = ()
    rows: tuple[bool, bool] = (True, True)
    fewest: int = 1
    advised: int = 0
    check: By = ""
    biased: bool = False
    published: tuple[Published, ...] = ()

    @property
    def needs(self) -> frozenset[Need]:
        """What its numbers take beside images."""
        made = (number if isinstance(number, Metric) else number("x") for number in self.numbers.values())
        return frozenset(need for number in made for need in number.needs)


REGISTRY: dict[str, Metric] = {}
FAMILIES: dict[str, Callable[[str], Metric]] = {}  # how their names begin -> the metric of what follows
MEASURES: dict[str, Measure] = {}
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


def register_measure(found: Measure) -> Measure:
    """Add a measure and the numbers that it gives. Raises ValueError for a name that is taken."""
    if found.name in MEASURES:
        raise ValueError(f"the measure {found.name!r} is registered already")
    if found.per == "set" and not found.on:
        raise ValueError(f"{found.name}: a measure of two sets is of an extractor's features: say on which")
    for published in found.published:
        if published.metric is not None:
            register(published.metric)
    for part, number in found.numbers.items():
        if isinstance(number, Metric):
            register(number)
        else:
            register_family(f"{part}_", number)
    MEASURES[found.name] = found
    return found


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
