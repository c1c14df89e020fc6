from __future__ import annotations

import hashlib
import json
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lensbench.scoring.geneval import (
    RELATIONS,
    TASKS,
    keep,
    make_row,
    official_metadata_jsonl,
    official_plan,
    official_prompts,
    relation,
    summary,
    verdict,
)

OPPOSITE = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}


def no_color(name: str, index: int) -> str:
    raise AssertionError(f"nobody asked for the color of {name} {index}")


def at(x: float, y: float, score: float = 0.95, side: float = 10) -> tuple[float, ...]:
    return (x - side / 2, y - side / 2, x + side / 2, y + side / 2, score)


# Official prompts


def test_the_official_metadata_is_the_published_file() -> None:
    digest = hashlib.sha256(official_metadata_jsonl()).hexdigest()
    assert digest == "5c48e0813e812e3c373fa5c8ed07a8f0a483be30272b4427b0559c8048e67c13"


def test_the_official_rows_are_553_in_task_order_with_the_naive_grammar() -> None:
    rows = official_prompts()
    assert Counter(row["tag"] for row in rows) == dict(zip(TASKS, (80, 99, 80, 94, 100, 100), strict=True))
    assert [json.loads(line) for line in official_metadata_jsonl().splitlines()] == rows
    assert list(dict.fromkeys(row["tag"] for row in rows)) == list(TASKS)
    assert len({row["prompt"] for row in rows}) == 553
    assert any("toothbrushs" in row["prompt"] for row in rows)
    assert any("a skis" in row["prompt"] for row in rows)


# Relations


def test_relation_of_boxes_along_an_axis_a_diagonal_and_on_top_of_each_other() -> None:
    assert relation(at(0, 0), at(50, 0)) == {"left of"}
    assert relation(at(0, 50), at(0, 0)) == {"below"}
    assert relation(at(50, 50), at(0, 0)) == {"right of", "below"}
    assert relation(at(3, 3), at(3, 3)) == set()
    assert relation(at(1.9, 0), at(0, 0)) == set()  # within a tenth of the added sides
    assert relation(at(0, 0, side=0), at(0, 0, side=0)) == set()


def test_a_slanted_offset_keeps_only_the_axis_past_one_half() -> None:
    assert relation(at(100, 40, side=0), at(0, 0, side=0)) == {"right of"}
    assert relation(at(100, 60, side=0), at(0, 0, side=0)) == {"right of", "below"}


def test_size_counts_per_axis() -> None:
    wide = (0, 0, 100, 10)
    assert relation(wide, (5, 20, 105, 30)) == {"above"}
    assert relation((0, 0, 100, 10), (15, 0, 115, 10)) == set()  # 15 to the side, slack 20


boxes = st.tuples(*[st.integers(0, 60)] * 4).map(lambda b: (b[0], b[1], b[0] + b[2], b[1] + b[3]))


@given(boxes, boxes, st.sampled_from([0.25, 2, 8]), st.integers(-50, 50))
def test_relation_is_antisymmetric_and_ignores_a_common_shift(
    a: tuple[int, ...], b: tuple[int, ...], scale: float, shift: int
) -> None:
    there = relation(a, b)
    assert relation(b, a) == {OPPOSITE[name] for name in there}
    assert relation([x + shift for x in a], [x + shift for x in b]) == there
    assert relation([x * scale for x in a], [x * scale for x in b]) == there


# Verdicts


def test_a_single_object_needs_a_score_above_the_threshold() -> None:
    row = make_row("single_object", ("dog", ""))
    assert verdict(row, {"dog": [at(5, 5, 0.31)]}, no_color) == (True, "")
    assert not verdict(row, {"dog": [at(5, 5, 0.3)]}, no_color).correct
    assert not verdict(row, {"cat": [at(5, 5)]}, no_color).correct
    assert verdict(row, {"dog": [at(5, 5, 0.2)]}, no_color, threshold=0.1).correct
    assert verdict(row, {"dog": [at(5, 5), at(9, 9), at(20, 20)], "cat": [at(5, 5)]}, no_color).correct  # extras


