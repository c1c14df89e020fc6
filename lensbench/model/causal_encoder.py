"""A frozen causal language model read as a text encoder.

Features are the raw hidden states after chosen blocks, with no final norm: the denoiser norms each layer itself. Blocks
after the last chosen one are neither built nor computed. Texts are padded on the right, which in a causal model no real
token can see.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lensbench.experiment import TextEncoder as TextEncoderConfig
from lensbench.model.fixed_shapes import counted, encode_lines, padded
from lensbench.model.pretrained import ModelFiles, load_blocks, outputs_of

Tokenize = Callable[[Sequence[str]], list[list[int]]]  # every token of each text, the prefix included, none cut


class CausalEncoder:
    """Features of `config.layers` (0-based, each after its block) for texts of at most `config.max_tokens`.

    The window counts all that `tokenize` gives; its first `config.prefix_tokens`, the same for every text, are computed
    and dropped. `alone` is for a mixture of experts: one text at a time. Weights are read by the first `encode`, so
    tokens can be counted and cached features read without them, and computed with in the type they were saved in, on
    the GPU if there is one.

    Raises ValueError, one line, for layers that the model lacks.
    """

    def __init__(
        self,
        config: TextEncoderConfig,
        files: ModelFiles,
        model_class: Any,
        model_config: Any,
        tokenize: Tokenize,
        digest: str,
        alone: bool = False,
        **options: Any,
    ) -> None:
        blocks = model_config.num_hidden_layers
        if any(not 0 <= layer < blocks for layer in config.layers):
            raise ValueError(
                f"text_encoder.layers={config.layers}: the model in {files.weights} has layers 0 to {blocks - 1}"
            )
        if list(config.layers) != sorted(set(config.layers)):
            raise ValueError(f"text_encoder.layers={config.layers}: must rise, each layer once")
        self.layers = config.layers
        self.max_tokens = config.max_tokens
        self.prefix_tokens = config.prefix_tokens
        self.width: int = model_config.hidden_size
        self.digest = digest
        self.dtype: torch.dtype = model_config.dtype or torch.float32
        self._tokenize = tokenize
        self._alone = alone
        self._load = lambda: load_blocks(model_class, files.weights, model_config, max(config.layers) + 1, **options)
        self._model: Any = None

    @torch.no_grad()
    def encode(self, texts: Sequence[str]) -> tuple[list[Tensor], Tensor]:
        """K float32 tensors (B, T, E), zero where padded, and the mask (B, T) bool; T is the longest text of the batch.

        A text's features depend on it alone: see lensbench.model.fixed_shapes. Texts beyond the window lose their end:
        `truncated` counts them. Raises ValueError on no texts.
        """
        if not texts:
            raise ValueError("no texts to encode")
        if self._model is None:
            self._model = self._load().to("cuda" if torch.cuda.is_available() else "cpu")
        lines = [ids[: self.max_tokens] for ids in self._tokenize(texts)]
        blocks = [self._model.layers[layer] for layer in self.layers]

        def forward(ids: Tensor, mask: Tensor) -> list[Tensor]:
            # No mask: the padding is on the right, where no real token sees it.
            return outputs_of(blocks, lambda: self._model(input_ids=ids, use_cache=False))

        found = encode_lines(lines, forward, device=self._model.device, alone=self._alone)
        return padded([[layer[self.prefix_tokens :].float() for layer in line] for line in found])

    def token_counts(self, texts: Sequence[str]) -> np.ndarray:
        """Tokens of each text within the window, without those of the prefix: int64 (len(texts),)."""
        return np.maximum(0, np.minimum(self._lengths(texts), self.max_tokens) - self.prefix_tokens)

    def truncated(self, texts: Sequence[str]) -> int:
        """How many of `texts` have more tokens than the window, exactly."""
        return int((self._lengths(texts) > self.max_tokens).sum())

    def _lengths(self, texts: Sequence[str]) -> np.ndarray:
        return counted(texts, lambda some: [len(ids) for ids in self._tokenize(some)])

    def unload(self) -> None:
        """Give the memory of the weights back; the next `encode` reads them again."""
        self._model = None
