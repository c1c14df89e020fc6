"""What captions of the shapes world say is read back from their words as the writer meant it."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lensbench.captions.attributes import accuracy, claims_of
from lensbench.captions.scene_writer import Claim, claims, dosed, wording, write
from lensbench.data import shapes
from lensbench.data.scenes import Object, Scene
from lensbench.streams import numpy_stream

RED = Object("circle", "red", "large", "top left", 0.26, 0.26)
BLUE = Object("ring", "blue", "small", "bottom right", 0.74, 0.74)
PAIR = Scene((RED, BLUE), "gray")


def scene_of(index: int) -> Scene:
    return shapes.scene(5, "train", index, shapes.count_shares(4))


def meant(said: tuple[Claim, ...]) -> Counter[tuple[str, str]]:
    return Counter((claim.kind, claim.value) for claim in said)


@given(st.integers(0, 10_000), st.floats(0, 1), st.floats(0, 1))
def test_every_claim_is_read_and_no_other(index: int, present: float, wrong: float) -> None:
    scene, rng = scene_of(index), numpy_stream(1, "test", index)
    said = dosed(scene, claims(scene, rng), present, wrong, rng)
    assert meant(claims_of(wording(said, rng))) == meant(said)


@given(st.integers(0, 10_000))
def test_a_full_caption_says_all_that_is_there_and_nothing_false(index: int) -> None:
    scene = scene_of(index)
    found = accuracy(scene, write(scene, "detailed", numpy_stream(3, "test", index)))
    assert found.said == found.there
    assert found.false == 0


def test_a_dose_is_measured_as_it_was_meant() -> None:
    said = false = there = 0
    for index in range(400):
        scene = scene_of(index)
        found = accuracy(scene, write(scene, "dose", numpy_stream(4, "test", index), present=0.6, wrong=0.3))
        said, false, there = said + found.said, false + found.false, there + found.there
    assert said / there == pytest.approx(0.6, abs=0.01)
    # A false attribute may fit another object of the scene as well as the one that was meant: never more than meant.
    assert 0.24 < false / said <= 0.3 + 0.01


@pytest.mark.parametrize(
    ("text", "said", "false"),
    [
        ("IMG_2041.jpg", 0, 0),
        ("free shipping on wall art", 0, 0),
        ("red-circle-42.png", 2, 0),
        ("blue circle vector icon", 2, 1),
        ("picture of a cross", 1, 1),
        ("a red circle and a blue ring", 4, 0),
        ("two rings", 1, 1),
        ("a circle, left of a ring", 3, 0),
        ("a circle, right of a ring", 3, 1),
        ("a ring, which is below a circle", 3, 0),
        ("a large red circle at the top left", 4, 0),
        ("a small red circle at bottom left; white background", 5, 3),
        ("a circle, a ring and a cross", 3, 1),
    ],
)
def test_words_against_a_scene(text: str, said: int, false: int) -> None:
    assert accuracy(PAIR, text) == (said, false, 10)
