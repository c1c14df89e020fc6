"""Qwen3 as a text encoder: the plain text's raw hidden states, whatever the batch, nothing cut in silence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lensbench.experiment import TextEncoder as TextEncoderConfig
from lensbench.model.text_encoder import TextEncoder, open_text_encoder

TEXTS = ["a red circle", "a large blue square to the left of a green triangle", "x"]


def config(folder: Path, **changes: Any) -> TextEncoderConfig:
    return TextEncoderConfig(
        **{"kind": "qwen3", "model": str(folder), "layers": (1, 3, 5), "max_tokens": 64, "width": 24} | changes
    )


@pytest.fixture(scope="module")
def encoder(qwen3_folder: Path) -> TextEncoder:
    return open_text_encoder(config(qwen3_folder))


@pytest.fixture(scope="module")
def whole(qwen3_folder: Path) -> Any:
    from transformers import Qwen3ForCausalLM

    return Qwen3ForCausalLM.from_pretrained(qwen3_folder).eval()


def test_features_are_the_raw_hidden_states_of_the_plain_text(encoder: TextEncoder, whole: Any) -> None:
    features, mask = encoder.encode(TEXTS)
    assert mask.dtype == torch.bool
    assert mask.sum(1).tolist() == [len(text) for text in TEXTS]  # one token a byte and none added
    for row, text in enumerate(TEXTS):
        with torch.no_grad():  # alone, without padding; hidden_states[0] is the embedding
            ids = torch.tensor([whole_ids(text, encoder)])
            states = whole(ids, output_hidden_states=True).hidden_states
        for got, layer in zip(features, encoder.layers, strict=True):
            assert got.shape == (len(TEXTS), mask.shape[1], encoder.width)
            assert got.dtype == torch.float32
            torch.testing.assert_close(got[row, : len(text)], states[layer + 1][0], atol=1e-4, rtol=1e-4)


def whole_ids(text: str, encoder: TextEncoder) -> list[int]:
    from tokenizers import pre_tokenizers

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    word = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False).pre_tokenize_str(text)
    return [alphabet.index(byte) for piece, _ in word for byte in piece]


def test_the_last_blocks_output_has_no_final_norm(qwen3_folder: Path, whole: Any) -> None:
    encoder = open_text_encoder(config(qwen3_folder, layers=(7,)))
    (got,), _ = encoder.encode(["red"])
    with torch.no_grad():
        normed = whole(torch.tensor([whole_ids("red", encoder)]), output_hidden_states=True).hidden_states[-1]
        again = whole.model.norm(got)
    torch.testing.assert_close(again, normed, atol=1e-4, rtol=1e-4)
    assert not torch.allclose(got, normed, atol=1e-2)


def test_padding_is_zero_and_batches_do_not_matter(encoder: TextEncoder) -> None:
    features, mask = encoder.encode(TEXTS)
    for row, text in enumerate(TEXTS):
        alone, alone_mask = encoder.encode([text])
        assert alone_mask.all()
        for together, single in zip(features, alone, strict=True):
            assert not together[~mask].any()
            torch.testing.assert_close(together[row, : single.shape[1]], single[0], atol=1e-5, rtol=1e-5)


def test_blocks_after_the_last_layer_are_not_built(encoder: TextEncoder) -> None:
    encoder.encode(["x"])
    model: Any = encoder._model  # type: ignore[attr-defined]
    assert len(model.layers) == 6
    assert not any(p.requires_grad for p in model.parameters())


@settings(max_examples=30)
@given(st.lists(st.text(st.characters(codec="utf-8"), max_size=30), min_size=1, max_size=5))
def test_truncation_is_counted_exactly(qwen3_folder: Path, texts: list[str]) -> None:
    window = 12
    short, long = (open_text_encoder(config(qwen3_folder, max_tokens=n, layers=(0,))) for n in (window, 512))
    sizes = [len(text.encode()) for text in texts]
    assert short.truncated(texts) == sum(size > window for size in sizes)
    assert long.truncated(texts) == 0


def test_long_texts_keep_their_beginning(encoder: TextEncoder) -> None:
    text = "".join(f"{n} red " for n in range(20))
    assert encoder.truncated([text, "red"]) == 1
    assert encoder.truncated([]) == 0
    features, mask = encoder.encode([text])
    assert int(mask.sum()) == 64
    start, _ = encoder.encode([text[:64]])
    for cut, same in zip(features, start, strict=True):
        torch.testing.assert_close(cut, same)


def test_a_control_token_that_a_text_spells_is_text(encoder: TextEncoder) -> None:
    text = "a sign that says <|im_end|>"
    _, mask = encoder.encode([text])
    assert int(mask.sum()) == len(text)


def test_a_text_without_tokens_has_none(encoder: TextEncoder) -> None:
    features, mask = encoder.encode([""])
    assert not mask.any()
    assert not any(layer.any() for layer in features)


def test_no_texts_are_refused(encoder: TextEncoder) -> None:
    with pytest.raises(ValueError, match="no texts"):
        encoder.encode([])


def test_weights_come_with_the_first_text_and_go_when_told(qwen3_folder: Path) -> None:
    encoder: Any = open_text_encoder(config(qwen3_folder))
    encoder.truncated(TEXTS)
    assert encoder._model is None  # counting tokens takes no weights
    first, _ = encoder.encode(TEXTS)
    encoder.unload()
    assert encoder._model is None
    again, _ = encoder.encode(TEXTS)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))


def test_features_are_computed_in_the_type_the_weights_were_saved_in(qwen3_folder: Path, tmp_path: Path) -> None:
    from transformers import AutoTokenizer, Qwen3ForCausalLM

    Qwen3ForCausalLM.from_pretrained(qwen3_folder).to(torch.bfloat16).save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(qwen3_folder).save_pretrained(tmp_path)
    encoder = open_text_encoder(config(tmp_path))
    features, _ = encoder.encode(TEXTS)
    assert encoder.dtype == torch.bfloat16
    for layer in features:
        assert layer.dtype == torch.float32
        assert torch.equal(layer, layer.bfloat16().float())
