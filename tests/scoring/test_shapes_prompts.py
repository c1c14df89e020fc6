from __future__ import annotations

import re
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lensbench.captions.scene_writer import holds
from lensbench.captions.unseen_writer import RELATIONS as UNSEEN
from lensbench.data.scenes import BACKGROUNDS, COLORS, RELATIONS, SHAPES
from lensbench.data.shapes import boxes, scene_matching
from lensbench.experiment import Evaluation
from lensbench.forms import FORMS
from lensbench.scoring.geneval import TASKS, verdict
from lensbench.scoring.shapes_prompts import as_asked, described, digest, prompt_set, task_rows
from lensbench.streams import numpy_stream

SHORT = ("short",)


def test_short_prompts_are_worded_as_geneval_words_them() -> None:
    texts = {p["prompt"] for task in TASKS for p in task_rows(task, 1)}
    for text in (
        "a photo of a ring",
        "a photo of a circle and a cross",
        "a photo of three rings",
        "a photo of four crosses",
        "a photo of a red circle",
        "a photo of an orange triangle",
        "a photo of a ring left of a cross",
        "a photo of a green ring and an orange square",
    ):
        assert text in texts


def test_every_task_is_there_with_as_many_distinct_prompts_as_the_world_has() -> None:
    prompts = prompt_set(Evaluation(forms=SHORT))
    assert Counter(p.task for p in prompts) == {
        "single_object": 5,
        "two_object": 20,
        "counting": 15,
        "colors": 32,
        "position": 32,
        "color_attr": 32,
    }
    assert len({p.texts["short"] for p in prompts}) == len(prompts)
    assert [p.index for p in prompts] == list(range(len(prompts)))


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 100), st.integers(1, 200), st.integers(0, 10**6))
def test_a_task_has_about_the_images_asked_for_and_the_same_for_every_prompt(most: int, images: int, seed: int) -> None:
    prompts = prompt_set(Evaluation(forms=SHORT, prompts_per_task=most, images_per_task=images, prompt_seed=seed))
    for task in TASKS:
        samples = [p.samples for p in prompts if p.task == task]
        assert 1 <= len(samples) <= most
        assert len(set(samples)) == 1
        assert samples[0] >= 1
        assert abs(sum(samples) - images) <= len(samples) / 2


def test_relations_and_counts_are_balanced() -> None:
    prompts = prompt_set(Evaluation(forms=SHORT, prompts_per_task=12, images_per_task=12))
    relations = Counter(p.row["include"][1]["position"][0] for p in prompts if p.task == "position")
    assert set(relations.values()) == {3}
    assert len(relations) == 4
    counts = Counter(p.row["include"][0]["count"] for p in prompts if p.task == "counting")
    assert counts == {2: 4, 3: 4, 4: 4}


def test_rows_use_the_words_of_the_world_and_no_background_color() -> None:
    clauses = [clause for task in TASKS for row in task_rows(task, 3) for clause in row["include"]]
    assert {c["class"] for c in clauses} == set(SHAPES)
    assert {c["color"] for c in clauses if "color" in c} == set(COLORS)
    assert not set(BACKGROUNDS) & set(COLORS)


def test_prompts_follow_the_seed_and_a_small_set_is_the_start_of_a_large_one() -> None:
    assert digest(prompt_set(Evaluation())) == digest(prompt_set(Evaluation()))
    assert digest(prompt_set(Evaluation())) != digest(prompt_set(Evaluation(prompt_seed=2)))
    small = prompt_set(Evaluation(prompts_per_task=4, images_per_task=8))
    large = prompt_set(Evaluation(prompts_per_task=8, images_per_task=16))
    for task in TASKS:
        first = [(p.row, p.texts) for p in small if p.task == task]
        assert first == [(p.row, p.texts) for p in large if p.task == task][: len(first)]


def test_an_unknown_task_is_named() -> None:
    with pytest.raises(ValueError, match="unknown GenEval task 'poetry'"):
        task_rows("poetry", 0)


@pytest.mark.parametrize("task", TASKS)
def test_a_scene_that_matches_a_row_gets_the_verdict_correct(task: str) -> None:
    for number, row in enumerate(task_rows(task, 5)[:60]):
        shown = scene_matching(row, numpy_stream(0, "test", number))
        found: dict[str, list[tuple[float, ...]]] = {}
        colors: dict[str, list[str]] = {}
        for item, box in zip(shown.objects, boxes(shown, 32), strict=True):
            found.setdefault(item.shape, []).append((*box, 0.99))
            colors.setdefault(item.shape, []).append(item.color)
        assert verdict(row, found, lambda name, i, colors=colors: colors[name][i]) == (True, "")


def test_detailed_prompts_name_what_the_row_asks_for() -> None:
    prompts = prompt_set(Evaluation(prompts_per_task=15, images_per_task=15))
    for prompt in prompts:
        detailed = prompt.texts["detailed"]
        assert len(detailed) > len(prompt.texts["short"])
        for clause in prompt.row["include"]:
            assert clause["class"] in detailed
            assert clause.get("color", "") in detailed


