"""A text's features depend on it alone, to the last bit: not on the texts beside it, nor on its place among them."""

import functools
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lensbench.experiment import TextEncoder as TextEncoderConfig
from lensbench.model import fixed_shapes
from lensbench.model.fixed_shapes import encode_lines, padded, rows_of
from lensbench.model.text_encoder import TextEncoder, open_text_encoder

texts = st.lists(
    st.lists(st.sampled_from(["red", "a", "circle", "left", "7", "日本"]), max_size=45).map(" ".join),
    min_size=1,
    max_size=20,
)


@functools.cache
def encoder_of(kind: str, folder: Path) -> TextEncoder:
    changes: dict[str, dict[str, Any]] = {
        "minilm": {"layers": (1, 5), "max_tokens": 48},
        "qwen3": {"model": str(folder), "layers": (2, 5), "width": 24, "max_tokens": 64},
        "gpt_oss": {
            "model": str(folder),
            "layers": (1, 3),
            "width": 32,
            "prefix_tokens": 218,
            "max_tokens": 218 + 95 + 40,
        },
    }
    return open_text_encoder(TextEncoderConfig(kind=kind, **changes[kind]))  # type: ignore[arg-type]


@pytest.fixture(scope="module", params=["minilm", "qwen3", "gpt_oss"])
def encoder(request: pytest.FixtureRequest) -> TextEncoder:
    folder = Path() if request.param == "minilm" else request.getfixturevalue(f"{request.param}_folder")
    return encoder_of(request.param, folder)


@settings(max_examples=12)
@given(texts, st.randoms(use_true_random=False))
def test_features_depend_on_the_text_alone(encoder: TextEncoder, batch: list[str], random: Random) -> None:
    text = random.choice(batch)
    alone, _ = encoder.encode([text])
    together, mask = encoder.encode(batch)
    assert mask.sum(1).tolist() == encoder.token_counts(batch).tolist()
    for row in (row for row, other in enumerate(batch) if other == text):
        for one, many in zip(alone, together, strict=True):
            assert torch.equal(many[row, mask[row]], one[0, : int(mask[row].sum())])
            assert not many[row, ~mask[row]].any()


def test_a_text_that_fills_its_shape_is_no_exception(encoder: TextEncoder) -> None:
    """Where every token of a batch is real, transformers would leave the mask out: attention may take another path."""
    for tokens in (16, 32):
        full = next(text for n in range(tokens + 1) if encoder.token_counts([text := "a" + " a" * n])[0] >= tokens)
        rows = rows_of(tokens, torch.device("cpu"))
        alone, mask = encoder.encode([full])
        together, _ = encoder.encode([full] * rows)
        for one, many in zip(alone, together, strict=True):
            assert all(torch.equal(row[: mask.sum()], one[0, : mask.sum()]) for row in many)


def test_a_mixture_of_experts_takes_one_text_at_a_time(gpt_oss_folder: Path) -> None:
    """How many tokens an expert is given, and so the last bits of its products, depends on all rows of a batch."""
    encoder: Any = encoder_of("gpt_oss", gpt_oss_folder)
    encoder.encode(["red"])
    shapes: list[tuple[int, ...]] = []
    hook = encoder._model.embed_tokens.register_forward_pre_hook(lambda module, given: shapes.append(given[0].shape))
    try:
        encoder.encode(["red", "a circle", "red"])
    finally:
        hook.remove()
    assert shapes == [(1, 218 + 95 + len(text)) for text in ("red", "red", "a circle")]


@given(st.lists(st.lists(st.integers(1, 9), max_size=40), min_size=1, max_size=30), st.booleans())
def test_every_line_is_computed_once_in_a_shape_of_its_own_length(lines: list[list[int]], alone: bool) -> None:
    shapes: dict[tuple[int, ...], int] = {}

    def forward(ids: torch.Tensor, mask: torch.Tensor) -> list[torch.Tensor]:
        assert mask.any(1).all(), "a row without a real token would be no number"
        assert not ids[~mask].any()
        shapes[tuple(ids.shape)] = shapes.get(tuple(ids.shape), 0) + 1
        return [ids[:, :, None].float(), -ids[:, :, None].float()]

    found = encode_lines(lines, forward, device=torch.device("cpu"), alone=alone)
    assert [line[0][:, 0].tolist() for line in found] == lines
    layers, mask = padded(found)
    assert mask.sum(1).tolist() == [len(line) for line in lines]
    assert (layers[0] == -layers[1]).all()
    if alone:
        assert sum(shapes.values()) == len(lines)
    else:
        assert all(tokens % fixed_shapes.TOKENS == 0 for _, tokens in shapes)
        assert all(rows == max(1, fixed_shapes.CPU_TOKENS // tokens) for rows, tokens in shapes)
        by_length = {tokens: sum(tokens - 16 < max(1, len(line)) <= tokens for line in lines) for _, tokens in shapes}
        assert shapes == {(rows, tokens): -(-by_length[tokens] // rows) for rows, tokens in shapes}
