"""Chance: what GenEval gives an image for prompts that it was not sampled from.

The judged boxes of an image are held against every other prompt of its task, and its chance is the share of those that
it answers. The mean over images is therefore the mean over all pairings of an image with another prompt of its task:
exact, and without sampling one more image. A model that does not read its prompt scores its chance, however well its
images look: it shows what is asked as often for other prompts as for its own.

Prompts that ask for the same in another order ("a circle and a ring", "a ring and a circle") are two prompts: even
images that are as asked have a chance above zero in such a task.
"""

from __future__ import annotations

import functools
import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, MutableMapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from lensbench.scoring.geneval import TASKS, Detection, Row, keep, official_prompts, verdict

if TYPE_CHECKING:
    import pandas as pd

NAN = float("nan")
Answers = MutableMapping[tuple[str, str], np.ndarray]  # (task, boxes) -> whether they answer each prompt of the task
BETWEEN = ", "  # the repetitions of a prompt of the form "repeated"


def of_image(
    own: Row,
    asked: Sequence[Row],
    detections: Mapping[str, Sequence[Detection]],
    color_of: Callable[[str, int], str],
    *,
    threshold: float | None = None,
) -> float:
    """The share, in [0, 1], of the other prompts of its task that an image answers; NaN where there is no other.

    `own` is the row that the image was sampled for, `asked` every row of its task. The rest is as `verdict` takes it;
    the color of an object is asked for once, and only where a prompt needs no more than the right color.
    """
    others = [row for row in asked if row != own]
    if not others:
        return NAN
    return float(np.mean(_answered(others, detections, color_of, threshold)))


def by_task(rows: Iterable[Row]) -> dict[str, list[Row]]:
    """Rows by their task."""
    found: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        found[row["tag"]].append(row)
    return dict(found)


def mean(chances: Sequence[float] | np.ndarray, tasks: Sequence[str] | np.ndarray) -> float:
    """The mean of the tasks' means of images' chances, as scores are counted; NaN where any image has none."""
    values, strata = np.asarray(chances, dtype=np.float64), np.asarray(tasks)
    return float(np.mean([values[strata == task].mean() for task in np.unique(strata)])) if len(values) else NAN


def asked_rows(prompts: Mapping[int, str]) -> dict[int, Row]:
    """The rows of prompts by index, from their short or repeated wording; without those that are no prompt of the
    shapes world nor of GenEval."""
    known = _rows_by_prompt()
    found = {}
    for index, text in prompts.items():
        row = known.get(text) or known.get(text.partition(BETWEEN)[0])
        if row is not None:
            found[index] = row
    return found


def of_outcomes(outcomes: pd.DataFrame, rows: Mapping[int, Row], memory: Answers | None = None) -> np.ndarray:
    """The chance of each judged image, made again from its boxes: (N,), for outcomes that were kept without one.

    `outcomes` have "task", "prompt_index" and "boxes"; `rows` are those of the prompts by index. NaN for an image
    without boxes, for a task with a prompt that has no row, and where boxes lack the color that a prompt asks for.
    `memory` keeps what boxes answer; boxes of another set of prompts need another.
    """
    memory = {} if memory is None else memory
    found = np.full(len(outcomes), NAN)
    if "boxes" not in outcomes:
        return found
    tasks, indices, boxes = (outcomes[name].to_numpy() for name in ("task", "prompt_index", "boxes"))
    for task in dict.fromkeys(tasks.tolist()):
        mine = np.flatnonzero(tasks == task)
        numbers = np.unique(indices[mine])
        if len(numbers) < 2 or not all(rows.get(int(number), {}).get("tag") == task for number in numbers):
            continue
        asked = [rows[int(number)] for number in numbers]
        own = np.searchsorted(numbers, indices[mine])
        for place, at in zip(mine.tolist(), own.tolist(), strict=True):
            if not isinstance(boxes[place], str):
                continue
            key = (task, boxes[place])
            if key not in memory:
                memory[key] = _answers_of(asked, boxes[place])
            answers = memory[key]
            found[place] = (answers.sum() - answers[at]) / (len(answers) - 1)
    return found


def _answers_of(asked: Sequence[Row], boxes: str) -> np.ndarray:
    detections: dict[str, list[list[float]]] = defaultdict(list)
    colors: dict[str, list[str]] = defaultdict(list)
    for name, color, *box in json.loads(boxes):
        detections[name].append(box)
        colors[name].append(color)

    def color_of(name: str, index: int) -> str:
        if not colors[name][index]:
            raise LookupError  # boxes of photographs are kept without their colors
        return colors[name][index]

    try:
        return np.array(_answered(asked, detections, color_of, None), dtype=np.float64)
    except LookupError:
        return np.full(len(asked), NAN)


def _answered(
    rows: Sequence[Row],
    detections: Mapping[str, Sequence[Detection]],
    color_of: Callable[[str, int], str],
    threshold: float | None,
) -> list[bool]:
    """Whether an image answers each of these rows of one task. Most rows ask for classes that are not there: they are
    told by counting, before any verdict asks for a color, which is what costs with photographs."""
    kept = keep(detections, rows[0]["tag"], threshold)
    once = functools.cache(color_of)
    return [
        all(len(kept.get(clause["class"], ())) >= clause["count"] for clause in row["include"])
        and verdict(row, detections, once, threshold=threshold).correct
        for row in rows
    ]


@functools.cache
def _rows_by_prompt() -> dict[str, dict[str, Any]]:
    """Every row of the shapes world and of GenEval by its prompt."""
    from lensbench.scoring.shapes_prompts import task_rows

    every = [row for task in TASKS for row in task_rows(task, prompt_seed=0)]
    return {row["prompt"]: row for row in [*official_prompts(), *every]}