def test_a_world_of_few_objects_is_not_asked_for_many() -> None:
    for most in (2, 3, 4):
        counts = {row["include"][0]["count"] for row in task_rows("counting", 1, most)}
        assert counts == set(range(2, most + 1))


def test_repeated_prompts_have_the_length_of_detailed_ones_and_the_words_of_short_ones() -> None:
    prompts = prompt_set(Evaluation(forms=("short", "repeated", "detailed")))
    for prompt in prompts:
        short, repeated, detailed = (prompt.texts[form] for form in ("short", "repeated", "detailed"))
        assert set(repeated.replace(",", "").split()) == set(short.split())
        assert repeated.count(short) == len(repeated.replace(",", "").split()) / len(short.split())
        off = abs(len(repeated.split()) - len(detailed.split()))
        assert off <= len(short.split()) / 2 or repeated == short
    mean = {form: sum(len(p.texts[form].split()) for p in prompts) for form in ("repeated", "detailed")}
    assert mean["repeated"] == pytest.approx(mean["detailed"], rel=0.1)
    # the two other forms are what they were without it
    without = prompt_set(Evaluation(forms=("short", "detailed")))
    assert [p.texts for p in without] == [{f: p.texts[f] for f in ("short", "detailed")} for p in prompts]


PLACE_WORDS = {"top", "bottom", "corner", "upper", "lower", "quarter"}


def relations_in(text: str) -> set[str]:
    """The relations that a text names; "left" and "right" alone name a place."""
    return {relation for relation in RELATIONS if relation in text}


@settings(max_examples=25)
@given(st.integers(0, 10**6))
def test_every_form_asks_the_same_whatever_the_others_are(seed: int) -> None:
    """The verdict's metadata, the samples and so the noise do not depend on the form, and a form not on the others."""
    few = {"prompts_per_task": 6, "images_per_task": 6, "prompt_seed": seed}
    together = prompt_set(Evaluation(forms=FORMS, **few))
    assert [p.texts for p in together] == [p.texts for p in prompt_set(Evaluation(forms=FORMS, **few))]
    for form in FORMS:
        alone = prompt_set(Evaluation(forms=(form,), **few))
        assert [(p.index, p.task, p.row, p.samples) for p in alone] == [
            (p.index, p.task, p.row, p.samples) for p in together
        ]
        assert [p.texts[form] for p in alone] == [p.texts[form] for p in together]
    for p in together:
        described_by = ("detailed", "relational", "held_out")
        counted = [
            Counter(w for w in re.findall("[a-z]+", p.texts[f]) if w in {*SHAPES, *COLORS}) for f in described_by
        ]
        assert counted[0] == counted[1] or p.task == "counting"  # a header may count what it then names
        assert {*counted[0]} == {*counted[1]} == {*counted[2]}


@settings(max_examples=25)
@given(st.integers(0, 10**6))
def test_a_longer_prompt_describes_a_scene_that_is_right(seed: int) -> None:
    for task in TASKS:
        for number, row in enumerate(task_rows(task, seed)[:5]):
            shown, said, _ = described(row, seed, number)
            assert all(holds(shown, claim) for claim in as_asked(row, said))
            found: dict[str, list[tuple[float, ...]]] = {}
            colors: dict[str, list[str]] = {}
            for item, box in zip(shown.objects, boxes(shown, 32), strict=True):
                found.setdefault(item.shape, []).append((*box, 0.99))
                colors.setdefault(item.shape, []).append(item.color)
            assert verdict(row, found, lambda name, i, colors=colors: colors[name][i]).correct


@settings(max_examples=25)
@given(st.integers(0, 10**6))
def test_relational_prompts_have_no_place_and_position_prompts_the_relation_that_is_asked(seed: int) -> None:
    few = {"prompts_per_task": 24, "images_per_task": 24, "prompt_seed": seed}
    for prompt in prompt_set(Evaluation(forms=("relational", "held_out"), **few)):
        relational, held_out = prompt.texts["relational"], prompt.texts["held_out"]
        words = re.findall("[a-z]+", relational)
        assert not PLACE_WORDS & {*words}
        assert sum(words.count(side) for side in ("left", "right")) == len(re.findall("(?:left|right) of", relational))
        if prompt.task == "position":
            relation, other = prompt.row["include"][1]["position"]
            assert other == 0
            assert relations_in(relational) == {relation}
            subject, reference = (prompt.row["include"][i]["class"] for i in (1, 0))
            assert relational.index(subject) < relational.index(relation) < relational.index(reference)
            assert not PLACE_WORDS & {*re.findall("[a-z]+", held_out.replace("lower down", ""))}
            assert UNSEEN[relation] in held_out


def test_a_fifth_of_the_detailed_position_prompts_names_another_relation_than_is_asked() -> None:
    """Why the relational form names the relation itself: of a diagonal pair the detailed one may leave it to the
    places."""
    inverse = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}
    named = []
    for number, row in enumerate(task_rows("position", 1)):
        _, said, _ = described(row, 1, number)
        relation = row["include"][1]["position"][0]
        (claim,) = (claim for claim in said if claim.kind == "relation")
        named.append(claim.value == (relation if claim.subject == 1 else inverse[relation]))
    assert sum(named) == 65  # of 80
