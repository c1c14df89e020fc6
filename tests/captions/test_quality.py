"""Caption statistics are those of the captions: counted by hand, and the same in any order and any company."""

from __future__ import annotations

import random
from math import isnan

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lensbench.captions import quality
from lensbench.captions.attributes import Accuracy
from lensbench.captions.quality import CaptionStatistics, Lengths, describe, words_of
from lensbench.data.scenes import Object, Scene


def letters(texts: list[str]) -> list[list[tuple[int, int]]]:
    """A tokenizer of one token a letter."""
    return [[(i, i + 1) for i in range(len(text))] for text in texts]


def of(texts: list[str], window: int = 5) -> CaptionStatistics:
    return describe([(f"key {i}", text) for i, text in enumerate(texts)], letters, window)


def test_a_small_set_by_hand() -> None:
    found = of(["Two red rings.", "a ring", "a ring", "left of 3 (gray) cats"])
    assert (found.captions, found.distinct, found.unique, found.sampled) == (4, 3, 2, 4)
    assert found.duplicates == 0.25
    assert found.words.counts.tolist() == [0, 0, 2, 1, 0, 1]
    assert (found.words.mean, found.words.longest) == (3.0, 5)
    assert [found.words.quantile(share) for share in (0.05, 0.5, 0.75, 0.95)] == [2, 2, 3, 5]
    assert found.tokens.longest == len("left of 3 (gray) cats")
    assert found.cut == 1.0
    assert found.vocabulary == ((12, 10),)
    assert isnan(found.type_token_ratio)
    assert found.vocabulary_at(12) == 10
    assert found.vocabulary_at(1000) is None
    assert found.word_lists == pytest.approx({"numerals": 200 / 12, "colors": 200 / 12, "spatial": 100 / 12})
    assert found.accuracy is None


def test_a_caption_as_long_as_the_window_is_not_cut() -> None:
    assert of(["abcde", "abcdef"]).cut == 0.5


def test_words_are_bare_and_in_lower_case() -> None:
    assert words_of("A \u201cRed\u201d well-lit CAT, (IMG_2041.jpg) - 3.") == [
        "a",
        "red",
        "well-lit",
        "cat",
        "img_2041.jpg",
        "3",
    ]


@given(st.lists(st.integers(0, 400), min_size=1, max_size=50), st.floats(0.01, 1))
def test_quantiles_are_nearest_ranks(lengths: list[int], share: float) -> None:
    found = Lengths(np.bincount(lengths))
    ordered = sorted(lengths)
    value = found.quantile(share)
    assert value in lengths
    assert sum(length <= value for length in ordered) >= share * len(ordered) - 1e-6
    assert sum(length < value for length in ordered) < share * len(ordered) + 1e-6
    assert found.mean == pytest.approx(sum(lengths) / len(lengths))


TEXTS = st.lists(
    st.sampled_from(["a ring", "two red rings", "x", "left of a gray cat " * 120]), min_size=1, max_size=30
)


@given(TEXTS, st.randoms())
def test_the_order_of_the_rows_does_not_matter(texts: list[str], shuffle: random.Random) -> None:
    rows = [(f"key {i}", text) for i, text in enumerate(texts)]
    first = describe(rows, letters, 5)
    shuffle.shuffle(rows)
    second = describe(iter(rows), letters, 5)
    assert first.vocabulary == second.vocabulary
    assert first.words.counts.tolist() == second.words.counts.tolist()
    assert (first.distinct, first.unique) == (second.distinct, second.unique)
    assert first.distinct == len(set(texts))
    assert first.unique == sum(texts.count(text) == 1 for text in texts)


def test_the_sample_is_of_the_same_images_in_every_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quality, "SAMPLE", 50)
    keys = [f"key {i}" for i in range(1000)]
    one = describe([(key, f"word{i}") for i, key in enumerate(keys)], letters, 5)
    assert (one.captions, one.distinct, one.sampled) == (1000, 1000, 50)
    assert one.vocabulary[-1] == (50, 50)
    samples = []
    for order in (keys, keys[::-1]):
        kept = quality._Sample()
        for key in order:
            kept.add(key, "")
        samples.append(kept.rows())
    assert samples[0] == samples[1]
    places = [keys.index(key) for key, _ in samples[0]]
    assert 300 < np.mean(places) < 700
    assert places != sorted(places)


def test_the_type_token_ratio_does_not_depend_on_how_many_captions_there_are() -> None:
    rng = np.random.default_rng(0)
    sets = [[" ".join(f"w{n}" for n in rng.integers(0, 300, 20)) for _ in range(count)] for count in (200, 2000)]
    few, many = (of(texts) for texts in sets)
    assert few.type_token_ratio == pytest.approx(many.type_token_ratio, abs=0.01)
    assert 0.2 < few.type_token_ratio < 0.3
    assert of(["a b c d e"] * 500).type_token_ratio == 5 / quality.SEGMENT


def test_scenes_are_compared_image_by_image() -> None:
    red = Scene((Object("circle", "red", "large", "top left", 0.26, 0.26),), "gray")
    blue = Scene((Object("ring", "blue", "small", "top left", 0.26, 0.26),), "gray")
    scenes = {"a": red, "b": blue}
    found = describe(
        [("a", "a red circle"), ("b", "a red circle on a gray background")], letters, 9, scenes.__getitem__
    )
    assert found.accuracy == Accuracy(said=5, false=2, there=10)


def test_no_captions_are_no_statistics() -> None:
    with pytest.raises(ValueError, match="no captions to describe"):
        of([])


def test_captions_of_punctuation_have_lengths_and_no_words() -> None:
    found = of(["...", "- -"])
    assert (found.words.mean, found.vocabulary) == (1.5, ())
    assert isnan(found.word_lists["colors"])
