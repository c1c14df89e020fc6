"""Which images a page compares: those that GenEval judged or, in a sweep without GenEval, those of held-out captions.

Both are told by outcomes and records alone, so that a page that is built from frozen results is of the same images.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pandas as pd

from lensbench.metrics import GENEVAL, metric, ordered
from lensbench.report.grid import Grid
from lensbench.report.levels import Level
from lensbench.scoring.scores import SCENES

PLACE, SET_IMAGES = "place", "set_images"  # of a row's image: where in its set it is, and how many the set has
CAPTION = ["prompt_index", "sample"]
RESCALED = ("clip_score_100_", "clip_score_2.5_")  # the cosine on other scales: beside an image, one is enough

Rows = Callable[[Level, Level, str, Any], pd.DataFrame]  # of a scale, arm, prompt form and seed


@dataclass(frozen=True)
class Shown:
    """The images of a sweep that are compared.

    `images` begins the name of their sets, `tasks` maps each task to what people call it, `verdicts` says whether a
    detector judged them, and `scores` names the columns of other scores that single images have. `rows` gives the
    images of one cell and form in their order, with `PLACE` and `SET_IMAGES`; none where there are none.
    """

    images: str
    forms: tuple[str, ...]
    scales: tuple[Level, ...]
    tasks: Mapping[str, str]
    verdicts: bool
    scores: tuple[str, ...]
    rows: Rows


def shown_images(grid: Grid) -> Shown:
    """The judged images of a sweep or, where GenEval was not asked, those of held-out captions."""
    if grid.forms(GENEVAL):
        judged = {place[0] for place in grid.judged if place[2] == GENEVAL}
        scales = tuple(scale for scale in grid.scales if scale.index in judged)
        tasks = {task: task.replace("_", " ") for task in grid.tasks}
        return Shown(GENEVAL, grid.forms(GENEVAL), scales, tasks, True, (), partial(_judged, grid))
    measured = [name for name in ordered(grid.measured) if _of_sampled(name)]
    forms = tuple(form for form in _forms(grid) if any(form in grid.forms(name) for name in measured))
    scores = tuple(name for name in measured if metric(name).outcome and not name.startswith(RESCALED))
    rows = partial(_captioned, grid, tuple(measured), scores)
    return Shown(SCENES, forms, grid.scales, {SCENES: "held-out captions"}, False, scores, rows)


def _forms(grid: Grid) -> tuple[str, ...]:
    return tuple(dict.fromkeys(form for name in grid.measured for form in grid.forms(name) if form))


def _of_sampled(name: str) -> bool:
    """Whether a metric is one of images sampled from held-out captions: neither GenEval's nor a loss on real images."""
    of = metric(name)
    return of.kind in ("score", "distance") and GENEVAL not in (name, of.variant_of)


def _judged(grid: Grid, scale: Level, arm: Level, form: str, seed: Any) -> pd.DataFrame:
    rows = grid.images(scale, arm, GENEVAL, form)
    rows = rows[rows["seed"] == seed].sort_values(["prompt_index", "sample"], kind="stable", ignore_index=True)
    return rows.assign(**{PLACE: np.arange(len(rows)), SET_IMAGES: len(rows)})


def _captioned(
    grid: Grid, measured: tuple[str, ...], scores: tuple[str, ...], scale: Level, arm: Level, form: str, seed: Any
) -> pd.DataFrame:
    """A row for each image whose caption some outcome tells: those of the held-out loss are of the same captions."""
    sampled = max((_count(grid.rows(scale, arm, name, form), seed) for name in measured), default=0)
    columns, values = [], {}
    for name in grid.measured:
        if not metric(name).outcome or not len(rows := grid.images(scale, arm, name, form)):
            continue
        rows = rows[(rows["seed"] == seed) & (rows["task"] == SCENES) & (rows["prompt_index"] < sampled)]
        columns.append(rows)
        if name in scores:
            values[name] = rows.set_index("prompt_index")["value"].astype(float)
    if not columns:
        return pd.DataFrame()
    found = pd.concat(columns).drop_duplicates(CAPTION).sort_values(CAPTION, kind="stable", ignore_index=True)
    told = {name: found["prompt_index"].map(values[name]) if name in values else np.nan for name in scores}
    return found.assign(**{**told, PLACE: found["prompt_index"], SET_IMAGES: sampled})


def _count(records: pd.DataFrame, seed: Any) -> int:
    """How many images a number of one seed is of."""
    mine = records[records["seed"] == seed]
    return int(mine["n"].max()) if len(mine) else 0
