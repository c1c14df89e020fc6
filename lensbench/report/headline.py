"""What a sweep found, in a few sentences computed from the numbers: the answer to its primary question, or, where it
names none, what the arms reach, described and not tested."""

from __future__ import annotations

import json
from itertools import product
from math import isnan

from lensbench import forms
from lensbench.metrics import GENEVAL, Metric, metric
from lensbench.report.grid import Grid
from lensbench.report.levels import Level
from lensbench.report.paired import POST_HOC, PRIMARY, SECONDARY, Comparison, Role
from lensbench.report.table import SMALLEST_P, bounds, number, p_words, signed

TOO_WIDE = 0.5  # of the largest difference there can be: an interval that reaches so far tells nothing


def headline(grid: Grid) -> list[str]:
    """The answer in sentences, the first the one that matters; empty where there is nothing to compare."""
    if not grid.scales or not (grid.comparisons() or grid.comparisons_beside()):
        return []
    if nothing := nothing_learned(grid):
        return [nothing]
    sentences = [_primary(grid, row) for row in _primaries(grid)] or _described(grid)
    if claims(grid):
        sentences += [_family(grid, role) for role in (SECONDARY, POST_HOC)]
    if len(grid.seeds) == 1:
        sentences.append("One training seed: the intervals speak of the sampling only, not of training again.")
    return [sentence for sentence in (*sentences, *_doubts(grid)) if sentence]


def claims(grid: Grid) -> bool:
    """Whether anything is claimed beside the first sentence: not where nothing is learned or the primary question has
    no answer."""
    return not nothing_learned(grid) and all(
        verdict(grid, row) in ("significant", "not significant") for row in _primaries(grid)
    )


def _primaries(grid: Grid) -> list[Comparison]:
    return [row for row in compared(grid) if row.difference.role == PRIMARY]


def nothing_learned(grid: Grid) -> str:
    """Why nothing can be said of a sweep with GenEval: no image is right, or no arm is above chance. "" where
    something can."""
    places = [(*place, GENEVAL, form) for place in product(grid.scales, grid.arms) for form in grid.forms(GENEVAL)]
    there = [place for place in places if grid.number(*place).seeds]
    if not there:
        return ""
    where = f"{len(grid.scales)} scales" if len(grid.scales) > 1 else grid.scales[0].label or "this scale"
    if not any(grid.number(*place).value for place in there):
        return f"No arm gets any image right ({where}, every prompt form): there is nothing to compare yet."
    if all(grid.chance(*place).at_chance for place in there):
        return f"No arm is above chance ({where}, every prompt form): there is nothing to compare yet."
    return ""


def compared(grid: Grid) -> list[Comparison]:
    """Every comparison that some seed answers."""
    return [row for row in (*grid.comparisons(), *grid.comparisons_beside()) if row.difference.seeds]


UNDERPOWERED = "underpowered"


def verdict(grid: Grid, row: Comparison) -> str:
    """What is said of a tested difference, in two or three words."""
    gap = row.difference
    if len(_at_chance(grid, row)) == 2:
        return "both at chance"
    if not gap.tested:
        return "no test"
    if gap.significant:
        return "significant"
    low, high = gap.interval
    return UNDERPOWERED if (high - low) / 2 > TOO_WIDE * metric(row.metric).widest else "not significant"


def _at_chance(grid: Grid, row: Comparison) -> list[Level]:
    """The arms of a comparison that are not shown to be above chance."""
    return [arm for arm in (row.arm, row.other) if grid.chance(row.scale, arm, row.metric, row.metric_form).at_chance]


def where_of(row: Comparison) -> str:
    """The metric, the prompts and the scale of a comparison: GenEval mean, short prompts, depth 3."""
    form = f"{row.metric_form} prompts" if row.metric_form else ""
    return ", ".join(filter(None, [metric(row.metric).mean, form, row.scale.label]))


