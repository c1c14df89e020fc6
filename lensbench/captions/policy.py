"""The caption policy's draws during training: which image visits go without text, and which set each of them reads.

A visit is a step and a place in its batch. Draws know the seed and the visit, not the arm: arms with one seed drop the
same visits, and mixtures with one seed are drawn with the same random numbers.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from lensbench.experiment import Captions
from lensbench.streams import numpy_stream


def dropped_text(policy: Captions, seed: int, step: int, batch: int) -> np.ndarray:
    """Which images of a step are trained without text, for classifier-free guidance: bool (batch,).

    The stream knows the seed and the step, not the caption set: two arms with one seed drop the same visits.
    """
    return numpy_stream(seed, "caption dropout", step).random(batch) < policy.dropout


def drawn_sets(policy: Captions, seed: int, step: int, batch: int) -> np.ndarray:
    """Which caption set each image of a step reads, as places in `policy.shares`: int64 (batch,).

    At each visit every set of a mixture waits for an exponential time, at a rate that is its share, and the first is
    read: a set is then read with the probability of its share. The waiting times at rate one belong to the seed, the
    visit and the set's name. So a set whose share grows against each of the others keeps the visits it had.
    """
    waits = [
        numpy_stream(seed, f"caption set/{name}", step).standard_exponential(batch) / share
        for name, share in policy.shares.items()
    ]
    return np.argmin(waits, axis=0)


def set_label(caption_set: str, names: Mapping[str, str] | None = None) -> str:
    """A caption set's name, or a mixture in words: "80 % detailed, 20 % alt". `names` gives sets other names."""
    shares = Captions(set=caption_set).shares
    shown = {name: (names or {}).get(name, name) for name in shares}
    return ", ".join(
        shown[name] if share == 1 else f"{100 * share:g} % {shown[name]}" for name, share in shares.items()
    )


def label(policy: Captions, names: Mapping[str, str] | None = None) -> str:
    """The policy in words, dropout aside: "detailed, at most 10 words". `names` gives sets other names."""
    dose = f"dose {policy.present:g}/{policy.wrong:g}"
    parts = [set_label(policy.set, {"dose": dose, **(names or {})})]
    if (other := policy.length_matched_to) is not None:
        parts.append(f"as long as {(names or {}).get(other, other)}")
    parts += [f"at most {n} {unit}" for n, unit in ((policy.max_words, "words"), (policy.max_tokens, "tokens")) if n]
    if policy.shuffled:
        parts.append("shuffled")
    return ", ".join(parts)
