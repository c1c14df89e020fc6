"""`Grid`: the results of a sweep arranged as scales x arms x prompt forms, with the seeds of every group counted.

Tables and figures read numbers only from here, so there is one place where runs are averaged and one where they are
compared, and neither does it in silence: a group knows how many of its seeds are there.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field
from itertools import combinations, product
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd

from lensbench.captions.policy import set_label
from lensbench.scoring.statistics import holm, paired_difference, stratified_mean
from lensbench.sweep.sweep import NONE

if TYPE_CHECKING:
    from lensbench.sweep.sweep import Results

GENEVAL = "geneval"
GUIDED = "geneval_guided"  # at other guidance scales than the evaluation's own: see lensbench.report.guidance
TASKS = ("single_object", "two_object", "counting", "colors", "position", "color_attr")  # GenEval's own order
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
}
SET_NAMES = {"alt": "alt-text"}  # caption sets that people know by another name
POLICY_WORDS = {
    "captions.length_matched_to": "as long as {}",
    "captions.max_words": "at most {} words",
    "captions.max_tokens": "at most {} tokens",
    "captions.shuffled": "shuffled",
}
MEAN = "mean"
NAN = float("nan")
SIGNIFICANT = 0.05
PAIRS_UP_TO = 3  # arms beside the reference that are also compared with one another
Design = tuple[np.ndarray, np.ndarray, np.ndarray | None]  # clusters, strata and seeds of images
IMAGE = ["seed", "task", "prompt_index", "sample"]  # what makes a judged image of one arm the partner of another's


@dataclass(frozen=True)
class Level:
    """One arm or one scale: the factor values that make it, and its place in the order of the factors."""

    index: int
    settings: tuple[tuple[str, Any], ...]
    label: str


class Group(NamedTuple):
    """One number of one scale and arm: the mean over the seeds that are there, and how many should be."""

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
    numbers: dict[tuple[int, int, str, str], pd.DataFrame] = field(repr=False)
    judged: dict[tuple[int, int, str, str], pd.DataFrame] = field(repr=False)
    memory: dict[Hashable, Any] = field(default_factory=dict, repr=False, compare=False)

    def forms(self, metric: str) -> tuple[str, ...]:
        """The prompt forms a metric was measured in, short before detailed."""
        found = {form for _, _, name, form in self.numbers if name == metric}
        return tuple(sorted(found, key=lambda form: (FORMS.index(form) if form in FORMS else len(FORMS), form)))

    @property
    def tasks(self) -> tuple[str, ...]:
        """The GenEval tasks there are numbers for, in GenEval's order; empty for a sweep without GenEval."""
        found = {name.removeprefix("geneval.") for _, _, name, _ in self.numbers if name.startswith("geneval.")}
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
        rows = self.rows(scale, arm, metric, form, step)
        by_seed = dict(zip(rows["seed"], rows["value"].astype(float), strict=True))
        low = high = NAN
        images = self.images(scale, arm, metric, form, step)
        if len(images):
            low, high = self._interval((scale.index, arm.index, metric, form, step), images)
        elif len(rows) == 1:
            low, high = float(rows["low"].iloc[0]), float(rows["high"].iloc[0])
        value = float(np.mean(list(by_seed.values()))) if by_seed else NAN
        return Group(value, low, high, by_seed, len(self.seeds))

    def images(self, scale: Level, arm: Level, metric: str, form: str, step: int | None = None) -> pd.DataFrame:
        """The judged images behind a number; empty where there are none."""
        source, _, task = metric.partition(".")
        source = "alignment" if source == "shapes_alignment" else source
        rows = self.judged.get((scale.index, arm.index, source, form))
        if rows is None:
            return pd.DataFrame(columns=[*IMAGE, "prompt", "value"])
        keep = rows["last"] if step is None else rows["step"] == step
        return rows[keep & (rows["task"] == task)] if task else rows[keep]

    def _interval(self, key: Hashable, images: pd.DataFrame) -> tuple[float, float]:
        if ("interval", key) not in self.memory:
            found = stratified_mean(images["value"].to_numpy(float), *_design(images))
            self.memory["interval", key] = (float(found.low), float(found.high))
        return self.memory["interval", key]

    def paired(self, scale: Level, arm: Level, other: Level, metric: str, form: str) -> Paired:
        """`arm` minus `other`, paired on seed, prompt and sample, or on the seed alone for scores of sets of images.

        Only seeds that both arms have are used; `seeds` and `expected` say how many. Raises ValueError when the two
        were not judged on the same prompts and samples, because then no difference means anything.
        """
        if arm.index < other.index:  # one orientation is computed, so that a - b and b - a never disagree
            return self.paired(scale, other, arm, metric, form).flipped()
        key = ("paired", scale.index, arm.index, other.index, metric, form)
        if key not in self.memory:
            matched = self.matched(scale, arm, other, metric, form)
            gaps = self._seed_gaps(scale, arm, other, metric, form)
            if matched is not None:
                first, second, (clusters, strata, seeds) = matched
                found = paired_difference(first, second, clusters, strata, seeds)
                shared = {0} if seeds is None else set(seeds)
                # With two seeds Student's t can reach beyond what a difference of accuracies can be.
                bound = 1.0 if metric.partition(".")[0] == GENEVAL else np.inf
                low, high = max(float(found.low), -bound), min(float(found.high), bound)
                numbers = (float(found.estimate), low, high, float(found.p))
                self.memory[key] = Paired(*numbers, len(shared), len(self.seeds), "" if np.isnan(found.low) else "95%")
            elif gaps:
                span = (min(gaps), max(gaps), NAN) if len(gaps) > 1 else (NAN, NAN, NAN)
                kind = "seeds" if len(gaps) > 1 else ""
                self.memory[key] = Paired(float(np.mean(gaps)), *span, len(gaps), len(self.seeds), kind)
            else:
                self.memory[key] = Paired(NAN, NAN, NAN, NAN, 0, len(self.seeds), "")
        return self.memory[key]

    def matched(
        self, scale: Level, arm: Level, other: Level, metric: str, form: str
    ) -> tuple[np.ndarray, np.ndarray, Design] | None:
        """The values of the images that both arms were judged on, image by image, and their design.

        None where they share no seed. Raises ValueError as `paired` does.
        """
        a, b = (self.images(scale, level, metric, form) for level in (arm, other))
        shared = set(a["seed"]) & set(b["seed"])
        if not shared:
            return None
        a, b = (rows[rows["seed"].isin(shared)].sort_values(IMAGE, kind="stable") for rows in (a, b))
        where = f"{arm.label} and {other.label} ({', '.join(filter(None, [f'{form} prompts', scale.label]))})"
        _refuse_other_prompts(a, b, where)
        return a["value"].to_numpy(float), b["value"].to_numpy(float), _design(a)

    def _seed_gaps(self, scale: Level, arm: Level, other: Level, metric: str, form: str) -> list[float]:
        a, b = (self.rows(scale, level, metric, form).set_index("seed")["value"] for level in (arm, other))
        return [float(a[seed] - b[seed]) for seed in a.index if seed in b.index]

    def guided(self, scale: Level, arm: Level, form: str, own: float) -> pd.DataFrame:
        """The judged images of the last step at every guidance scale, `own` being the evaluation's, in `guidance`."""
        parts = [self.images(scale, arm, GENEVAL, form).assign(guidance=own)]
        further = self.judged.get((scale.index, arm.index, GUIDED, form))
        if further is not None:
            parts.append(further[further["last"]])
        return pd.concat([part for part in parts if len(part)]) if any(map(len, parts)) else parts[0]

    def pairs(self) -> list[tuple[Level, Level]]:
        """What is compared: every arm with the reference, then, of few arms, each with each (later minus earlier)."""
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
        found = {metric for _, _, metric, _ in self.numbers if metric.partition(".")[0] not in (GENEVAL, GUIDED)}
        found -= BOOKKEEPING
        order = [*(metric for metric in SCORES if metric in found), *sorted(found - {*SCORES})]
        return [(metric, form) for metric in order for form in self.forms(metric)]

    def comparisons(self) -> tuple[Comparison, ...]:
        """Every comparison of the table of differences. p_holm is adjusted over two families: the means, which are
        the question a sweep asks, and the tasks, which are many and say where a difference comes from."""
        if "comparisons" not in self.memory:
            raw = [
                Comparison(scale, form, arm, other, column, self.paired(scale, arm, other, metric, metric_form))
                for scale, (arm, other), (form, column, metric, metric_form) in product(
                    self.scales, self.pairs(), self.compared()
                )
            ]
            raw.sort(key=lambda row: (row.scale.index, FORMS.index(row.form) if row.form in FORMS else len(FORMS)))
            self.memory["comparisons"] = _corrected(raw)
        return self.memory["comparisons"]


