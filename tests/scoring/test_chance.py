"""Chance: images held against the prompts that they were not sampled from."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lensbench.scoring import chance
from lensbench.scoring.geneval import TASKS, Row, official_prompts, verdict
from lensbench.scoring.shapes_prompts import repeated, task_rows

Seen = dict[str, list[tuple[str, tuple[float, ...]]]]  # class -> (color, box)
CENTERS = {"left of": (-30, 0), "right of": (30, 0), "above": (0, -30), "below": (0, 30)}


def asked(task: str, count: int = 12) -> dict[int, Row]:
    return dict(enumerate(task_rows(task, prompt_seed=1)[:count], start=40))


def detections(seen: Seen) -> dict[str, list[tuple[float, ...]]]:
    return {name: [box for _, box in group] for name, group in seen.items()}


def colors(seen: Seen) -> Callable[[str, int], str]:
    return lambda name, index: seen[name][index][0]


def boxes(seen: Seen) -> str:
    return json.dumps([[name, color, *box] for name, group in seen.items() for color, box in group])


def as_asked(row: Row) -> Seen:
    """What a perfect image of a row shows, and nothing more."""
    seen: Seen = {}
    for clause in row["include"]:
        for number in range(clause["count"]):
            x, y = CENTERS[clause["position"][0]] if "position" in clause else (0, 0)
            box = (50.0 + x, 50.0 + y + 20 * number, 60.0 + x, 60.0 + y + 20 * number, 0.99)
            seen.setdefault(clause["class"], []).append((clause.get("color", "pink"), box))
    return seen


def of(index: int, rows: dict[int, Row], seen: Seen) -> float:
    return chance.of_image(rows[index], list(rows.values()), detections(seen), colors(seen))


@pytest.mark.parametrize("task", TASKS)
def test_perfect_images_answer_their_own_prompt_alone_but_for_its_mirror(task: str) -> None:
    rows = asked(task)
    for index, row in rows.items():
        seen = as_asked(row)
        assert verdict(row, detections(seen), colors(seen)).correct
        mirrored = [
            other
            for other, asks in rows.items()
            if other != index and verdict(asks, detections(seen), colors(seen)).correct
        ]
        assert of(index, rows, seen) == pytest.approx(len(mirrored) / 11)
        assert len(mirrored) <= (1 if task in ("two_object", "position", "color_attr") else 0)


@pytest.mark.parametrize("task", TASKS)
def test_an_empty_image_answers_nothing(task: str) -> None:
    assert of(40, asked(task), {}) == 0.0


def test_an_image_that_shows_everything_answers_whatever_is_asked() -> None:
    rows = asked("single_object")
    every: Seen = {row["include"][0]["class"]: [("red", (0, 0, 9, 9, 0.9))] for row in rows.values()}
    assert of(40, rows, every) == 1.0


def test_the_only_prompt_of_a_task_has_no_chance() -> None:
    rows = {0: task_rows("colors", 1)[0]}
    assert np.isnan(of(0, rows, as_asked(rows[0])))
    assert np.isnan(of(0, rows | {1: rows[0]}, as_asked(rows[0])))  # the same prompt again is no other


things = st.dictionaries(
    st.sampled_from(("circle", "square", "ring", "cross")),
    st.lists(
        st.tuples(
            st.sampled_from(("red", "green")),
            st.tuples(*[st.integers(0, 40)] * 2, *[st.integers(41, 80)] * 2, st.sampled_from((0.2, 0.5, 0.95))),
        ),
        max_size=4,
    ),
)


@given(
    st.sampled_from(TASKS), st.lists(things, min_size=5, max_size=5), st.permutations(range(5)), st.integers(0, 10**6)
)
@settings(max_examples=60, deadline=None)
def test_images_dealt_out_to_other_prompts_keep_the_mean_of_all_pairings(
    task: str, images: list[Seen], order: list[int], seed: int
) -> None:
    rows = dict(enumerate(task_rows(task, seed)[:5]))

    def all_pairings(dealt: list[Seen]) -> tuple[float, float, float]:
        own = [verdict(rows[i], detections(seen), colors(seen)).correct for i, seen in enumerate(dealt)]
        chances = [of(i, rows, seen) for i, seen in enumerate(dealt)]
        score, by_chance = float(np.mean(own)), float(np.mean(chances))
        return score, by_chance, (score + 4 * by_chance) / 5

    score, by_chance, together = all_pairings(images)
    other_score, other_chance, other_together = all_pairings([images[i] for i in order])
    assert together == pytest.approx(other_together)
    assert other_chance - by_chance == pytest.approx((score - other_score) / 4)


def test_a_color_is_named_once_and_only_where_nothing_else_is_wrong() -> None:
    rows = chance.by_task(official_prompts())["color_attr"]
    (one, first), (other, second) = ((c["class"], c["color"]) for c in rows[7]["include"])
    named: list[tuple[str, int]] = []

    def color_of(name: str, index: int) -> str:
        named.append((name, index))
        return first if name == one else second

    box = (0.0, 0.0, 9.0, 9.0, 0.8)
    seen = {name: [box, box] for name in (one, other, "toothbrush", "person")}
    found = chance.of_image(rows[7], rows, seen, color_of)
    alike = [row for row in rows if row != rows[7] and {c["class"] for c in row["include"]} <= set(seen)]
    assert len(named) == len(set(named)) <= 2 * len(alike)
    assert found == sum(verdict(row, seen, color_of).correct for row in alike) / (len(rows) - 1)


def outcomes_of(task: str, rows: dict[int, Row], images: list[Seen], colored: bool = True) -> pd.DataFrame:
    told: list[dict[str, Any]] = []
    for index, seen in zip(rows, images, strict=True):
        kept = seen if colored else {name: [("", box) for _, box in group] for name, group in seen.items()}
        told.append({"task": task, "prompt_index": index, "boxes": boxes(kept)})
    return pd.DataFrame(told)


@pytest.mark.parametrize("task", TASKS)
def test_kept_boxes_give_the_chance_that_the_judge_gave(task: str) -> None:
    rows = asked(task, 5)
    every = list(rows.values())
    images = [as_asked(every[(i + 1) % 5]) for i in range(5)]
    frame = outcomes_of(task, rows, images).sample(frac=1, random_state=1)
    made = dict(zip(frame["prompt_index"], chance.of_outcomes(frame, rows), strict=True))
    assert made == {index: of(index, rows, seen) for index, seen in zip(rows, images, strict=True)}
    assert max(made.values()) > 0


def test_what_cannot_be_made_again_is_not_claimed() -> None:
    rows = asked("colors", 5)
    images = [as_asked(row) for row in rows.values()]
    frame = outcomes_of("colors", rows, images)
    assert np.isnan(chance.of_outcomes(frame.drop(columns="boxes"), rows)).all()
    assert np.isnan(chance.of_outcomes(frame, {40: rows[40]})).all()
    assert np.isnan(chance.of_outcomes(frame.assign(task="counting"), rows)).all()
    assert np.isnan(chance.of_outcomes(frame.assign(boxes=[None, *frame["boxes"][1:]]), rows)).tolist() == [
        True, *[False] * 4,
    ]  # fmt: skip
    colorless = outcomes_of("colors", rows, images, colored=False)
    answers = chance.of_outcomes(colorless, rows)
    assert np.isnan(answers).all()
    rows = asked("counting", 5)
    colorless = outcomes_of("counting", rows, [as_asked(row) for row in rows.values()], colored=False)
    assert (chance.of_outcomes(colorless, rows) == 0).all()  # no prompt of this task asks for a color


def test_rows_are_told_from_the_wordings_that_hold_them() -> None:
    short = {0: "a photo of a red circle", 1: "a photo of two rings", 2: "a photo of a toothbrush", 3: "a scene"}
    found = chance.asked_rows(short)
    assert {index: row["prompt"] for index, row in found.items()} == {i: short[i] for i in (0, 1, 2)}
    longer = " ".join(["word"] * 15)
    assert chance.asked_rows({i: repeated(text, longer) for i, text in short.items()}) == found


def test_a_mean_is_that_of_the_tasks_means() -> None:
    assert chance.mean([0.0, 0.0, 0.3], ["counting", "counting", "colors"]) == pytest.approx(0.15)
    assert np.isnan(chance.mean([0.0, np.nan], ["counting", "colors"]))


def test_every_row_is_among_those_of_its_task() -> None:
    found = chance.by_task(official_prompts())
    assert {task: len(rows) for task, rows in found.items()} == dict(
        zip(TASKS, (80, 99, 80, 94, 100, 100), strict=True)
    )
    assert [row for rows in found.values() for row in rows] == official_prompts()
