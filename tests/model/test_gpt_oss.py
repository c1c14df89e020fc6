"""GPT-OSS as Lens reads it: the chat without its prefix and its end, raw hidden states, a window over all of it."""

from __future__ import annotations

import datetime as real_datetime
import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from lensbench.experiment import TextEncoder as TextEncoderConfig
from lensbench.model import gpt_oss
from lensbench.model.text_encoder import TextEncoder, open_text_encoder

TEXTS = ["a red circle", "a large blue square to the left of a green triangle", "x"]
BEFORE = (
    f"<|start|>system<|message|>You are a model.\nCurrent date: {gpt_oss.DATE}\n<|end|>"
    f"<|start|>developer<|message|># Instructions\n\n{gpt_oss.SYSTEM}<|end|><|start|>user<|message|>"
)
AFTER = (
    f"<|end|><|start|>assistant<|channel|>analysis<|message|>{gpt_oss.THINKING}<|end|>"
    "<|start|>assistant<|channel|>final<|message|>"
)


def count(text: str) -> int:
    """Tokens of a text: one a byte, one a control token."""
    return len(re.sub(r"<\|\w+\|>", "!", text).encode())


PREFIX, SUFFIX = count(BEFORE), count(AFTER)


def config(folder: Path, **changes: Any) -> TextEncoderConfig:
    values = {"kind": "gpt_oss", "model": str(folder), "layers": (1, 3), "width": 32, "prefix_tokens": PREFIX}
    return TextEncoderConfig(**values | changes)


@pytest.fixture(scope="module")
def encoder(gpt_oss_folder: Path) -> TextEncoder:
    return open_text_encoder(config(gpt_oss_folder))


@pytest.fixture(scope="module")
def whole(gpt_oss_folder: Path) -> Any:
    from transformers import GptOssForCausalLM

    return GptOssForCausalLM.from_pretrained(gpt_oss_folder).eval()


def states(whole: Any, folder: Path, text: str) -> tuple[torch.Tensor, ...]:
    """The whole model's hidden states for one chat, alone; [0] is the embedding."""
    from transformers import AutoTokenizer

    ids = AutoTokenizer.from_pretrained(folder)(BEFORE + text + AFTER, return_tensors="pt")["input_ids"]
    assert ids.shape[1] == count(BEFORE + text + AFTER)
    with torch.no_grad():
        found: tuple[torch.Tensor, ...] = whole(ids, output_hidden_states=True).hidden_states
    return found


def test_features_are_the_raw_hidden_states_of_the_chat_without_its_prefix(
    encoder: TextEncoder, whole: Any, gpt_oss_folder: Path
) -> None:
    features, mask = encoder.encode(TEXTS)
    assert mask.dtype == torch.bool
    assert mask.sum(1).tolist() == [len(text) + SUFFIX for text in TEXTS]
    for row, text in enumerate(TEXTS):
        expected = states(whole, gpt_oss_folder, text)
        for got, layer in zip(features, encoder.layers, strict=True):
            assert got.dtype == torch.float32
            assert got.shape == (len(TEXTS), mask.shape[1], 32)
            assert not got[row, ~mask[row]].any()
            torch.testing.assert_close(got[row, mask[row]], expected[layer + 1][0, PREFIX:], atol=1e-4, rtol=1e-4)


def test_the_last_blocks_output_has_no_final_norm(gpt_oss_folder: Path, whole: Any) -> None:
    (got,), _ = open_text_encoder(config(gpt_oss_folder, layers=(5,))).encode(["red"])
    normed = states(whole, gpt_oss_folder, "red")[-1][:, PREFIX:]
    with torch.no_grad():
        torch.testing.assert_close(whole.model.norm(got), normed, atol=1e-4, rtol=1e-4)
    assert not torch.allclose(got, normed, atol=1e-2)


def test_blocks_after_the_last_layer_are_not_built(encoder: TextEncoder) -> None:
    encoder.encode(["x"])
    assert len(encoder._model.layers) == 4  # type: ignore[attr-defined]


def test_the_published_defaults() -> None:
    published = TextEncoderConfig(kind="gpt_oss")
    assert published.model == "openai/gpt-oss-20b"
    assert published.layers == (5, 11, 17, 23)
    assert published.max_tokens == 512
    assert published.prefix_tokens == 97
    assert published.width == 2880


@pytest.mark.parametrize("extra", [0, 1, 7])
def test_the_window_counts_the_whole_chat(encoder: TextEncoder, gpt_oss_folder: Path, extra: int) -> None:
    longest = 512 - PREFIX - SUFFIX  # a text that just fits
    text = "x" * (longest + extra)
    assert encoder.truncated([text, "red", "x" * longest]) == (extra > 0)
    features, mask = encoder.encode([text])
    assert int(mask.sum()) == 512 - PREFIX
    if extra:  # the chat loses its end, not the text its beginning
        start, _ = encoder.encode(["x" * longest])
        for cut, fits in zip(features, start, strict=True):
            torch.testing.assert_close(cut[:, :longest], fits[:, :longest], atol=1e-5, rtol=1e-5)


