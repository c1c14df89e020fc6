"""The chance of a score: what its own images give with the other prompts of their tasks, and whether it is above."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import isnan
from typing import TYPE_CHECKING

import numpy as np

from lensbench.metrics import CHOOSING, GENEVAL, GUIDED
from lensbench.report.placing import design
from lensbench.report.table import AT_CHANCE, DASH, Cell, number
from lensbench.scoring.chance import asked_rows, mean, of_outcomes
from lensbench.scoring.statistics import paired_difference

if TYPE_CHECKING:
    from collections.abc import Iterable

    import pandas as pd

    from lensbench.metrics import Metric
    from lensbench.report.placing import Design
    from lensbench.scoring.chance import Answers
    from lensbench.scoring.geneval import Row

NAN = float("nan")
ONE_SIDED = 0.9  # the level of an interval whose either end is a bound at 95 %
VERDICTS = (GENEVAL, GUIDED, CHOOSING)  # what outcomes call the images that have a chance
WHAT = "Chance: what the same images score for the other prompts of their task."
NOT_ABOVE = "not shown to be above chance: the lower 95 % bound of score minus chance is not above zero"


@dataclass(frozen=True)
class Chance:
    """What chance gives, as a fraction like the score, over the seeds that are there; NaN where it is not known.

    `margin` is the score minus chance, image by image, `low` and `high` the bounds that it is above and below with 95 %
    each, over prompts and seeds as those of scores are. They are NaN where no interval can be had.
    """

    value: float = NAN
    margin: float = NAN
    low: float = NAN
    high: float = NAN

    @property
    def known(self) -> bool:
        """Whether there is a number for chance."""
        return not isnan(self.value)

    @property
    def above(self) -> bool:
        """Whether the score is above chance: one-sided, the lower bound is above zero."""
        return self.low > 0

    @property
    def at_chance(self) -> bool:
        """Whether it is known that nothing shows the score to be above chance; False where no interval can be had."""
        return self.low <= 0


UNKNOWN = Chance()


def chance_of(values: np.ndarray, chances: np.ndarray, tasks: np.ndarray, layout: Design) -> Chance:
    """The chance of a mean of judged images: their values, chances and tasks (N,), and their design."""
    if not len(values) or np.isnan(chances).any():
        return UNKNOWN
    found = paired_difference(values, chances, *layout)
    return Chance(mean(chances, tasks), found.estimate, *found.interval(ONE_SIDED))


def chances_of(images: pd.DataFrame, wordings: list[pd.DataFrame], memory: Answers) -> np.ndarray:
    """The chance of each judged image: as it was kept or, of outcomes of before, made again from the boxes.

    `wordings` are the judged images of the same prompts in every form. `memory` is as in `of_outcomes`.
    """
    kept = images["chance"].to_numpy(float) if "chance" in images else np.full(len(images), NAN)
    lacking = np.isnan(kept)
    if not lacking.any():
        return kept
    rows: dict[int, Row] = {}
    for frame in wordings:
        told = frame[["prompt_index", "prompt"]].drop_duplicates("prompt_index")
        rows |= asked_rows(dict(zip(told["prompt_index"].tolist(), told["prompt"].tolist(), strict=True)))
    return np.where(lacking, of_outcomes(images, rows, memory), kept)


def chances_of_all(outcomes: pd.DataFrame, evaluation: list[str]) -> np.ndarray:
    """The chance of each judged image of several evaluations, which these columns tell apart; NaN for what GenEval
    did not judge."""
    found = np.full(len(outcomes), NAN)
    places = np.arange(len(outcomes))
    for metric in VERDICTS:
        of_metric = (outcomes["metric"] == metric).to_numpy()
        for _, mine in outcomes[of_metric].assign(place=places[of_metric]).groupby(evaluation, sort=False):
            wordings = [rows for _, rows in mine.groupby("prompt_form")]
            found[mine["place"].to_numpy()] = chances_of(mine, wordings, {})
    return found


def chance_of_score(of: Metric, outcomes: pd.DataFrame, form: str, step: int) -> Chance:
    """The chance of one cell's score in a prompt form at a step, from its judged images; unknown for other metrics."""
    if of.outcome not in VERDICTS:
        return UNKNOWN
    mine = outcomes[(outcomes["metric"] == of.outcome) & (outcomes["step"] == step)]
    if of.only is not None:
        column, value = of.only
        mine = mine[mine[column] == value] if column in mine else mine.head(0)
    images = mine[mine["prompt_form"] == form]
    chances = chances_of(images, [rows for _, rows in mine.groupby("prompt_form")], {})
    return chance_of(images["value"].to_numpy(float), chances, images["task"].to_numpy(), design(images.assign(seed=0)))


def chance_cell(found: Chance, of: Metric) -> Cell:
    """The cell of a column that shows chance beside a score, whose mark says whether it is above."""
    if not found.known:
        return Cell(DASH)
    return Cell(number(of.factor * found.value, of.digits), found.value, emphasis="chance")


def with_chance(score: Cell, found: Chance, of: Metric, factor: float = 1.0) -> Cell:
    """The cell of a score with its chance, and marked where it is not above; `factor` is what its value is of it."""
    if not found.known:
        return score
    shown = number(of.factor * found.value, of.digits)
    mark = (AT_CHANCE if found.at_chance else "") + score.mark
    return replace(score, chance=factor * found.value, chance_shown=shown, mark=mark)


def chance_note(cells: Iterable[Cell]) -> str:
    """What a table says of chance; nothing where no cell has any."""
    there = list(cells)
    if all(isnan(cell.chance) for cell in there):
        return ""
    marked = any(AT_CHANCE in cell.mark for cell in there)
    return WHAT + (f" {AT_CHANCE}: {NOT_ABOVE}." if marked else "")
