from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from lensbench.data.scenes import BACKGROUNDS, COLORS, PLACES, RELATIONS, SHAPES, Scene, relations
from lensbench.data.shapes import COUNT_SHARES, boxes, count_shares, key, paint, render, scene, scene_matching

indexes = st.integers(0, 10**8 - 1)


def geneval_relations(a: tuple[float, ...], b: tuple[float, ...]) -> set[str]:
    """The reference's rule on two boxes (GenEval, `relative_position`)."""
    a, b = np.asarray(a).reshape(2, 2), np.asarray(b).reshape(2, 2)
    offset = a.mean(axis=0) - b.mean(axis=0)
    revised = np.maximum(np.abs(offset) - 0.1 * (np.ptp(a, axis=0) + np.ptp(b, axis=0)), 0) * np.sign(offset)
    if np.all(np.abs(revised) < 1e-3):
        return set()
    dx, dy = revised / np.linalg.norm(offset)
    found = {"left of": dx < -0.5, "right of": dx > 0.5, "above": dy < -0.5, "below": dy > 0.5}
    return {name for name, holds in found.items() if holds}


@st.composite
def rows(draw: st.DrawFn) -> dict:
    """GenEval rows over the world's classes: counts, colors, one relation, an exclusion."""
    classes = draw(st.lists(st.sampled_from(SHAPES), min_size=1, max_size=2, unique=True))
    include = [{"class": name, "count": draw(st.integers(1, 4))} for name in classes]
    assume(sum(item["count"] for item in include) <= 4)
    for item in include:
        if draw(st.booleans()):
            item["color"] = draw(st.sampled_from(tuple(COLORS)))
    if len(include) == 2 and draw(st.booleans()):
        include[1]["position"] = [draw(st.sampled_from(RELATIONS)), 0]
        assume(max(item["count"] for item in include) <= 2)
    row = {"tag": "any", "include": include, "prompt": "a test"}
    if draw(st.booleans()):
        row["exclude"] = [{"class": classes[0], "count": include[0]["count"] + 1}]
    return row


@given(indexes)
@settings(max_examples=200, deadline=None)
def test_objects_stay_inside_and_never_touch(index: int) -> None:
    one = scene(0, "train", index)
    found = boxes(one, 24)
    assert 1 <= len(found) == len(one.objects) <= 4
    assert len({item.place for item in one.objects}) == len(found)
    for i, (x1, y1, x2, y2) in enumerate(found):
        assert 0 < x1 < x2 < 24
        assert 0 < y1 < y2 < 24
        for ox1, oy1, ox2, oy2 in found[:i]:
            assert max(ox1 - x2, x1 - ox2, oy1 - y2, y1 - oy2) >= 1, "less than a pixel between two objects"


@given(indexes)
@settings(max_examples=200, deadline=None)
def test_quadrant_relations_agree_with_geneval_on_the_true_boxes(index: int) -> None:
    one = scene(1, "train", index)
    found = boxes(one, 24)
    for i, a in enumerate(one.objects):
        for j, b in enumerate(one.objects):
            if i != j:
                assert geneval_relations(found[i], found[j]) == set(relations(a, b))


def test_the_same_index_is_the_same_picture_and_another_is_not() -> None:
    assert scene(0, "train", 7) == scene(0, "train", 7)
    assert np.array_equal(render(scene(0, "train", 7), 24), render(scene(0, "train", 7), 24))
    others = [scene(1, "train", 7), scene(0, "validation", 7), scene(0, "train", 8)]
    assert all(other != scene(0, "train", 7) for other in others)
    assert key("train", 12) == "train-00000012"


@pytest.mark.parametrize("size_px", [16, 24, 32, 100, 512])
def test_pixels_are_background_outside_the_boxes_and_colored_inside(size_px: int) -> None:
    for index in range(20 if size_px < 200 else 2):
        one = scene(0, "train", index)
        image = render(one, size_px)
        assert image.shape == (size_px, size_px, 3)
        assert image.dtype == np.uint8
        outside = np.ones((size_px, size_px), dtype=bool)
        for item, (x1, y1, x2, y2) in zip(one.objects, boxes(one, size_px), strict=True):
            outside[int(y1) : int(np.ceil(y2)), int(x1) : int(np.ceil(x2))] = False
            inside = image[int(y1) : int(np.ceil(y2)), int(x1) : int(np.ceil(x2))].reshape(-1, 3).astype(int)
            nearest = np.abs(inside - COLORS[item.color]).max(axis=1).min()
            assert nearest <= (3 if size_px >= 24 else 60)
        # An edge may bleed past its box by the blend of one sub-pixel, a sixteenth of a pixel in the mean.
        assert np.abs(image[outside] - np.array(BACKGROUNDS[one.background], dtype=float)).max(initial=0) < 255 / 12


