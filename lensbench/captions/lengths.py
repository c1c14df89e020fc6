"""How many tokens captions have: measured on a corpus, or from published mean lengths in words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lensbench.captions.cutting import MINILM_ADDS, token_offsets, word_counts
from lensbench.captions.policy import label
from lensbench.captions.texts import training_texts
from lensbench.experiment import Captions, TextEncoder

if TYPE_CHECKING:
    from lensbench.data.corpus import Corpus

# Mean words of the captions of photographs, and whose.
PHOTOGRAPHS = {
    "alt-text": (10, "about DataComp-1B's mean, arXiv 2406.08478"),
    "detailed": (109, "Lens-800M's mean, arXiv 2605.21573"),
}
TOKENS_PER_WORD = 4 / 3  # OpenAI's rule of thumb for English: 100 tokens are about 75 words
MEASURED = 1000  # captions of a corpus, at most: the mean is then known to a percent or so


@dataclass(frozen=True)
class CaptionLength:
    """How long captions of one kind are: the tokens of some of them, or the one mean that is known.

    `weights` are those of a mixture's captions, by the shares of their sets; empty where all count alike.
    """

    captions: str
    tokens: tuple[int, ...]
    source: str
    weights: tuple[float, ...] = ()

    @property
    def mean(self) -> float:
        """Mean tokens."""
        return self.average(self.tokens)

    def average(self, values: Sequence[float]) -> float:
        """The mean of a number that each of the captions has."""
        weights = self.weights or (1.0,) * len(values)
        return sum(weight * value for weight, value in zip(weights, values, strict=True)) / sum(weights)

    def shown(self) -> str:
        """The mean, with a decimal where it is measured."""
        return f"{self.mean:.0f}" if len(self.tokens) == 1 else f"{self.mean:.1f}"


def published_lengths(tokens_per_word: float = TOKENS_PER_WORD) -> tuple[CaptionLength, ...]:
    """The lengths of `PHOTOGRAPHS`, shortest first."""
    return tuple(
        CaptionLength(name, (round(words * tokens_per_word),), f"{words} words ({of}) x {tokens_per_word:.2f} tokens")
        for name, (words, of) in PHOTOGRAPHS.items()
    )


def given_tokens(tokens: Sequence[int]) -> tuple[CaptionLength, ...]:
    """Lengths as they are given, shortest first."""
    return tuple(CaptionLength(f"{n}-token", (n,), "as given") for n in sorted(tokens))


def given_words(words: Sequence[int], tokens_per_word: float) -> tuple[CaptionLength, ...]:
    """Lengths given in words, shortest first."""
    return tuple(
        CaptionLength(f"{n}-word", (round(n * tokens_per_word),), f"{tokens_per_word:.2f} a word")
        for n in sorted(words)
    )


def measured_lengths(
    corpus: Corpus, policies: Sequence[Captions], encoder: TextEncoder, tokens_per_word: float = TOKENS_PER_WORD
) -> tuple[CaptionLength, ...]:
    """The lengths of a corpus's training captions under each policy, shortest first.

    MiniLM's tokens are counted, [CLS] and [SEP] too; for encoders whose files may be far away it is words that are
    counted, unless a policy cuts at their tokens. What the encoder's window cuts off does not count.
    """
    keys = corpus.train_keys[:MEASURED]
    offsets = token_offsets(encoder) if encoder.kind == "minilm" else None
    found = []
    for policy in policies:
        tokens: list[int] = []
        weights: list[float] = []
        for name, texts in training_texts(corpus, policy, keys, encoder).items():
            if offsets is not None:
                counts = [len(spans) + MINILM_ADDS for spans in offsets(texts)]
            else:
                counts = [round(words * tokens_per_word) for words in word_counts(texts)]
            tokens += [min(count, encoder.max_tokens) for count in counts]
            weights += [policy.shares[name]] * len(texts)
        counted = "MiniLM's tokens" if encoder.kind == "minilm" else f"words x {tokens_per_word:.2f} tokens"
        source = f"mean of {len(keys):,} captions, {counted}"
        mixed = tuple(weights) if len(policy.shares) > 1 else ()
        found.append(CaptionLength(label(policy), tuple(tokens), source, mixed))
    return tuple(sorted(found, key=lambda length: length.mean))
