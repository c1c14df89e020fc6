"""Text features: what is cached is what the encoder says, and a cache is whole or absent."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from lensbench.data.features import encode_texts
from lensbench.model.minilm import MiniLM

TEXTS = ["a red circle", "a small blue ring left of a large cross", "a red circle", "IMG_2041.jpg"]


@pytest.fixture(scope="module")
def encoder() -> MiniLM:
    return MiniLM(layers=(1, 3), max_tokens=32)


def test_features_are_the_encoders(encoder: MiniLM, tmp_path: Path) -> None:
    features = encode_texts(TEXTS, encoder, tmp_path)
    layers, mask = features.gather(TEXTS)
    for row, text in enumerate(TEXTS):
        expected, expected_mask = encoder.encode([text])
        length = int(expected_mask.sum())
        assert int(mask[row].sum()) == length
        for layer, reference in zip(layers, expected, strict=True):
            torch.testing.assert_close(layer[row, :length], reference[0, :length], atol=4e-3, rtol=2e-3)
            assert not layer[row, length:].any()


def test_the_empty_text_is_the_unconditional_input(encoder: MiniLM, tmp_path: Path) -> None:
    layers, mask = encode_texts(TEXTS, encoder, tmp_path).gather(["", "a red circle"])
    assert not mask[0].any()
    assert mask[1].any()
    assert all(not layer[0].any() for layer in layers)


def test_a_second_call_reads_the_cache(encoder: MiniLM, tmp_path: Path) -> None:
    first = encode_texts(TEXTS, encoder, tmp_path)
    calls: list[int] = []
    second = encode_texts(list(reversed(TEXTS)), encoder, tmp_path, report=lambda done, total: calls.append(done))
    assert not calls
    assert np.array_equal(first.values, second.values)
    assert list(first.token_counts(TEXTS)) == list(second.token_counts(TEXTS))


def test_other_texts_layers_or_windows_are_other_caches(encoder: MiniLM, tmp_path: Path) -> None:
    encode_texts(TEXTS, encoder, tmp_path)
    encode_texts(TEXTS[:2], encoder, tmp_path)
    encode_texts(TEXTS, MiniLM(layers=(1,), max_tokens=32), tmp_path)
    encode_texts(TEXTS, MiniLM(layers=(1, 3), max_tokens=8), tmp_path)
    assert len(list((tmp_path / "text").iterdir())) == 4


def test_an_interrupted_cache_is_not_taken_for_a_whole_one(encoder: MiniLM, tmp_path: Path) -> None:
    def interrupt(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        encode_texts(TEXTS, encoder, tmp_path, batch=1, report=interrupt)
    features = encode_texts(TEXTS, encoder, tmp_path)
    assert len(features.offsets) == 4


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_features_are_kept_in_the_encoders_type_without_loss(dtype: torch.dtype, tmp_path: Path) -> None:
    features = encode_texts(TEXTS, Constant(dtype), tmp_path)
    layers, mask = features.gather([TEXTS[1], "", TEXTS[0]])
    assert mask.sum(1).tolist() == [len(TEXTS[1]), 0, len(TEXTS[0])]
    for number, layer in enumerate(layers):
        assert layer.dtype == torch.float32
        assert not layer[~mask].any()
        assert (layer[mask] == Constant.values(dtype, number)).all()


class Constant:
    """A text encoder of one token a letter, whose features use its type's last bit and whole range."""

    layers = (0, 1)
    max_tokens = 64
    width = 5
    digest = "constant"

    def __init__(self, dtype: torch.dtype) -> None:
        self.dtype = dtype

    @staticmethod
    def values(dtype: torch.dtype, layer: int) -> torch.Tensor:
        kind = torch.finfo(dtype)
        return torch.tensor([1 + kind.eps, -kind.max / 4, kind.max / 2, kind.tiny, layer + 1.0])

    def encode(self, texts: Sequence[str]) -> tuple[list[torch.Tensor], torch.Tensor]:
        lengths = torch.tensor([len(text) for text in texts])
        mask = torch.arange(int(lengths.max()))[None, :] < lengths[:, None]
        return [mask[:, :, None] * self.values(self.dtype, layer) for layer in self.layers], mask

    def truncated(self, texts: Sequence[str]) -> int:
        return 0

    def unload(self) -> None:
        pass
