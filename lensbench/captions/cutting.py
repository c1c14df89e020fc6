"""Texts cut short: after so many words, after so many tokens, or to the lengths of other texts.

Words are what white space separates. A text is cut at the end of a word or a token, so that what is left is the
beginning of the text as it was; one that is short enough stays as it is, and none becomes empty.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

import numpy as np

from lensbench.experiment import TextEncoder

# The tokens of each text, without those that the encoder adds, as (start, end) in characters.
Offsets = Callable[[Sequence[str]], list[list[tuple[int, int]]]]
MINILM_ADDS = 2  # [CLS] and [SEP]
_WORD = re.compile(r"\S+")


def word_counts(texts: Sequence[str]) -> np.ndarray:
    """Words of each text, int64 (len(texts),)."""
    return np.array([len(text.split()) for text in texts], dtype=np.int64)


def first_words(text: str, words: int) -> str:
    """The text up to the end of its word number `words`."""
    assert words >= 1, "a text without words is no caption"
    end = 0
    for count, word in enumerate(_WORD.finditer(text)):
        if count == words:
            return text[:end]
        end = word.end()
    return text


def first_tokens(texts: Sequence[str], tokens: int, offsets: Offsets) -> list[str]:
    """Each text up to the end of its token number `tokens`.

    What is left has no more tokens than that when it is read again; for this it may lose another one, as tokens that
    are merged across the cut stand apart without what followed. The first character is kept in any case.
    """
    assert tokens >= 1, "a text without tokens is no caption"
    found = list(texts)
    wanted = dict.fromkeys(range(len(texts)), tokens)  # the texts not yet known to be short enough
    while wanted:
        places = list(wanted)
        for place, spans in zip(places, offsets([found[place] for place in places]), strict=True):
            kept = min(wanted[place], len(spans))
            if len(spans) <= tokens or kept <= 0:
                del wanted[place]
                continue
            text = found[place]
            first = len(text) - len(text.lstrip()) + 1  # the end of the first character that is no white space
            # A character of several bytes can be several tokens: it stays whole for now, and goes if they are too many.
            found[place] = text[: max(first, spans[kept - 1][1])].rstrip()
            wanted[place] = kept - 1
    return found


def length_matched(texts: Sequence[str], words: Sequence[int] | np.ndarray) -> list[str]:
    """Texts cut so that their lengths in words follow the distribution of `words`, one length a text.

    The longest text is cut to the largest length, the next to the next, and so on (in order where texts tie). The
    lengths then equal `words` as a distribution wherever cutting can do that at all, and no text loses more than it
    must; what a text keeps says nothing about the text that its own image has in the other set.
    """
    lengths = word_counts(texts)
    targets = np.sort(np.asarray(words))
    assert len(targets) == len(lengths), "one length for each text"
    found = list(texts)
    for place, target in zip(np.argsort(lengths, kind="stable").tolist(), targets.tolist(), strict=True):
        found[place] = first_words(found[place], max(1, target))
    return found


def token_offsets(config: TextEncoder) -> Offsets:
    """How an experiment's text encoder cuts texts into tokens; its tokenizer is read, not its weights.

    Raises ValueError, one line, when the tokenizer is not there.
    """
    if config.kind == "minilm":
        from tokenizers import Tokenizer

        from lensbench.model.minilm_files import model_folder

        tokenizer = Tokenizer.from_file(str(model_folder() / "tokenizer.json"))
        tokenizer.no_truncation()
        tokenizer.no_padding()

        def of_minilm(texts: Sequence[str]) -> list[list[tuple[int, int]]]:
            return [found.offsets for found in tokenizer.encode_batch(list(texts), add_special_tokens=False)]

        return of_minilm
    from lensbench.model.pretrained import load_tokenizer, locate

    pretrained = load_tokenizer(locate(config.model))

    def of_pretrained(texts: Sequence[str]) -> list[list[tuple[int, int]]]:
        # A control token that a text happens to spell is text, as when the text is encoded.
        found = pretrained(
            list(texts), add_special_tokens=False, split_special_tokens=True, return_offsets_mapping=True
        )
        offsets: list[list[tuple[int, int]]] = found["offset_mapping"]
        return offsets

    return of_pretrained


def text_window(config: TextEncoder) -> int:
    """How many tokens of a text fit the encoder's window, beside those that it puts around every text."""
    if config.kind == "minilm":
        return config.max_tokens - MINILM_ADDS
    if config.kind == "qwen3":
        return config.max_tokens
    from lensbench.model.gpt_oss import chat_tokenizer
    from lensbench.model.pretrained import locate

    return config.max_tokens - len(chat_tokenizer(locate(config.model))([""])[0])
