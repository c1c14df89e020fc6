"""A/A: every arm against itself on other training seeds, where each difference is chance and nothing else.

An arm that was trained with four seeds or more is split into the first half of its seeds and the second (of an odd
number the last is left out), and the halves are compared as two arms are: on the same prompts and sampling noise, seed
by seed in their order. The split is fixed beforehand, so the p-values may be counted: under 0.05 there should be one in
twenty.
"""

from __future__ import annotations

from itertools import product
from typing import Any, NamedTuple

from lensbench.report.grid import GENEVAL, SIGNIFICANT, Grid, Paired
from lensbench.report.levels import Level
from lensbench.report.placing import IMAGE, design, refuse_other_prompts
from lensbench.report.rows import arm_columns, difference_cell, labels_of
from lensbench.report.table import Cell, Column, Row, Table, number
from lensbench.scoring.statistics import paired_difference

FEWEST = 4  # seeds: two in each half


class Null(NamedTuple):
    """An arm's first half of seeds minus its second, at a scale and prompt form."""

    scale: Level
    arm: Level
    form: str
    halves: tuple[tuple[Any, ...], tuple[Any, ...]]
    scores: tuple[float, float]
    difference: Paired


def nulls(grid: Grid) -> list[Null]:
    """Every A/A comparison of GenEval's mean that the sweep has seeds for."""
    found = []
    for scale, arm, form in product(grid.scales, grid.arms, grid.forms(GENEVAL)):
        images = grid.images(scale, arm, GENEVAL, form)
        seeds = sorted(set(images["seed"]), key=grid.seeds.index)
        half = len(seeds) // 2
        if len(seeds) < FEWEST:
            continue
        halves = tuple(seeds[:half]), tuple(seeds[half : 2 * half])
        partner = dict(zip(halves[1], halves[0], strict=True))
        first, second = (images[images["seed"].isin(of)] for of in halves)
        second = second.assign(seed=second["seed"].map(partner))
        first, second = (rows.sort_values(IMAGE, kind="stable") for rows in (first, second))
        refuse_other_prompts(first, second, f"the seeds of {arm.label}")
        a, b = (rows["value"].to_numpy(float) for rows in (first, second))
        gap = paired_difference(a, b, *design(first))
        difference = Paired(gap.estimate, max(gap.low, -1.0), min(gap.high, 1.0), gap.p, half, half, "95%")
        scores = tuple(sum(grid.number(scale, arm, GENEVAL, form).by_seed[seed] for seed in of) / half for of in halves)
        found.append(Null(scale, arm, form, halves, (scores[0], scores[1]), difference))
    return found


def null_table(grid: Grid) -> Table | None:
    """Rows: scale x arm x prompts, each the two halves of its seeds and their difference. None without four seeds."""
    found = nulls(grid)
    if not found:
        return None
    rows = []
    for n, null in enumerate(found):
        halves = (Cell(number(100 * score), score) for score in null.scores)
        p = null.difference.p
        rows.append(
            Row(
                (
                    *labels_of(null.scale),
                    *labels_of(null.arm),
                    Cell(null.form, null.form),
                    *halves,
                    difference_cell(null.difference, 1, 100.0, more=True),
                    Cell(number(p, 3), p),
                ),
                opens=n == 0 or found[n - 1].scale is not null.scale,
            )
        )
    columns = (
        *arm_columns(grid),
        Column("form", "prompts", "prompts", label=True),
        Column("first", "first seeds", "first"),
        Column("others", "other seeds", "others"),
        Column("difference", "difference", "difference", interval=True, key=True),
        Column("p", "p", "p"),
    )
    below = sum(null.difference.p < SIGNIFICANT for null in found)
    counted = {len(null.halves[0]) for null in found}
    each = f"{min(counted)}" if len(counted) == 1 else f"{min(counted)} to {max(counted)}"
    notes = (
        f"An arm against itself: the first half of its training seeds minus the second, {each} each, GenEval's mean in "
        "percent and points, on the same prompts and sampling noise. [low, high]: 95 % interval, paired.",
        f"p: sign-flip permutation, not corrected; {below} of {len(found)} under {SIGNIFICANT}, where chance alone "
        f"gives {SIGNIFICANT * len(found):.1f}.",
    )
    return Table("null", "A/A: an arm against itself on other seeds", columns, tuple(rows), notes)
