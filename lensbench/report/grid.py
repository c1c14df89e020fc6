"""`Grid`: the results of a sweep arranged as scales x arms x prompt forms, with the seeds of every group counted.

Tables and figures read numbers only from here, so there is one place where runs are averaged and one where they are
compared, and neither does it in silence: a group knows how many of its seeds are there.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field
from functools import cached_property
from itertools import combinations, product
from math import isnan
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd

from lensbench.forms import FORMS as FORMS
from lensbench.forms import order_of
from lensbench.metrics import GENEVAL, GUIDED, leading, ordered
from lensbench.metrics import metric as named
from lensbench.records import OUTCOMES, RECORDS, empty, refuse_unknown
from lensbench.report.asked import asked_as, asked_pairs, asks_alone, is_row
from lensbench.report.chance import VERDICTS, Chance, chance_of, chances_of
from lensbench.report.levels import Level, levels_of
from lensbench.report.paired import NAN, Comparison, Paired, paired_values, tested
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
from lensbench.scoring.statistics import mean_over_seeds, stratified_mean

if TYPE_CHECKING:
    from lensbench.sweep.sweep import Results

MEAN = "mean"
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
        return {name: tuple(sorted(forms, key=lambda form: (order_of(form), form))) for name, forms in found.items()}

    @property
    def shown_metric(self) -> str | None:
        """The score that curves are drawn of: GenEval's mean where there is one, else the first that there is."""
        return next(iter(leading(self.measured)), None)

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
        elif len(values) and named(metric).per == "set":
            found = mean_over_seeds(values)
            low, high = found.low, found.high
        value = sum(by_seed.values()) / len(by_seed) if by_seed else NAN
        return Group(value, low, high, by_seed, self.expected((scale, arm)))

    def expected(self, *places: tuple[Level, Level]) -> int:
        """How many training seeds the sweep has at all of these (scale, arm)."""
        return len(frozenset.intersection(*(self.planned.get((s.index, a.index), frozenset()) for s, a in places)))

    def images(self, scale: Level, arm: Level, metric: str, form: str, step: int | None = None) -> pd.DataFrame:
        """The judged images behind a number; empty where there are none."""
        of = named(metric)
        place = (scale.index, arm.index, of.outcome, form)
        if place not in self.judged:
            return empty(OUTCOMES, IMAGE)
        rows = self.judged[place]
        keep = rows["last"] if step is None else rows["step"] == step
        if of.only is not None:
            column, value = of.only
            keep = keep & ((rows[column] == value) if column in rows else False)
        return rows[keep]

    def chances(self, scale: Level, arm: Level, metric: str, form: str, step: int | None = None) -> np.ndarray:
        """The chance of each of `images`, in their order; NaN where it is not known."""
        images = self.images(scale, arm, metric, form, step)
        return self._chances(scale, arm, named(metric).outcome, images)

    def _chances(self, scale: Level, arm: Level, outcome: str, images: pd.DataFrame) -> np.ndarray:
        if outcome not in VERDICTS:
            return np.full(len(images), NAN)
        places = [(scale.index, arm.index, outcome, wording) for wording in FORMS]
        memory = self.memory.setdefault(("answers", scale.index, arm.index, outcome), {})
        return chances_of(images, [self.judged[place] for place in places if place in self.judged], memory)

    def chance(self, scale: Level, arm: Level, metric: str, form: str, step: int | None = None) -> Chance:
        """What a score of GenEval is by chance, and whether it is above; of anything else, nothing is known."""
        key = ("chance", scale.index, arm.index, metric, form, step)
        if key not in self.memory:
            images = self.images(scale, arm, metric, form, step)
            values, tasks = images["value"].to_numpy(float), images["task"].to_numpy()
            chances = self.chances(scale, arm, metric, form, step)
            self.memory[key] = chance_of(values, chances, tasks, design(images))
        found: Chance = self.memory[key]
        return found

    def _is_judged(self, scale: Level, arm: Level, metric: str, form: str) -> bool:
        return (scale.index, arm.index, named(metric).outcome, form) in self.judged

    def _interval(self, key: Hashable, images: pd.DataFrame) -> tuple[float, float]:
        if ("interval", key) not in self.memory:
            found = stratified_mean(images["value"].to_numpy(float), *design(images))
            self.memory["interval", key] = (float(found.low), float(found.high))
        return self.memory["interval", key]

    def paired(self, scale: Level, arm: Level, other: Level, metric: str, form: str) -> Paired:
        """`arm` minus `other` at a scale, with what the sweep's tests say of it: see `between`."""
        place = (scale.index, arm.index, other.index, metric, form)
        if place in (told := self._told()):
            return told[place]
        return self.between((scale, arm), (scale, other), metric, form)

    def _told(self) -> dict[tuple[int, int, int, str, str], Paired]:
        """What is said of every difference that is asked about, in both directions, by its place."""
        if "told" not in self.memory:
            found = {}
            for row in (*self.comparisons(), *self.comparisons_beside()):
                if row.asked:
                    ends = (row.arm.index, row.other.index)
                    found[row.scale.index, *ends, row.metric, row.metric_form] = row.difference
                    found[row.scale.index, *ends[::-1], row.metric, row.metric_form] = row.difference.flipped()
            self.memory["told"] = found
        told: dict[tuple[int, int, int, str, str], Paired] = self.memory["told"]
        return told

    def between(self, a: tuple[Level, Level], b: tuple[Level, Level], metric: str, form: str) -> Paired:
        """The (scale, arm) `a` minus `b`, paired on seed, prompt and sample, or on the seed alone for scores of sets
        of images; with its plain interval, whatever the sweep asks.

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
            return paired_values(*matched, self.expected(a, b), named(metric).widest)
        ours, theirs = (self.number(*place, metric, form).by_seed for place in (a, b))
        gaps = [ours[seed] - theirs[seed] for seed in ours if seed in theirs]
        if not gaps:
            return Paired(NAN, NAN, NAN, NAN, 0, self.expected(a, b), "")
        found = mean_over_seeds(gaps)
        span, kind = (found.low, found.high), "95%"
        if isnan(found.low):
            span, kind = ((min(gaps), max(gaps)), "seeds") if len(gaps) > 1 else ((NAN, NAN), "")
        return Paired(found.estimate, *span, found.p, len(gaps), self.expected(a, b), kind, spread=found.spread)

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
        """The judged images of the last step at every guidance scale, `own` being the evaluation's, in `guidance`;
        with their `chance`."""
        first = self.images(scale, arm, GENEVAL, form)
        parts = [first.assign(guidance=own, chance=self._chances(scale, arm, GENEVAL, first))]
        further = self.judged.get((scale.index, arm.index, GUIDED, form))
        if further is not None:
            further = further[further["last"]]
            parts.append(further.assign(chance=self._chances(scale, arm, GUIDED, further)))
        return pd.concat([part for part in parts if len(part)]) if any(map(len, parts)) else parts[0]

    def pairs(self) -> list[tuple[Level, Level]]:
        """What is compared: what the sweep asks, then, unless it asks without a primary question, every arm with the
        reference and, of few arms, each with each (later minus earlier)."""
        pairs = asked_pairs(self)
        if asks_alone(self):
            return pairs
        others = [arm for arm in self.arms if arm is not self.reference]
        further = [(arm, self.reference) for arm in others if self.reference is not None]
        if len(others) <= PAIRS_UP_TO:
            further += [(late, early) for early, late in combinations(others, 2)]
        return [*pairs, *((arm, other) for arm, other in further if not {(arm, other), (other, arm)} & {*pairs})]

    def compared(self) -> list[tuple[str, str, str, str]]:
        """The columns of a comparison as (row's form, column, metric, metric's form): GenEval's tasks and mean by
        prompt form or, in a sweep without GenEval, every score there is."""
        if self.tasks:
            columns = [(task, f"{GENEVAL}.{task}") for task in self.tasks] + [(MEAN, GENEVAL)]
            return [(form, column, metric, form) for form in self.forms(GENEVAL) for column, metric in columns]
        return self._of_scores()

    def compared_beside(self) -> list[tuple[str, str, str, str]]:
        """The columns of the comparison of the other scores of a sweep with GenEval, as `compared` has them.

        None where there are no others than this project's own and no question is about one of those: they mean little
        elsewhere, and the tables of scores and of single changes have them.
        """
        about = {str(question["metric"]) for question in self.results.questions}
        told = any(not named(metric).own or metric in about for metric, _ in self.scores())
        return self._of_scores() if self.tasks and told else []

    def _of_scores(self) -> list[tuple[str, str, str, str]]:
        return [("", column_of(metric, form), metric, form) for metric, form in self.scores()]

    def scores(self) -> list[tuple[str, str]]:
        """Every score beside GenEval as (metric, form), in the order of the registry."""
        found = [
            name for name in self.measured if named(name).is_score and GENEVAL not in (name, named(name).variant_of)
        ]
        return [(metric, form) for metric in ordered(found) for form in self.forms(metric)]

    def comparisons(self) -> tuple[Comparison, ...]:
        """Every comparison of the table of differences, those that are asked about with what their tests say."""
        return self._compared()[0]

    def comparisons_beside(self) -> tuple[Comparison, ...]:
        """Every comparison of the other scores of a sweep with GenEval; what is asked of them is tested with what is
        asked of GenEval."""
        return self._compared()[1]

    def _compared(self) -> tuple[tuple[Comparison, ...], tuple[Comparison, ...]]:
        if "comparisons" not in self.memory:
            of_table, beside = (self._comparisons(columns) for columns in (self.compared(), self.compared_beside()))
            found = tested([*of_table, *beside])
            self.memory["comparisons"] = tuple(found[: len(of_table)]), tuple(found[len(of_table) :])
        found_there: tuple[tuple[Comparison, ...], tuple[Comparison, ...]] = self.memory["comparisons"]
        return found_there

    def _comparisons(self, columns: list[tuple[str, str, str, str]]) -> list[Comparison]:
        rows, alone = [], asks_alone(self)
        for scale, (arm, other), (form, column, metric, metric_form) in product(self.scales, self.pairs(), columns):
            if alone and not is_row(self, scale, form, arm, other, metric):
                continue
            found = self.between((scale, arm), (scale, other), metric, metric_form)
            role = asked_as(self, scale, arm, other, metric, metric_form)
            row = Comparison(scale, form, arm, other, column, found._replace(role=role), metric, metric_form)
            rows.append(row)
        return sorted(rows, key=lambda row: (row.scale.index, order_of(row.form)))


def arrange(results: Results) -> Grid:
    """Arrange results. Raises ValueError when two cells claim one place or two judges were at work."""
    factors = results.factors
    arm_factors = tuple(name for name in factors if name in results.reference)
    scale_factors = tuple(name for name in factors if name not in results.reference and name != "seed")
    records, outcomes = (
        plain_frame(frame, factors, schema)
        for frame, schema in ((results.records, RECORDS), (results.outcomes, OUTCOMES))
    )
    there = [tuple(row) for frame in (records, outcomes) for row in frame[[*factors]].drop_duplicates().to_numpy()]
    there += [tuple(plain(row.get(name)) for name in factors) for row in results.missing]
    seen = [dict(zip(factors, row, strict=True)) for row in there]
    arms, scales = (levels_of(factors, names, seen) for names in (arm_factors, scale_factors))
    wanted = tuple((name, plain(results.reference[name])) for name in arm_factors)
    settings = [tuple(level.settings for level in levels) for levels in (arms, scales)]
    records, outcomes = (placed(frame, *settings) for frame in (records, outcomes))
    refuse_unknown(records, results.sweep_name)
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


def column_of(metric: str, form: str) -> str:
    """The column of a score in a prompt form, "" where it has none."""
    return f"{metric}.{form}" if form else metric
