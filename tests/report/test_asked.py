"""A sweep with questions: the report tests those and nothing else, and one interval goes with one verdict."""

from __future__ import annotations

from dataclasses import replace
from math import inf
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lensbench.report.answers import answers_table
from lensbench.report.figures import differences as differences_figure
from lensbench.report.freeze import load, open_frozen
from lensbench.report.grid import Grid, arrange
from lensbench.report.headline import headline
from lensbench.report.macros import macros
from lensbench.report.paired import Paired, corrected
from lensbench.report.pareto import front, pareto_table
from lensbench.report.table import bounds
from lensbench.report.tables import differences_table, main_table
from lensbench.scoring.statistics import holm
from lensbench.stats.spread import Part, Spread

DEMO = Path(__file__).parents[2] / "results" / "demo"
RESULTS = load(DEMO)


def question(
    arm: str,
    other: str = "alt",
    form: str | None = None,
    metric: str = "geneval",
    role: str = "secondary",
    **scale: Any,
) -> dict:
    names = {"depth": "model.depth"}
    told = {"arm": {"captions.set": arm}, "other": {"captions.set": other}, "metric": metric, "form": form}
    return told | {"role": role} | {"scale": {names[name]: level for name, level in scale.items()}}


def grid(*questions: dict) -> Grid:
    return arrange(replace(RESULTS, questions=list(questions)))


def test_of_questions_alone_the_rows_asked_about_are_compared_and_corrected_together() -> None:
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
        assert (same.estimate, same.p) == pytest.approx((row.difference.estimate, row.difference.p), nan_ok=True)


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


PRIMARY = question("detailed", form="detailed", depth=3, role="primary")


def test_the_primary_question_is_tested_alone_and_the_rest_is_described() -> None:
    asked = grid(PRIMARY, question("brief", form="short"), question("detailed", form="short"))
    by_role = {role: [r for r in asked.comparisons() if r.difference.role == role] for role in ("primary", "secondary")}
    (primary,), secondary = by_role["primary"], by_role["secondary"]
    assert primary.difference.p_holm == primary.difference.p
    assert len(secondary) == 4  # at both depths
    assert [row.difference.p_holm for row in secondary] == holm([row.difference.p for row in secondary])
    for row in asked.comparisons():
        if row.difference.role == "descriptive":
            assert not row.difference.tested
            assert not row.difference.significant
    assert len(asked.comparisons()) == len(grid().comparisons()), "all arms are still shown"
    assert not any("*" in cell.mark for row in differences_table(grid()).rows for cell in row.cells)


def test_post_hoc_questions_are_a_family_of_their_own_and_called_so() -> None:
    asked = grid(PRIMARY, question("brief", form="short", depth=3), question("detailed", form="short", role="post hoc"))
    late = [row for row in asked.comparisons() if row.difference.role == "post hoc"]
    assert [row.difference.p_holm for row in late] == holm([row.difference.p for row in late])
    table = answers_table(asked)
    assert table is not None
    assert [row.cells[0].text for row in table.rows] == ["primary", "secondary", "post hoc", "post hoc"]
    assert any("post hoc" in sentence for sentence in headline(asked))


def test_the_answer_is_one_sentence_for_the_primary_question() -> None:
    asked = grid(PRIMARY, question("brief", form="short"))
    gap = asked.paired(asked.scales[-1], asked.arms[2], asked.arms[0], "geneval", "detailed")
    first, *rest = headline(asked)
    assert first.startswith(
        "Primary question (GenEval mean, detailed prompts, depth 3): detailed 99.0 % against alt-text"
    )
    assert bounds(100 * gap.low, 100 * gap.high) in first
    assert first.endswith("significant.")
    assert rest == [f"{n} of 2 secondary comparisons {verb} significant after Holm's correction."
                    for n, verb in [_significant(asked)]]  # fmt: skip


def _significant(asked: Grid) -> tuple[str, str]:
    n = sum(row.difference.significant for row in asked.comparisons() if row.difference.role == "secondary")
    return str(n or "None"), "are" if n > 1 else "is"


def test_without_a_primary_question_the_answer_is_described() -> None:
    first, *rest = headline(grid())
    assert "described, not tested" in first
    assert "no arm is named the winner" in first, "both forms are worded like the captions of an arm"
    assert not any("significant" in sentence for sentence in rest)


