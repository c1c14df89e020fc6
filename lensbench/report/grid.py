"""`Grid`: the results of a sweep arranged as scales x arms x prompt forms, with the seeds of every group counted.

Tables and figures read numbers only from here, so there is one place where runs are averaged and one where they are
compared, and neither does it in silence: a group knows how many of its seeds are there.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field
from functools import cached_property
from itertools import combinations, product
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd

from lensbench.report.asked import asked_pairs, is_asked, is_row
from lensbench.report.levels import Level, levels_of
from lensbench.report.placing import (
    IMAGE,
    Amount,
    ByNumber,
    Design,
    amounts,
    design,
    placed,
    plain,
    plain_frame,
    refuse_judges,
    refuse_other_prompts,
    refuse_two,
)
from lensbench.scoring.geneval import TASKS
from lensbench.scoring.statistics import holm, paired_difference, stratified_mean

if TYPE_CHECKING:
    from lensbench.sweep.sweep import Results

GENEVAL = "geneval"
GUIDED = "geneval_guided"  # at other guidance scales than the evaluation's own: see lensbench.report.guidance
FORMS = ("short", "repeated", "detailed")
SCORES = ("fid", "fd_shapes", "shapes_alignment", "validation_loss")  # in the order they are shown
BOOKKEEPING = {
    "train_seconds",
    "cell_seconds",
    "training_images",
    "dropped_images",
    "set_aside_images",
    "truncated_captions",
    "caption_tokens",
    "images_per_second",
    "peak_flops_share",
    "data_wait_share",
    "padding",
    "peak_memory_bytes",
    "device_hours",
    "cost_usd",
    "energy_kwh",
    "energy_kwh_estimated",
}
MEAN = "mean"
NAN = float("nan")
SIGNIFICANT = 0.05
PAIRS_UP_TO = 3  # arms beside the reference that are also compared with one another


class Group(NamedTuple):
    """One number of one scale and arm: the mean over the seeds that are there, and how many the sweep has there."""

    value: float
    low: float
    high: float
    by_seed: dict[Any, float]
    expected: int

    @property
    def seeds(self) -> int:
        return len(self.by_seed)


class Paired(NamedTuple):
    """An arm minus another over the seeds that both have; p_holm is filled in for the comparisons of a table.

    `kind` is "95%" for the interval of a paired bootstrap, "seeds" for the smallest and largest difference of a seed
    (scores of whole sets of images cannot be paired image by image), and "" where there is neither.
    """

    estimate: float
    low: float
    high: float
    p: float
    seeds: int
    expected: int
    kind: str
    p_holm: float = NAN

    @property
    def clear(self) -> bool:
        """Whether there is a 95 % interval and it leaves out zero."""
        return self.kind == "95%" and (self.low > 0 or self.high < 0)

    @property
    def significant(self) -> bool:
        """Whether the difference stands after Holm's correction, and its interval, if any, leaves out zero."""
        return self.p_holm < SIGNIFICANT and (self.kind != "95%" or self.clear)

    def flipped(self) -> Paired:
        """The same comparison the other way round."""
        return self._replace(estimate=-self.estimate, low=-self.high, high=-self.low)


class Comparison(NamedTuple):
    """One number of the table of differences: `arm` minus `other` at a scale and prompt form."""

    scale: Level
    form: str
    arm: Level
    other: Level
    column: str
    difference: Paired
    asked: bool  # whether it is what the sweep asks: its questions or, without any, the means


