"""Qwen3-0.6B, the text encoder of the paper's Lens-Toy (arXiv 2605.21573).

The paper names the model and publishes neither its layers nor a template. This project's choice: the text as it is,
with no template and no special tokens, and the hidden states after each quarter of the 28 blocks, as the published Lens
takes those of GPT-OSS-20B after each quarter of its 24.
"""

from __future__ import annotations

from collections.abc import Sequence

from lensbench.experiment import TextEncoder as TextEncoderConfig
from lensbench.model.causal_encoder import CausalEncoder
from lensbench.model.pretrained import digest, load_tokenizer, locate, read_config


def open_qwen3(config: TextEncoderConfig) -> CausalEncoder:
    """The encoder in `config.model`. Raises ValueError, one line, when there is no Qwen3 or it lacks what is asked."""
    from transformers import Qwen3Config, Qwen3Model

    files = locate(config.model)
    model_config = read_config(files, Qwen3Config)
    identity = digest(files)
    tokenizer = load_tokenizer(files)

    def tokenize(texts: Sequence[str]) -> list[list[int]]:
        # A control token that a text happens to spell is text.
        ids: list[list[int]] = tokenizer(list(texts), add_special_tokens=False, split_special_tokens=True)["input_ids"]
        return ids

    return CausalEncoder(config, files, Qwen3Model, model_config, tokenize, identity)
