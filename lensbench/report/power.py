"""What differences a study could see, and what it would take to see a given one."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import numpy as np

from lensbench.metrics import leading
from lensbench.metrics import metric as named
from lensbench.report.grid import Grid
from lensbench.report.levels import Level
from lensbench.report.table import DASH, Cell, Column, Row, Table, number, signed
from lensbench.scoring.power import MOST_SEEDS, POWER, Components, components, detectable, seeds_needed
from lensbench.scoring.statistics import LEVEL

SEEDS = (3, 5, 8)
MORE_PROMPTS = 4


def power_table(grid: Grid, difference: float | None = None) -> Table:
    """Each arm against the reference: the smallest difference found with a probability of 80 %, by seeds and prompts.

    `difference`, in the units of the table (points for GenEval), adds the seeds that it takes to find it. Raises
    ValueError where nothing was judged image by image, or there is no reference.
    """
    if grid.reference is None:
        raise ValueError("the sweep has no reference arm: there is nothing to compare")
    metric = _judged_metric(grid)
    of = named(metric)
    factor, digits = of.factor, of.digits
    rows = []
    for scale, form in product(grid.scales, grid.forms(metric)):
        for arm in grid.arms:
            if arm is grid.reference:
                continue
            found = _components(grid, scale, arm, grid.reference, metric, form)
            if found is None:
                continue
            variances, seeds, prompts = found
            measured = grid.paired(scale, arm, grid.reference, metric, form).estimate
            numbers = [Cell(signed(factor * measured, digits), factor * measured)]
            smallest_of = {(n, more): factor * detectable(variances, n, prompts * more) for n, more in _designs(seeds)}
            for smallest in smallest_of.values():
                beyond = smallest > factor * of.widest
                # without any variance there is nothing to start from
                shown_as = f"> {factor:g}" if beyond else number(smallest, digits) if smallest else "?"
                numbers.append(Cell(shown_as, smallest))
            if difference is not None:
                for more in (1, MORE_PROMPTS):
                    needed = seeds_needed(variances, difference / factor, prompts * more)
                    said = f"> {MOST_SEEDS}" if needed is None else str(needed)
                    numbers.append(Cell(said if smallest_of[seeds, 1] > 0 else "?", needed))
            words = (scale.label, form, f"{arm.label} {DASH} {grid.reference.label}")
            labels = [Cell(word, word) for word in words]
            rows.append((seeds, prompts, Row((*labels, *numbers), opens=arm is grid.arms[0])))
    if not rows:
        raise ValueError("no two arms were judged on the same images: there is no variance to start from")
    seeds, prompts = min(row[0] for row in rows), min(row[1] for row in rows)
    columns = [Column("measured", "measured", "meas.")]
    columns += [_column(n, more, seeds) for n, more in _designs(seeds)]
    if difference is not None:
        shown = f"seeds to see {difference:g}"
        columns += [
            Column("needed", "prompts as now", "now", shown),
            Column("needed_more", f"{MORE_PROMPTS}x the prompts", f"{MORE_PROMPTS}x", shown),
        ]
    heads = (
        Column("scale", "scale", "scale", label=True),
        Column("form", "prompts", "prompts", label=True),
        Column("arms", "arms", "arms", label=True),
    )
    notes = (
        f"In {of.difference_unit}. Now: {seeds} training seeds, {prompts} prompts a form. Power {POWER:.0%} of one "
        "comparison alone at 5 %; several need more after their correction, see lensbench plan. The variances are this "
        "study's own, and rough where its seeds are few.",
        "?: every image of both arms has the same verdict, so nothing is known of how much verdicts vary.",
        "With one seed nothing is known of what training again changes: these numbers then speak of prompts alone."
        if seeds == 1
        else "",
    )
    table_rows = tuple(row for _, _, row in rows)
    title = "Smallest difference that is found"
    told = tuple(note for note in notes if note)
    return Table("power", title, (*heads, *columns), table_rows, told, filed=False)


def smallest(grid: Grid, seeds: int, prompts: int | None, source: str, tests: int = 0) -> str:
    """In words, the smallest difference that a study of so many seeds and prompts finds, with the variances of `grid`.

    Alone at 5 %, and after the correction over `tests` comparisons. At the largest scale of the earlier study, each arm
    against its reference; `prompts` as in that study where None.
    """
    if grid.reference is None:
        raise ValueError(f"{source}: has no reference arm: there is no variance to plan with")
    metric = _judged_metric(grid)
    of = named(metric)
    factor, digits, unit = of.factor, of.digits, of.difference_unit
    unit = unit if of.unit == "%" else f"of {unit}"
    told, alone = [], False
    levels = (LEVEL, 1 - (1 - LEVEL) / tests) if tests > 1 else (LEVEL,)
    for form in grid.forms(metric):
        found = []
        for arm in grid.arms:
            known = (
                None if arm is grid.reference else _components(grid, grid.scales[-1], arm, grid.reference, metric, form)
            )
            if known is not None:
                variances, earlier, judged = known
                if prompts is not None and prompts < 2 * variances.strata:
                    few = f"{prompts} prompts for {variances.strata} tasks"
                    return f"nothing: {few}; two a task are the fewest with an interval"
                alone |= earlier == 1
                counted = judged if prompts is None else prompts
                found.append([factor * detectable(variances, seeds, counted, level) for level in levels])
        if found:
            spreads = [_spread(ends, digits, factor * of.widest) for ends in zip(*found, strict=True)]
            corrected = f" ({spreads[1]} after correction over {tests} comparisons)" if tests > 1 else ""
            told.append(f"{spreads[0]} {unit}{corrected} on {form} prompts")
    if not told:
        raise ValueError(f"{source}: no two arms were judged on the same images: there is no variance to plan with")
    where = f" ({grid.scales[-1].label})" if grid.scales[-1].label else ""
    doubt = "; of one seed, so what training again changes is left out" if alone else ""
    design = f"{seeds} seed{'s' if seeds > 1 else ''} and a probability of {POWER:.0%}"
    return f"differences of {', '.join(told)}, with {design}, by the variances of {source}{where}{doubt}"


def _spread(found: Sequence[float], digits: int, widest: float) -> str:
    """From the smallest to the largest; what no difference can be is said to be so."""
    ends = [f"{n:.{digits}f}" if n <= widest else f"more than {widest:g}" for n in (min(found), max(found))]
    return " to ".join(dict.fromkeys(ends))


def _judged_metric(grid: Grid) -> str:
    """The score that the sweep is told by among those that single images have."""
    judged = {place[2] for place in grid.judged}
    found = [name for name in leading(grid.measured) if named(name).outcome in judged]
    if not found:
        raise ValueError("no score of single images was kept: there is no variance to start from")
    return found[0]


def _designs(seeds: int) -> list[tuple[int, int]]:
    """The designs of the columns: seeds, and how many times the prompts."""
    more = [n for n in SEEDS if n > seeds] if seeds > 1 else []
    return [(seeds, 1), (seeds, MORE_PROMPTS), *((n, 1) for n in more), *((n, MORE_PROMPTS) for n in more[-1:])]


def _column(seeds: int, more: int, now: int) -> Column:
    prompts = "prompts as now" if more == 1 else f"{more}x the prompts"
    count = f"{seeds} seed{'s' if seeds > 1 else ''}" + (" (now)" if seeds == now else "")
    return Column(f"seeds_{seeds}_prompts_{more}x", prompts, "now" if more == 1 else f"{more}x", count)


def _components(
    grid: Grid, scale: Level, arm: Level, other: Level, metric: str, form: str
) -> tuple[Components, int, int] | None:
    """The variances of a comparison, its seeds and its prompts; None where the two share no judged image."""
    matched = grid.matched(scale, arm, other, metric, form)
    if matched is None:
        return None
    first, second, (clusters, strata, seeds) = matched
    count = 1 if seeds is None else len(np.unique(seeds))
    return components(first, second, clusters, strata, seeds), count, len(np.unique(clusters))