@dataclass(frozen=True)
class Grid:
    """Results by scale, arm and prompt form. Build one with `arrange(results)`."""

    results: Results
    arms: tuple[Level, ...]
    scales: tuple[Level, ...]
    seeds: tuple[Any, ...]
    reference: Level | None
    arm_factors: tuple[str, ...]
    scale_factors: tuple[str, ...]
    numbers: ByNumber = field(repr=False)
    judged: ByNumber = field(repr=False)
    amounts: dict[tuple[int, int], Amount] = field(repr=False)
    planned: dict[tuple[int, int], frozenset[Any]] = field(repr=False)  # (scale, arm) -> the seeds of its cells
    memory: dict[Hashable, Any] = field(default_factory=dict, repr=False, compare=False)

    @cached_property
    def measured(self) -> dict[str, tuple[str, ...]]:
        """Every metric there are numbers for, with the prompt forms it was measured in, short before detailed."""
        found: dict[str, set[str]] = {}
        for _, _, metric, form in self.numbers:
            found.setdefault(metric, set()).add(form)
        return {name: tuple(sorted(forms, key=lambda form: (_place_of(form), form))) for name, forms in found.items()}

    @property
    def shown_metric(self) -> str | None:
        """The score that curves are drawn of: GenEval's mean where there is one, else the first that there is."""
        return next((name for name in (GENEVAL, "validation_loss", "fd_shapes") if self.forms(name)), None)

    def forms(self, metric: str) -> tuple[str, ...]:
        """The prompt forms a metric was measured in, short before detailed."""
        return self.measured.get(metric, ())

    @cached_property
    def tasks(self) -> tuple[str, ...]:
        """The GenEval tasks there are numbers for, in GenEval's order; empty for a sweep without GenEval."""
        found = {name.removeprefix("geneval.") for name in self.measured if name.startswith("geneval.")}
        return (*(task for task in TASKS if task in found), *sorted(found - set(TASKS)))

    def rows(self, scale: Level, arm: Level, metric: str, form: str, step: int | None = None) -> pd.DataFrame:
        """The records of a number, one a seed: at the last step of each cell, or at `step`."""
        rows = self.numbers.get((scale.index, arm.index, metric, form))
        if rows is None:
            return pd.DataFrame({"seed": [], "value": [], "low": [], "high": []})
        return rows[rows["last"]] if step is None else rows[rows["step"] == step]

    def number(self, scale: Level, arm: Level, metric: str, form: str, step: int | None = None) -> Group:
        """A record's number over seeds. The interval is the bootstrap's over prompts and seeds where single images
        were judged, a lone seed's own where it has one, and NaN otherwise."""
        key = ("number", scale.index, arm.index, metric, form, step)
        if key not in self.memory:
            self.memory[key] = self._number(scale, arm, metric, form, step)
        found: Group = self.memory[key]
        return found

    def _number(self, scale: Level, arm: Level, metric: str, form: str, step: int | None) -> Group:
        place = (scale.index, arm.index, metric, form)
        keep = self.numbers.column(place, "last") if step is None else self.numbers.column(place, "step") == step
        seeds, values = (self.numbers.column(place, name)[keep].tolist() for name in ("seed", "value"))
        by_seed = dict(zip(seeds, map(float, values), strict=True))
        low = high = NAN
        judged = self._is_judged(scale, arm, metric, form)
        if judged and len(images := self.images(scale, arm, metric, form, step)):
            low, high = self._interval((scale.index, arm.index, metric, form, step), images)
        elif len(values) == 1:
            low, high = (float(self.numbers.column(place, name)[keep][0]) for name in ("low", "high"))
        value = sum(by_seed.values()) / len(by_seed) if by_seed else NAN
        return Group(value, low, high, by_seed, self.expected((scale, arm)))

    def expected(self, *places: tuple[Level, Level]) -> int:
        """How many training seeds the sweep has at all of these (scale, arm)."""
        return len(frozenset.intersection(*(self.planned.get((s.index, a.index), frozenset()) for s, a in places)))

    def images(self, scale: Level, arm: Level, metric: str, form: str, step: int | None = None) -> pd.DataFrame:
        """The judged images behind a number; empty where there are none."""
        source, task = _source(metric)
        place = (scale.index, arm.index, source, form)
        if place not in self.judged:
            return pd.DataFrame(columns=[*IMAGE, "prompt", "value"])
        rows = self.judged[place]
        keep = rows["last"] if step is None else rows["step"] == step
        return rows[keep & (rows["task"] == task)] if task else rows[keep]

    def _is_judged(self, scale: Level, arm: Level, metric: str, form: str) -> bool:
        return (scale.index, arm.index, _source(metric)[0], form) in self.judged

    def _interval(self, key: Hashable, images: pd.DataFrame) -> tuple[float, float]:
        if ("interval", key) not in self.memory:
            found = stratified_mean(images["value"].to_numpy(float), *design(images))
            self.memory["interval", key] = (float(found.low), float(found.high))
        return self.memory["interval", key]

    def paired(self, scale: Level, arm: Level, other: Level, metric: str, form: str) -> Paired:
        """`arm` minus `other` at a scale: see `between`."""
        return self.between((scale, arm), (scale, other), metric, form)

    def between(self, a: tuple[Level, Level], b: tuple[Level, Level], metric: str, form: str) -> Paired:
        """The (scale, arm) `a` minus `b`, paired on seed, prompt and sample, or on the seed alone for scores of sets
        of images.

        Only seeds that both have are used; `seeds` and `expected` say how many. Raises ValueError when the two were
        not judged on the same prompts and samples, because then no difference means anything.
        """
        first, second = ((scale.index, arm.index) for scale, arm in (a, b))
        if first < second:  # one orientation is computed, so that a - b and b - a never disagree
            return self.between(b, a, metric, form).flipped()
        key = ("paired", first, second, metric, form)
        if key not in self.memory:
            self.memory[key] = self._paired(a, b, metric, form)
        return self.memory[key]

    def _paired(self, a: tuple[Level, Level], b: tuple[Level, Level], metric: str, form: str) -> Paired:
        matched = self.matched_places(a, b, metric, form)
        if matched is not None:
            bound = 1.0 if metric.partition(".")[0] == GENEVAL else np.inf
            return paired_values(*matched, self.expected(a, b), bound)
        ours, theirs = (self.number(*place, metric, form).by_seed for place in (a, b))
        gaps = [ours[seed] - theirs[seed] for seed in ours if seed in theirs]
        if not gaps:
            return Paired(NAN, NAN, NAN, NAN, 0, self.expected(a, b), "")
        span = (min(gaps), max(gaps), NAN) if len(gaps) > 1 else (NAN, NAN, NAN)
        kind = "seeds" if len(gaps) > 1 else ""
        return Paired(sum(gaps) / len(gaps), *span, len(gaps), self.expected(a, b), kind)

    def matched(
        self, scale: Level, arm: Level, other: Level, metric: str, form: str
    ) -> tuple[np.ndarray, np.ndarray, Design] | None:
        """The values of the images that both arms of a scale were judged on: see `matched_places`."""
        return self.matched_places((scale, arm), (scale, other), metric, form)

    def matched_places(
        self, a: tuple[Level, Level], b: tuple[Level, Level], metric: str, form: str
    ) -> tuple[np.ndarray, np.ndarray, Design] | None:
        """The values of the images that both were judged on, image by image, and their design.

        None where they share no seed. Raises ValueError as `between` does.
        """
        if not all(self._is_judged(*place, metric, form) for place in (a, b)):
            return None
        first, second = (self.images(*place, metric, form) for place in (a, b))
        shared = set(first["seed"]) & set(second["seed"])
        if not shared:
            return None
        first, second = (rows[rows["seed"].isin(shared)].sort_values(IMAGE, kind="stable") for rows in (first, second))
        scales = " and ".join(dict.fromkeys(scale.label for scale, _ in (a, b)))
        where = f"{a[1].label} and {b[1].label} ({', '.join(filter(None, [f'{form} prompts', scales]))})"
        refuse_other_prompts(first, second, where)
        return first["value"].to_numpy(float), second["value"].to_numpy(float), design(first)

    def guided(self, scale: Level, arm: Level, form: str, own: float) -> pd.DataFrame:
        """The judged images of the last step at every guidance scale, `own` being the evaluation's, in `guidance`."""
        parts = [self.images(scale, arm, GENEVAL, form).assign(guidance=own)]
        further = self.judged.get((scale.index, arm.index, GUIDED, form))
        if further is not None:
            parts.append(further[further["last"]])
        return pd.concat([part for part in parts if len(part)]) if any(map(len, parts)) else parts[0]

    def pairs(self) -> list[tuple[Level, Level]]:
        """What is compared: what the sweep asks or, without questions, every arm with the reference, then, of few arms,
        each with each (later minus earlier)."""
        if self.results.questions:
            return asked_pairs(self)
        others = [arm for arm in self.arms if arm is not self.reference]
        pairs = [(arm, self.reference) for arm in others if self.reference is not None]
        if len(others) <= PAIRS_UP_TO:
            pairs += [(late, early) for early, late in combinations(others, 2)]
        return pairs

    def compared(self) -> list[tuple[str, str, str, str]]:
        """The columns of a comparison as (row's form, column, metric, metric's form): GenEval's tasks and mean by
        prompt form or, in a sweep without GenEval, every score there is."""
        if self.tasks:
            columns = [(task, f"{GENEVAL}.{task}") for task in self.tasks] + [(MEAN, GENEVAL)]
            return [(form, column, metric, form) for form in self.forms(GENEVAL) for column, metric in columns]
        return [("", f"{metric}.{form}".rstrip("."), metric, form) for metric, form in self.scores()]

    def scores(self) -> list[tuple[str, str]]:
        """Every score beside GenEval as (metric, form)."""
        found = {metric for metric in self.measured if metric.partition(".")[0] not in (GENEVAL, GUIDED)}
        found -= BOOKKEEPING
        order = [*(metric for metric in SCORES if metric in found), *sorted(found - {*SCORES})]
        return [(metric, form) for metric in order for form in self.forms(metric)]

    def comparisons(self) -> tuple[Comparison, ...]:
        """Every comparison of the table of differences, of a sweep with questions those that they are about. p_holm is
        adjusted over two families: what the sweep asks (the means, without questions), and the rest, which are many and
        say where a difference comes from."""
        if "comparisons" not in self.memory:
            raw = []
            for scale, (arm, other), (form, column, metric, metric_form) in product(
                self.scales, self.pairs(), self.compared()
            ):
                if self.results.questions and not is_row(self, scale, form, arm, other):
                    continue
                found = self.paired(scale, arm, other, metric, metric_form)
                asked = is_asked(self, scale, form, arm, other, column)
                raw.append(Comparison(scale, form, arm, other, column, found, asked))
            raw.sort(key=lambda row: (row.scale.index, _place_of(row.form)))
            self.memory["comparisons"] = _corrected(raw)
        return self.memory["comparisons"]


