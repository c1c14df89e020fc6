"""Captions for the alignment towers: scenes that differ in one thing, texts of any length, and what is true of what.

Scenes come in families: one scene and copies with one thing changed (two colors swapped, two places swapped, an object
more or less, another background, shape or size). A caption is a set of claims, so its truth about every scene of the
batch is computed, not guessed: a caption of one picture that happens to fit another is no negative.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from itertools import permutations
from typing import NamedTuple

import numpy as np

from lensbench.captions.scene_writer import NUMBERS, PLURALS, Claim, claims, dosed, wording
from lensbench.data.scenes import BACKGROUNDS, COLORS, PLACES, RELATIONS, SHAPES, SIZES, Object, Scene, relations

CHANGES = ("colors", "relation", "count", "background", "color", "shape", "size")
_CHANGE_SHARES = (0.25, 0.25, 0.2, 0.08, 0.08, 0.08, 0.06)
_SLOTS = 4
_COUNTS = {f"{number} {PLURALS[shape]}": (i, n) for i, shape in enumerate(SHAPES) for n, number in NUMBERS.items()}


def changed(scene: Scene, change: str, rng: np.random.Generator) -> Scene | None:
    """A copy of the scene with one thing changed; None where it would be the same or cannot be done."""
    objects = list(scene.objects)
    if change in ("colors", "relation"):
        pairs = [(i, j) for i in range(len(objects)) for j in range(i) if _distinct(objects[i], objects[j], change)]
        if not pairs:
            return None
        i, j = pairs[int(rng.integers(len(pairs)))]
        a, b = objects[i], objects[j]
        if change == "colors":
            objects[i], objects[j] = replace(a, color=b.color), replace(b, color=a.color)
        else:
            objects[i] = replace(a, place=b.place, x=b.x, y=b.y)
            objects[j] = replace(b, place=a.place, x=a.x, y=a.y)
        return Scene(tuple(objects), scene.background)
    if change == "background":
        return Scene(scene.objects, _other(BACKGROUNDS, scene.background, rng))
    i = int(rng.integers(len(objects)))
    if change == "count":
        free = [place for place in PLACES if place not in {o.place for o in objects}]
        if free and (len(objects) == 1 or rng.random() < 0.5):
            place = free[int(rng.integers(len(free)))]
            objects.append(replace(objects[i], place=place, x=PLACES[place][0], y=PLACES[place][1]))
        else:
            del objects[i]
    elif change == "color":
        objects[i] = replace(objects[i], color=_other(COLORS, objects[i].color, rng))
    elif change == "shape":
        objects[i] = replace(objects[i], shape=_other(SHAPES, objects[i].shape, rng))
    else:
        objects[i] = replace(objects[i], size=_other(SIZES, objects[i].size, rng))
    return Scene(tuple(objects), scene.background)


def said(scene: Scene, rng: np.random.Generator) -> tuple[Claim, ...]:
    """True claims about the scene: all of them, any part, or the few that a short prompt makes."""
    everything = claims(scene, rng)
    kind = rng.random()
    if kind < 0.35:
        return everything
    if kind < 0.6:
        return dosed(scene, everything, float(rng.uniform(0.1, 1)), 0.0, rng) or everything
    counts = tuple(claim for claim in everything if claim.kind == "count")
    if counts and rng.random() < 0.5:
        return counts
    # A prompt's claims: one or two objects, with colors or without, and perhaps how they stand.
    named = {int(i) for i in rng.permutation(len(scene.objects))[: int(rng.integers(1, 3))]}
    kinds = {"object"} | ({"color"} if rng.random() < 0.7 else set()) | ({"relation"} if rng.random() < 0.6 else set())
    return tuple(c for c in everything if c.kind in kinds and c.subject in named and (c.other in named or c.other < 0))


def family(scene: Scene, rng: np.random.Generator, size: int) -> list[Scene]:
    """The scene and `size` - 1 copies with one change each."""
    members = [scene]
    while len(members) < size:
        copy = changed(scene, CHANGES[int(rng.choice(len(CHANGES), p=_CHANGE_SHARES))], rng)
        if copy is not None:
            members.append(copy)
    return members


class Families(NamedTuple):
    """`groups` families of scenes, one after the other, and as many texts a family, in the same order."""

    scenes: list[Scene]  # groups * MEMBERS
    texts: list[str]  # groups * TEXTS
    claims: np.ndarray  # (groups, TEXTS): how many claims a text makes
    errors: np.ndarray  # (groups, 2 * MEMBERS, TEXTS): those that fail in the family's and the next family's scenes


MEMBERS, TEXTS = 4, 5


def families(bases: list[Scene], rng: np.random.Generator) -> Families:
    """A family of each scene; a true text about each member, and one of the family's first scene in part false."""
    scenes: list[Scene] = []
    said_of: list[tuple[Claim, ...]] = []
    for base in bases:
        members = family(base, rng, MEMBERS)
        everything = claims(base, rng)
        false = dosed(base, everything, float(rng.uniform(0.3, 1)), float(rng.uniform(0, 1)), rng) or everything
        scenes += members
        said_of += [*(said(member, rng) for member in members), false]
    count = len(bases)
    wrong = errors(scenes, said_of).reshape(count, MEMBERS, count, TEXTS)
    own = np.arange(count)
    beside = np.roll(own, 1)
    return Families(
        scenes,
        [wording(one, rng) for one in said_of],
        np.array([len(one) for one in said_of]).reshape(count, TEXTS),
        np.concatenate([wrong[own, :, own], wrong[beside, :, own]], axis=1),
    )


