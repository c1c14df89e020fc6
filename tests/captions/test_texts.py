"""Captions by key: the same wherever they are asked for, and nothing but text."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from random import Random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from lensbench.captions.cutting import token_offsets, word_counts
from lensbench.captions.texts import arm_digest, captions, digest, other_images, training_texts
from lensbench.data.corpus import open_corpus
from lensbench.experiment import Captions, Experiment, FolderCorpus, Model, ShapesCorpus, TextEncoder


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
        present: word_counts(captions(world, Captions(set="dose", present=present), world.train_keys)).mean()
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


ENCODER = TextEncoder()
SETS = ("alt", "brief", "detailed", "dose")
policies = st.builds(
    Captions,
    set=st.sampled_from([*SETS, "0.8*detailed+0.2*alt", "0.5*brief+0.3*alt+0.2*detailed"]),
    length_matched_to=st.sampled_from([None, "alt", "brief"]),
    max_words=st.sampled_from([None, 3, 8]),
    max_tokens=st.sampled_from([None, 4, 10]),
    shuffled=st.booleans(),
)
WORLD = open_corpus(ShapesCorpus(), 24)


@given(policies)
def test_a_policy_changes_texts_and_never_loses_one(policy: Captions) -> None:
    found = training_texts(WORLD, policy, WORLD.train_keys, ENCODER)
    assert list(found) == list(policy.shares)
    for name, texts in found.items():
        whole = captions(WORLD, Captions(set=name), WORLD.train_keys)
        assert len(texts) == len(whole)
        assert all(text.strip() for text in texts)
        if policy.shuffled:
            in_place = training_texts(WORLD, policy.model_copy(update={"shuffled": False}), WORLD.train_keys, ENCODER)
            assert Counter(texts) == Counter(in_place[name])
        else:
            assert all(text.startswith(short) for text, short in zip(whole, texts, strict=True))
            if policy.max_words:
                assert max(word_counts(texts)) <= policy.max_words
            if policy.max_tokens:
                assert max(map(len, token_offsets(ENCODER)(texts))) <= policy.max_tokens


@given(st.integers(2, 300), st.integers(0, 5))
def test_no_image_keeps_its_text_when_texts_are_shuffled(images: int, world_seed: int) -> None:
    corpus = open_corpus(ShapesCorpus(world_seed=world_seed), images)
    others = other_images(corpus, images)
    assert sorted(others) == list(range(images))
    assert (others != np.arange(images)).all()
    assert (others == other_images(open_corpus(ShapesCorpus(world_seed=world_seed, size_px=48), 4), images)).all()


def test_one_image_has_no_other() -> None:
    with pytest.raises(ValueError, match="at least two training images"):
        other_images(WORLD, 1)


def test_detailed_captions_take_the_lengths_of_another_set() -> None:
    world = open_corpus(ShapesCorpus(), 200)
    matched = training_texts(world, Captions(length_matched_to="alt"), world.train_keys, ENCODER)["detailed"]
    alt = captions(world, Captions(set="alt"), world.train_keys)
    assert sorted(word_counts(matched)) == sorted(word_counts(alt))


def test_the_set_that_others_are_matched_to_stays_whole_in_a_mixture() -> None:
    policy = Captions(set="0.5*alt+0.5*detailed", length_matched_to="alt")
    found = training_texts(WORLD, policy, WORLD.train_keys, ENCODER)
    assert found["alt"] == captions(WORLD, Captions(set="alt"), WORLD.train_keys)


def test_every_set_of_a_mixture_is_asked_of_a_folder(tmp_path: Path) -> None:
    config = photographs(tmp_path, ("alt", "detailed", "gpt"))
    corpus = open_corpus(config, 100)
    both = training_texts(corpus, Captions(set="0.5*alt+0.5*detailed"), corpus.train_keys, ENCODER)
    assert both == {name: captions(corpus, Captions(set=name), corpus.train_keys) for name in ("alt", "detailed")}
    with pytest.raises(ValueError, match=r"'gpt' is not among corpus\.caption_sets"):
        training_texts(corpus, Captions(set="0.5*alt+0.5*gpt"), corpus.train_keys, ENCODER)
    with pytest.raises(ValueError, match=r"captions\.length_matched_to='gpt'"):
        Experiment(corpus=config, model=Model(patch_size=4), captions=Captions(length_matched_to="gpt"))


def test_an_arms_digest_is_its_sets_and_tells_mixtures_of_other_texts_apart() -> None:
    keys = ["k", "l"]
    one = {"alt": ["a", "b"]}
    assert arm_digest(keys, one) == digest(keys, one["alt"])
    both = one | {"detailed": ["c", "d"]}
    assert arm_digest(keys, both) == arm_digest(keys, dict(reversed(both.items())))
    others = [one | {"detailed": ["d", "c"]}, one | {"brief": ["c", "d"]}, {"alt": ["c", "d"], "detailed": ["a", "b"]}]
    assert len({arm_digest(keys, texts) for texts in (one, both, *others)}) == 5