def paired_values(first: np.ndarray, second: np.ndarray, layout: Design, expected: int, bound: float = 1.0) -> Paired:
    """`first` minus `second`, image by image, of `expected` seeds; its interval ends at +-`bound`: with two seeds
    Student's t can reach beyond what a difference of accuracies can be."""
    found = paired_difference(first, second, *layout)
    low, high = max(float(found.low), -bound), min(float(found.high), bound)
    seeds = 1 if layout[2] is None else len(set(layout[2]))
    kind = "" if np.isnan(found.low) else "95%"
    return Paired(float(found.estimate), low, high, float(found.p), seeds, expected, kind)


def arrange(results: Results) -> Grid:
    """Arrange results. Raises ValueError when two cells claim one place or two judges were at work."""
    factors = results.factors
    arm_factors = tuple(name for name in factors if name in results.reference)
    scale_factors = tuple(name for name in factors if name not in results.reference and name != "seed")
    records, outcomes = (plain_frame(frame, factors) for frame in (results.records, results.outcomes))
    there = [tuple(row) for frame in (records, outcomes) for row in frame[[*factors]].drop_duplicates().to_numpy()]
    there += [tuple(plain(row.get(name)) for name in factors) for row in results.missing]
    seen = [dict(zip(factors, row, strict=True)) for row in there]
    arms, scales = (levels_of(factors, names, seen) for names in (arm_factors, scale_factors))
    wanted = tuple((name, plain(results.reference[name])) for name in arm_factors)
    settings = [tuple(level.settings for level in levels) for levels in (arms, scales)]
    records, outcomes = (placed(frame, *settings) for frame in (records, outcomes))
    refuse_two(records)
    refuse_judges(records)
    records = records[records["value"].notna()]  # a number that could not be computed is a number that is not there
    return Grid(
        results,
        arms,
        scales,
        seeds=tuple(dict.fromkeys(plain(value) for value in factors.get("seed", (0,)))),
        reference=next((arm for arm in arms if arm_factors and arm.settings == wanted), None),
        arm_factors=arm_factors,
        scale_factors=scale_factors,
        numbers=ByNumber(records),
        judged=ByNumber(outcomes),
        amounts=amounts(records),
        planned=_planned(seen, arms, scales),
    )


