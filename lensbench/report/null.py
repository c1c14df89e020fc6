"""A/A: every arm against itself on other training seeds, where each difference is chance and nothing else.

An arm that was trained with four seeds or more is split into the first half of its seeds and the second (of an odd
number the last is left out), and the halves are compared as two arms are: on the same prompts and sampling noise, seed
by seed in their order. The split is fixed beforehand, so the p-values may be counted: under 0.05 there should be one in
twenty.
"""

from __future__ import annotations

from itertools import product
from typing import Any, NamedTuple

from lensbench.metrics import GENEVAL, metric
from lensbench.report.grid import Grid
from lensbench.report.levels import Level
from lensbench.report.paired import SIGNIFICANT, Paired, paired_values
from lensbench.report.placing import IMAGE, design, refuse_other_prompts
from lensbench.report.rows import arm_columns, arm_labels, complete_table, difference_cell, labels_of
from lensbench.report.table import Cell, Column, Row, Table, number

FEWEST = 4  # seeds: two in each half


class Null(NamedTuple):
    """An arm's first half of seeds minus its second, at a scale and prompt form."""

    scale: Level
    arm: Level
    form: str
    pairs: tuple[tuple[Any, Any], ...]  # a seed of the first half, and its partner of the second
    scores: tuple[float, float]
    difference: Paired


def nulls(grid: Grid) -> list[Null]:
    """Every A/A comparison of GenEval's mean that the sweep has seeds for. A seed that is missing leaves with its
    partner; the halves stay what they were planned to be."""
    found = []
    for scale, arm, form in product(grid.scales, grid.arms, grid.forms(GENEVAL)):
        planned = sorted(grid.planned.get((scale.index, arm.index), ()), key=grid.seeds.index)
        half = len(planned) // 2
        if len(planned) < FEWEST:
            continue
        images = grid.images(scale, arm, GENEVAL, form)
        there = set(images["seed"])
        pairs = [pair for pair in zip(planned[:half], planned[half:], strict=False) if there.issuperset(pair)]
        if not pairs:
            continue
        partner = {other: first for first, other in pairs}
        first, second = (images[images["seed"].isin(of)] for of in zip(*pairs, strict=True))
        second = second.assign(seed=second["seed"].map(partner))
        first, second = (rows.sort_values(IMAGE, kind="stable") for rows in (first, second))
        refuse_other_prompts(first, second, f"the seeds of {arm.label}")
        a, b = (rows["value"].to_numpy(float) for rows in (first, second))
        by_seed = grid.number(scale, arm, GENEVAL, form).by_seed
        scores = [sum(by_seed[seed] for seed in of) / len(pairs) for of in zip(*pairs, strict=True)]
        difference = paired_values(a, b, design(first), half)
        found.append(Null(scale, arm, form, tuple(pairs), (scores[0], scores[1]), difference))
    return found


def null_table(grid: Grid) -> Table | None:
    """Rows: scale x arm x prompts, each the two halves of its seeds and their difference. None without four seeds."""
    found = nulls(grid)
    if not found:
        return None
    rows = []
    for n, null in enumerate(found):
        gap = difference_cell(null.difference, metric(GENEVAL))
        halves = [Cell(number(100 * score), score) for score in null.scores]
        p = Cell(number(null.difference.p, 3), null.difference.p)
        names = [*labels_of(null.scale), *arm_labels(null.arm, [gap]), Cell(null.form, null.form)]
        rows.append(Row((*names, *halves, gap, p), opens=n == 0 or found[n - 1].scale is not null.scale))
    labels = (*arm_columns(grid), Column("form", "prompts", "prompts", label=True))
    columns = (
        Column("first", "first seeds", "first"),
        Column("others", "other seeds", "others"),
        Column("difference", "difference", "difference", interval=True, key=True),
        Column("p", "p", "p"),
    )
    below = sum(null.difference.p < SIGNIFICANT for null in found)
    counted = {null.difference.expected for null in found}
    each = f"{min(counted)}" if len(counted) == 1 else f"{min(counted)} to {max(counted)}"
    notes = (
        f"An arm against itself: the first half of its training seeds minus the second, {each} each, GenEval's mean in "
        "percent and points, on the same prompts and sampling noise. [low, high]: 95 % interval, paired.",
        f"p: not corrected; {below} of {len(found)} under {SIGNIFICANT}, where chance alone "
        f"gives {SIGNIFICANT * len(found):.1f}.",
    )
    return complete_table(grid, "null", "A/A: an arm against itself on other seeds", labels, columns, rows, notes)
