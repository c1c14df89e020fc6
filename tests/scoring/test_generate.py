"""Pictures depend on the prompt, its noise and the weights: not on the batch they were drawn in."""

import numpy as np
import pytest
import torch

from lensbench.data.features import TextFeatures, encode_texts
from lensbench.model.autoencoder import Pixels
from lensbench.model.minilm import MiniLM
from lensbench.model.sizes import lens
from lensbench.model.transformer import LensTransformer
from lensbench.scoring.generate import FirstSteps, generate, sampling_noise

TEXTS = ["a red circle", "a large blue ring at the top left is left of a small green cross", "a square", "a red circle"]
KEYS = [(0, 0), (1, 0), (2, 0), (0, 1)]


@pytest.fixture(scope="module")
def features(tmp_path_factory: pytest.TempPathFactory) -> TextFeatures:
    return encode_texts(TEXTS, MiniLM(layers=(0,)), tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="module")
def denoiser() -> LensTransformer:
    torch.manual_seed(0)
    shape = {"in_channels": 48, "out_channels": 3, "patch_size": 4, "enc_hidden_dim": 384}
    model = LensTransformer(lens(1, **shape, selected_layer_index=(0,)))  # type: ignore[arg-type]
    torch.nn.init.normal_(model.proj_out.weight, std=0.2)
    return model.eval()


def draw(denoiser: LensTransformer, features: TextFeatures, texts: list[str], noise: torch.Tensor, **how) -> np.ndarray:  # type: ignore[no-untyped-def]
    options = {"steps": 3, "guidance": 2.0} | how
    return generate(denoiser, Pixels(4), features, texts, noise, (4, 4), **options)


def test_each_prompt_and_sample_has_its_own_noise_and_keeps_it() -> None:
    noise = sampling_noise(1, "geneval", KEYS, 16, 48)
    assert noise.shape == (4, 16, 48)
    assert len({tuple(row.flatten()[:4].tolist()) for row in noise}) == 4
    assert torch.equal(sampling_noise(1, "geneval", KEYS[2:], 16, 48), noise[2:])
    assert not torch.equal(sampling_noise(1, "scenes", KEYS, 16, 48), noise)
    assert not torch.equal(sampling_noise(2, "geneval", KEYS, 16, 48), noise)


def test_a_picture_does_not_depend_on_its_batch(denoiser: LensTransformer, features: TextFeatures) -> None:
    noise = sampling_noise(1, "geneval", KEYS, 16, 48)
    together = draw(denoiser, features, TEXTS, noise)
    assert together.shape == (4, 16, 16, 3)
    assert together.dtype == np.uint8
    alone = np.concatenate([draw(denoiser, features, [text], noise[i : i + 1]) for i, text in enumerate(TEXTS)])
    # Sums are ordered otherwise in another batch: a value may round to its neighbor.
    assert np.abs(together.astype(int) - alone.astype(int)).max() <= 1
    by_twos = draw(denoiser, features, TEXTS, noise, batch=2)
    assert np.abs(together.astype(int) - by_twos.astype(int)).max() <= 1


def test_text_noise_and_guidance_each_change_the_picture(denoiser: LensTransformer, features: TextFeatures) -> None:
    noise = sampling_noise(1, "geneval", KEYS, 16, 48)
    pictures = draw(denoiser, features, TEXTS, noise)
    assert not np.array_equal(pictures[0], pictures[3])  # one text, two noises
    other_text = draw(denoiser, features, [TEXTS[1]], noise[:1])[0]
    assert not np.array_equal(pictures[0], other_text)
    assert not np.array_equal(pictures[0], draw(denoiser, features, TEXTS[:1], noise[:1], guidance=1.0)[0])


def test_every_picture_is_reported(denoiser: LensTransformer, features: TextFeatures) -> None:
    counts: list[int] = []
    draw(denoiser, features, TEXTS, sampling_noise(1, "geneval", KEYS, 16, 48), batch=3, report=counts.append)
    assert counts == [3, 1]


def test_scales_share_the_first_step_and_each_is_the_same_to_the_bit(
    denoiser: LensTransformer, features: TextFeatures
) -> None:
    noise = sampling_noise(1, "geneval", KEYS, 16, 48)
    other = sampling_noise(2, "geneval", KEYS, 16, 48)
    firsts: FirstSteps = {}
    calls = []
    counting = denoiser.register_forward_hook(lambda *_: calls.append(1))
    shared = [draw(denoiser, features, TEXTS, noise, guidance=scale, firsts=firsts) for scale in (2.0, 1.0, 4.0, 9.0)]
    counting.remove()
    assert len(calls) == 4 * 3 - 2  # scale 1 has no unconditional half and shares nothing
    for scale, images in zip((2.0, 1.0, 4.0, 9.0), shared, strict=True):
        assert np.array_equal(images, draw(denoiser, features, TEXTS, noise, guidance=scale))
    assert len(firsts) == 1
    again = draw(denoiser, features, TEXTS, other, guidance=4.0, firsts=firsts)
    assert np.array_equal(again, draw(denoiser, features, TEXTS, other, guidance=4.0))
    assert len(firsts) == 2
    reversed_texts = draw(denoiser, features, TEXTS[::-1], noise, guidance=4.0, firsts=firsts)
    assert np.array_equal(reversed_texts, draw(denoiser, features, TEXTS[::-1], noise, guidance=4.0))
