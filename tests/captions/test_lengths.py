"""Caption lengths: counted where captions are there, published where they are not, and said which."""

from __future__ import annotations

import pytest

from lensbench.captions.lengths import given_tokens, given_words, measured_lengths, published_lengths
from lensbench.captions.texts import captions
from lensbench.data.corpus import open_corpus
from lensbench.experiment import Captions, ShapesCorpus, TextEncoder
from lensbench.model.minilm import MiniLM

POLICIES = [Captions(set="detailed"), Captions(set="alt")]


@pytest.fixture(scope="module")
def world():
    return open_corpus(ShapesCorpus(), 40)


def test_minilm_lengths_are_those_of_the_features(world):
    encoder = TextEncoder(layers=(0,))
    lengths = measured_lengths(world, POLICIES, encoder)
    assert [length.captions for length in lengths] == ["alt", "detailed"]
    opened = MiniLM(encoder.layers, encoder.max_tokens)
    for length in lengths:
        texts = captions(world, Captions(set=length.captions), world.train_keys)
        assert length.tokens == tuple(opened.encode(texts)[1].sum(1).tolist())


def test_what_the_window_cuts_off_does_not_count(world):
    (length,) = measured_lengths(world, POLICIES[:1], TextEncoder(max_tokens=12))
    assert set(length.tokens) == {12}


def test_words_are_counted_for_encoders_far_away(world):
    (length,) = measured_lengths(world, POLICIES[:1], TextEncoder(kind="qwen3"), 2.0)
    texts = captions(world, POLICIES[0], world.train_keys)
    assert length.tokens == tuple(2 * len(text.split()) for text in texts)
    assert "words x 2.00" in length.source


def test_two_doses_are_told_apart(world):
    doses = [Captions(set="dose", present=0.5), Captions(set="dose", present=0.5, wrong=0.5)]
    assert len({length.captions for length in measured_lengths(world, doses, TextEncoder())}) == 2


def test_published_lengths_scale_with_the_tokens_of_a_word():
    alt, detailed = published_lengths(1.0)
    assert (alt.mean, detailed.mean) == (10, 109)
    assert published_lengths(2.0)[1].mean == 218
    assert "2605.21573" in detailed.source


def test_given_lengths_come_shortest_first():
    assert [length.mean for length in given_tokens((30, 0, 7))] == [0, 7, 30]
    assert [length.mean for length in given_words((12, 3), 4 / 3)] == [4, 16]
