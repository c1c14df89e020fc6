"""Guidance as a factor: every arm at the evaluation's own scale, and at the scale that is best for it.

The best scale of an arm is chosen on one half of the prompts of each task and reported on the other half, so that
choosing does not flatter anyone; the scales are the same for every arm.
"""

from __future__ import annotations

from itertools import product
from typing import TYPE_CHECKING

import numpy as np

from lensbench.metrics import GENEVAL, metric
from lensbench.report.chance import chance_note, chance_of, with_chance
from lensbench.report.grid import Grid
from lensbench.report.paired import paired_values
from lensbench.report.placing import IMAGE, design
from lensbench.report.table import Cell, Column, Row, Table, bounds, number, signed
from lensbench.scoring.statistics import holm, stratified_mean

if TYPE_CHECKING:
    import pandas as pd


def guidance_table(grid: Grid, own: float) -> Table | None:
    """A row for each scale, prompt form and arm; None where one guidance was scored, `own`, the evaluation's."""
    rows: list[list[Cell]] = []
    p_values: list[tuple[int, float]] = []
    scales = {own}
    for scale, form in product(grid.scales, grid.forms(GENEVAL)):
        found = {arm: grid.guided(scale, arm, form, own) for arm in grid.arms}
        found = {arm: images for arm, images in found.items() if len(images["guidance"].unique()) > 1}
        best = {arm: _best(images) for arm, images in found.items()}
        for arm, images in found.items():
            scales |= set(images["guidance"])
            reported = images[~_chosen_on(images)]
            at_own, at_best = (_score(reported[reported["guidance"] == level]) for level in (own, best[arm]))
            gap = Cell("")
            if grid.reference is not None and arm is not grid.reference and grid.reference in found:
                other = found[grid.reference]
                other = other[~_chosen_on(other) & (other["guidance"] == best[grid.reference])]
                gap, p = _difference(reported[reported["guidance"] == best[arm]], other)
                p_values.append((len(rows), p))
            words = [Cell(word, word) for word in (scale.label, form, arm.label)]
            rows.append([*words, Cell(f"{best[arm]:g}", best[arm]), at_own, at_best, gap])
    if not rows:
        return None
    for (place, _), adjusted in zip(p_values, holm([p for _, p in p_values]), strict=True):
        gap = rows[place][-1]
        clear = adjusted < 0.05 and (gap.low > 0 or gap.high < 0)
        rows[place][-1] = Cell(
            gap.text, gap.value, gap.low, gap.high, gap.interval, "95%", "*" if clear else "", p_holm=adjusted
        )
    columns = (
        Column("scale", "scale", "scale", label=True),
        Column("form", "prompts", "prompts", label=True),
        Column("arm", "training captions", "captions", label=True),
        Column("best", "best", "best", "guidance"),
        Column("own", f"at {own:g}", f"at {own:g}", "GenEval", interval=True),
        Column("at_best", "at its best", "at best", "GenEval", interval=True),
        Column("difference", "to the reference, each at its best", "difference", interval=True, key=True),
    )
    shown = ", ".join(f"{level:g}" for level in sorted(scales))
    notes = (
        f"GenEval's mean in percent at guidance {shown}, the same scales for every arm. Best: chosen on every other "
        "prompt of each task, over all seeds; all scores here are of the other prompts, which choosing did not see.",
        "Differences are paired image by image; * stands after Holm's correction over this table.",
        *filter(None, [chance_note(cell for cells in rows for cell in cells)]),
    )
    told = tuple(
        Row(tuple(cells), opens=n == 0 or rows[n - 1][0].text != cells[0].text) for n, cells in enumerate(rows)
    )
    return Table("guidance", "Guidance chosen for each arm", columns, told, notes)


def _chosen_on(images: pd.DataFrame) -> pd.Series:
    """Which images are of the prompts that scales are chosen on: every other one of each task, from the first."""
    place = images.groupby("task")["prompt_index"].rank(method="dense").astype(int)
    return place % 2 == 1


def _best(images: pd.DataFrame) -> float:
    """The scale with the highest mean over tasks on the choosing half; of equals the smallest."""
    seen = images[_chosen_on(images)]
    means = seen.groupby(["guidance", "task"])["value"].mean().groupby("guidance").mean()
    return float(means.index[int(np.argmax(means.to_numpy()))])


def _score(images: pd.DataFrame) -> Cell:
    values, layout = images["value"].to_numpy(float), design(images)
    mean = stratified_mean(values, *layout)
    chance = chance_of(values, images["chance"].to_numpy(float), images["task"].to_numpy(), layout)
    value, low, high = 100 * mean.estimate, 100 * mean.low, 100 * mean.high
    return with_chance(Cell(number(value), value, low, high, bounds(low, high), "95%"), chance, metric(GENEVAL), 100.0)


def _difference(a: pd.DataFrame, b: pd.DataFrame) -> tuple[Cell, float]:
    shared = set(a["seed"]) & set(b["seed"])
    a, b = (part[part["seed"].isin(shared)].sort_values(IMAGE, kind="stable") for part in (a, b))
    assert a[IMAGE].to_numpy().tolist() == b[IMAGE].to_numpy().tolist(), "the grid refuses other prompts"
    found = paired_values(a["value"].to_numpy(float), b["value"].to_numpy(float), design(a), len(shared))
    low, high = 100 * found.low, 100 * found.high
    return Cell(signed(100 * found.estimate), 100 * found.estimate, low, high, bounds(low, high), found.kind), found.p
