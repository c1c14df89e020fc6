"""What a caption says about a scene of the shapes world, read from its words: what it covers and what is false.

The reader knows the words of the world and how the scene-graph writer joins them, not what the writer meant. So it
measures any policy's texts, shortened and shuffled ones too, against the scene of the image they are given to.
"""

from __future__ import annotations

import re
from collections import Counter
from itertools import permutations
from typing import NamedTuple

from lensbench.captions.scene_writer import NUMBERS, PLURALS, Claim, Kind, holds
from lensbench.data.scenes import BACKGROUNDS, COLORS, PLACES, RELATIONS, SHAPES, SIZES, Scene, relations


class Accuracy(NamedTuple):
    """Of a caption about a scene: how many attributes it says, how many of those are false, how many there are."""

    said: int
    false: int
    there: int


_COUNT = rf"(?P<count>(?:{'|'.join(NUMBERS.values())}) (?:{'|'.join(PLURALS.values())}))"
_OBJECT = (
    rf"(?:(?P<size>{'|'.join(SIZES)}) )?(?:(?P<color>{'|'.join(COLORS)}) )?(?P<object>{'|'.join(SHAPES)})\b"
    rf"(?: (?:in the|at the|at) (?P<place>{'|'.join(PLACES)})\b)?"
)
_TOKEN = re.compile(
    rf"\b{_COUNT}\b|\b{_OBJECT}|(?P<which>, which is )?\b(?P<relation>{'|'.join(RELATIONS)})\b|(?P<end>[;:])"
)
_BACKGROUND = re.compile(rf"\b({'|'.join(BACKGROUNDS)}) background\b")
_ATTRIBUTES: tuple[Kind, ...] = ("object", "color", "size", "place")


def claims_of(text: str) -> tuple[Claim, ...]:
    """The claims of a caption, its objects numbered as they are mentioned; nothing that is not about the scene."""
    text = text.lower().replace("-", " ")
    found = [Claim("background", match[1]) for match in _BACKGROUND.finditer(text)]
    head, colon, body = text.partition(": ")
    if colon and re.search(_COUNT, head):  # "two rings and a cross: a small ring, ...": its objects come again
        found += [Claim("count", match["count"]) for match in re.finditer(_COUNT, head)]
        text = body
    mentions = 0
    waiting: tuple[str, int] | None = None  # a relation without its second object, and its first
    before: tuple[int, int] | None = None  # the objects of the relation just read
    for match in _TOKEN.finditer(text):
        if match["count"]:
            found.append(Claim("count", match["count"]))
        elif match["end"]:
            waiting = before = None
        elif match["relation"]:
            if mentions:
                # "A left of B, above C": both of A; "A left of B, which is above C": the second of B
                again = before is not None and before[1] == mentions - 1 and not match["which"]
                waiting = match["relation"], before[0] if before is not None and again else mentions - 1
        else:
            found += [Claim(kind, match[kind], mentions) for kind in _ATTRIBUTES if match[kind]]
            if waiting is not None:
                found.append(Claim("relation", waiting[0], waiting[1], mentions))
                before, waiting = (waiting[1], mentions), None
            mentions += 1
    return tuple(found)


def accuracy(scene: Scene, text: str) -> Accuracy:
    """The caption against the scene, its objects taken for those of the scene that make least of it false.

    What a full caption says is there: four attributes an object, one relation fewer than objects, the background and
    the count of every shape that occurs more than once.
    """
    said = claims_of(text)
    counts = Counter(o.shape for o in scene.objects)
    n = len(scene.objects)
    there = 4 * n + (n - 1) + 1 + sum(many > 1 for many in counts.values())
    fixed = sum(not holds(scene, claim) for claim in said if claim.kind in ("background", "count"))
    about = [claim for claim in said if claim.kind not in ("background", "count")]
    mentions = 1 + max((claim.subject for claim in about), default=-1)
    # None stands for an object that is not in the scene: all that is said of it is false.
    candidates = [*range(n), *[None] * max(0, mentions - n)]
    fewest = min(
        sum(not _true(scene, claim, chosen) for claim in about) for chosen in permutations(candidates, mentions)
    )
    return Accuracy(len(said), fixed + fewest, there)


def _true(scene: Scene, claim: Claim, chosen: tuple[int | None, ...]) -> bool:
    place = chosen[claim.subject]
    if place is None:
        return False
    o = scene.objects[place]
    if claim.kind == "relation":
        other = chosen[claim.other]
        return other is not None and claim.value in relations(o, scene.objects[other])
    return claim.value == {"object": o.shape, "color": o.color, "size": o.size, "place": o.place}[claim.kind]
