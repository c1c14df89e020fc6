"""Which images a data scale holds: arms of a seed share them, seeds differ, and larger scales hold smaller ones."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lensbench.captions.policy import dropped_text
from lensbench.captions.texts import training_texts
from lensbench.data import scale
from lensbench.data.corpus import TRAINING_IMAGES, ShapesWorld, open_corpus
from lensbench.data.scale import drawn_places, held, held_by_some
from lensbench.data.shapes import COUNT_SHARES
from lensbench.experiment import Captions, Corpus, Experiment, FolderCorpus, ShapesCorpus
from lensbench.scoring.statistics import mean_over_seeds
from lensbench.sweep.cell_parts import corpus_of
from tests.data.corpora import image

KEYS = [f"{n:064x}" for n in range(300)]
seeds = st.integers(0, 2**31)
policies = st.builds(
    Captions,
    set=st.sampled_from(["alt", "brief", "detailed", "0.5*alt+0.5*detailed"]),
    shuffled=st.booleans(),
    max_words=st.none() | st.integers(1, 20),
)


@given(seeds, st.integers(1, 400), st.integers(1, 400))
def test_a_seed_holds_distinct_keys_and_its_larger_scale_the_smaller(seed: int, a: int, b: int) -> None:
    small, large = (held(KEYS, images, seed) for images in sorted((a, b)))
    assert set(small) <= set(large) <= set(KEYS)
    assert len(set(large)) == len(large) == min(max(a, b), len(KEYS))


@given(seeds, st.integers(1, 3000), st.integers(1, 3000), st.sampled_from([7, 64, 65_536]))
def test_places_of_the_world_are_distinct_and_nested(seed: int, a: int, b: int, block: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scale, "BLOCK", block)  # how many are drawn at a time changes nothing
        small = drawn_places(seed, min(a, b), 10_000)
    large = drawn_places(seed, max(a, b), 10_000)
    assert (large[: len(small)] == small).all()
    assert len(np.unique(large)) == len(large) == max(a, b)
    assert large.min() >= 0
    assert large.max() < 10_000


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> FolderCorpus:
    folder = tmp_path_factory.mktemp("photographs")
    for n in range(40):
        (folder / f"{n}.jpg").write_bytes(image(n))
        (folder / f"{n}.alt.txt").write_text(f"alt {n}")
    return FolderCorpus(path=folder, size_px=16, caption_sets=("alt",), detailed_prompts="alt")


@pytest.fixture(params=["shapes", "folder"])
def corpus(request: pytest.FixtureRequest, photographs: FolderCorpus) -> Corpus:
    return ShapesCorpus(size_px=16) if request.param == "shapes" else photographs


def test_seeds_draw_images_that_differ_and_hold_nothing_that_is_held_out(corpus: Corpus) -> None:
    first, again, other = (open_corpus(corpus, 12, seed) for seed in (0, 0, 1))
    assert first.train_keys == again.train_keys
    assert set(first.train_keys) != set(other.train_keys) != set(open_corpus(corpus, 12).train_keys)
    assert first.validation_keys == other.validation_keys
    assert not set(first.train_keys) & set(first.validation_keys)
    assert first.digest == other.digest, "it is the corpus's"
    assert set(first.train_keys) <= set(open_corpus(corpus, 20, 0).train_keys)


def test_a_cell_has_the_images_of_its_corpus_and_a_folder_is_read_once(
    corpus: Corpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    places = [(12, None), (12, 0), (5, 0), (5, 1), (1000, 1)]
    wanted = [open_corpus(corpus, *place).train_keys for place in places]
    corpus_of(corpus, *places[0])
    monkeypatch.setattr("lensbench.sweep.cell_parts.open_photographs", None)  # what would read it
    assert [corpus_of(corpus, *place).train_keys for place in places] == wanted


@settings(max_examples=30)
@given(seeds, policies, policies)
def test_arms_of_a_seed_share_their_images_whatever_their_texts(seed: int, a: Captions, b: Captions) -> None:
    arms = [Experiment(corpus=ShapesCorpus(size_px=16), images=8, captions=arm, seed=seed) for arm in (a, b)]
    one, other = (open_corpus(e.corpus, e.images, e.images_seed) for e in arms)
    assert one.train_keys == other.train_keys
    assert (one.images(one.train_keys) == other.images(other.train_keys)).all()
    texts = [training_texts(one, e.captions, one.train_keys, e.text_encoder) for e in arms]
    assert all(len(of_set) == 8 for found in texts for of_set in found.values())
    assert (dropped_text(a, seed, 3, 32) == dropped_text(b, seed, 3, 32)).all()


OBJECTS = sum(share * count for count, share in enumerate(COUNT_SHARES, 1))  # of a scene of the world


def objects_of(seed: int, images: int = 32) -> float:
    """What a data scale decides, as a stand-in for a score: the mean number of objects of its scenes."""
    world = open_corpus(ShapesCorpus(), images, seed)
    assert isinstance(world, ShapesWorld)
    return float(np.mean([len(world.scene(key).objects) for key in world.train_keys]))


def coverage(value: float, of_study: Callable[[int], list[float]], studies: int = 40) -> float:
    """The share of the studies whose 95 % interval over seeds contains the value."""
    intervals = [mean_over_seeds(of_study(n)) for n in range(studies)]
    return float(np.mean([one.low <= value <= one.high for one in intervals]))


def test_an_interval_over_seeds_contains_which_images_a_scale_holds() -> None:
    scores = [objects_of(seed) for seed in range(8 * 40)]
    assert coverage(OBJECTS, lambda n: scores[8 * n : 8 * n + 4]) >= 0.87
    # A/A along the data axis: an arm against itself on other seeds.
    apart = np.subtract(scores[0::2], scores[1::2])
    assert coverage(0.0, lambda n: list(apart[4 * n : 4 * n + 4])) >= 0.87
    # Seeds differ by as much as independent draws of 32 scenes do; those of the first images would not differ at all.
    variance = sum(share * (count - OBJECTS) ** 2 for count, share in enumerate(COUNT_SHARES, 1))
    assert np.std(scores) == pytest.approx((variance / 32) ** 0.5, rel=0.15)


def test_images_that_seeds_hold_together_are_few_more_where_a_corpus_is_small() -> None:
    assert held_by_some(4096, TRAINING_IMAGES, 3) == pytest.approx(3 * 4096, rel=1e-3)
    assert held_by_some(4096, TRAINING_IMAGES, 1) == 4096
    together = [len(set(held(KEYS, 150, seed)) | set(held(KEYS, 150, seed + 100))) for seed in range(50)]
    assert held_by_some(150, 300, 2) == pytest.approx(np.mean(together), abs=5)
    assert held_by_some(1000, 300, 2) == 300


def test_many_images_of_the_world_are_distinct() -> None:
    assert len(np.unique(drawn_places(0, 300_000, TRAINING_IMAGES))) == 300_000
