"""Captions by key: the same wherever they are asked for, and nothing but text."""

from __future__ import annotations

import math
from pathlib import Path
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from lensbench.captions.texts import captions, digest, statistics
from lensbench.data.corpus import open_corpus
from lensbench.experiment import Captions, FolderCorpus, ShapesCorpus


def photographs(folder: Path, sets: tuple[str, ...] = ("alt", "detailed"), count: int = 6) -> FolderCorpus:
    for i in range(count):
        Image.new("RGB", (20, 20), (40 * i, 10, 10)).save(folder / f"p{i}.png")
        for name in sets:
            (folder / f"p{i}.{name}.txt").write_text(f"{name} of {i}")
    return FolderCorpus(path=folder, size_px=16)


@pytest.mark.parametrize("name", ["alt", "brief", "detailed", "dose"])
def test_a_caption_depends_on_world_set_and_key_alone(name: str) -> None:
    small = open_corpus(ShapesCorpus(), 8)
    large = open_corpus(ShapesCorpus(size_px=48), 64)
    policy = Captions(set=name)
    keys = small.train_keys + small.validation_keys[:4]
    texts = captions(small, policy, keys)
    assert texts == captions(large, policy, keys)
    assert texts[::-1] == captions(small, policy, keys[::-1])
    assert all(texts)
    assert texts != captions(open_corpus(ShapesCorpus(world_seed=1), 8), policy, keys)


def test_dose_reads_its_shares() -> None:
    world = open_corpus(ShapesCorpus(), 40)
    words = {
        present: statistics(captions(world, Captions(set="dose", present=present), world.train_keys)).mean_words
        for present in (0.2, 0.6, 1.0)
    }
    assert words[0.2] < words[0.6] < words[1.0]
    true, false = (captions(world, Captions(set="dose", wrong=w), world.train_keys) for w in (0.0, 0.5))
    assert sum(a != b for a, b in zip(true, false, strict=True)) > 35


def test_a_folder_gives_its_sidecars(tmp_path: Path) -> None:
    corpus = open_corpus(photographs(tmp_path), 100)
    keys = corpus.train_keys + corpus.validation_keys
    texts = captions(corpus, Captions(set="alt"), keys)
    assert sorted(texts) == [f"alt of {i}" for i in range(6)]
    assert captions(corpus, Captions(set="detailed"), keys) == [t.replace("alt", "detailed") for t in texts]


def test_a_set_that_does_not_exist_is_named_with_those_that_do(tmp_path: Path) -> None:
    corpus = open_corpus(photographs(tmp_path), 100)
    with pytest.raises(ValueError, match=r"no caption set 'gpt' in .*there are alt, detailed .*cat\.gpt\.txt"):
        captions(corpus, Captions(set="gpt"), corpus.train_keys)


def test_a_set_outside_the_corpus_is_asked_for(tmp_path: Path) -> None:
    corpus = open_corpus(photographs(tmp_path, ("alt", "detailed", "gpt")), 100)
    with pytest.raises(ValueError, match=r"'gpt' is not among corpus\.caption_sets"):
        captions(corpus, Captions(set="gpt"), corpus.train_keys)


TEXTS = st.dictionaries(st.text(max_size=5), st.text(max_size=5), min_size=1, max_size=6)


@given(TEXTS, TEXTS, st.randoms())
def test_the_digest_tells_captions_apart_and_not_their_order(a: dict, b: dict, random: Random) -> None:
    shuffled = list(a.items())
    random.shuffle(shuffled)
    assert digest(*zip(*shuffled, strict=True)) == digest(list(a), list(a.values()))
    assert (digest(list(a), list(a.values())) == digest(list(b), list(b.values()))) == (a == b)


def test_the_digest_sees_where_a_key_ends() -> None:
    assert digest(["ab"], ["c"]) != digest(["a"], ["bc"])


def test_statistics() -> None:
    found = statistics(["a red ring", "a red ring", "ring"], [5, 5, 3])
    assert (found.count, found.distinct, found.max_tokens) == (3, 2, 5)
    assert found.mean_words == pytest.approx(7 / 3)
    assert found.mean_tokens == pytest.approx(13 / 3)
    assert math.isnan(statistics(["x"]).mean_tokens)
    with pytest.raises(ValueError, match="no captions"):
        statistics([])
