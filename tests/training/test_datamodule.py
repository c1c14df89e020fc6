"""Pairing: two arms with one seed see the same images, in the same order, with the same noise and timesteps."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lensbench.captions.policy import drawn_sets
from lensbench.captions.texts import training_texts
from lensbench.data.corpus import open_corpus
from lensbench.data.features import ArrayRows, KeptFeatures, TextFeatures, encode_texts
from lensbench.data.latents import Latents, StoredLatents, encode_images
from lensbench.data.sized import SizedLatents
from lensbench.experiment import Buckets, Captions, Experiment
from lensbench.model.autoencoder import open_autoencoder
from lensbench.model.minilm import MiniLM
from lensbench.model.sizes import denoiser_config
from lensbench.training.datamodule import Batch, TrainingBatches, flow_input
from lensbench.training.module import new_denoiser


@given(seed=st.integers(0, 2**31), step=st.integers(0, 10_000))
def test_noise_and_timesteps_are_those_of_seed_and_step(seed: int, step: int) -> None:
    noise, timesteps = flow_input(seed, step, 3, 4, 5)
    again, again_timesteps = flow_input(seed, step, 3, 4, 5)
    other, other_timesteps = flow_input(seed, step + 1, 3, 4, 5)
    assert torch.equal(noise, again)
    assert torch.equal(timesteps, again_timesteps)
    assert not torch.equal(noise, other)
    assert not torch.equal(timesteps, other_timesteps)
    assert ((timesteps > 0) & (timesteps < 1)).all()


def whole(batches: TrainingBatches, step: int) -> Batch:
    """The one part of a step."""
    (batch,) = batches[step].parts
    return batch


@pytest.fixture(scope="module", params=["pixels", "flux2"])
def arms(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> dict[tuple[str, int], TrainingBatches]:
    cache: Path = tmp_path_factory.mktemp("cache")
    encoder = MiniLM(layers=(0,), max_tokens=96)
    base = Experiment().replace(
        {"images": 48, "training.batch": 16, "training.steps": 8, "text_encoder.layers": (0,), "captions.dropout": 0.3}
    )
    if request.param == "flux2":
        model = str(request.getfixturevalue("flux2_folder"))
        base = base.replace(
            {"autoencoder.kind": "flux2", "autoencoder.model": model, "corpus.size_px": 32, "model.patch_size": 2}
        )
    autoencoder = open_autoencoder(base.autoencoder, base.model.patch_size)
    made = {}
    for arm in ("alt", "brief", "detailed"):
        for seed in (0, 1):
            experiment = base.replace({"captions.set": arm, "seed": seed})
            corpus = open_corpus(experiment.corpus, experiment.images)
            texts = training_texts(corpus, experiment.captions, corpus.train_keys, experiment.text_encoder)
            features = {name: encode_texts(of_set, encoder, cache) for name, of_set in texts.items()}
            latents = encode_images(corpus, corpus.train_keys, autoencoder, cache)
            made[arm, seed] = TrainingBatches(experiment, latents, texts, features, corpus.train_keys)
    return made


def test_arms_with_one_seed_differ_in_their_text_alone(arms: dict[tuple[str, int], TrainingBatches]) -> None:
    for step in range(8):
        batches = {arm: whole(arms[arm, 0], step) for arm in ("alt", "brief", "detailed")}
        first = batches["alt"]
        for batch in batches.values():
            assert torch.equal(batch.latents, first.latents)
            assert torch.equal(batch.noise, first.noise)
            assert torch.equal(batch.timesteps, first.timesteps)
            # the same image visits are trained without text
            assert torch.equal(batch.text_mask.any(1), first.text_mask.any(1))
        assert not torch.equal(batches["alt"].text_features[0][:, :3], batches["detailed"].text_features[0][:, :3])


def test_arms_with_one_seed_start_from_the_same_weights(arms: dict[tuple[str, int], TrainingBatches]) -> None:
    def weights(arm: str, seed: int) -> list[torch.Tensor]:
        experiment = arms[arm, seed].experiment
        return list(new_denoiser(denoiser_config(experiment, 384), experiment.seed).parameters())

    same = zip(weights("alt", 0), weights("detailed", 0), strict=True)
    assert all(torch.equal(a, b) for a, b in same)
    other = zip(weights("alt", 0), weights("alt", 1), strict=True)
    assert any(not torch.equal(a, b) for a, b in other)


def test_seeds_differ_in_order_noise_and_timesteps(arms: dict[tuple[str, int], TrainingBatches]) -> None:
    a, b = whole(arms["alt", 0], 0), whole(arms["alt", 1], 0)
    assert not torch.equal(a.latents, b.latents)
    assert not torch.equal(a.noise, b.noise)
    assert not torch.equal(a.timesteps, b.timesteps)


def test_a_caption_for_every_image_or_an_error(arms: dict[tuple[str, int], TrainingBatches]) -> None:
    of = arms["alt", 0]
    with pytest.raises(ValueError, match="48 images but 47 captions"):
        TrainingBatches(of.experiment, of.latents, {"alt": of.texts["alt"][:-1]}, of.features, of.keys)


def test_batches_have_the_autoencoders_shape_and_the_images_of_their_step(
    arms: dict[tuple[str, int], TrainingBatches],
) -> None:
    batches = arms["brief", 1]
    e = batches.experiment
    autoencoder = open_autoencoder(e.autoencoder, e.model.patch_size)
    corpus = open_corpus(e.corpus, e.images)
    for step in (0, 5):
        batch = whole(batches, step)
        chosen = [corpus.train_keys[i] for i in batches.order.group(step).images]
        assert batch.keys == tuple(chosen)
        latents, grid = autoencoder.encode(corpus.images(chosen))
        # float16 on disk
        torch.testing.assert_close(batch.latents, latents, atol=1e-4, rtol=2**-10)
        assert batch.grid == grid
        assert batch.latents.dtype == torch.float32
        assert batch.noise.shape == batch.latents.shape == (16, e.image_tokens, autoencoder.channels)
        assert denoiser_config(e, 384).in_channels == autoencoder.channels
        assert e.corpus.size_px == grid[0] * autoencoder.stride
    assert isinstance(batches.latents.of_size[0], StoredLatents) == (e.autoencoder.kind == "flux2")


class Numbered:
    """Features of a text that say which it is: one token a word, its number among the texts of a run."""

    def __init__(self) -> None:
        self.numbers: dict[str, int] = {}

    def of(self, texts: list[str]) -> TextFeatures:
        distinct = sorted(set(texts))
        lengths = [len(text.split()) for text in distinct]
        numbers = [self.numbers.setdefault(text, 1 + len(self.numbers)) for text in distinct]
        values = np.repeat(np.array(numbers, dtype=np.float32), lengths)[:, None, None]
        offsets = np.cumsum([0, *lengths])
        return KeptFeatures({text: i for i, text in enumerate(distinct)}, ArrayRows(offsets, values))


BASE = Experiment().replace({"images": 24, "training.batch": 16, "training.steps": 4, "captions.dropout": 0.2})
WORLD = open_corpus(BASE.corpus, BASE.images)


@pytest.fixture(scope="module")
def latents(tmp_path_factory: pytest.TempPathFactory) -> Latents:
    autoencoder = open_autoencoder(BASE.autoencoder, BASE.model.patch_size)
    return encode_images(WORLD, WORLD.train_keys, autoencoder, tmp_path_factory.mktemp("cache"))


policies = st.builds(
    Captions,
    set=st.sampled_from(["alt", "dose", "0.8*detailed+0.2*alt", "0.5*brief+0.3*alt+0.2*detailed"]),
    dropout=st.just(0.2),
    length_matched_to=st.sampled_from([None, "alt"]),
    max_words=st.sampled_from([None, 4]),
    max_tokens=st.sampled_from([None, 6]),
    shuffled=st.booleans(),
)


@given(policies, st.integers(0, 3))
def test_arms_of_any_policy_differ_in_their_text_alone(latents: Latents, policy: Captions, seed: int) -> None:
    known = Numbered()
    made = []
    for captions in (policy, Captions(set="brief", dropout=0.2)):
        experiment = Experiment.model_validate({**BASE.model_dump(), "captions": captions, "seed": seed})
        texts = training_texts(WORLD, captions, WORLD.train_keys, experiment.text_encoder)
        features = {name: known.of(of_set) for name, of_set in texts.items()}
        made.append(TrainingBatches(experiment, latents, texts, features, WORLD.train_keys))
    for step in range(4):
        ours, other = (whole(batches, step) for batches in made)
        assert ours.keys == other.keys
        for name in ("latents", "noise", "timesteps"):
            assert torch.equal(getattr(ours, name), getattr(other, name))
        assert torch.equal(ours.text_mask.any(1), other.text_mask.any(1))
        # every visit has the text of its image in the set that was drawn, or none
        sets = np.array(list(policy.shares))[drawn_sets(policy, seed, step, 16)]
        places = [WORLD.train_keys.index(key) for key in ours.keys]
        for visit, (name, place) in enumerate(zip(sets, places, strict=True)):
            text = made[0].texts[name][place]
            mask = ours.text_mask[visit]
            assert int(mask.sum()) in (0, len(text.split()))
            assert (ours.text_features[0][visit, mask] == known.numbers[text]).all()
            assert (ours.text_features[0][visit, ~mask] == 0).all()


def in_sizes(latents: Latents, images: int, seed: int) -> SizedLatents:
    """Every image at the world's size, some of them at half of it as well."""
    draw = np.random.default_rng(seed)
    choices = np.stack([np.zeros(images, dtype=int), np.where(draw.random(images) < 0.6, 1, -1)], axis=1)
    small = np.flatnonzero(choices[:, 1] == 1)
    values = np.arange(small.size * 4 * 48, dtype=np.float32).reshape(small.size, 4, 48)
    return SizedLatents(choices, (0, 1), (latents, StoredLatents(values, (2, 2))))