def test_a_picture_shrunk_by_averaging_is_the_picture_drawn_small() -> None:
    for index in range(50):
        one = scene(0, "train", index)
        shrunk = render(one, 64).reshape(32, 2, 32, 2, 3).mean(axis=(1, 3))
        assert np.abs(shrunk - render(one, 32)).max() < 12


def test_boxes_bound_what_is_drawn() -> None:
    for shape in SHAPES:
        one = next(s for s in (scene(0, "boxes", i) for i in range(999)) if s.objects[0].shape == shape)
        one = Scene(one.objects[:1], "black")
        rows_px, columns_px = np.nonzero(render(one, 256).max(axis=2) > 60)
        drawn = (columns_px.min(), rows_px.min(), columns_px.max() + 1, rows_px.max() + 1)
        assert np.abs(np.subtract(drawn, boxes(one, 256)[0])).max() < 4  # an apex is thinner than a pixel


def test_every_word_of_the_world_turns_up_and_one_shape_scenes_are_common() -> None:
    scenes = [scene(0, "train", i) for i in range(2000)]
    objects = [item for one in scenes for item in one.objects]
    for name, words in [("shape", SHAPES), ("color", COLORS), ("place", PLACES)]:
        shares = [np.mean([getattr(item, name) == word for item in objects]) for word in words]
        assert max(shares) / min(shares) < 1.4
    counts = np.bincount([len(one.objects) for one in scenes], minlength=5)[1:] / len(scenes)
    assert np.abs(counts - COUNT_SHARES).max() < 0.04
    several = [one for one in scenes if len(one.objects) > 1]
    assert 0.30 < np.mean([len({item.shape for item in one.objects}) == 1 for one in several]) < 0.45


def test_a_world_of_few_objects_keeps_the_shares_of_what_is_left() -> None:
    assert count_shares(4) == pytest.approx(COUNT_SHARES)
    assert count_shares(2) == pytest.approx((0.4, 0.6))
    assert max(len(scene(0, "train", i, count_shares(2)).objects) for i in range(300)) == 2


@given(rows(), st.integers(0, 2**32 - 1))
@settings(max_examples=200, deadline=None)
def test_a_matching_scene_satisfies_its_row_with_nothing_else(row: dict, seed: int) -> None:
    try:
        one = scene_matching(row, np.random.default_rng(seed))
    except ValueError as error:
        assert any("position" in item for item in row["include"]), error  # noqa: PT017
        return
    assert one == scene_matching(row, np.random.default_rng(seed))
    groups: list[list[int]] = []
    for item in row["include"]:
        groups.append([i for i, o in enumerate(one.objects) if o.shape == item["class"]])
        assert len(groups[-1]) == item["count"]
        assert all(one.objects[i].color == item.get("color", one.objects[i].color) for i in groups[-1])
        if "position" in item:
            relation, target = item["position"]
            found = boxes(one, 24)
            assert all(relation in geneval_relations(found[i], found[j]) for i in groups[-1] for j in groups[target])
    assert sum(map(len, groups)) == len(one.objects)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"include": [{"class": "dog", "count": 1}]}, "'dog' is no shape"),
        ({"include": [{"class": "ring", "count": 1, "color": "teal"}]}, "'teal' is not in the world"),
        ({"include": [{"class": "ring", "count": 5}]}, "the row includes 5"),
        (
            {"include": [{"class": "ring", "count": 2}], "exclude": [{"class": "ring", "count": 2}]},
            "and excludes them",
        ),
        (
            {"include": [{"class": "ring", "count": 3}, {"class": "cross", "count": 1, "position": ["above", 0]}]},
            "no layout",
        ),
    ],
)
def test_a_row_the_world_cannot_satisfy_is_refused_by_name(row: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        scene_matching(row, np.random.default_rng(0))


def test_an_opaque_shape_hides_what_is_below_and_a_clear_one_does_not() -> None:
    image = np.full((24, 24, 3), 100, dtype=np.float32)
    paint(image, "square", (200, 0, 0), 0.5, 0.5, 0.3, opacity=0.5)
    assert image[12, 12] == pytest.approx([150, 50, 50])
    paint(image, "square", (200, 0, 0), 0.5, 0.5, 0.3)
    assert image[12, 12] == pytest.approx([200, 0, 0])
    paint(image, "circle", (0, 0, 0), 3.0, 3.0, 0.3)  # wholly outside
    assert image.min() >= 0
