"""The held-out wording: said in full, in words that no caption of any kind puts side by side, and short enough."""

from __future__ import annotations

import re
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lensbench.captions.cutting import token_offsets
from lensbench.captions.scene_writer import NUMBERS, PLURALS, claims
from lensbench.captions.unseen_writer import PLACES, RELATIONS, SIZES, unseen_wording
from lensbench.data.scenes import BACKGROUNDS, COLORS, SHAPES
from lensbench.data.shapes import scene
from lensbench.experiment import SHAPES_CAPTION_SETS, Evaluation, TextEncoder
from lensbench.scoring.shapes_prompts import prompt_set
from lensbench.streams import numpy_stream
from tests.test_forms import grams, of_captions

# Words that captions have too: names that have no synonym, directions, and grammar.
NAMED = {*SHAPES, *PLURALS.values(), *COLORS, *BACKGROUNDS, *NUMBERS.values()}
GRAMMAR = {"left", "right", "up", "is", "the"}


def words(text: str) -> list[str]:
    return re.findall(r"[a-z]+|\d+", text.lower())


def pairs(texts: list[str]) -> set[tuple[str, ...]]:
    """Two words that follow one another, punctuation left out, names left open."""
    return {pair for text in texts for pair in grams(" ".join(words(text)), 2)}


def of_scenes(count: int) -> list[str]:
    found = []
    for i in range(count):
        rng = numpy_stream(4, "unseen", i)
        found.append(unseen_wording(claims(scene(3, "validation", i), rng), rng))
    return found


def of_prompts(seed: int) -> list[str]:
    prompts = prompt_set(Evaluation(forms=("held_out",), prompts_per_task=60, images_per_task=60, prompt_seed=seed))
    return [prompt.texts["held_out"] for prompt in prompts]


@pytest.mark.parametrize("caption_set", SHAPES_CAPTION_SETS)
def test_no_two_words_of_it_follow_one_another_in_a_caption(caption_set: str) -> None:
    shared = pairs([*of_scenes(1500), *of_prompts(1), *of_prompts(7)]) & of_captions(caption_set, 2, signs=False)
    assert shared == set()


def test_the_words_it_shares_with_captions_are_names_and_grammar() -> None:
    ours = {word for text in [*of_scenes(1500), *of_prompts(1)] for word in words(text)}
    theirs = {word for name in SHAPES_CAPTION_SETS for (word,) in of_captions(name, 1, signs=False, names=False)}
    assert ours & theirs - NAMED == GRAMMAR


@settings(max_examples=60)
@given(st.integers(0, 10**6))
def test_it_says_all_that_a_detailed_caption_claims(index: int) -> None:
    shown, rng = scene(0, "train", index), numpy_stream(2, "unseen", index)
    said = claims(shown, rng)
    text = unseen_wording(said, rng)
    found = Counter(words(text))
    sizes = {word: size for size, synonyms in SIZES.items() for word in synonyms}
    assert Counter({shape: found[shape] for shape in SHAPES if found[shape]}) == Counter(o.shape for o in shown.objects)
    assert Counter({c: found[c] for c in COLORS if found[c]}) == Counter(o.color for o in shown.objects)
    assert Counter(sizes[word] for word in words(text) if word in sizes) == Counter(o.size for o in shown.objects)
    assert all(PLACES[o.place] in text for o in shown.objects)
    assert sum(text.count(relation) for relation in RELATIONS.values()) == len(shown.objects) - 1
    assert f"plain {shown.background}" in text
    for claim in said:
        if claim.kind == "count":
            number, plural = claim.value.split()
            assert f"{plural} numbering {number}" in text


def test_the_relation_holds_whichever_is_named_first() -> None:
    """The subject of "further left" is the first object named, or the last where the reference comes first."""
    for i in range(300):
        shown, rng = scene(0, "train", i), numpy_stream(2, "unseen", i)
        if len(shown.objects) != 2 or shown.objects[0].color == shown.objects[1].color:
            continue
        said = claims(shown, rng)
        (edge,) = (claim for claim in said if claim.kind == "relation")
        text = unseen_wording(said, rng)
        named = [word for word in words(text) if word in COLORS]
        subject = named[-1] if "compared with" in text else named[0]
        assert subject == shown.objects[edge.subject].color
        assert RELATIONS[edge.value] in text


def test_the_longest_fits_the_text_encoders_window() -> None:
    encoder = TextEncoder()
    crowded = [text for text in of_scenes(3000) if text.count("one ") == 4]
    offsets = token_offsets(encoder)(crowded)
    assert len(crowded) > 100
    assert max(map(len, offsets)) <= encoder.max_tokens - 2  # the encoder adds one before and one after