def arrange(results: Results) -> Grid:
    """Arrange results. Raises ValueError when two cells claim one place or two judges were at work."""
    factors = results.factors
    arm_factors = tuple(name for name in factors if name in results.reference)
    scale_factors = tuple(name for name in factors if name not in results.reference and name != "seed")
    records, outcomes = (_plain_frame(frame, factors) for frame in (results.records, results.outcomes))
    there = [tuple(row) for frame in (records, outcomes) for row in frame[[*factors]].drop_duplicates().to_numpy()]
    there += [tuple(_plain(row.get(name)) for name in factors) for row in results.missing]
    seen = [dict(zip(factors, row, strict=True)) for row in there]
    arms, scales = (_levels(factors, names, seen) for names in (arm_factors, scale_factors))
    wanted = tuple((name, _plain(results.reference[name])) for name in arm_factors)
    records, outcomes = (_placed(frame, arms, scales) for frame in (records, outcomes))
    _refuse_two(records)
    _refuse_judges(records)
    records = records[records["value"].notna()]  # a number that could not be computed is a number that is not there
    return Grid(
        results,
        arms,
        scales,
        seeds=tuple(dict.fromkeys(_plain(value) for value in factors.get("seed", (0,)))),
        reference=next((arm for arm in arms if arm_factors and arm.settings == wanted), None),
        arm_factors=arm_factors,
        scale_factors=scale_factors,
        numbers=_by_number(records),
        judged=_by_number(outcomes),
    )