class _Facts(NamedTuple):
    attributes: np.ndarray  # (4, scenes, objects): shape, color, size, place as numbers
    relations: np.ndarray  # (scenes, objects, objects, 4) bool
    backgrounds: np.ndarray  # (scenes,)
    counts: np.ndarray  # (scenes, shapes)


def errors(scenes: list[Scene], texts: list[tuple[Claim, ...]]) -> np.ndarray:
    """How many claims of each text fail in each scene, int (scenes, texts), objects matched as well as can be.

    A text is true where it is 0. What a text leaves out is no error; a count must be exact.
    """
    facts = _facts(scenes)
    mentions = np.full((4, len(texts), _SLOTS), -1)  # shape, color, size, place of each mentioned object
    links = np.full((len(texts), _SLOTS - 1, 3), -1)  # subject, other, relation
    backgrounds, counts = np.full(len(texts), -1), np.full((len(texts), len(SHAPES)), -1)
    words: dict[str, tuple[int, list[str]]] = {
        "object": (0, list(SHAPES)),
        "color": (1, list(COLORS)),
        "size": (2, list(SIZES)),
        "place": (3, list(PLACES)),
    }
    for t, text in enumerate(texts):
        linked = 0
        for claim in text:
            if claim.kind in words:
                attribute, values = words[claim.kind]
                mentions[attribute, t, claim.subject] = values.index(claim.value)
            elif claim.kind == "relation":
                links[t, linked] = claim.subject, claim.other, RELATIONS.index(claim.value)
                linked += 1
            elif claim.kind == "background":
                backgrounds[t] = list(BACKGROUNDS).index(claim.value)
            else:
                shape, number = _COUNTS[claim.value]
                counts[t, shape] = number
    fixed = ((backgrounds >= 0)[None] & (facts.backgrounds[:, None] != backgrounds[None])).astype(int)
    fixed += ((counts >= 0)[None] & (facts.counts[:, None] != counts[None])).sum(-1)
    wanted = mentions[:, None, :, :, None]  # (4, 1, T, slots, 1)
    wrong = ((wanted >= 0) & (wanted != facts.attributes[:, :, None, None, :])).sum(0)  # (B, T, slots, objects)
    best = np.full((len(scenes), len(texts)), 99)
    subject, other, relation = links[..., 0], links[..., 1], links[..., 2]
    for order in permutations(range(_SLOTS)):
        ordered = np.array(order)
        failed = sum(wrong[:, :, slot, order[slot]] for slot in range(_SLOTS))
        stands = facts.relations[:, ordered[subject], ordered[other], relation]  # (B, T, links)
        best = np.minimum(best, failed + ((relation >= 0)[None] & ~stands).sum(-1))
    return fixed + best


def _facts(scenes: list[Scene]) -> _Facts:
    count = len(scenes)
    attributes = np.full((4, count, _SLOTS), -2)  # unlike -1, which stands for what a text does not say
    stands = np.zeros((count, _SLOTS, _SLOTS, len(RELATIONS)), dtype=bool)
    backgrounds = np.array([list(BACKGROUNDS).index(one.background) for one in scenes])
    counts = np.zeros((count, len(SHAPES)), dtype=int)
    shapes, colors, sizes, places = list(SHAPES), list(COLORS), list(SIZES), list(PLACES)
    for b, one in enumerate(scenes):
        for i, o in enumerate(one.objects):
            shape = shapes.index(o.shape)
            attributes[:, b, i] = shape, colors.index(o.color), sizes.index(o.size), places.index(o.place)
            counts[b, shape] += 1
            for j, p in enumerate(one.objects):
                for relation in relations(o, p):
                    stands[b, i, j, RELATIONS.index(relation)] = True
    return _Facts(attributes, stands, backgrounds, counts)


def _distinct(a: Object, b: Object, change: str) -> bool:
    """Whether swapping the colors, or the places, of two objects changes what is true."""
    if change == "colors":
        return a.color != b.color and a.shape != b.shape
    return (a.shape, a.color) != (b.shape, b.color)


def _other(words: Collection[str], word: str, rng: np.random.Generator) -> str:
    options = [w for w in words if w != word]
    return options[int(rng.integers(len(options)))]
