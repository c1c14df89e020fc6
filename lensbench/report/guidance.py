"""Guidance as a factor: every arm at the evaluation's own scale, and at the scale that is best for it, side by side.

The best scale of an arm and form is chosen on prompts of another seed, over all training seeds, and reported on every
prompt, so that choosing flatters nobody; the scales are the same for every arm. Evaluations without `choosing_seed`
choose on every other prompt of each task and report on the rest: that costs no image, but leaves two prompts of a task
that has five.
"""

from __future__ import annotations

from itertools import product
from typing import TYPE_CHECKING

import numpy as np

from lensbench.metrics import CHOOSING, GENEVAL, GUIDED, metric
from lensbench.report.chance import chance_note, chance_of, with_chance
from lensbench.report.grid import Grid
from lensbench.report.levels import Level
from lensbench.report.paired import paired_values
from lensbench.report.placing import IMAGE, design
from lensbench.report.table import Cell, Column, Row, Table, bounds, number, signed
from lensbench.scoring.statistics import stratified_mean

if TYPE_CHECKING:
    import pandas as pd

HALF = (
    "Best: chosen on every other prompt of each task, over all seeds; all scores here are of the other prompts, which "
    "choosing did not see."
)
APART = (
    "Best: chosen on prompts of another seed and from other noise, over all training seeds; all scores here are of the "
    "prompts that the other tables report, all of them."
)
AT_THE_END = "A best that is the largest of these scales may lie beyond it."


def guidance_table(grid: Grid, own: float) -> Table | None:
    """A row for each scale, prompt form and arm; None where one guidance was scored, `own`, the evaluation's."""
    rows: list[list[Cell]] = []
    scales, bests = {own}, set[float]()
    apart = _chosen_apart(grid)
    for scale, form in product(grid.scales, grid.forms(GENEVAL)):
        found = {arm: grid.guided(scale, arm, form, own) for arm in grid.arms}
        found = {arm: images for arm, images in found.items() if len(images["guidance"].unique()) > 1}
        best = {arm: best_scale(_choosing(grid, scale, arm, form) if apart else images[_half(images)])
                for arm, images in found.items()}  # fmt: skip
        reported = {arm: images if apart else images[~_half(images)] for arm, images in found.items()}
        for arm, images in reported.items():
            scales |= set(images["guidance"])
            bests.add(best[arm])
            at_own, at_best = (images[images["guidance"] == level] for level in (own, best[arm]))
            gaps = [Cell(""), Cell("")]
            if grid.reference is not None and arm is not grid.reference and grid.reference in reported:
                other = reported[grid.reference]
                pairs = ((at_own, own), (at_best, best[grid.reference]))
                gaps = [_difference(ours, other[other["guidance"] == level]) for ours, level in pairs]
            words = [Cell(word, word) for word in (scale.label, form, arm.label)]
            rows.append([*words, _score(at_own), gaps[0], Cell(f"{best[arm]:g}", best[arm]), _score(at_best), gaps[1]])
    if not rows:
        return None
    columns = (
        Column("scale", "scale", "scale", label=True),
        Column("form", "prompts", "prompts", label=True),
        Column("arm", "training captions", "captions", label=True),
        Column("own", f"at {own:g}", f"at {own:g}", "fixed", interval=True),
        Column("own_difference", "to the reference", "difference", "fixed", interval=True),
        Column("best", "guidance", "guid.", "each at its best"),
        Column("at_best", "at its best", "at best", "each at its best", interval=True),
        Column("difference", "to the reference", "difference", "each at its best", interval=True, key=True),
    )
    shown = ", ".join(f"{level:g}" for level in sorted(scales))
    notes = (
        f"GenEval's mean in percent at guidance {shown}, the same scales for every arm. {APART if apart else HALF}",
        *([AT_THE_END] if max(scales) in bests else []),
        "Differences are paired image by image, with their 95 % intervals; this table asks no question of its own.",
        *filter(None, [chance_note(cell for cells in rows for cell in cells)]),
    )
    told = tuple(
        Row(tuple(cells), opens=n == 0 or rows[n - 1][0].text != cells[0].text) for n, cells in enumerate(rows)
    )
    return Table("guidance", "Guidance chosen for each arm", columns, told, notes)


def _chosen_apart(grid: Grid) -> bool:
    """Whether every arm was asked prompts for choosing, in every form that it was asked further scales in."""
    asked = {key[:2] + key[3:] for key in grid.judged if key[2] == GUIDED}
    return bool(asked) and asked <= {key[:2] + key[3:] for key in grid.judged if key[2] == CHOOSING}


def _choosing(grid: Grid, scale: Level, arm: Level, form: str) -> pd.DataFrame:
    """The judged images of the last step on the prompts that the guidance is chosen on."""
    rows = grid.judged[scale.index, arm.index, CHOOSING, form]
    return rows[rows["last"]]


def _half(images: pd.DataFrame) -> pd.Series:
    """Which images are of every other prompt of each task, from the first."""
    place = images.groupby("task")["prompt_index"].rank(method="dense").astype(int)
    return place % 2 == 1


def best_scale(seen: pd.DataFrame) -> float:
    """The scale with the highest mean over tasks; of equals the smallest."""
    means = seen.groupby(["guidance", "task"])["value"].mean().groupby("guidance").mean()
    return float(means.index[int(np.argmax(means.to_numpy().round(9)))])  # equal but for the order of a sum is equal


def _score(images: pd.DataFrame) -> Cell:
    values, layout = images["value"].to_numpy(float), design(images)
    mean = stratified_mean(values, *layout)
    chance = chance_of(values, images["chance"].to_numpy(float), images["task"].to_numpy(), layout)
    value, low, high = 100 * mean.estimate, 100 * mean.low, 100 * mean.high
    return with_chance(Cell(number(value), value, low, high, bounds(low, high), "95%"), chance, metric(GENEVAL), 100.0)


def _difference(a: pd.DataFrame, b: pd.DataFrame) -> Cell:
    shared = set(a["seed"]) & set(b["seed"])
    a, b = (part[part["seed"].isin(shared)].sort_values(IMAGE, kind="stable") for part in (a, b))
    assert a[IMAGE].to_numpy().tolist() == b[IMAGE].to_numpy().tolist(), "the grid refuses other prompts"
    found = paired_values(a["value"].to_numpy(float), b["value"].to_numpy(float), design(a), len(shared))
    low, high = 100 * found.low, 100 * found.high
    return Cell(signed(100 * found.estimate), 100 * found.estimate, low, high, bounds(low, high), found.kind)
