"""The prompt form held_out: a scene in words and an order that no caption of the shapes world uses.

What may be shared with captions are single words: the names of shapes, colors, backgrounds and numbers, which have no
synonym that means the same to everyone, and small words of grammar. No two words that follow one another in any caption
follow one another here (n = 2, punctuation left out). The noun comes before its color, the background before the
objects, and in half of the pairs the reference before the subject. tests/captions/test_unseen_writer.py compares the
two words by two with every caption set.

Sizes, places and relations have synonyms of everyday English. A frozen text encoder was pretrained on them, so that a
denoiser can in principle read them; whether one does is what the form measures, and chance is a possible answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from lensbench.captions.scene_writer import Claim

if TYPE_CHECKING:
    import numpy as np

OPENERS = ("draw", "show", "please render")
SIZES = {"small": ("little", "tiny"), "large": ("big", "huge")}
PLACES = {
    "top left": "within the upper-left quarter",
    "top right": "within the upper-right quarter",
    "bottom left": "within the lower-left quarter",
    "bottom right": "within the lower-right quarter",
}
RELATIONS = {
    "left of": "further left",
    "right of": "further right",
    "above": "higher up",
    "below": "lower down",
}
REFERENCE_FIRST = 0.5  # share of the scenes with one relation that name what it is taken to first


def unseen_wording(said: Sequence[Claim], rng: np.random.Generator) -> str:
    """The claims of a detailed caption, with or without its places, as one sentence in other words.

    Every object must be claimed with its color and size, and the relations as `scene_writer.claims` orders them: each
    starts at an end of the one before. The generator chooses among synonyms and orders.
    """
    about = {(c.subject, c.kind): c.value for c in said}
    objects = [c.subject for c in said if c.kind == "object"]
    edges = [c for c in said if c.kind == "relation"]
    little, big = (_pick(words, rng) for words in SIZES.values())
    colored = _pick(("{size} {shape} colored {color}", "{size} {shape} whose color is {color}"), rng)
    phrase = {}
    for i in objects:
        size = {"small": little, "large": big}[about[i, "size"]]
        noun = colored.format(shape=about[i, "object"], color=about[i, "color"], size=size)
        phrase[i] = f"one {noun}" + (f" {PLACES[about[i, 'place']]}" if (i, "place") in about else "")
    if len(edges) == 1 and rng.random() < REFERENCE_FIRST:
        (edge,) = edges
        body = f"compared with {phrase[edge.other]}, {RELATIONS[edge.value]} goes {phrase[edge.subject]}"
        related = {edge.subject, edge.other}
    else:
        body = _chain(edges, phrase)
        related = {i for edge in edges for i in (edge.subject, edge.other)}
    parts = [body, *(phrase[i] for i in objects if i not in related)]
    for number, plural in (c.value.split() for c in said if c.kind == "count"):
        parts.append(f"{plural} numbering {number} altogether")
    behind = "".join(f" upon plain {c.value}" for c in said if c.kind == "background")
    return f"{_pick(OPENERS, rng)}{behind}: {'; '.join(filter(None, parts))}"


def _chain(edges: Sequence[Claim], phrase: dict[int, str]) -> str:
    """ "A sitting further left than B; that sits higher up than C": each relation starts at an end of the last."""
    text = ""
    for k, edge in enumerate(edges):
        than = f"{RELATIONS[edge.value]} than {phrase[edge.other]}"
        if k == 0:
            text = f"{phrase[edge.subject]} sitting {than}"
        elif edge.subject == edges[k - 1].other:
            text += f"; that sits {than}"
        else:
            assert edge.subject == edges[k - 1].subject, "a relation must start at an end of the one before"
            text += f" while also {than}"
    return text


def _pick(options: Sequence[str], rng: np.random.Generator) -> str:
    return options[int(rng.integers(len(options)))]
