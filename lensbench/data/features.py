"""Text features: encoded once and kept on disk for every run that reads them, kept in memory, or computed as needed.

On disk they lie in a store (lensbench.data.rowstore) a text encoder, its layers and its window: a row a text, by the
sha256 of the text, (tokens, K, E) in the encoder's type. NumPy has no bfloat16: its bits are kept as int16.
A text's features depend on it alone (lensbench.model.fixed_shapes), so it makes no difference when, by whom or with
what they were computed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from lensbench.data.rowstore import Cost, RowStore, StoredRows, names_of
from lensbench.model.text_encoder import TextEncoder

VERSION = 1  # raise it whenever an encoder gives other bits for the same text: it is part of what names a store
BATCH_TOKENS = 4096  # encoded at a time, padding included: what bounds the memory

Report = Callable[[int, int], None]  # texts done, of all


class TextFeatures(Protocol):
    """The features of some texts."""

    def gather(self, texts: Sequence[str]) -> tuple[list[torch.Tensor], torch.Tensor]:
        """Features of `texts`: K float32 tensors (B, T, E), zero where padded, and the mask (B, T), on the CPU.

        T is the longest text of the batch. The empty text has no token: that is the unconditional input.
        """
        ...

    def token_counts(self, texts: Sequence[str]) -> np.ndarray:
        """Tokens of each text, int64 (len(texts),); the empty text has none."""
        ...


@dataclass(frozen=True)
class ArrayRows:
    """Rows in memory, joined along their first axis: what `StoredRows` is on disk."""

    offsets: np.ndarray  # (N + 1,)
    values: np.ndarray

    @property
    def dtype(self) -> np.dtype[Any]:
        """The type of the values."""
        return self.values.dtype

    @property
    def shape(self) -> tuple[int, ...]:
        """Of a row, without its first axis."""
        return self.values.shape[1:]

    @property
    def lengths(self) -> np.ndarray:
        """(N,) along its first axis."""
        return np.diff(self.offsets)

    def read(self, rows: Sequence[int]) -> list[np.ndarray]:
        """Some rows."""
        return [self.values[self.offsets[row] : self.offsets[row + 1]] for row in rows]


@dataclass(frozen=True)
class KeptFeatures:
    """Features that are there, on disk or in memory; `gather` pads those of a batch. See `TextFeatures`."""

    rows: Mapping[str, int]
    values: StoredRows | ArrayRows

    def gather(self, texts: Sequence[str]) -> tuple[list[torch.Tensor], torch.Tensor]:
        """Padded features and their mask."""
        places = [place for place, text in enumerate(texts) if text]
        found = self.values.read([self.rows[texts[place]] for place in places])
        lengths = np.zeros(len(texts), dtype=np.int64)
        lengths[places] = [len(row) for row in found]
        longest = max(1, int(lengths.max()))
        padded = np.zeros((len(texts), longest, *self.values.shape), dtype=self.values.dtype)
        for place, row in zip(places, found, strict=True):
            padded[place, : len(row)] = row
        mask = torch.arange(longest)[None, :] < torch.from_numpy(lengths)[:, None]
        stacked = torch.from_numpy(padded)
        if stacked.dtype == torch.int16:
            stacked = stacked.view(torch.bfloat16)
        return [stacked[:, :, layer].float() for layer in range(stacked.shape[2])], mask

    def token_counts(self, texts: Sequence[str]) -> np.ndarray:
        """Tokens of each text."""
        lengths = self.values.lengths
        return np.array([lengths[self.rows[text]] if text else 0 for text in texts], dtype=np.int64)


@dataclass(frozen=True)
class OnlineFeatures:
    """Features computed when they are asked for, to the same bits as those that are kept; nothing is written.

    The encoder's weights stay in memory meanwhile. See `TextFeatures`.
    """

    encoder: TextEncoder

    def gather(self, texts: Sequence[str]) -> tuple[list[torch.Tensor], torch.Tensor]:
        """Padded features and their mask."""
        distinct = {text: place for place, text in enumerate(dict.fromkeys(text for text in texts if text))}
        if not distinct:
            none = torch.zeros(len(texts), 1, self.encoder.width)
            return [none.clone() for _ in self.encoder.layers], torch.zeros(len(texts), 1, dtype=torch.bool)
        layers, real = self.encoder.encode(list(distinct))
        some = torch.tensor([bool(text) for text in texts])
        chosen = torch.tensor([distinct[text] for text in texts if text])
        mask = torch.zeros(len(texts), real.shape[1], dtype=torch.bool)
        mask[some] = real.cpu()[chosen]
        found = []
        for layer in layers:
            padded = torch.zeros(len(texts), *layer.shape[1:])
            # Through the type that features are kept in: the bits are those that would be read from the disk.
            padded[some] = layer.to(self.encoder.dtype).cpu()[chosen].float()
            found.append(padded)
        return found, mask

    def token_counts(self, texts: Sequence[str]) -> np.ndarray:
        """Tokens of each text."""
        return np.where([bool(text) for text in texts], self.encoder.token_counts(texts), 0)


@dataclass(frozen=True)
class TextRows:
    """The rows of some texts in the store of an encoder: what they cost, and their features once computed."""

    encoder: TextEncoder
    store: RowStore
    texts: Sequence[str]  # distinct, the shortest first
    lengths: np.ndarray  # in tokens
    names: np.ndarray

    def cost(self) -> Cost:
        """What they take."""
        return self.store.cost(self.names, self.lengths)

    def mend(self) -> list[Path]:
        """Set damaged files aside: see `RowStore.mend`."""
        return self.store.mend(self.names)

    def fill(self, report: Report | None = None) -> None:
        """Compute those that are missing: see `RowStore.fill`."""
        self.store.fill(self.names, self.lengths, self._compute, report)

    def features(self) -> KeptFeatures:
        """Their features. Raises ValueError when one of them is missing."""
        return KeptFeatures({text: row for row, text in enumerate(self.texts)}, self.store.rows(self.names))

    def _compute(self, rows: np.ndarray) -> Iterator[list[np.ndarray]]:
        for batch in _batches(rows, self.lengths):
            yield _encoded([self.texts[row] for row in batch], self.encoder)


def text_rows(texts: Sequence[str], encoder: TextEncoder, cache: Path) -> TextRows:
    """The rows of the distinct texts in the encoder's store under `cache`. Tokens are counted, nothing is encoded."""
    distinct, lengths = _by_length(texts, encoder)
    made_from = {
        "version": VERSION,
        "encoder": encoder.digest,
        "layers": list(encoder.layers),
        "max_tokens": encoder.max_tokens,
    }
    shape = (len(encoder.layers), encoder.width)
    store = RowStore(cache, "text", made_from, _kept_type(encoder.dtype), shape)
    return TextRows(encoder, store, distinct, lengths, names_of(distinct))