def test_counting_is_strict_about_scores_and_about_extras() -> None:
    row = make_row("counting", ("dog", ""), count=2)
    two = [at(5, 5), at(30, 30)]
    assert verdict(row, {"dog": two}, no_color).correct
    assert verdict(row, {"dog": [*two, at(60, 60, 0.9)]}, no_color).correct  # 0.9 does not count
    assert not verdict(row, {"dog": [*two, at(60, 60, 0.91)]}, no_color).correct
    assert not verdict(row, {"dog": [two[0], at(30, 30, 0.9)]}, no_color).correct
    assert "2" in verdict(row, {"dog": two[:1]}, no_color).reason


def test_one_object_may_be_two_classes() -> None:
    row = make_row("two_object", ("dog", ""), ("cat", ""))
    assert verdict(row, {"dog": [at(5, 5)], "cat": [at(5, 5)]}, no_color).correct
    assert not verdict(row, {"dog": [at(5, 5), at(30, 5)]}, no_color).correct


def test_color_is_asked_of_the_best_detection_by_its_place_in_the_callers_list() -> None:
    row = make_row("colors", ("dog", "red"))
    colors = ["blue", "red", "green"]
    found = [at(1, 1, 0.5), at(2, 2, 0.9), at(3, 3, 0.7)]
    assert verdict(row, {"dog": found}, lambda name, i: colors[i]).correct
    wrong = verdict(row, {"dog": found}, lambda name, i: "blue")
    assert not wrong.correct
    assert "red" in wrong.reason
    assert "blue" in wrong.reason


def test_each_clause_of_color_attr_must_hold() -> None:
    row = make_row("color_attr", ("dog", "red"), ("cat", "blue"))
    found = {"dog": [at(5, 5)], "cat": [at(30, 5)]}
    assert verdict(row, found, lambda name, i: {"dog": "red", "cat": "blue"}[name]).correct
    assert not verdict(row, found, lambda name, i: {"dog": "blue", "cat": "red"}[name]).correct
    assert not verdict(row, found, lambda name, i: "red").correct


@pytest.mark.parametrize(("name", "x", "y"), zip(RELATIONS, (10, 90, 50, 50), (50, 50, 10, 90), strict=True))
def test_position_places_the_first_noun_as_seen_from_the_second(name: str, x: float, y: float) -> None:
    row = make_row("position", ("dog", ""), ("cat", ""), relation=name)
    assert row["prompt"] == f"a photo of a dog {name} a cat"
    assert verdict(row, {"dog": [at(x, y)], "cat": [at(50, 50)]}, no_color).correct
    assert not verdict(row, {"cat": [at(x, y)], "dog": [at(50, 50)]}, no_color).correct


def test_position_looks_at_the_most_certain_detections_only() -> None:
    row = make_row("position", ("dog", ""), ("cat", ""), relation="left of")
    found = {"dog": [at(90, 50, 0.99), at(10, 50, 0.5)], "cat": [at(50, 50)]}
    assert not verdict(row, found, no_color).correct
    found["dog"].reverse()
    assert not verdict(row, found, no_color).correct


def test_position_fails_when_its_target_failed() -> None:
    row = {
        "tag": "position",
        "include": [
            {"class": "cat", "count": 1, "color": "red"},
            {"class": "dog", "count": 1, "position": ["left of", 0]},
        ],
    }
    found = {"dog": [at(10, 50)], "cat": [at(50, 50)]}
    assert verdict(row, found, lambda name, i: "red").correct
    said = verdict(row, found, lambda name, i: "blue")
    assert not said.correct
    assert "nothing for dog" in said.reason


def test_every_object_must_stand_so_to_every_target() -> None:
    row = {
        "tag": "position",
        "include": [{"class": "cat", "count": 2}, {"class": "dog", "count": 2, "position": ["left of", 0]}],
    }
    cats = [at(60, 50), at(90, 50)]
    assert verdict(row, {"cat": cats, "dog": [at(10, 50), at(30, 50)]}, no_color).correct
    assert not verdict(row, {"cat": cats, "dog": [at(10, 50), at(75, 50)]}, no_color).correct


