"""A corpus is images with stable keys; the shapes world has as many as are asked for."""

from __future__ import annotations

import pytest
import torch

from lensbench.data.corpus import VALIDATION_IMAGES, open_corpus
from lensbench.data.shapes import render, scene
from lensbench.experiment import ShapesCorpus


def test_a_larger_data_scale_contains_every_smaller_one() -> None:
    small, large = (open_corpus(ShapesCorpus(), n) for n in (10, 25))
    assert large.train_keys[:10] == small.train_keys
    assert len(large.train_keys) == 25
    assert small.validation_keys == large.validation_keys
    assert len(small.validation_keys) == VALIDATION_IMAGES
    assert not set(large.train_keys) & set(large.validation_keys)


def test_images_are_those_of_their_keys() -> None:
    corpus = open_corpus(ShapesCorpus(size_px=20, world_seed=5), 6)
    images = corpus.images(["train-00000003", "validation-00000001"])
    assert images.dtype == torch.uint8
    assert images.shape == (2, 3, 20, 20)
    assert images.is_contiguous()
    drawn = torch.from_numpy(render(scene(5, "validation", 1), 20)).permute(2, 0, 1)
    torch.testing.assert_close(images[1], drawn)
    torch.testing.assert_close(corpus.images(corpus.train_keys)[3], images[0])


def test_the_digest_is_that_of_the_world_not_of_its_use() -> None:
    digest = open_corpus(ShapesCorpus(), 4).digest
    assert len(digest) == 64
    assert digest == open_corpus(ShapesCorpus(), 4000).digest
    others = {open_corpus(c, 4).digest for c in (ShapesCorpus(size_px=32), ShapesCorpus(world_seed=1))}
    assert len(others | {digest}) == 3


def test_a_changed_world_must_raise_the_renderer_version() -> None:
    """If this fails, keys stand for other pictures: raise corpus.RENDERER_VERSION and write the new numbers here."""
    corpus = open_corpus(ShapesCorpus(), 64)
    means = corpus.images(corpus.train_keys).double().mean(dim=(0, 2, 3)).tolist()
    assert means == pytest.approx(PINNED_MEANS, abs=0.05)


PINNED_MEANS = [125.348, 119.146, 116.886]  # red, green, blue


def test_nothing_is_set_aside_or_dropped() -> None:
    corpus = open_corpus(ShapesCorpus(), 4)
    assert corpus.set_aside == {}
    assert corpus.dropped == 0
    assert corpus.config == ShapesCorpus()
    assert corpus.images([]).shape == (0, 3, 24, 24)


@pytest.mark.parametrize("key", ["cat.jpg", "train-", "-3", "train-x", ""])
def test_a_foreign_key_is_refused(key: str) -> None:
    with pytest.raises(ValueError, match="is no key of the shapes world"):
        open_corpus(ShapesCorpus(), 4).images([key])