def encode_texts(
    texts: Sequence[str], encoder: TextEncoder, cache: Path | None, *, report: Report | None = None
) -> KeptFeatures:
    """Features of the distinct texts, read from `cache` or computed and put there; in memory where it is None.

    `report(done, total)` is called after every batch. Raises OSError when the disk has no room for them, ValueError
    when what is there is damaged.
    """
    if cache is not None:
        rows = text_rows(texts, encoder, cache)
        rows.fill(report)
        return rows.features()
    distinct, lengths = _by_length(texts, encoder)
    found: list[np.ndarray] = []
    for batch in _batches(np.arange(len(distinct)), lengths):
        found += _encoded([distinct[row] for row in batch], encoder)
        if report is not None:
            report(len(found), len(distinct))
    empty = np.empty((0, len(encoder.layers), encoder.width), dtype=_kept_type(encoder.dtype))
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    values = ArrayRows(offsets, np.concatenate([empty, *found]))
    return KeptFeatures({text: row for row, text in enumerate(distinct)}, values)


def _by_length(texts: Sequence[str], encoder: TextEncoder) -> tuple[list[str], np.ndarray]:
    """The distinct texts that are not empty, those of like length together, and their tokens."""
    distinct = sorted({text for text in texts if text})
    lengths = encoder.token_counts(distinct)
    order = np.argsort(lengths, kind="stable")
    return [distinct[i] for i in order], lengths[order]


def _batches(rows: np.ndarray, lengths: np.ndarray) -> Iterator[np.ndarray]:
    """`rows`, whose lengths rise, in runs of `BATCH_TOKENS` at most when all are padded to the last."""
    start = 0
    while start < len(rows):
        padded = lengths[rows[start:]] * np.arange(1, len(rows) - start + 1)
        count = max(1, int(np.searchsorted(padded, BATCH_TOKENS, side="right")))
        yield rows[start : start + count]
        start += count


def _encoded(texts: list[str], encoder: TextEncoder) -> list[np.ndarray]:
    """Each text's features as they are kept: (tokens, K, E)."""
    layers, mask = encoder.encode(texts)
    stacked, real = torch.stack(layers, dim=2).to(encoder.dtype).cpu(), mask.cpu()
    bits = stacked.view(torch.int16) if stacked.dtype == torch.bfloat16 else stacked
    return [bits[row, real[row]].numpy() for row in range(len(texts))]


def _kept_type(dtype: torch.dtype) -> np.dtype[Any]:
    return np.dtype({torch.bfloat16: "int16", torch.float16: "float16", torch.float32: "float32"}[dtype])
