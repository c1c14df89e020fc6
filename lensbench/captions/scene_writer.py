"""Captions for the shapes world, written from the scene graph: alt, brief, detailed and dose.

A caption is first a tuple of `Claim`s about the scene and then their wording. Claims can be counted, dropped and
falsified one by one, which is what `dose` does: it is the detailed caption with a known share of its claims left out or
made false. The words for attributes are GenEval's; only the sentence around them varies.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, TypeVar

from lensbench.data.scenes import BACKGROUNDS, COLORS, PLACES, RELATIONS, SHAPES, SIZES, Object, Scene, relations

if TYPE_CHECKING:
    import numpy as np

T = TypeVar("T")

NUMBERS = {2: "two", 3: "three", 4: "four"}
PLURALS = {"circle": "circles", "square": "squares", "triangle": "triangles", "cross": "crosses", "ring": "rings"}

# What alt-text is made of. The shares are a choice, not a measurement: two in five say nothing about the picture, half
# name one object, one in ten is wrong about it.
ALT_SHARES: dict[str, float] = {
    "file name": 0.20,  # IMG_2041.jpg
    "marketing": 0.20,  # free shipping on wall art
    "object": 0.30,  # circle vector icon
    "object and color": 0.20,  # red circle clipart
    "wrong": 0.10,  # as above, with its color or its shape altered to one that is nowhere in the picture
}
BRIEF_SECOND_SHARE = 0.5  # brief captions that name a second object, where there is one that differs

ALT_FILE_NAMES = (
    "IMG_{n:04d}.jpg",
    "DSC{n:05d}.JPG",
    "image-{n}.png",
    "shapes-clipart-{n:02d}.png",
    "untitled-{n}.png",
    "Screenshot {n}.png",
    "download ({n}).jpg",
    "banner_{n}_final.jpg",
)
ALT_MARKETING = (
    "free shipping on wall art",
    "buy 2 get 1 free, shop now",
    "best price poster print",
    "royalty free stock vector",
    "new collection, minimalist home decor",
    "click to enlarge",
    "download free clipart",
    "abstract geometric art, limited offer",
    "geometric pattern wallpaper sale",
    "sign up for our newsletter",
    "learn shapes for kids, printable worksheet",
    "product image",
)
ALT_OBJECT = (
    "{what}",
    "{what} clipart",
    "{what} vector icon",
    "{what} stock image",
    "picture of {article} {what}",
    "{slug}-{n:02d}.png",
    "{what} | free download",
)
BRIEF_OPENERS = ("", "", "a photo of ", "a picture of ")
DETAILED_OPENERS = ("", "", "", "a photo of ", "a picture of ", "an image of ")

Kind = Literal["object", "color", "size", "place", "relation", "background", "count"]


@dataclass(frozen=True)
class Claim:
    """One thing a caption says about a scene.

    `subject` is an index into `Scene.objects`, -1 for the background and for a count. `value` is the word: a shape
    (kind "object"), a color, a size, a place, a relation to the object `other`, a background, or a count such as
    "two rings". A false count keeps its shape and alters its number.
    """

    kind: Kind
    value: str
    subject: int = -1
    other: int = -1
    true: bool = True


def write(scene: Scene, caption_set: str, rng: np.random.Generator, present: float = 1.0, wrong: float = 0.0) -> str:
    """The caption of `scene` in one caption set, never empty.

    `present` and `wrong` (shares in [0, 1]) are read by "dose" alone. Raises ValueError for an unknown caption set.
    """
    if caption_set == "detailed":
        return wording(claims(scene, rng), rng)
    if caption_set == "dose":
        return wording(dosed(scene, claims(scene, rng), present, wrong, rng), rng)
    if caption_set == "brief":
        return _brief(scene, rng)
    if caption_set == "alt":
        return _alt(scene, rng)
    raise ValueError(f"caption set {caption_set!r}: the shapes world has alt, brief, detailed, dose")


# --- claims ---------------------------------------------------------------------------------------------------------


def claims(scene: Scene, rng: np.random.Generator) -> tuple[Claim, ...]:
    """Everything a detailed caption says, all of it true.

    Four claims an object (that it is there, its color, size and place), one relation fewer than objects (a tree that
    connects them), the background, and the count of every shape that occurs more than once. Objects come in random
    order.
    """
    order = [int(i) for i in rng.permutation(len(scene.objects))]
    found = []
    for i in order:
        o = scene.objects[i]
        found += [
            Claim("object", o.shape, i),
            Claim("color", o.color, i),
            Claim("size", o.size, i),
            Claim("place", o.place, i),
        ]
    # Each relation starts at either end of the one before, so that the tree reads as one sentence.
    subject = order[0]
    for other in order[1:]:
        options = relations(scene.objects[subject], scene.objects[other])
        found.append(Claim("relation", _pick(options, rng), subject, other))
        subject = subject if rng.random() < 0.5 else other
    found.append(Claim("background", scene.background))
    number = Counter(o.shape for o in scene.objects)
    found += [Claim("count", f"{NUMBERS[n]} {PLURALS[shape]}") for shape, n in number.items() if n > 1]
    return tuple(found)


def dosed(
    scene: Scene, all_claims: Sequence[Claim], present: float, wrong: float, rng: np.random.Generator
) -> tuple[Claim, ...]:
    """The claims of a weaker captioner: a share `present` of them is kept and a share `wrong` of the kept is false.

    Both numbers are exact up to rounding, which is stochastic, so that the shares hold in expectation in every scene.
    An attribute is kept only with its object and a relation only with both of its objects. The draws do not depend on
    the shares: with the same generator, what a lower `present` keeps is part of what a higher one keeps.
    """
    order = _growing_order(all_claims, rng)
    round_present, round_wrong = rng.random(2)
    kept = sorted(order[: _rounded(present * len(order), round_present)])
    rank = rng.permutation(len(all_claims))
    false = set(sorted(kept, key=lambda i: rank[i])[: _rounded(wrong * len(kept), round_wrong)])
    return tuple(_falsified(scene, all_claims[i], rng) if i in false else all_claims[i] for i in kept)


def holds(scene: Scene, claim: Claim) -> bool:
    """Whether the scene bears the claim out."""
    if claim.kind == "background":
        return claim.value == scene.background
    if claim.kind == "count":
        number, plural = claim.value.split()
        return NUMBERS.get(sum(PLURALS[o.shape] == plural for o in scene.objects)) == number
    o = scene.objects[claim.subject]
    if claim.kind == "relation":
        return claim.value in relations(o, scene.objects[claim.other])
    return claim.value == {"object": o.shape, "color": o.color, "size": o.size, "place": o.place}[claim.kind]


def _growing_order(all_claims: Sequence[Claim], rng: np.random.Generator) -> list[int]:
    """A random order of the claims in which every prefix stands by itself: objects before what is said of them."""
    waiting = list(range(len(all_claims)))
    order: list[int] = []
    named: set[int] = set()
    while waiting:
        ready = [i for i in waiting if _needs(all_claims[i]) <= named]
        i = _pick(ready, rng)
        waiting.remove(i)
        order.append(i)
        if all_claims[i].kind == "object":
            named.add(all_claims[i].subject)
    return order


def _needs(claim: Claim) -> set[int]:
    if claim.kind == "relation":
        return {claim.subject, claim.other}
    return {claim.subject} if claim.kind in ("color", "size", "place") else set()


def _rounded(x: float, u: float) -> int:
    """`x` rounded up with the probability of its fraction; `u` is uniform in [0, 1)."""
    whole = int(x + 1e-9)
    return whole + (u < x - whole - 1e-9)


def _falsified(scene: Scene, claim: Claim, rng: np.random.Generator) -> Claim:
    """The claim with another value, one that is nowhere in the scene where such a value exists."""
    objects = scene.objects
    if claim.kind == "relation":
        true = relations(objects[claim.subject], objects[claim.other])
        options = [r for r in RELATIONS if r not in true]
    elif claim.kind == "count":
        number, plural = claim.value.split()
        options = [f"{n} {plural}" for n in NUMBERS.values() if n != number]
    elif claim.kind == "background":
        options = [b for b in BACKGROUNDS if b != claim.value]
    else:
        words: dict[str, Sequence[str]] = {
            "object": SHAPES,
            "color": tuple(COLORS),
            "size": tuple(SIZES),
            "place": tuple(PLACES),
        }
        taken = {_word(o, claim.kind) for o in objects}
        other = [w for w in words[claim.kind] if w != claim.value]
        options = [w for w in other if w not in taken] or other
    return replace(claim, value=_pick(options, rng), true=False)


def _word(o: Object, kind: Kind) -> str:
    return {"object": o.shape, "color": o.color, "size": o.size, "place": o.place}[kind]


# --- wording --------------------------------------------------------------------------------------------------------


def wording(said: Sequence[Claim], rng: np.random.Generator) -> str:
    """The claims as one English sentence, in one of many forms; what is not claimed is not said."""
    shape = {c.subject: c.value for c in said if c.kind == "object"}
    about = {(c.subject, c.kind): c.value for c in said}
    edges = [c for c in said if c.kind == "relation"]
    background = next((c.value for c in said if c.kind == "background"), None)
    counts = [c.value for c in said if c.kind == "count"]

    # Many objects take the compact forms, for text tokens are what training costs.
    crowded = len(shape) > 2
    roomy, compact = ("in the {}", "at the {}", "in the {} corner"), ("in the {}", "at {}")
    place_form = _pick(compact if crowded else roomy, rng) if len(shape) < 4 or not counts else "at {}"
    phrase = {i: _phrase(i, about, place_form) for i in shape}
    opener = _pick(DETAILED_OPENERS, rng)
    groups = _groups(list(shape), edges)
    # A verb makes a whole sentence of the caption, which cannot follow "a photo of".
    verb = not opener and len(groups) == 1 and rng.random() < 0.5
    body = _joined([_clause(group, phrase, verb) for group in groups])
    header = _header(counts, list(shape.values())) if counts else ""
    text = f"{header}: {body}" if header and body else header or body
    if background is None:
        return f"{opener}{text}" if text else "a picture"
    if not text:
        return f"{opener}a {background} background"
    if not opener and rng.random() < 0.3:
        bare = f"{background} background: {text}" if not header else f"{background} background, {text}"
        return _pick((f"on a {background} background, {text}", bare), rng)
    tail = (" on a {}", ", on a {}", "; {}") if crowded else (" on a {}", ", on a {}", " against a {}", "; {}")
    return opener + text + _pick(tail, rng).format(f"{background} background")


def _phrase(i: int, about: dict[tuple[int, Kind], str], place_form: str) -> str:
    """One object: "a large red circle in the top left", as far as it is claimed."""
    kinds: tuple[Kind, ...] = ("size", "color", "object")
    noun = " ".join(about[i, kind] for kind in kinds if (i, kind) in about)
    place = about.get((i, "place"))
    return f"{_article(noun)} {noun}" + (f" {place_form.format(place)}" if place else "")


def _groups(objects: list[int], edges: list[Claim]) -> list[list[Claim] | int]:
    """Objects connected by relations, as the list of their relations, and objects by themselves, as mentioned."""
    group_of: dict[int, list[Claim]] = {}
    groups: list[list[Claim] | int] = []
    for i in objects:
        group_of[i] = []
    for edge in edges:
        merged = group_of[edge.subject]
        merged.append(edge)
        group_of[edge.other] = merged
    seen: list[list[Claim]] = []
    for i in objects:
        if not group_of[i]:
            groups.append(i)
        elif not any(group_of[i] is g for g in seen):
            seen.append(group_of[i])
            groups.append(group_of[i])
    return groups


def _clause(group: list[Claim] | int, phrase: dict[int, str], verb: bool) -> str:
    """ "A is left of B, which is above C and right of D": each relation starts at an end of the one before."""
    if isinstance(group, int):
        return phrase[group]
    first = group[0]
    text = f"{phrase[first.subject]}{' is' if verb else ','} {first.value} {phrase[first.other]}"
    for k, edge in enumerate(group[1:], start=1):
        before = group[k - 1]
        if edge.subject == before.other:
            text += ", which is"
        else:
            assert edge.subject == before.subject, "a relation must start at an end of the one before"
            more = k + 1 < len(group) and group[k + 1].subject == edge.subject
            text += "," if more else " and"
        text += f" {edge.value} {phrase[edge.other]}"
    return text


def _header(counts: list[str], shapes: list[str]) -> str:
    """ "two rings and a cross": the counts, and the shapes that are named once."""
    counted = {count.split()[1] for count in counts}
    once = [s for s in shapes if PLURALS[s] not in counted and shapes.count(s) == 1]
    return _joined([*counts, *(f"a {s}" for s in once)])


def _joined(parts: list[str]) -> str:
    """ "a, b and c"; with semicolons when the parts have commas of their own."""
    if len(parts) < 2:
        return "".join(parts)
    if any("," in part or " and " in part for part in parts):
        return "; ".join(parts)
    return ", ".join(parts[:-1]) + " and " + parts[-1]


# --- the shorter sets -----------------------------------------------------------------------------------------------


def _brief(scene: Scene, rng: np.random.Generator) -> str:
    opener = _pick(BRIEF_OPENERS, rng)
    if len(scene.objects) > 1 and len({o.shape for o in scene.objects}) == 1:
        return f"{opener}{NUMBERS[len(scene.objects)]} {PLURALS[scene.objects[0].shape]}"
    main = max(scene.objects, key=lambda o: o.radius)  # the first of the largest
    text = _named(main)
    others = [o for o in scene.objects if (o.shape, o.color) != (main.shape, main.color)]
    if others and rng.random() < BRIEF_SECOND_SHARE:
        text += f" and {_named(_pick(others, rng))}"
    return opener + text


def _alt(scene: Scene, rng: np.random.Generator) -> str:
    kind = _pick_by_share(ALT_SHARES, rng)
    n = int(rng.integers(1, 100))
    if kind == "file name":
        return _pick(ALT_FILE_NAMES, rng).format(n=int(rng.integers(1, 10000)))
    if kind == "marketing":
        return _pick(ALT_MARKETING, rng)
    o = _pick(scene.objects, rng)
    shape, color = o.shape, o.color if kind != "object" else ""
    if kind == "wrong" and rng.random() < 0.5:
        color = _pick([c for c in COLORS if c not in {x.color for x in scene.objects}], rng)
    elif kind == "wrong":
        shape = _pick([s for s in SHAPES if s not in {x.shape for x in scene.objects}], rng)
        color = _pick(("", color), rng)
    what = f"{color} {shape}".strip()
    return _pick(ALT_OBJECT, rng).format(what=what, article=_article(what), slug=what.replace(" ", "-"), n=n)


def _named(o: Object) -> str:
    return f"{_article(o.color)} {o.color} {o.shape}"


def _article(words: str) -> str:
    return "an" if words[0] in "aeiou" else "a"


def _pick(options: Sequence[T], rng: np.random.Generator) -> T:
    return options[int(rng.integers(len(options)))]


def _pick_by_share(shares: dict[str, float], rng: np.random.Generator) -> str:
    u, total = rng.random() * sum(shares.values()), 0.0
    for name, share in shares.items():
        total += share
        if u < total:
            return name
    return name
