"""Guidance as a factor: chosen on one half of the prompts, reported on the other."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from lensbench.metrics import CHOOSING, GUIDED
from lensbench.report.grid import arrange
from lensbench.report.guidance import best_scale, guidance_table
from lensbench.report.table import Table
from lensbench.scoring.geneval import TASKS
from lensbench.sweep.sweep import Results


@pytest.fixture(scope="module")
def results(simulated) -> Results:
    """Three arms at guidance 2 (the evaluation's own) and 5; alt-text is right more often at 5, detailed less often."""
    made = simulated()
    judged = made.outcomes[made.outcomes["metric"] == "geneval"]
    further = judged.assign(metric=GUIDED, guidance=5.0)
    luck = np.random.default_rng(0).random(len(further))
    value = further["value"].to_numpy(float).copy()
    alt, detailed = (further["captions.set"].to_numpy() == name for name in ("alt", "detailed"))
    value[alt & (luck < 0.4)] = 1.0
    value[detailed & (luck < 0.4)] = 0.0
    outcomes = pd.concat([made.outcomes, further.assign(value=value)], ignore_index=True)
    means = further.assign(value=value).groupby("cell")["value"].mean()
    records = made.records[made.records["metric"] == "geneval"].copy()
    records = records.assign(metric=f"{GUIDED}.5", value=records["cell"].map(means))
    return replace(made, outcomes=outcomes, records=pd.concat([made.records, records], ignore_index=True))


@pytest.fixture(scope="module")
def apart(results: Results) -> Results:
    """The same, asked for choosing on other prompts, where alt-text is best at 2 in short prompts."""
    judged = results.outcomes
    own = judged[judged["metric"] == "geneval"].assign(guidance=2.0)
    asked = pd.concat([own, judged[judged["metric"] == GUIDED]], ignore_index=True).assign(metric=CHOOSING)
    turned = (asked["captions.set"] == "alt") & (asked["prompt_form"] == "short")
    asked.loc[turned, "guidance"] = asked.loc[turned, "guidance"].map({2.0: 5.0, 5.0: 2.0})
    return replace(results, outcomes=pd.concat([judged, asked], ignore_index=True))


def column(table: Table, name: str) -> list[float]:
    place = [one.name for one in table.columns].index(name)
    return [float(row.cells[place].value or 0) for row in table.rows]


def test_each_arm_has_its_best_and_scores_of_prompts_that_choosing_did_not_see(results: Results) -> None:
    grid = arrange(results)
    table = guidance_table(grid, 2.0)
    assert table is not None
    assert [row.cells[1].text for row in table.rows] == ["short"] * 3 + ["detailed"] * 3
    assert column(table, "best") == [5.0, 2.0, 2.0] * 2  # brief is the same at both: the smaller
    own, best = column(table, "own"), column(table, "at_best")
    assert best[0] > own[0]
    assert [best[1], best[2]] == [own[1], own[2]]
    judged = results.outcomes[results.outcomes["metric"] == "geneval"]
    some = judged[(judged["captions.set"] == "brief") & (judged["prompt_form"] == "short")]
    place = some.groupby("task")["prompt_index"].rank(method="dense").astype(int)
    unseen = some[place % 2 == 0]
    assert own[1] == pytest.approx(100 * unseen.groupby("task")["value"].mean().mean())
    difference = column(table, "difference")
    assert difference[0] == 0.0
    assert difference[2] == pytest.approx(best[2] - best[0])


def test_a_scale_chosen_on_other_prompts_is_reported_on_all(results: Results, apart: Results) -> None:
    table = guidance_table(arrange(apart), 2.0)
    assert table is not None
    # what the reported prompts say does not matter: they would choose 5 for alt-text on short prompts too
    assert column(table, "best") == [2.0, 2.0, 2.0, 5.0, 2.0, 2.0]
    assert column(table, "own")[0] == column(table, "at_best")[0]
    judged = results.outcomes
    of_alt = judged[(judged["captions.set"] == "alt") & (judged["prompt_form"] == "detailed")]
    every = of_alt[of_alt["metric"] == GUIDED]
    assert column(table, "at_best")[3] == pytest.approx(100 * every.groupby("task")["value"].mean().mean())
    assert column(table, "own_difference")[5] > column(table, "difference")[5]
    assert any("may lie beyond" in note for note in table.notes)


def test_further_scales_change_no_other_table(results: Results, apart: Results, simulated) -> None:
    from lensbench.report.tables import tables

    assert tables(arrange(results)) == tables(arrange(apart)) == tables(arrange(simulated()))


def test_one_scale_makes_no_table(simulated) -> None:
    assert guidance_table(arrange(simulated()), 2.0) is None


def test_of_scales_that_are_equal_but_for_rounding_the_smallest_is_best() -> None:
    shares = {2.0: {"colors": 0.3}, 3.0: {"colors": 0.2, "single_object": 0.1}}  # whose means differ in the last bit
    rows = [
        {"guidance": scale, "task": task, "value": float(image < round(10 * of_tasks.get(task, 0.0)))}
        for scale, of_tasks in shares.items()
        for task in TASKS
        for image in range(10)
    ]
    assert best_scale(pd.DataFrame(rows)) == 2.0


def test_choosing_on_noise_flatters_nobody() -> None:
    """Many scales that are all alike: the best on the choosing half is no better on the other."""
    rng = np.random.default_rng(1)
    gains = []
    for _ in range(40):
        values = rng.random((8, 2, 60)) < 0.5  # scales, halves, images
        chosen = values[:, 0].mean(1).argmax()
        gains.append(values[chosen, 1].mean() - values[:, 1].mean())
    assert abs(np.mean(gains)) < 0.03
