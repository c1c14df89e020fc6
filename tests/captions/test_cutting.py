"""Texts cut short: a beginning of the text, never empty, as long as was asked."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lensbench.captions.cutting import (
    Offsets,
    first_tokens,
    first_words,
    length_matched,
    text_window,
    token_offsets,
    word_counts,
)
from lensbench.experiment import TextEncoder
from lensbench.model.text_encoder import open_text_encoder

SAID = st.text(st.characters(exclude_categories=["Cs"]), max_size=40).filter(str.strip)


@given(SAID, st.integers(1, 12))
def test_the_first_words_are_the_texts_beginning(text: str, n: int) -> None:
    cut = first_words(text, n)
    assert text.startswith(cut)
    assert cut.split() == text.split()[:n]
    if len(text.split()) <= n:
        assert cut == text


LENGTHS = st.lists(st.tuples(st.integers(1, 12), st.integers(1, 12)), min_size=1, max_size=20)


@given(LENGTHS)
def test_matched_lengths_are_the_others_wherever_cutting_can_do_that(lengths: list[tuple[int, int]]) -> None:
    texts = [" ".join(["w"] * own) for own, _ in lengths]
    target = [other for _, other in lengths]
    cut = length_matched(texts, target)
    assert all(text.startswith(short) for text, short in zip(texts, cut, strict=True))
    # Quantile by quantile the shorter of the two: where every quantile of the texts is longer, exactly the target.
    expected = np.minimum(np.sort(word_counts(texts)), np.sort(target))
    np.testing.assert_array_equal(np.sort(word_counts(cut)), expected)


def test_of_two_texts_the_longer_stays_the_longer() -> None:
    assert length_matched(["a b c d e f", "a b c"], [2, 4]) == ["a b c d", "a b"]


@pytest.fixture(scope="module", params=["minilm", "qwen3", "gpt_oss"])
def config(request: pytest.FixtureRequest) -> TextEncoder:
    if request.param == "minilm":
        return TextEncoder(layers=(0,), max_tokens=64)
    folder: Path = request.getfixturevalue(f"{request.param}_folder")
    width, layers = {"qwen3": (24, (0, 1)), "gpt_oss": (32, (0, 1))}[request.param]
    room = {"max_tokens": 512, "width": width, "layers": layers}
    prefix = {"prefix_tokens": prefix_of(folder)} if request.param == "gpt_oss" else {}
    return TextEncoder.model_validate({"kind": request.param, "model": str(folder), **room, **prefix})


def prefix_of(folder: Path) -> int:
    from lensbench.model.gpt_oss import chat_tokenizer
    from lensbench.model.pretrained import locate

    first, second = chat_tokenizer(locate(str(folder)))(["a", "7"])
    return next(i for i, (a, b) in enumerate(zip(first, second, strict=False)) if a != b)


@pytest.fixture(scope="module")
def offsets(config: TextEncoder) -> Offsets:
    return token_offsets(config)


WORDS = st.sampled_from(
    ["a", "red", "circle", "Straße", "naïve", "日本", "unbelievably", "🙂🙂", "IMG_2041.jpg", "<|end|>", "é", ","]
)
INDENTS = st.sampled_from(["", " ", "\n  "])
SPACED = st.builds(str.__add__, INDENTS, st.lists(WORDS, min_size=1, max_size=6).map(" ".join))
TEXTS = st.lists(SPACED, min_size=1, max_size=4)


@given(texts=TEXTS, tokens=st.integers(1, 12))
def test_the_first_tokens_are_the_texts_beginning_and_few_enough(
    offsets: Offsets, texts: list[str], tokens: int
) -> None:
    before = offsets(texts)
    cut = first_tokens(texts, tokens, offsets)
    for text, short, spans, left in zip(texts, cut, before, offsets(cut), strict=True):
        assert short.strip()
        assert text.startswith(short)
        assert len(left) <= tokens or len(short.strip()) == 1
        if len(spans) <= tokens:
            assert short == text
        else:
            # No more is lost than the character that the cut falls into.
            assert len(short.strip()) == 1 or spans[tokens - 1][0] <= len(short) + 1


def test_tokens_are_those_that_the_encoder_reads_and_fill_its_window(config: TextEncoder, offsets: Offsets) -> None:
    encoder, window = open_text_encoder(config), text_window(config)
    text = " ".join(["red circle"] * 200)
    fits = first_tokens([text], window, offsets)[0]
    assert len(offsets([fits])[0]) == window
    over = first_tokens([text], window + 1, offsets)[0]
    assert (encoder.truncated([fits]), encoder.truncated([over])) == (0, 1)


def test_a_tokenizer_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no tokenizer\.json") as caught:
        token_offsets(TextEncoder.model_validate({"kind": "qwen3", "model": str(tmp_path)}))
    assert "\n" not in str(caught.value)