def factor_label(factor: str, value: Any) -> str:
    """A factor's value in words: depth 4, 4,096 images, alt-text. A part of the policy that is not used is not said."""
    leaf = factor.rpartition(".")[2]
    if factor in POLICY_WORDS:
        return POLICY_WORDS[factor].format(SET_NAMES.get(str(value), value)) if value not in (NONE, False) else ""
    if factor == "captions.set":
        return set_label(str(value), SET_NAMES)
    if isinstance(value, int) and not isinstance(value, bool) and leaf in ("images", "steps"):
        return f"{value:,} {leaf}"
    return f"{leaf.replace('_', ' ')} {value}"


def _plain(value: Any) -> Any:
    """A value that compares and hashes alike whether it comes from a recipe or from a data frame."""
    if isinstance(value, np.generic):
        value = value.item()
    return value if isinstance(value, bool | int | float | str) else str(value)


def _plain_frame(frame: pd.DataFrame, factors: dict[str, list]) -> pd.DataFrame:
    absent = [name for name in factors if name not in frame.columns and name != "seed"]
    if absent and len(frame):
        raise ValueError(f"results lack a column for factor {absent[0]!r}: collect the sweep again")
    if not len(frame):
        columns = ["cell", "metric", "prompt_form", "value", "step", "low", "high", "n", *IMAGE, "prompt"]
        return pd.DataFrame({name: [] for name in dict.fromkeys([*columns, *factors])})
    plain = {name: [_plain(value) for value in frame[name]] for name in factors if name in frame.columns}
    return frame.assign(**{"seed": 0} | plain, prompt_form=frame["prompt_form"].fillna(""))


