"""The text of each image under a caption policy, its digest and its statistics.

A caption depends on the corpus, the caption set and the image's key alone; never on the seed of a run.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from lensbench.captions.scene_writer import write
from lensbench.data.corpus import Corpus, ShapesWorld
from lensbench.experiment import Captions
from lensbench.streams import numpy_stream


@dataclass(frozen=True)
class Statistics:
    """What a caption set looks like: how many texts, their mean length, how many differ.

    `mean_tokens` and `max_tokens` are NaN and 0 where no token counts were given.
    """

    count: int
    distinct: int
    mean_words: float
    mean_tokens: float
    max_tokens: int


def captions(corpus: Corpus, policy: Captions, keys: Sequence[str]) -> list[str]:
    """One text for each key, in the keys' order.

    Raises ValueError naming the caption sets that exist when the folder does not have the policy's.
    """
    if isinstance(corpus, ShapesWorld):
        return [_scene_caption(corpus, policy, key) for key in keys]
    texts = corpus.texts(policy.set)
    return [texts[key] for key in keys]


def _scene_caption(world: ShapesWorld, policy: Captions, key: str) -> str:
    split, index = world.split_and_index(key)
    # The stream leaves the dose out, so that the doses of one image differ as little as their shares do.
    rng = numpy_stream(world.config.world_seed, f"caption/{policy.set}/{split}", index)
    return write(world.scene(key), policy.set, rng, policy.present, policy.wrong)


def digest(keys: Sequence[str], texts: Sequence[str]) -> str:
    """sha256 over every key with its text, whatever their order, in hexadecimal."""
    assert len(keys) == len(texts), "one text for each key"
    found = hashlib.sha256()
    for key, text in sorted(zip(keys, texts, strict=True)):
        for part in (key.encode(), text.encode()):
            found.update(len(part).to_bytes(8, "little") + part)
    return found.hexdigest()


def statistics(texts: Sequence[str], token_counts: Sequence[int] | None = None) -> Statistics:
    """Count, distinct texts, mean words and, with one token count for each text, mean and largest length in tokens."""
    n = len(texts)
    if not n:
        raise ValueError("no captions to describe")
    return Statistics(
        count=n,
        distinct=len(set(texts)),
        mean_words=sum(len(text.split()) for text in texts) / n,
        mean_tokens=sum(token_counts) / n if token_counts is not None else float("nan"),
        max_tokens=max(token_counts) if token_counts is not None else 0,
    )