detection_lists = st.lists(st.floats(0, 1).map(lambda s: at(5, 5, s)), max_size=25)


@given(detection_lists, st.sampled_from(TASKS))
def test_kept_detections_are_the_best_sixteen_above_the_threshold(found: list[tuple[float, ...]], tag: str) -> None:
    least = 0.9 if tag == "counting" else 0.3
    scores = [found[i][4] for i in keep({"dog": found}, tag).get("dog", [])]
    assert scores == sorted((d[4] for d in found if d[4] > least), reverse=True)[:16]


@given(st.permutations([at(10, 50, 0.95), at(50, 10, 0.94), at(90, 50, 0.93), at(50, 50, 0.2)]))
def test_the_order_of_raw_detections_does_not_matter(dogs: list[tuple[float, ...]]) -> None:
    color = {0.95: "red", 0.94: "blue", 0.93: "green", 0.2: "red"}
    found = {"dog": dogs, "cat": [at(50, 50)]}
    color_of = lambda name, i: color[found[name][i][4]]  # noqa: E731
    assert verdict(make_row("colors", ("dog", "red")), found, color_of).correct
    assert not verdict(make_row("colors", ("dog", "blue")), found, color_of).correct
    assert verdict(make_row("counting", ("dog", ""), count=3), found, color_of).correct
    assert verdict(make_row("position", ("dog", ""), ("cat", ""), relation="left of"), found, color_of).correct


# Scores


def outcome(task: str, index: int, sample: int, value: float) -> dict[str, object]:
    return {"task": task, "prompt_index": index, "sample": sample, "value": value}


PLAN = {("colors", 0): 2, ("colors", 1): 2, ("counting", 2): 1}
ROWS = [
    outcome("colors", 0, 0, 1),
    outcome("colors", 0, 1, 0),
    outcome("colors", 1, 0, 0),
    outcome("colors", 1, 1, 0),
    outcome("counting", 2, 0, 1),
]


def test_overall_is_the_unweighted_mean_of_the_tasks() -> None:
    found = summary(ROWS, PLAN)
    assert found.tasks == {"colors": 0.25, "counting": 1.0}
    assert found.overall == 0.625
    assert found.images == 5
    assert found.images_correct == 0.4
    assert found.prompts_any_correct == pytest.approx(2 / 3)


def test_the_official_plan_is_553_prompts_of_four_images() -> None:
    plan = official_plan()
    assert len(plan) == 553
    rows = [outcome(task, i, k, k == 0) for (task, i), n in plan.items() for k in range(n)]
    assert summary(rows).overall == 0.25
    assert summary(rows).prompts_any_correct == 1.0
    with pytest.raises(ValueError, match=r"1 of 553 prompts .* color_attr prompt 552 \(3 of 4 images\)"):
        summary(rows[:-1])


@pytest.mark.parametrize("left_out", range(5))
def test_no_score_while_an_outcome_is_missing(left_out: int) -> None:
    rows = ROWS[:left_out] + ROWS[left_out + 1 :]
    gone = ROWS[left_out]
    with pytest.raises(ValueError, match=f"{gone['task']} prompt {gone['prompt_index']}"):
        summary(rows, PLAN)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (ROWS[0], "colors prompt 0 sample 0 is there twice"),
        (outcome("colors", 7, 0, 1), "not one of the 3 planned"),
        (outcome("colors", 0, 2, 1), "too many"),
        (outcome("colors", 0, 2, float("nan")), "a verdict is 0 or 1"),
    ],
)
def test_no_score_of_outcomes_that_are_not_the_plan(row: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        summary([*ROWS, row], PLAN)


def test_nothing_is_not_a_score() -> None:
    with pytest.raises(ValueError, match="nothing to score"):
        summary([], {})
