"""Text features: what is kept is what the encoder says, and a text's are the same whenever and wherever it is met."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lensbench.data import features as module
from lensbench.data import rowstore
from lensbench.data.features import OnlineFeatures, TextFeatures, encode_texts, text_rows
from lensbench.data.rowstore import StoredRows
from lensbench.model.minilm import MiniLM

TEXTS = ["a red circle", "a small blue ring left of a large cross", "a red circle", "IMG_2041.jpg"]


@pytest.fixture(scope="module")
def encoder() -> MiniLM:
    return MiniLM(layers=(1, 3), max_tokens=32)


def equal(a: tuple[list[torch.Tensor], torch.Tensor], b: tuple[list[torch.Tensor], torch.Tensor]) -> bool:
    return torch.equal(a[1], b[1]) and all(torch.equal(x, y) for x, y in zip(a[0], b[0], strict=True))


def test_features_are_the_encoders(encoder: MiniLM, tmp_path: Path) -> None:
    for cache in (tmp_path, None):
        layers, mask = encode_texts(TEXTS, encoder, cache).gather(TEXTS)
        expected, expected_mask = encoder.encode(TEXTS)
        assert torch.equal(mask, expected_mask)
        for layer, reference in zip(layers, expected, strict=True):
            assert torch.equal(layer, reference.half().float())


def test_the_empty_text_is_the_unconditional_input(encoder: MiniLM, tmp_path: Path) -> None:
    kinds: list[TextFeatures] = [
        encode_texts(TEXTS, encoder, tmp_path),
        encode_texts(TEXTS, encoder, None),
        OnlineFeatures(encoder),
    ]
    for features in kinds:
        layers, mask = features.gather(["", "a red circle"])
        assert not mask[0].any()
        assert mask[1].any()
        assert all(not layer[0].any() for layer in layers)
        assert list(features.token_counts(["", "a red circle", ""])) == [0, 5, 0]
        nothing, mask = features.gather(["", ""])
        assert not mask.any()
        assert [layer.shape for layer in nothing] == [(2, 1, 384)] * 2


def test_a_run_with_fewer_or_other_texts_encodes_what_is_new_alone(encoder: MiniLM, tmp_path: Path) -> None:
    counting = Counting(encoder)
    first = encode_texts(TEXTS, counting, tmp_path)
    assert sorted(counting.encoded) == sorted(set(TEXTS))
    again = encode_texts(list(reversed(TEXTS[:2])), counting, tmp_path)
    assert len(counting.encoded) == 3
    assert equal(first.gather(TEXTS[:2]), again.gather(TEXTS[:2]))
    assert list(first.token_counts(TEXTS[:2])) == list(again.token_counts(TEXTS[:2]))
    encode_texts([*TEXTS, "two rings"], counting, tmp_path)
    assert counting.encoded[3:] == ["two rings"]


def test_other_layers_or_windows_are_other_stores(encoder: MiniLM, tmp_path: Path) -> None:
    encode_texts(TEXTS, encoder, tmp_path)
    encode_texts(TEXTS, MiniLM(layers=(1,), max_tokens=32), tmp_path)
    encode_texts(TEXTS, MiniLM(layers=(1, 3), max_tokens=8), tmp_path)
    stores = list((tmp_path / "text").iterdir())
    assert len(stores) == 3
    assert {json.loads((store / "made_from.json").read_text())["encoder"] for store in stores} == {encoder.digest}


def test_the_cost_that_is_told_is_what_is_written(encoder: MiniLM, tmp_path: Path) -> None:
    rows = text_rows(TEXTS, encoder, tmp_path)
    before = rows.cost()
    assert not list(tmp_path.iterdir()), "asking writes nothing"
    assert (before.rows, before.there) == (3, 0)
    assert before.bytes == int(rows.lengths.sum()) * 2 * 384 * 2
    rows.fill()
    (shard,) = tmp_path.rglob("*.rows")
    assert before.bytes < shard.stat().st_size < before.bytes + 1000, "the rest are names and offsets"
    after = text_rows([*TEXTS, "two rings"], encoder, tmp_path).cost()
    assert (after.rows, after.there, after.bytes) == (4, 3, 4 * 2 * 384 * 2)


def test_an_interrupted_run_keeps_what_is_finished(
    encoder: MiniLM, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rowstore, "SMALL_BYTES", 1)  # a shard a text

    def interrupt(done: int, total: int) -> None:
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        encode_texts(TEXTS, encoder, tmp_path, report=interrupt)
    assert len(list(tmp_path.rglob("*.rows"))) == 2
    assert not list(tmp_path.rglob("*.partial"))
    counting = Counting(encoder)
    encode_texts(TEXTS, counting, tmp_path)
    assert len(counting.encoded) == 1


words = st.lists(
    st.sampled_from(["red", "blue", "circle", "ring", "left", "of", "a", "IMG_2041.jpg", "7"]), max_size=40
)
texts = st.lists(words.map(" ".join), min_size=1, max_size=12)


@settings(max_examples=30, deadline=None)
@given(texts, texts, st.randoms(use_true_random=False))
def test_cached_and_online_are_equal_whatever_else_was_encoded(  # type: ignore[no-untyped-def]
    encoder: MiniLM, tmp_path_factory: pytest.TempPathFactory, wanted: list[str], others: list[str], random
) -> None:
    first, second = (tmp_path_factory.mktemp("cache") for _ in range(2))
    encode_texts(others, encoder, first)
    batch = [random.choice([*wanted, ""]) for _ in range(6)]
    reference = encode_texts(wanted, encoder, second).gather(batch)
    assert equal(encode_texts([*others, *wanted], encoder, first).gather(batch), reference)
    assert equal(encode_texts(wanted, encoder, None).gather(batch), reference)
    assert equal(OnlineFeatures(encoder).gather(batch), reference)


def test_memory_is_bounded_by_tokens_not_by_texts(encoder: MiniLM, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BATCH_TOKENS", 64)
    counting = Counting(encoder)
    lines = [f"{'red ' * n} {i}" for n in (1, 3, 8, 20) for i in range(7)]
    found = encode_texts(lines, counting, None)
    for batch in counting.batches:
        longest = int(encoder.token_counts(batch).max())
        assert len(batch) == 1 or len(batch) * longest <= 64
    assert equal(found.gather(lines), OnlineFeatures(encoder).gather(lines))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_features_are_kept_in_the_encoders_type_without_loss(dtype: torch.dtype, tmp_path: Path) -> None:
    features = encode_texts(TEXTS, Constant(dtype), tmp_path)
    assert isinstance(features.values, StoredRows)
    assert features.values.dtype.itemsize == dtype.itemsize
    for kind in (features, encode_texts(TEXTS, Constant(dtype), None), OnlineFeatures(Constant(dtype))):
        layers, mask = kind.gather([TEXTS[1], "", TEXTS[0]])
        assert mask.sum(1).tolist() == [len(TEXTS[1]), 0, len(TEXTS[0])]
        for number, layer in enumerate(layers):
            assert layer.dtype == torch.float32
            assert not layer[~mask].any()
            assert (layer[mask] == Constant.values(dtype, number)).all()


class Counting:
    """An encoder that notes what it is asked for."""

    def __init__(self, encoder: MiniLM) -> None:
        self.encoder = encoder
        self.layers, self.max_tokens, self.width = encoder.layers, encoder.max_tokens, encoder.width
        self.digest, self.dtype = encoder.digest, encoder.dtype
        self.token_counts, self.truncated, self.unload = encoder.token_counts, encoder.truncated, encoder.unload
        self.batches: list[list[str]] = []

    @property
    def encoded(self) -> list[str]:
        return [text for batch in self.batches for text in batch]

    def encode(self, texts: Sequence[str]) -> tuple[list[torch.Tensor], torch.Tensor]:
        self.batches.append(list(texts))
        return self.encoder.encode(texts)


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

    def token_counts(self, texts: Sequence[str]) -> np.ndarray:
        return np.array([len(text) for text in texts])

    def truncated(self, texts: Sequence[str]) -> int:
        return 0

    def unload(self) -> None:
        pass
