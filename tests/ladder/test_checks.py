"""What is said of a caption set before anything is trained on it."""

from __future__ import annotations

from hypothesis import given as property_of
from hypothesis import strategies as st

from lensbench.captions.quality import words_of
from lensbench.ladder.checks import leakage

FEW = ("red", "blue", "ring", "cross", "above", "left", "of", "a", "the", "on")
WORDS = st.lists(st.sampled_from(FEW), min_size=1, max_size=14)


def brute(prompts: list[str], captions: list[str], gram: int) -> tuple[float, float]:
    def runs(text: str, n: int) -> set[tuple[str, ...]]:
        words = words_of(text)
        return {tuple(words[i : i + n]) for i in range(len(words) - n + 1)}

    verbatim = [any(tuple(words_of(p)) in runs(c, len(words_of(p))) for c in captions) for p in prompts]
    long_enough = [p for p in prompts if len(words_of(p)) >= gram]
    shared = [any(runs(p, gram) & runs(c, gram) for c in captions) for p in long_enough]
    return sum(verbatim) / len(prompts), sum(shared) / len(long_enough) if long_enough else 0.0


@property_of(st.lists(WORDS, min_size=1, max_size=5), st.lists(WORDS, min_size=1, max_size=5), st.integers(2, 5))
def test_leakage_is_what_a_slow_count_finds(prompts: list[list[str]], captions: list[list[str]], gram: int) -> None:
    asked, said = [" ".join(words) for words in prompts], [" ".join(words) for words in captions]
    assert leakage(asked, said, gram) == brute(asked, said, gram)


def test_case_and_punctuation_hide_nothing() -> None:
    verbatim, shared = leakage(["a red ring above a blue cross"], ["Look: A red ring, above a BLUE cross!"], 4)
    assert (verbatim, shared) == (1.0, 1.0)
    assert leakage(["a red ring above a blue cross"], ["a red cross above a blue ring"], 4) == (0.0, 0.0)
