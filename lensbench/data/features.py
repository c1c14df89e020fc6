"""Text features, encoded once and kept on disk by what made them: the texts, the encoder and its layers.

A cache is one folder: `values.npy` (tokens, K, E) in the encoder's type, every text's tokens one after the other, and
`offsets.npy`. NumPy has no bfloat16: its bits are kept as int16.
The texts are distinct and sorted, so the same captions share one cache whatever order they come in.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from lensbench.data.cache import kept
from lensbench.model.text_encoder import TextEncoder


@dataclass(frozen=True)
class TextFeatures:
    """Features of many texts, memory-mapped; `gather` pads those of a batch."""

    rows: dict[str, int]
    offsets: np.ndarray
    values: np.ndarray

    def gather(self, texts: Sequence[str]) -> tuple[list[torch.Tensor], torch.Tensor]:
        """Features of `texts`: K float32 tensors (B, T, E), zero where padded, and the mask (B, T).

        T is the longest text of the batch. The empty text has no token: that is the unconditional input.
        """
        lengths = self.token_counts(texts)
        longest = max(1, int(lengths.max()))
        layers, width = self.values.shape[1:]
        padded = np.zeros((len(texts), longest, layers, width), dtype=self.values.dtype)
        for place, (text, length) in enumerate(zip(texts, lengths, strict=True)):
            if length:
                start = self.offsets[self.rows[text]]
                padded[place, :length] = self.values[start : start + length]
        mask = torch.arange(longest)[None, :] < torch.from_numpy(lengths)[:, None]
        stacked = torch.from_numpy(padded)
        if stacked.dtype == torch.int16:
            stacked = stacked.view(torch.bfloat16)
        return [stacked[:, :, layer].float() for layer in range(layers)], mask

    def token_counts(self, texts: Sequence[str]) -> np.ndarray:
        """Tokens of each text, int64 (len(texts),); the empty text has none."""
        rows = [self.rows[text] if text else -1 for text in texts]
        return np.array([self.offsets[row + 1] - self.offsets[row] if row >= 0 else 0 for row in rows], dtype=np.int64)


def encode_texts(
    texts: Sequence[str],
    encoder: TextEncoder,
    cache: Path,
    *,
    batch: int = 64,
    report: Callable[[int, int], None] | None = None,
) -> TextFeatures:
    """Features of the distinct texts, read from `cache` or computed and put there.

    `report(done, total)` is called after every batch. A cache appears whole (renamed into place) or not at all.
    """
    distinct = sorted({text for text in texts if text})
    made_from = {
        "texts": hashlib.sha256("\0".join(distinct).encode()).hexdigest(),
        "encoder": encoder.digest,
        "layers": list(encoder.layers),
        "max_tokens": encoder.max_tokens,
    }
    folder = kept(cache, "text", made_from, lambda empty: _write(empty, distinct, encoder, batch, report))
    offsets = np.load(folder / "offsets.npy")
    values = np.load(folder / "values.npy", mmap_mode="r")
    return TextFeatures({text: row for row, text in enumerate(distinct)}, offsets, values)


def _write(
    folder: Path,
    distinct: list[str],
    encoder: TextEncoder,
    batch: int,
    report: Callable[[int, int], None] | None,
) -> None:
    # Texts of like length go together, so that little of a batch is padding.
    order = sorted(range(len(distinct)), key=lambda i: len(distinct[i]))
    encoded: dict[int, np.ndarray] = {}
    for start in range(0, len(order), batch):
        chosen = order[start : start + batch]
        layers, mask = encoder.encode([distinct[i] for i in chosen])
        stacked, real = torch.stack(layers, dim=2).to(encoder.dtype).cpu(), mask.cpu()
        bits = stacked.view(torch.int16) if stacked.dtype == torch.bfloat16 else stacked
        for place, i in enumerate(chosen):
            encoded[i] = bits[place, real[place]].numpy()
        if report is not None:
            report(start + len(chosen), len(order))
    counts = [len(encoded[i]) for i in range(len(distinct))]
    values = np.concatenate([encoded[i] for i in range(len(distinct))]) if distinct else np.zeros((0, 1, 1), "f2")
    np.save(folder / "values.npy", values)
    np.save(folder / "offsets.npy", np.concatenate([[0], np.cumsum(counts)]).astype(np.int64))