def _planned(
    cells: list[dict[str, Any]], arms: tuple[Level, ...], scales: tuple[Level, ...]
) -> dict[tuple[int, int], frozenset[Any]]:
    """(scale, arm) -> the seeds of its cells, those that are missing too."""
    at_arm, at_scale = ({level.settings: level.index for level in levels} for levels in (arms, scales))
    names = [[name for name, _ in levels[0].settings] if levels else [] for levels in (arms, scales)]
    found: dict[tuple[int, int], set[Any]] = {}
    for cell in cells:
        arm, scale = (tuple((name, cell[name]) for name in of) for of in names)
        found.setdefault((at_scale.get(scale, 0), at_arm.get(arm, 0)), set()).add(cell.get("seed", 0))
    return {place: frozenset(seeds) for place, seeds in found.items()}


def _source(metric: str) -> tuple[str, str]:
    """The metric that single images were judged by, and the task if it is of one."""
    source, _, task = metric.partition(".")
    return ("alignment" if source == "shapes_alignment" else source), task


def _place_of(form: str) -> int:
    return FORMS.index(form) if form in FORMS else len(FORMS)


def _corrected(raw: list[Comparison]) -> tuple[Comparison, ...]:
    adjusted: dict[int, float] = {}
    for asked in (True, False):
        family = [i for i, row in enumerate(raw) if row.asked == asked and not np.isnan(row.difference.p)]
        adjusted |= zip(family, holm([raw[i].difference.p for i in family]), strict=True)
    return tuple(
        row._replace(difference=row.difference._replace(p_holm=float(adjusted.get(i, NAN))))
        for i, row in enumerate(raw)
    )
