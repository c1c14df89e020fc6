"""What a caption set is like before anything is trained on it: whose images, in what state, how long, what leaked.

Nothing here is a score. What makes a comparison void is refused (other images, missing captions); the rest is counted
and goes into the card, for whoever reads it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from lensbench.captions.given import Given
from lensbench.captions.quality import describe, words_of
from lensbench.data.corpus import Corpus, ShapesWorld
from lensbench.experiment import Experiment
from lensbench.scoring.evaluation_plan import Plan

GRAM = 8  # words in a row that a caption and an evaluation prompt share
# The commonest English function words (closed classes): a text in English has some, one in another language few.
ENGLISH = frozenset(
    ("the", "a", "an", "of", "and", "to", "in", "is", "are", "on", "with", "at", "by", "for", "from", "it")
)


@dataclass(frozen=True)
class Checks:
    """Counts and shares of what an arm is trained on. Shares are of captions but for those of prompts."""

    images: int
    texts: int
    states: dict[str, int]
    words_mean: float
    words_longest: int
    tokens_mean: float
    truncated: float  # the share that the text encoder's window cuts
    identical: float  # the share whose text an earlier one has
    ascii_letters: float  # of all letters
    english: float  # the share with at least one of the commonest English function words
    prompts_verbatim: float  # of evaluation prompts, those that some caption contains
    prompts_with_shared_grams: (
        float  # of evaluation prompts of at least GRAM words, those that share that many in a row
    )


def check_coverage(given: Given, corpus: Corpus) -> None:
    """Raise ValueError, one line, unless every training image has a caption and every key is an image's."""
    keys = set(corpus.train_keys)
    own = set(given.texts)
    if not own & keys:
        raise ValueError(
            f"captions of other images: none of the {len(own):,} keys is one of the {len(keys):,} training images, "
            f"such as {corpus.train_keys[0]}; lensbench bench export writes the images with their keys"
        )
    if absent := sorted(keys - own):
        raise ValueError(
            f"captions are missing for {len(absent):,} of {len(keys):,} training images, as {absent[0]}; every arm "
            "trains on the same images"
        )
    # Further images of the same world or corpus do no harm: a larger scale has them.
    strange = sorted(key for key in own - keys if not _may_be(key, corpus))
    if strange:
        raise ValueError(
            f"captions of other images: {len(strange):,} keys, as {strange[0]}, are no image of this corpus"
        )


def check(experiment: Experiment, texts: Mapping[str, Sequence[str]], plan: Plan, given: Given | None) -> Checks:
    """Describe the texts of each caption set, one a training image, that the experiment trains on."""
    from lensbench.captions.cutting import text_window, token_offsets

    every = [text for of_set in texts.values() for text in of_set]
    offsets, window = token_offsets(experiment.text_encoder), text_window(experiment.text_encoder)
    found = describe(((str(i), text) for i, text in enumerate(every)), offsets, window)
    letters = [letter for text in every for letter in text if letter.isalpha()]
    prompts = [text for prompt in plan.prompts for text in prompt.texts.values()] or [
        text for of_form in plan.held_out.values() for text in of_form
    ]
    verbatim, shared = leakage(prompts, every)
    return Checks(
        images=len(next(iter(texts.values()))),
        texts=sum(map(len, given.texts.values())) if given else found.captions,
        states=dict(given.states) if given else {"done": found.captions},
        words_mean=found.words.mean,
        words_longest=found.words.longest,
        tokens_mean=found.tokens.mean,
        truncated=found.cut,
        identical=found.duplicates,
        ascii_letters=sum(letter.isascii() for letter in letters) / len(letters) if letters else 0.0,
        english=sum(not ENGLISH.isdisjoint(words_of(text)) for text in every) / len(every),
        prompts_verbatim=verbatim,
        prompts_with_shared_grams=shared,
    )


def leakage(prompts: Sequence[str], captions: Iterable[str], gram: int = GRAM) -> tuple[float, float]:
    """The shares of prompts that some caption holds word for word, and that share `gram` words in a row with one.

    The second is over the prompts that are as long; words are compared without case and punctuation. In a world with
    few scenes both are high without any leak: compare them with those of the reference cards.
    """
    wanted = [tuple(words_of(prompt)) for prompt in prompts]
    lengths = {len(words) for words in wanted if words}
    grams = {words[i : i + gram] for words in wanted for i in range(len(words) - gram + 1)}
    whole: set[tuple[str, ...]] = set()
    targets = set(wanted)
    hit: set[tuple[str, ...]] = set()
    for caption in captions:
        words = tuple(words_of(caption))
        for length in lengths:
            whole.update(targets.intersection(words[i : i + length] for i in range(len(words) - length + 1)))
        hit.update(grams.intersection(words[i : i + gram] for i in range(len(words) - gram + 1)))
    long_enough = [words for words in wanted if len(words) >= gram]
    sharing = [words for words in long_enough if any(words[i : i + gram] in hit for i in range(len(words) - gram + 1))]
    verbatim = sum(words in whole for words in wanted) / len(wanted) if wanted else 0.0
    return verbatim, len(sharing) / len(long_enough) if long_enough else 0.0


def _may_be(key: str, corpus: Corpus) -> bool:
    if not isinstance(corpus, ShapesWorld):
        return False
    try:
        return corpus.split_and_index(key)[0] == "train"
    except ValueError:
        return False
