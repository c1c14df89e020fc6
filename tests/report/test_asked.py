"""A sweep with questions: the report answers those, and they alone are what Holm's correction counts."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lensbench.report.freeze import load, open_frozen
from lensbench.report.grid import Grid, arrange
from lensbench.report.headline import headline
from lensbench.report.macros import macros
from lensbench.report.pareto import front, pareto_table
from lensbench.report.tables import differences_table, main_table
from lensbench.scoring.statistics import holm

DEMO = Path(__file__).parents[2] / "results" / "demo"
RESULTS = load(DEMO)


def question(arm: str, other: str = "alt", form: str | None = None, metric: str = "geneval", **scale: Any) -> dict:
    names = {"depth": "model.depth"}
    told = {"arm": {"captions.set": arm}, "other": {"captions.set": other}, "metric": metric, "form": form}
    return told | {"scale": {names[name]: level for name, level in scale.items()}}


def grid(*questions: dict) -> Grid:
    return arrange(replace(RESULTS, questions=list(questions)))


def test_only_what_is_asked_is_compared_and_corrected_together() -> None:
    asked = grid(
        question("detailed", form="detailed", depth=3),
        question("detailed", "brief", form="short", metric="geneval.colors"),
    )
    rows = asked.comparisons()
    assert {(row.arm.label, row.other.label, row.form) for row in rows} == {
        ("detailed", "alt-text", "detailed"), ("detailed", "brief", "short")
    }  # fmt: skip
    family = [row for row in rows if row.asked]
    assert sorted((row.scale.label, row.column, row.form) for row in family) == [
        ("depth 2", "colors", "short"), ("depth 3", "colors", "short"), ("depth 3", "mean", "detailed")
    ]  # fmt: skip
    assert [row.difference.p_holm for row in family] == list(holm([row.difference.p for row in family]))
    whole = {(r.scale.label, r.form, r.arm.label, r.other.label, r.column): r for r in grid().comparisons()}
    for row in rows:  # the numbers themselves do not depend on what is asked
        same = whole[row.scale.label, row.form, row.arm.label, row.other.label, row.column].difference
        assert (same.estimate, same.p) == (row.difference.estimate, row.difference.p)


def test_sizes_are_compared_where_depth_is_a_part_of_the_arm() -> None:
    def asked(arm: int, other: int) -> dict:
        both = ({"captions.set": "detailed", "model.depth": depth} for depth in (arm, other))
        return dict(zip(("arm", "other"), both, strict=True)) | {"scale": {}, "metric": "geneval", "form": "detailed"}

    reference = {"captions.set": "alt", "model.depth": 3}
    sizes = arrange(replace(RESULTS, reference=reference, questions=[asked(2, 3)]))
    rows = [row for row in sizes.comparisons() if row.column == "mean"]
    (row,) = rows
    assert (row.arm.label, row.other.label) == ("detailed, depth 2", "detailed, depth 3")
    place = (RESULTS.records["captions.set"] == "detailed") & (RESULTS.records["prompt_form"] == "detailed")
    scores = RESULTS.records[place & (RESULTS.records["metric"] == "geneval")]
    scores = scores[scores["step"] == scores["step"].max()].groupby("model.depth")["value"].mean()
    assert row.difference.estimate == pytest.approx(scores[2] - scores[3])
    assert differences_table(sizes).title == "What the training captions and depth change (GenEval, points)"


def test_the_headline_answers_each_question() -> None:
    told = headline(
        grid(question("detailed", form="detailed"), question("brief", form="short", metric="geneval.colors"))
    )
    assert len(told) == 2  # each at the largest depth, and the other beside it
    assert all("depth 3; " in sentence and " at depth 2" in sentence for sentence in told)
    assert sum("GenEval's colors" in sentence for sentence in told) == 1
    assert sum("detailed prompts" in sentence for sentence in told) == 1
    assert headline(grid()) != told


def test_a_scale_that_is_asked_about_has_a_sentence_of_its_own() -> None:
    told = headline(grid(question("detailed", form="detailed"), question("detailed", form="detailed", depth=2)))
    assert [("depth 3; " in sentence, "depth 2; " in sentence) for sentence in told] == [(True, False), (False, True)]


def test_a_score_says_what_it_is_at_the_other_scales_too(simulated) -> None:
    factors = {"captions.set": ["alt", "detailed"], "images": [256, 512], "seed": [0, 1]}
    asked = {"arm": {"captions.set": "detailed"}, "other": {"captions.set": "alt"}, "scale": {}}
    made = replace(simulated(factors, geneval=False), questions=[asked | {"metric": "fd_shapes", "form": "short"}])
    (sentence,) = headline(arrange(made))
    assert "512 images" in sentence
    assert " at 256 images." in sentence


def test_many_scales_are_counted_where_few_are_named(simulated) -> None:
    factors = {"captions.set": ["alt", "detailed"], "images": [256, 512, 1024], "model.depth": [2, 4], "seed": [0, 1]}
    every = arrange(simulated(factors))
    (sentence,) = (one for one in headline(every) if "(detailed prompts" in one)
    assert "1,024 images, depth 4; of the 5 other scales clearly above at " in sentence
    gaps = [row.difference for row in every.comparisons() if (row.form, row.column) == ("detailed", "mean")]
    ahead = sum(gap.significant and gap.estimate > 0 for gap in gaps[:-1])
    assert f"clearly above at {ahead or 'none'}, clearly below at none" in sentence


def test_the_finding_is_of_the_arms_that_are_asked_about() -> None:
    frozen = open_frozen(DEMO)
    asked = grid(question("brief"))  # on detailed prompts the detailed captions are better, but nobody asks
    text = macros(asked, {"main": main_table(asked)}, frozen)
    assert r"\newcommand{\findingDetailedBest}{brief}" in text
    assert "finding" not in macros(grid(question("detailed", "brief")), {}, frozen)


def test_the_table_says_how_many_comparisons_were_asked_for() -> None:
    table = differences_table(grid(question("detailed", form="detailed")))
    assert len(table.rows) == 2
    assert any("the 2 comparisons that the sweep asks for" in note for note in table.notes)


def test_the_front_is_what_nothing_dominates() -> None:
    assert front([1, 2, 3, 4], [5, 4, 6, 6], more=True) == [True, False, True, False]
    assert front([1, 2, 3], [5, 4, 6], more=False) == [True, True, False]
    assert front([1, 1], [5, 5], more=True) == [True, True]


def test_models_are_told_from_cheap_to_dear_with_the_front_marked() -> None:
    table = pareto_table(grid())
    assert table is not None
    detailed = [row for row in table.rows if row.cells[0].text == "detailed"]
    flops = [float(str(row.cells[-4].value)) for row in detailed]
    assert flops == sorted(flops)
    assert detailed[-1].cells[-2].value == "yes", "the best score is on the front whatever it costs"
    assert detailed[0].cells[-2].value == "yes", "and so is the cheapest model"
    assert {row.cells[-1].value for row in detailed} <= {"yes", "no"}


def test_models_that_were_matched_to_spend_the_same_have_no_front() -> None:
    same = RESULTS.records.copy()
    same.loc[same["metric"] == "train_flops", "value"] = 1e12
    same["train_flops"] = 1e12
    assert pareto_table(arrange(replace(RESULTS, records=same))) is None