def _primary(grid: Grid, row: Comparison) -> str:
    of, gap = metric(row.metric), row.difference
    told = f"Primary question ({where_of(row)}): {_scores(grid, row)}"
    if at_chance := _at_chance(grid, row):
        told += f" ({' and '.join(arm.label for arm in at_chance)}: not above chance)"
        if len(at_chance) == 2:
            return f"{told}. Neither arm is above chance: there is no difference to test."
    if not gap.tested:
        return f"{told}. No test: {'no interval can be had' if isnan(gap.low) else 'no image differs'}."
    low, high = (of.factor * end for end in gap.interval)
    amount = f"{signed(of.factor * gap.estimate, of.digits)}{' points' if of.unit == '%' else ''}"
    seeds = "" if gap.seeds == gap.expected else f" ({gap.seeds} of {gap.expected} seeds)"
    found, equals = verdict(grid, row), "" if gap.p < SMALLEST_P else "= "
    told += f". The difference is {amount} {bounds(low, high, of.digits)}{seeds}, p {equals}{p_words(gap.p)}"
    if found == UNDERPOWERED:
        return f"This sweep is underpowered for its primary question. {told}: not significant."
    return f"{told}: {found}."


def _scores(grid: Grid, row: Comparison) -> str:
    return " against ".join(
        _score(grid, row.scale, arm, metric(row.metric), row.metric_form) for arm in (row.arm, row.other)
    )


def _score(grid: Grid, scale: Level, arm: Level, of: Metric, form: str) -> str:
    found = grid.number(scale, arm, of.name, form)
    unit = " %" if of.unit == "%" else ""
    return f"{arm.label} {number(of.factor * found.value, of.digits)}{unit}"


def _described(grid: Grid) -> list[str]:
    """What the best arm and the reference reach at the largest scale, on the forms that no arm is trained on the words
    of or, where there are none, on every form."""
    name, scale = grid.shown_metric, grid.scales[-1]
    if name is None or grid.reference is None:
        return []
    of = metric(name)
    there = [form for form in grid.forms(name) if grid.number(scale, grid.reference, name, form).seeds]
    neutral = [form for form in there if form and form in forms.neutral([form], _caption_sets(grid))]
    told = []
    for form in neutral or there:
        rows = [
            row
            for row in compared(grid)
            if (row.scale, row.metric, row.metric_form, row.other) == (scale, name, form, grid.reference)
        ]
        if not rows:
            continue
        sign = 1 if of.more else -1
        row = max(rows, key=lambda row: sign * row.difference.estimate)
        low, high = (of.factor * end for end in row.difference.interval)
        amount = f"{signed(of.factor * row.difference.estimate, of.digits)} {bounds(low, high, of.digits)}".rstrip()
        told.append(f"{where_of(row)}: {_scores(grid, row)}, {amount}.")
    if not told:
        return []
    asked = any(row.asked for row in compared(grid))
    named = "no primary question" if asked else "no question"
    words = (
        "" if neutral else " Every prompt form is worded like the captions of an arm, so no arm is named the winner."
    )
    return [f"The sweep names {named}: this is described, not tested.{words}", *told]


def _caption_sets(grid: Grid) -> list[str]:
    return [str(name) for arm in grid.arms if (name := dict(arm.settings).get("captions.set"))]


def _family(grid: Grid, role: Role) -> str:
    rows = [row for row in compared(grid) if row.difference.role == role]
    if not rows:
        return ""
    significant = sum(row.difference.significant for row in rows)
    what = f"{len(rows)} {role} comparison{'s' if len(rows) > 1 else ''}"
    return (
        f"{significant or 'None'} of {what} {'are' if significant > 1 else 'is'} significant after Holm's correction."
    )


def _doubts(grid: Grid) -> list[str]:
    """What makes a recorded distance doubtful, such as too few images: a sentence each, with the metrics it is of."""
    records = grid.results.records
    if "protocol" not in records:
        return []
    of: dict[str, list[str]] = {}
    for name, protocol in records[["metric", "protocol"]].drop_duplicates().itertuples(index=False):
        for doubt in json.loads(protocol).get("doubts", ()) if protocol else ():
            labels = of.setdefault(doubt, [])
            if (label := metric(str(name)).label) not in labels:
                labels.append(label)
    return [f"{', '.join(labels)}: {doubt}." for doubt, labels in of.items()]
