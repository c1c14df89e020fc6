"""Frozen text encoders behind one interface, and how an experiment's is opened.

Each kind lives in its own module; what reads features knows this interface alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from lensbench.experiment import TextEncoder as TextEncoderConfig


class TextEncoder(Protocol):
    """A frozen text encoder: K layers of features for each token of a text."""

    layers: tuple[int, ...]  # 0-based, the features come after each of these blocks
    max_tokens: int  # the window
    width: int  # E, the features of a layer
    digest: str  # sha256 of everything the features depend on but the layers and the window
    dtype: torch.dtype  # in which the features can be kept without loss that matters

    def encode(self, texts: Sequence[str]) -> tuple[list[Tensor], Tensor]:
        """K float32 tensors (B, T, E), zero where padded, and the mask (B, T) bool, true where a token is real.

        They lie on the device that the encoder computes on. A text's features depend on it alone, to the last bit, not
        on the texts beside it. Texts beyond the window lose their end. Raises ValueError on no texts.
        """
        ...

    def token_counts(self, texts: Sequence[str]) -> np.ndarray:
        """How many tokens of features `encode` gives for each text, without computing any: int64 (len(texts),)."""
        ...

    def truncated(self, texts: Sequence[str]) -> int:
        """How many of `texts` have more tokens than the window, exactly."""
        ...

    def unload(self) -> None:
        """Give the memory of large weights back; the next `encode` reads them again."""
        ...


def open_text_encoder(config: TextEncoderConfig) -> TextEncoder:
    """The encoder of an experiment, checked against its files.

    Large weights are read by the first `encode`, on the GPU if there is one. Raises ValueError, one line, when the
    model is not there, is another model than the kind's, or is not what `digest`, `width` or `layers` say.
    """
    encoder = _open(config)
    if config.digest not in (None, encoder.digest):
        raise ValueError(
            f"text_encoder.digest={config.digest}: the model at {config.model} has {encoder.digest}; "
            "give the model that the experiment was made with, or its new digest"
        )
    if config.width != encoder.width:
        raise ValueError(f"text_encoder.width={config.width}: the model has {encoder.width} features a layer")
    return encoder


def _open(config: TextEncoderConfig) -> TextEncoder:
    if config.kind == "minilm":
        from lensbench.model.minilm import MiniLM

        return MiniLM(config.layers, config.max_tokens)
    if config.kind == "qwen3":
        from lensbench.model.qwen3 import open_qwen3

        return open_qwen3(config)
    from lensbench.model.gpt_oss import open_gpt_oss

    return open_gpt_oss(config)
