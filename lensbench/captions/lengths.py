"""How many tokens captions have: measured on a corpus, or from published mean lengths in words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lensbench.captions.texts import captions
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
    """How long captions of one kind are: the tokens of some of them, or the one mean that is known."""

    captions: str
    tokens: tuple[int, ...]
    source: str

    @property
    def mean(self) -> float:
        """Mean tokens."""
        return sum(self.tokens) / len(self.tokens)

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
    counted. What the encoder's window cuts off does not count.
    """
    keys = corpus.train_keys[:MEASURED]
    found = []
    for policy in policies:
        texts = captions(corpus, policy, keys)
        if encoder.kind == "minilm":
            counts = _minilm_counts(texts)
            source = f"{len(texts):,} captions, MiniLM's tokens"
        else:
            counts = [round(len(text.split()) * tokens_per_word) for text in texts]
            source = f"{len(texts):,} captions, words x {tokens_per_word:.2f} tokens"
        dose = f" {policy.present:g}/{policy.wrong:g}" if policy.set == "dose" else ""
        cut = tuple(min(count, encoder.max_tokens) for count in counts)
        found.append(CaptionLength(policy.set + dose, cut, f"mean of {source}"))
    return tuple(sorted(found, key=lambda length: length.mean))


def _minilm_counts(texts: Sequence[str]) -> list[int]:
    from tokenizers import Tokenizer

    from lensbench.model.minilm import model_folder

    tokenizer = Tokenizer.from_file(str(model_folder() / "tokenizer.json"))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return [len(encoding.ids) for encoding in tokenizer.encode_batch(list(texts))]