def _levels(factors: dict[str, list], names: tuple[str, ...], seen: list[dict[str, Any]]) -> tuple[Level, ...]:
    """The combinations of these factors that the sweep has, in the factors' order."""
    there = {tuple(row[name] for name in names) for row in seen}
    grid = [values for values in product(*([_plain(v) for v in factors[name]] for name in names)) if values in there]
    return tuple(
        Level(i, tuple(zip(names, values, strict=True)), ", ".join(filter(None, map(factor_label, names, values))))
        for i, values in enumerate(grid)
    )


def _placed(frame: pd.DataFrame, arms: tuple[Level, ...], scales: tuple[Level, ...]) -> pd.DataFrame:
    """The frame with the places of its arm and scale, and whether a row is of its cell's last step."""
    out = {}
    for word, levels in (("arm", arms), ("scale", scales)):
        places = {tuple(value for _, value in level.settings): level.index for level in levels}
        names = [name for name, _ in levels[0].settings] if levels else []
        rows = zip(*(frame[name] for name in names), strict=True) if names else [()] * len(frame)
        try:
            out[word] = [places[tuple(row)] for row in rows]
        except KeyError as error:
            raise ValueError(f"results hold {names} = {error.args[0]}, which is no level of the sweep") from None
    last = frame["step"] == frame.groupby(["cell", "metric", "prompt_form"])["step"].transform("max")
    return frame.assign(**out, last=last).sort_values(["seed", "step"], kind="stable")


def _by_number(frame: pd.DataFrame) -> dict[tuple[int, int, str, str], pd.DataFrame]:
    groups: Any = frame.groupby(["scale", "arm", "metric", "prompt_form"])
    return dict(iter(groups))


def _corrected(raw: list[Comparison]) -> tuple[Comparison, ...]:
    adjusted: dict[int, float] = {}
    for of_means in (True, False):
        family = [i for i, row in enumerate(raw) if (row.column == MEAN) == of_means and not np.isnan(row.difference.p)]
        adjusted |= zip(family, holm([raw[i].difference.p for i in family]), strict=True)
    return tuple(
        row._replace(difference=row.difference._replace(p_holm=float(adjusted.get(i, NAN))))
        for i, row in enumerate(raw)
    )


def _refuse_two(records: pd.DataFrame) -> None:
    key = ["scale", "arm", "seed", "metric", "prompt_form", "step"]
    twice = records[records.duplicated(key, keep=False)]
    if len(twice):
        row = twice.iloc[0]
        cells = " and ".join(sorted(set(twice["cell"].astype(str)))[:2])
        raise ValueError(f"{row['metric']} is recorded twice for one arm, scale and seed (cells {cells}): remove one")


def _refuse_other_prompts(a: pd.DataFrame, b: pd.DataFrame, where: str) -> None:
    columns = [*IMAGE, "prompt"]
    if len(a) != len(b) or any(a[name].tolist() != b[name].tolist() for name in columns):
        raise ValueError(f"{where} were judged on different prompts or samples: score them again with one evaluation")


def _refuse_judges(records: pd.DataFrame) -> None:
    judges = sorted({str(d) for d in records.get("judge_digest", pd.Series(dtype=str)).dropna()} - {""})
    if len(judges) > 1:
        short = ", ".join(digest[:12] for digest in judges)
        raise ValueError(f"the cells were judged by {len(judges)} judges ({short}): score them again with one of them")


def _design(images: pd.DataFrame) -> Design:
    """Clusters (prompts), strata (tasks) and, when there are several, training seeds of judged images."""
    clusters, _ = pd.factorize(pd.MultiIndex.from_frame(images[["task", "prompt_index"]]), sort=True)
    strata, _ = pd.factorize(images["task"], sort=True)
    seeds, names = pd.factorize(images["seed"], sort=True)
    return clusters, strata, seeds if len(names) > 1 else None
