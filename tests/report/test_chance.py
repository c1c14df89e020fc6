"""The chance of a score in the grid: from the column that outcomes keep, or from committed boxes of before."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from lensbench.metrics import metric
from lensbench.report.chance import chance_of_score
from lensbench.report.compare import differences, matched
from lensbench.report.freeze import load
from lensbench.report.grid import Grid, arrange
from lensbench.report.levels import Level
from lensbench.report.sides import open_sides
from lensbench.report.table import AT_CHANCE
from lensbench.scoring.chance import mean
from tests.report.conftest import simulate

RESULTS = Path(__file__).parents[2] / "results"


@cache
def committed(sweep: str) -> Grid:
    return arrange(load(RESULTS / sweep))


def level(levels: tuple[Level, ...], label: str) -> Level:
    return next(one for one in levels if one.label == label)


@pytest.mark.parametrize(
    ("arm", "depth", "expected"),
    [
        ("alt-text", 4, [(4.2, 3.6), (3.1, 3.3)]),
        ("alt-text", 3, [(0.9, 1.3), (2.0, 1.9)]),
        ("detailed, shuffled", 4, [(2.9, 3.8), (4.7, 4.3)]),
    ],
)
def test_the_reference_and_the_shuffled_control_are_at_chance(
    arm: str, depth: int, expected: list[tuple[float, float]]
) -> None:
    grid = committed("caption_quality")
    scale, one = level(grid.scales, f"4,096 images, depth {depth}"), level(grid.arms, arm)
    for form, (score, by_chance) in zip(("short", "detailed"), expected, strict=True):
        found = grid.chance(scale, one, "geneval", form)
        assert 100 * grid.number(scale, one, "geneval", form).value == pytest.approx(score, abs=0.06)
        assert 100 * found.value == pytest.approx(by_chance, abs=0.06)
        assert found.margin == pytest.approx(grid.number(scale, one, "geneval", form).value - found.value)
        assert found.at_chance
        assert not found.above


def test_an_arm_that_reads_its_captions_is_above_chance_and_its_shuffled_control_is_not() -> None:
    grid = committed("caption_dose")
    (scale,) = grid.scales
    for form in ("short", "detailed"):
        detailed = grid.chance(scale, level(grid.arms, "100 % of attributes"), "geneval", form)
        shuffled = grid.chance(scale, level(grid.arms, "100 % of attributes, shuffled"), "geneval", form)
        assert detailed.above
        assert shuffled.at_chance


def test_tasks_and_other_guidances_have_their_chance_too() -> None:
    grid = committed("caption_dose")
    (scale,), arm = grid.scales, level(grid.arms, "100 % of attributes")
    of_tasks = [grid.chance(scale, arm, f"geneval.{task}", "short").value for task in grid.tasks]
    assert np.mean(of_tasks) == pytest.approx(grid.chance(scale, arm, "geneval", "short").value)
    guided = [name for name in grid.measured if name.startswith("geneval_guided.")]
    assert guided
    for name in guided:
        found = grid.chance(scale, arm, name, "short")
        assert found.known
        assert found.margin == pytest.approx(grid.number(scale, arm, name, "short").value - found.value)


def test_the_chance_that_outcomes_keep_is_taken_as_it_is() -> None:
    results = simulate()
    kept = arrange(replace(results, outcomes=results.outcomes.assign(chance=results.outcomes["value"] / 2)))
    for arm in kept.arms:
        number, found = (ask(kept.scales[0], arm, "geneval", "short") for ask in (kept.number, kept.chance))
        assert found.value == pytest.approx(number.value / 2)
        assert found.above
    same = arrange(replace(results, outcomes=results.outcomes.assign(chance=results.outcomes["value"])))
    assert same.chance(same.scales[0], same.arms[0], "geneval", "short").at_chance


def test_one_cells_records_have_the_chance_that_its_grid_has() -> None:
    results = load(RESULTS / "caption_dose")
    grid = committed("caption_dose")
    (scale,), arm = grid.scales, level(grid.arms, "100 % of attributes")
    of_seed = grid.images(scale, arm, "geneval", "short").groupby("cell").first().index[0]
    outcomes = results.outcomes[results.outcomes["cell"] == of_seed]
    step = int(outcomes["step"].max())
    images = grid.images(scale, arm, "geneval", "short")
    chances = grid.chances(scale, arm, "geneval", "short")[(images["cell"] == of_seed).to_numpy()]
    tasks = images["task"][images["cell"] == of_seed]
    assert chance_of_score(metric("geneval"), outcomes, "short", step).value == pytest.approx(mean(chances, tasks))
    of_task = chance_of_score(metric("geneval.colors"), outcomes, "short", step)
    assert of_task.value == pytest.approx(chances[(tasks == "colors").to_numpy()].mean())
    assert chance_of_score(metric("geneval_guided.4"), outcomes, "detailed", step).known
    assert not chance_of_score(metric("geneval_guided.7"), outcomes, "short", step).known
    assert not chance_of_score(metric("validation_loss"), outcomes, "short", step).known


def test_images_without_a_chance_get_it_and_the_others_keep_theirs() -> None:
    results, grid = load(RESULTS / "caption_dose"), committed("caption_dose")
    (scale,), arm = grid.scales, level(grid.arms, "50 % of attributes")
    chosen = results.outcomes["sample"] == 0
    mixed = arrange(replace(results, outcomes=results.outcomes.assign(chance=np.where(chosen, 0.5, np.nan))))
    made, found = (one.chances(scale, arm, "geneval", "detailed") for one in (grid, mixed))
    kept = (mixed.images(scale, arm, "geneval", "detailed")["sample"] == 0).to_numpy()
    assert kept.any()
    assert not kept.all()
    assert (found == np.where(kept, 0.5, made)).all()


def test_two_sides_have_their_chance_beside_each_score() -> None:
    side, _ = open_sides(RESULTS / "demo", RESULTS / "demo", RESULTS)
    chosen = (side.outcomes["metric"] == "geneval") & (
        side.outcomes["part"].isin(("alt-text, depth 3", "brief, depth 3"))
    )
    side = replace(side, outcomes=side.outcomes[chosen], sets=side.sets.head(0))
    table = differences(side, side, matched(side, side))
    names = [column.name for column in table.columns]
    grid = committed("demo")
    by_part = {f"{arm.label}, {scale.label}": (scale, arm) for arm in grid.arms for scale in grid.scales}
    seen = 0
    for row in table.rows:
        part, form, what = (row.cells[names.index(name)].value for name in ("part", "prompts", "metric"))
        if what == "geneval.mean":
            found = grid.chance(*by_part[str(part)], "geneval", str(form))
            for side in ("a", "b"):
                cell = row.cells[names.index(side)]
                assert cell.chance == pytest.approx(found.value)
                assert (AT_CHANCE in cell.mark) == found.at_chance
                seen += 1
    assert seen == 2 * 2 * 2


def test_nothing_is_claimed_where_there_is_no_chance_to_be_had() -> None:
    grid = arrange(simulate())  # no boxes
    for name in ("geneval", "geneval.colors", "validation_loss", "fd_shapes"):
        found = grid.chance(grid.scales[0], grid.arms[0], name, "short")
        assert (found.known, found.above, found.at_chance) == (False, False, False)
