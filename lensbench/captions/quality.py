"""What a caption set looks like: lengths, repetition, vocabulary, and on the shapes world what it says and gets wrong.

Rows are read once. Lengths in words and repetition are those of every caption; what costs more (tokens, vocabulary,
word lists, the scene graph) is measured on a sample of at most `SAMPLE` captions, drawn by a hash of the image's key:
the same images in every set. A word is what white space separates, in lower case and without punctuation at its ends.

Nouns and adjectives are not counted: the small English taggers that come with their model inside a package are copies
that nobody keeps up. Nor is concreteness: its ratings have no licensed package. What is counted are three closed lists,
whatever sense a word of theirs has.
"""

from __future__ import annotations

import hashlib
import string
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from lensbench.captions.attributes import Accuracy, accuracy

if TYPE_CHECKING:
    from lensbench.captions.cutting import Offsets
    from lensbench.data.scenes import Scene

SAMPLE = 20_000  # captions, at most, for what is costly
SEGMENT = 1000  # words of a text whose type-token ratio is taken, so that sets of any size compare
STEPS = (1, 2, 5)  # of each power of ten: where the vocabulary is counted
NAN = float("nan")
_EDGES = string.punctuation + "\N{LEFT DOUBLE QUOTATION MARK}\N{RIGHT DOUBLE QUOTATION MARK}\N{EM DASH}\N{EN DASH}"
_EDGES += "\N{LEFT SINGLE QUOTATION MARK}\N{RIGHT SINGLE QUOTATION MARK}\N{HORIZONTAL ELLIPSIS}"


def _listed(words: str) -> frozenset[str]:
    return frozenset(words.split())


# Closed lists, each named after what is on it. Numbers in digits are numerals too.
WORD_LISTS: Mapping[str, frozenset[str]] = {
    "numerals": _listed(
        "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen "
        "seventeen eighteen nineteen twenty thirty forty fifty sixty seventy eighty ninety hundred thousand million "
        "dozen"
    ),
    # Berlin and Kay's eleven basic color terms, gray in both spellings
    "colors": _listed("black white red green yellow blue brown orange pink purple gray grey"),
    "spatial": _listed(
        "left right above below top bottom upper lower under underneath beneath over behind front beside between among "
        "inside outside within near next middle center centre corner edge side across along around toward towards "
        "background foreground"
    ),
}


@dataclass(frozen=True)
class Lengths:
    """How long captions are: how many there are of each length, from 0 on."""

    counts: np.ndarray

    @property
    def mean(self) -> float:
        """NaN without captions."""
        total = self.counts.sum()
        return float(np.arange(len(self.counts)) @ self.counts / total) if total else NAN

    @property
    def longest(self) -> int:
        """The largest length."""
        return len(self.counts) - 1

    def quantile(self, share: float) -> int:
        """The smallest length that at least this share of the captions do not exceed (nearest rank)."""
        reached = np.cumsum(self.counts)
        return int(np.searchsorted(reached, share * reached[-1] - 1e-9))

    def above(self, length: int) -> float:
        """The share of the captions that are longer."""
        return float(self.counts[length + 1 :].sum() / self.counts.sum())


@dataclass(frozen=True)
class CaptionStatistics:
    """One caption set, or what one arm is trained on."""

    captions: int
    words: Lengths
    distinct: int  # texts
    unique: int  # texts that one image alone has
    sampled: int  # captions that the rest is measured on
    tokens: Lengths  # of the texts themselves, without what the encoder puts around them
    window: int  # tokens of a text that fit the encoder
    vocabulary: tuple[tuple[int, int], ...]  # (words read, distinct among them), in a random order of the captions
    type_token_ratio: float  # distinct / all, mean over segments of SEGMENT words; NaN for a shorter text
    word_lists: Mapping[str, float]  # list -> its words, per 100 words
    accuracy: Accuracy | None  # summed over the sample, where there are scenes

    @property
    def duplicates(self) -> float:
        """The share of the captions whose text an earlier one has."""
        return 1 - self.distinct / self.captions

    @property
    def cut(self) -> float:
        """The share of the captions that the encoder's window cuts."""
        return self.tokens.above(self.window)

    def vocabulary_at(self, words: int) -> int | None:
        """Distinct words after so many; None where the sample is shorter or that was not counted."""
        return dict(self.vocabulary).get(words)


