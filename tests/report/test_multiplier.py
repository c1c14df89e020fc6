"""The multiplier's table, sentences and figures, and the dose's, from simulated sweeps with a known answer."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from lensbench.report.dose import dose_figure, dose_table
from lensbench.report.freeze import open_frozen
from lensbench.report.grid import arrange
from lensbench.report.multiplier import NONE_HERE, OUTSIDE, multiplier_sentences, multiplier_table, multiplier_words
from lensbench.report.render import to_console, to_csv, to_latex, to_markdown
from lensbench.report.scaling import worths
from lensbench.report.scaling_figure import multiplier_figures
from lensbench.scoring.multiplier import ERROR, Multiplier, direct
from lensbench.sweep.sweep import Results

TASKS = ("single_object", "two_object", "position")
RESULTS = Path(__file__).parents[2] / "results"
IMAGES, DEPTHS = [1024, 2048, 4096, 8192], [4, 6, 8]


def sweep(error, factors, reference, *, prompts=60, missing=()) -> Results:
    """Results whose GenEval error, and a tenth of it as loss, is error(levels)."""
    records, outcomes = [], []
    difficulty = np.random.default_rng(0).normal(0, 0.08, prompts)
    for number, levels in enumerate(product(*factors.values())):
        values = dict(zip(factors, levels, strict=True))
        if values in missing:
            continue
        rng = np.random.default_rng(number)
        chance = np.clip(1 - error(values) + difficulty - difficulty.mean() + rng.normal(0, 0.01), 0.005, 0.995)
        cell = f"{number:012x}"
        row = {"sweep": "known", **values, "cell": cell, "prompt_form": "short", "step": 100}
        wins = rng.binomial(1, chance[:, None], (prompts, 4))
        for prompt, sample in product(range(prompts), range(4)):
            task = TASKS[prompt % 3]
            place = {"task": task, "prompt_index": prompt, "sample": sample, "prompt": f"{task} {prompt}"}
            value = float(wins[prompt, sample])
            outcomes.append({**row, **place, "metric": "geneval", "value": value, "reason": ""})
        amounts = {"samples_seen": 3200, "train_flops": 1e12, "low": np.nan, "high": np.nan, "n": 240}
        for metric, value in (("geneval", wins.mean()), ("validation_loss", 0.1 * error(values))):
            form = {"prompt_form": "short"}
            records.append({**row, **amounts, **form, "metric": metric, "value": value * rng.normal(1, 0.01)
                            if metric == "validation_loss" else value})  # fmt: skip
    return Results("known", factors, reference, pd.DataFrame(records), pd.DataFrame(outcomes), [], [])


def scaled(worth=3.0, floors=(0.1, 0.1), missing=(), images=IMAGES, depths=DEPTHS):
    def error(values):
        arm = values["captions.set"] == "detailed"
        n, p = values["images"] / 1024 * (worth if arm else 1), (values["model.depth"] / 4) ** 3
        return floors[arm] + 0.15 * p**-0.8 + 0.4 * n**-0.5

    factors = {"captions.set": ["alt", "detailed"], "model.depth": depths, "images": images, "seed": [0, 1, 2]}
    results = sweep(error, factors, {"captions.set": "alt"}, missing=missing)
    depth_of = results.records.groupby("cell")["model.depth"].first()
    return arrange(results), {cell: 1000 * depth**3 for cell, depth in depth_of.items()}


def sweep_of(chance: float) -> Results:
    """Two arms at two numbers of images whose images answer this share of the other prompts."""
    factors = {"captions.set": ["alt", "detailed"], "images": [1024, 4096], "seed": [0, 1, 2]}

    def error(values):
        return 0.9 * (values["images"] / 1024 * (3 if values["captions.set"] == "detailed" else 1)) ** -0.3

    results = sweep(error, factors, {"captions.set": "alt"}, prompts=24)
    return replace(results, outcomes=results.outcomes.assign(chance=chance))


@pytest.fixture(scope="module")
def known():
    return scaled()


def of(found, metric, axis):
    return next(worth for worth in found if (worth.metric, worth.axis) == (metric, axis))


def test_both_estimators_find_what_the_data_are_worth(known):
    found = worths(*known)
    for metric in ("geneval", "validation_loss"):
        data = of(found, metric, "data")
        assert data.joint is not None
        for multiplier in (data.direct.multiplier, data.joint.multipliers[data.place]):
            assert multiplier.low < 3 < multiplier.high
        assert data.where == "depth 8"
    assert not of(found, "geneval", "data").disagree
    size = of(found, "validation_loss", "parameters")
    assert size.joint is not None
    assert size.joint.multipliers[size.place].low < 1 < size.joint.multipliers[size.place].high


def test_axes_are_those_of_the_sweep(known):
    grid, parameters = known
    assert {worth.axis for worth in worths(grid, parameters)} == {"data", "parameters"}
    assert {worth.axis for worth in worths(grid)} == {"data"}


def test_a_floor_of_its_own_is_no_multiplier():
    grid, parameters = scaled(worth=1.0, floors=(0.35, 0.05))
    found = worths(grid, parameters)
    table = multiplier_table(grid, found)
    assert table is not None
    row = next(row for row in table.rows if row.cells[2].text == "data")
    assert row.cells[5].text == "none"
    assert "f" in row.cells[6].text
    (sentence,) = multiplier_sentences(grid, found)
    assert "no multiplier: detailed and alt-text end on floors of their own" in sentence


def test_a_bound_says_that_more_is_outside_the_measured_range():
    grid, parameters = scaled(worth=60.0, images=IMAGES[:2], depths=[4])
    found = worths(grid, parameters)
    assert multiplier_words(found[0].direct.multiplier)[0] == "> 2"
    assert multiplier_sentences(grid, found) == [
        "Detailed captions are worth more than 2 times the data at depth 4, the end of the measured range, against "
        "alt-text (GenEval, short prompts)."
    ]
    table = multiplier_table(grid, found)
    assert table is not None
    assert any(OUTSIDE in note for note in table.notes)


@pytest.mark.parametrize(
    ("multiplier", "words"),
    [
        (Multiplier(3.214, 2.41, 4.96, (0.1, 10)), ("3.2", "[2.4, 5]")),
        (Multiplier(np.inf, 4.0, np.inf, (0.17, 6)), ("> 6", "[4, > 6]")),
        (Multiplier(0, 0, 0, (0.17, 6)), ("< 0.17", "")),
        (Multiplier(1.5, 0, np.inf, (0.17, 6)), ("?", "")),
        (Multiplier(14.6, np.nan, np.nan), ("15", "")),
    ],
)
def test_multipliers_in_words(multiplier, words):
    assert multiplier_words(multiplier) == words


def test_a_missing_cell_leaves_both_curves():
    gone = [{"captions.set": "alt", "model.depth": 8, "images": 2048, "seed": seed} for seed in (0, 1, 2)]
    grid, parameters = scaled(missing=gone)
    data = of(worths(grid, parameters), "geneval", "data")
    assert len(data.arm_curve.points) == len(data.reference_curve.points) == 3


def test_every_renderer_takes_the_table_and_the_figures_are_the_same_again(known, tmp_path):
    grid, parameters = known
    found = worths(grid, parameters)
    table = multiplier_table(grid, found)
    assert table is not None
    for width in (80, 120):
        assert max(map(len, to_console(table, width).plain.splitlines())) <= width
    assert "worth, joint fit" in to_markdown(table)
    assert "toprule" in to_latex(table, "tab:m")
    assert "direct" in to_csv(table)
    first, again = (multiplier_figures(grid, found, tmp_path / name) for name in ("a", "b"))
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in again]
    assert [path.name for path in first][::2] == ["multiplier.png", "multiplier_validation_loss.png"]


def test_the_dose_is_a_surface(tmp_path):
    factors = {
        "captions.set": ["dose"],
        "captions.present": [0.25, 0.5, 1.0],
        "captions.wrong": [0.0, 0.2],
        "seed": [0, 1],
    }

    def error(values):
        return 0.9 - 0.6 * values["captions.present"] * (1 - values["captions.wrong"])

    reference = {"captions.set": "dose", "captions.present": 1.0, "captions.wrong": 0.0}
    grid = arrange(sweep(error, factors, reference))
    table = dose_table(grid)
    assert table is not None
    assert len(table.rows) == 3
    full, none_wrong = table.rows[-1].cells[-2], table.rows[0].cells[-2]
    assert full.value == pytest.approx(70, abs=5)
    assert none_wrong.value == pytest.approx(25, abs=5)
    assert full.low < full.value < full.high
    assert [path.suffix for path in dose_figure(grid, tmp_path / "dose")] == [".png", ".pdf"]


def test_sweeps_without_scales_or_doses_have_neither(known):
    grid, _ = known
    assert dose_table(grid) is None
    alone, parameters = scaled(images=[1024], depths=[4])
    assert worths(alone, parameters) == []
    assert multiplier_table(alone, []) is None


def of_arms(sweep: str, arms: set[tuple[str, bool]], images: int) -> tuple[Results, dict[str, int]]:
    """Committed GenEval at one number of images, of the arms with these caption sets."""
    frozen = open_frozen(RESULTS / sweep)
    frames = []
    for frame in (frozen.results.records, frozen.results.outcomes):
        arm = [pair in arms for pair in zip(frame["captions.set"], frame["captions.shuffled"], strict=True)]
        keep = (frame["images"] == images) & (frame["metric"] == "geneval")
        frames.append(frame[keep & np.array(arm)])
    reference = {"captions.set": "detailed", "captions.shuffled": True}
    told = replace(frozen.results, records=frames[0], outcomes=frames[1], reference=reference, questions=[])
    return told, frozen.parameters


def test_the_shuffled_control_as_reference_gives_no_multiplier(tmp_path: Path) -> None:
    """Before chance was asked for, it was said to need 5.0 times the parameters [3.8, 6.4]."""
    results, parameters = of_arms("caption_quality", {("detailed", False), ("detailed", True)}, 4096)
    grid = arrange(results)
    found = worths(grid, parameters)
    (size,) = (one for one in found if (one.form, one.axis) == ("detailed", "parameters"))
    k = len(size.reference_curve.points)
    curves = (size.reference_curve.log_x, size.arm_curve.log_x)
    before = direct(*curves, size.draws.of(np.arange(k)), size.draws.of(np.arange(k, 2 * k)), scale=ERROR).multiplier
    assert before[:3] == pytest.approx((5.0, 3.8, 6.4), rel=0.05)
    assert size.at_chance[0].label == "detailed, shuffled"
    table = multiplier_table(grid, found)
    assert table is not None
    for row in table.rows:
        told, fitted, remark = row.cells[-3:]
        assert (told.text, fitted.text, remark.text) == (NONE_HERE, "\N{EN DASH}", "c")
        assert told.value == "not measurable here: detailed, shuffled is at chance"
        assert np.isnan([told.low, told.high]).all()
    assert "5 [" not in to_markdown(table)
    sentences = multiplier_sentences(grid, found)
    assert len(sentences) == 2
    for form, sentence in zip(("short", "detailed"), sentences, strict=True):
        assert sentence.endswith(f"(GenEval, {form} prompts): not measurable here: detailed, shuffled is at chance.")
        assert not any(character.isdigit() for character in sentence)
    assert multiplier_figures(grid, found, tmp_path)


@pytest.mark.parametrize(("chance", "known"), [(0.0, True), (1.0, False), (np.nan, True)])
def test_a_number_needs_both_arms_above_chance_where_that_is_known(chance: float, known: bool) -> None:
    results = sweep_of(chance)
    (worth,) = (one for one in worths(arrange(results)) if one.metric == "geneval")
    assert worth.measurable == known
    (loss,) = (one for one in worths(arrange(results)) if one.metric == "validation_loss")
    assert loss.measurable, "a loss has no chance"