def test_features_do_not_depend_on_the_day(
    encoder: TextEncoder, gpt_oss_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers.utils import chat_template_utils

    class Tomorrow(real_datetime.datetime):
        @classmethod
        def now(cls, tz: Any = None) -> Tomorrow:
            return cls(2031, 12, 31)

    before, _ = encoder.encode(TEXTS)
    monkeypatch.setattr(chat_template_utils, "datetime", Tomorrow)
    later = open_text_encoder(config(gpt_oss_folder))
    after, _ = later.encode(TEXTS)
    assert later.digest == encoder.digest
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


def test_a_control_token_that_a_text_spells_is_text(encoder: TextEncoder) -> None:
    text = "a sign: <|return|> <|end|>"
    _, mask = encoder.encode([text])
    assert int(mask.sum()) == len(text) + SUFFIX


@pytest.mark.parametrize("off", [-1, 1])
def test_another_prefix_is_refused(gpt_oss_folder: Path, off: int) -> None:
    with pytest.raises(ValueError, match=f"writes {PREFIX} tokens before the text") as caught:
        open_text_encoder(config(gpt_oss_folder, prefix_tokens=PREFIX + off))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda template: template.replace("<|return|>", "<|end|>"), "writes no <|return|>"),
        (lambda template: template + "{% if %}", "writes no <|return|>"),
        (lambda template: "", "lacks a chat template"),
    ],
)
def test_another_template_is_refused(gpt_oss_folder: Path, tmp_path: Path, change: Any, words: str) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(gpt_oss_folder, folder)
    path = folder / "chat_template.jinja"
    path.write_text(change(path.read_text()))
    with pytest.raises(ValueError, match=re.escape(words)) as caught:
        open_text_encoder(config(folder))
    assert "\n" not in str(caught.value)


FP4 = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, -0.0, -0.5, -1.0, -1.5, -2.0, -3.0, -4.0, -6.0]


def test_experts_in_mxfp4_are_read_as_the_numbers_they_stand_for(gpt_oss_folder: Path, tmp_path: Path) -> None:
    # The published weights keep the experts as blocks of 32 four-bit numbers with a power of two each.
    from safetensors.torch import load_file, save_file

    plain, packed = tmp_path / "plain", tmp_path / "packed"
    for folder in (plain, packed):
        shutil.copytree(gpt_oss_folder, folder, ignore=shutil.ignore_patterns("model*"))
    index = json.loads((gpt_oss_folder / "model.safetensors.index.json").read_text())
    tensors = {}
    for name in set(index["weight_map"].values()):
        tensors |= load_file(gpt_oss_folder / name)
    stored = dict(tensors)
    generator = torch.Generator().manual_seed(1)
    for name in [name for name in tensors if re.search(r"experts\.(gate_up|down)_proj$", name)]:
        experts, columns, rows = tensors[name].shape  # kept transposed: (experts, in, out)
        blocks = torch.randint(0, 256, (experts, rows, columns // 32, 16), dtype=torch.uint8, generator=generator)
        scales = torch.randint(122, 126, (experts, rows, columns // 32), dtype=torch.uint8, generator=generator)
        nibbles = torch.stack([blocks & 15, blocks >> 4], dim=-1).flatten(-2)
        numbers = torch.tensor(FP4)[nibbles.long()] * 2.0 ** (scales[..., None].float() - 127)
        tensors[name] = numbers.flatten(-2).transpose(1, 2).contiguous()
        del stored[name]
        stored |= {f"{name}_blocks": blocks, f"{name}_scales": scales}
    save_file(tensors, plain / "model.safetensors", {"format": "pt"})
    save_file(stored, packed / "model.safetensors", {"format": "pt"})
    values = json.loads((packed / "config.json").read_text())
    values["quantization_config"] = {"quant_method": "mxfp4", "modules_to_not_convert": ["model.embed_tokens"]}
    (packed / "config.json").write_text(json.dumps(values))

    expected, _ = open_text_encoder(config(plain)).encode(TEXTS)
    got, _ = open_text_encoder(config(packed)).encode(TEXTS)
    unlike, _ = open_text_encoder(config(gpt_oss_folder)).encode(TEXTS)
    for a, b, c in zip(got, expected, unlike, strict=True):
        torch.testing.assert_close(a, b)
        assert not torch.allclose(a, c, atol=1e-2)