def describe(
    rows: Iterable[tuple[str, str]],
    offsets: Offsets,
    window: int,
    scene: Callable[[str], Scene] | None = None,
) -> CaptionStatistics:
    """Statistics of (key, text) rows, read once; `offsets` cuts texts into tokens, of which `window` fit.

    `scene` gives the scene of a key on the shapes world. Memory: 8 bytes a caption, and the sample. Raises ValueError
    where there is no row.
    """
    lengths, hashes, sample = _Histogram(), _Hashes(), _Sample()
    for key, text in rows:
        lengths.add(len(text.split()))
        hashes.add(text)
        sample.add(key, text)
    if not lengths.total:
        raise ValueError("no captions to describe")
    chosen = sample.rows()
    texts = [text for _, text in chosen]
    distinct, unique = hashes.distinct_and_unique()
    words = [word for text in texts for word in words_of(text)]
    tokens = _Histogram()
    for start in range(0, len(texts), 1024):
        for spans in offsets(texts[start : start + 1024]):
            tokens.add(len(spans))
    found = [accuracy(scene(key), text) for key, text in chosen] if scene is not None else None
    return CaptionStatistics(
        captions=lengths.total,
        words=lengths.lengths(),
        distinct=distinct,
        unique=unique,
        sampled=len(texts),
        tokens=tokens.lengths(),
        window=window,
        vocabulary=_growth(words),
        type_token_ratio=_type_token_ratio(words),
        word_lists={name: _per_100(words, listed, name == "numerals") for name, listed in WORD_LISTS.items()},
        accuracy=Accuracy(*map(sum, zip(*found, strict=True))) if found else None,
    )


def words_of(text: str) -> list[str]:
    """The words of a text, in lower case and without punctuation at their ends."""
    return [bare for word in text.lower().split() if (bare := word.strip(_EDGES))]


class _Histogram:
    def __init__(self) -> None:
        self.counts = np.zeros(256, dtype=np.int64)
        self.total = 0

    def add(self, length: int) -> None:
        if length >= len(self.counts):
            self.counts = np.concatenate([self.counts, np.zeros(length + 1, dtype=np.int64)])
        self.counts[length] += 1
        self.total += 1

    def lengths(self) -> Lengths:
        return Lengths(self.counts[: int(np.flatnonzero(self.counts)[-1]) + 1])


class _Hashes:
    """Which texts are equal, at 8 bytes each: two different ones of a million agree once in forty million sets."""

    def __init__(self) -> None:
        self.hashes = bytearray()

    def add(self, text: str) -> None:
        self.hashes += hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest()

    def distinct_and_unique(self) -> tuple[int, int]:
        _, times = np.unique(np.frombuffer(bytes(self.hashes), dtype=np.uint64), return_counts=True)
        return len(times), int((times == 1).sum())


class _Sample:
    """The `SAMPLE` rows whose keys have the smallest hashes, in the order of those: a random order, always the same."""

    def __init__(self) -> None:
        self.kept: list[tuple[bytes, str, str]] = []
        self.highest = b"\xff" * 9  # no hash is as high

    def add(self, key: str, text: str) -> None:
        place = hashlib.blake2b(key.encode(), digest_size=8, person=b"sample").digest()
        if place < self.highest:
            self.kept.append((place, key, text))
            if len(self.kept) >= 2 * SAMPLE:
                self._prune()

    def rows(self) -> list[tuple[str, str]]:
        self._prune()
        return [(key, text) for _, key, text in self.kept]

    def _prune(self) -> None:
        self.kept = sorted(self.kept)[:SAMPLE]
        if len(self.kept) == SAMPLE:
            self.highest = self.kept[-1][0]


def _growth(words: Sequence[str]) -> tuple[tuple[int, int], ...]:
    """Distinct words after 100, 200, 500, 1,000, ... words, and after all."""
    marks = {step * 10**power for power in range(2, 12) for step in STEPS} | {len(words)}
    seen: set[str] = set()
    found = []
    for count, word in enumerate(words, start=1):
        seen.add(word)
        if count in marks:
            found.append((count, len(seen)))
    return tuple(found)


def _type_token_ratio(words: Sequence[str]) -> float:
    segments = [words[start : start + SEGMENT] for start in range(0, len(words) - SEGMENT + 1, SEGMENT)]
    return float(np.mean([len(set(segment)) / SEGMENT for segment in segments])) if segments else NAN


def _per_100(words: Sequence[str], listed: frozenset[str], digits: bool) -> float:
    found = sum(word in listed or (digits and word.isdecimal()) for word in words)
    return 100 * found / len(words) if words else NAN