@given(st.integers(1, 3), st.integers(1, 3), st.integers(1, 2), st.integers(0, 3), st.booleans())
def test_shares_make_up_the_step_whatever_the_division(
    latents: Latents, ranks: int, parts: int, groups: int, seed: int, sized: bool
) -> None:
    buckets = Buckets(sides=(24, 12), images=(9, 11), groups=groups) if sized else None
    base = BASE.replace({"training.buckets": buckets, "seed": seed, "captions.set": "0.7*detailed+0.3*brief"})
    known = Numbered()
    texts = training_texts(WORLD, base.captions, WORLD.train_keys, base.text_encoder)
    features = {name: known.of(of_set) for name, of_set in texts.items()}
    given_latents = in_sizes(latents, len(latents), seed) if sized else latents

    def rows(accumulate: int, shares: int) -> list[tuple[Any, ...]]:
        experiment = base.replace({"training.accumulate": accumulate})
        batches = TrainingBatches(experiment, given_latents, texts, features, WORLD.train_keys)
        found = []
        for rank in range(shares):
            batches.share(rank, shares)
            step = batches[1]
            own = batches.groups // shares if batches.groups % shares == 0 else batches.groups
            assert len(step.parts) == accumulate * own
            for part in step.parts:
                assert part.text_mask.sum(1).tolist() == list(part.text_tokens)
                assert part.text_mask.shape[1] == max(1, *part.text_tokens)
                for i in range(len(part)):
                    text = part.text_features[0][i, part.text_mask[i]]
                    tensors = (part.latents[i], part.noise[i], part.timesteps[i], text)
                    found.append((part.keys[i], *(tensor.numpy().tobytes() for tensor in tensors)))
        assert len(found) == step.images
        return sorted(found)

    assert rows(parts, ranks) == rows(1, 1)