def test_an_underpowered_primary_question_is_said_first_and_nothing_else_is_claimed() -> None:
    wide = grid(question("detailed", "brief", form="short", depth=3, role="primary"), question("brief", form="short"))
    (row,) = (row for row in wide.comparisons() if row.difference.role == "primary")
    spread = Spread((Part(0.09, 1),))  # the two seeds disagree by far
    reach = min(spread.reach(0.95), 1)
    gap = row.difference._replace(p=spread.p(row.difference.estimate), p_holm=0.5, family_low=-reach, family_high=reach)
    wide.memory["comparisons"] = ((row._replace(difference=gap),), ())
    (told,) = headline(wide)
    assert told.startswith("This sweep is underpowered for its primary question.")


@pytest.mark.parametrize("scale", [0.0, 1.0])
def test_of_a_sweep_without_a_right_image_or_at_chance_nothing_is_claimed(scale: float) -> None:
    outcomes, records = RESULTS.outcomes.copy(), RESULTS.records.copy()
    judged = outcomes["metric"] == "geneval"
    outcomes.loc[judged, "value"] *= scale
    records.loc[records["metric"].str.startswith("geneval"), "value"] *= scale
    outcomes["chance"] = np.where(judged, outcomes["value"], np.nan)  # every score is what chance gives
    made = arrange(replace(RESULTS, outcomes=outcomes, records=records, questions=[PRIMARY]))
    (told,) = headline(made)
    assert told.startswith("No arm is above chance" if scale else "No arm gets any image right")


def test_every_place_shows_the_interval_that_agrees_with_its_verdict() -> None:
    asked = grid(
        PRIMARY, *(question(arm, form=form) for arm in ("brief", "detailed") for form in ("short", "detailed"))
    )
    told = [row for row in asked.comparisons() if row.difference.tested]
    assert len(told) == 8
    for row in told:
        low, high = row.difference.interval
        assert (low > 0 or high < 0) == row.difference.significant
        assert asked.paired(row.scale, row.arm, row.other, row.metric, row.metric_form).interval == (low, high)
        back = asked.paired(row.scale, row.other, row.arm, row.metric, row.metric_form)
        assert back.interval == (-high, -low)
    shown = {cell.interval for row in differences_table(asked).rows for cell in row.cells if cell.role == "secondary"}
    answers = answers_table(asked)
    assert answers is not None
    assert {row.cells[3].interval for row in answers.rows if row.cells[0].text == "secondary"} == shown
    figure = differences_figure(asked)
    assert figure is not None
    drawn = {tuple(np.round(line.get_xdata(), 9)) for axes in figure.axes for line in axes.lines}
    for row in told:
        assert tuple(np.round(100 * np.array(row.difference.interval), 9)) in drawn


gaps = st.lists(st.tuples(st.floats(-1, 1), st.floats(0.01, 1), st.integers(1, 30)), min_size=1, max_size=12)


@given(gaps)
def test_after_a_correction_an_interval_leaves_out_zero_exactly_where_it_is_significant(
    family: list[tuple[float, float, int]],
) -> None:
    differences = []
    for estimate, error, df in family:
        spread = Spread((Part(error**2, df),))
        reach = spread.reach(0.95)
        ends = (estimate - reach, estimate + reach)
        differences.append(Paired(estimate, *ends, spread.p(estimate), 3, 3, "95%", "secondary", spread=spread))
    found = corrected(differences, [inf] * len(family))
    assert [one.p_holm for one in found] == holm([one.p for one in differences])
    for one, before in zip(found, differences, strict=True):
        low, high = one.interval
        assert high - low >= before.high - before.low - 1e-6
        if abs(one.p_holm - 0.05) > 1e-4:
            assert (low > 0 or high < 0) == one.significant


def test_the_finding_is_of_the_arms_that_are_asked_about() -> None:
    frozen = open_frozen(DEMO)
    asked = grid(question("brief"))  # on detailed prompts the detailed captions are better, but nobody asks
    text = macros(asked, {"main": main_table(asked)}, frozen)
    assert r"\newcommand{\findingDetailedBest}{brief}" in text
    assert "finding" not in macros(grid(question("detailed", "brief")), {}, frozen)


def test_the_table_says_how_many_comparisons_were_asked_for() -> None:
    table = differences_table(grid(question("detailed", form="detailed")))
    assert len(table.rows) == 2
    assert any("the secondary ones after Holm's correction over 2" in note for note in table.notes)


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
