"""The words of the shapes world: objects, scenes and the relations between them.

Sizes and places are fractions of the image side, x to the right and y down: a scene means the same at any resolution.
"""

from __future__ import annotations

from dataclasses import dataclass

SHAPES = ("circle", "square", "triangle", "cross", "ring")

# GenEval's ten colors less the two that backgrounds use (black, white), as sRGB.
COLORS: dict[str, tuple[int, int, int]] = {
    "red": (220, 30, 30),
    "orange": (255, 140, 0),
    "yellow": (250, 225, 40),
    "green": (30, 150, 50),
    "blue": (35, 75, 220),
    "purple": (130, 40, 170),
    "pink": (255, 130, 190),
    "brown": (120, 70, 30),
}
BACKGROUNDS: dict[str, tuple[int, int, int]] = {"white": (255, 255, 255), "black": (0, 0, 0), "gray": (150, 150, 150)}

# Radius of the circle that bounds the shape.
SIZES: dict[str, float] = {"small": 0.13, "large": 0.19}

# Objects stand near the middle of a quadrant; the jitter is small enough that two never touch.
PLACES: dict[str, tuple[float, float]] = {
    "top left": (0.26, 0.26),
    "top right": (0.74, 0.26),
    "bottom left": (0.26, 0.74),
    "bottom right": (0.74, 0.74),
}
JITTER = 0.02

RELATIONS = ("left of", "right of", "above", "below")


@dataclass(frozen=True)
class Object:
    """One object: what it is and where its center stands."""

    shape: str
    color: str
    size: str
    place: str
    x: float
    y: float

    @property
    def radius(self) -> float:
        return SIZES[self.size]


@dataclass(frozen=True)
class Scene:
    """One to four objects on a plain background."""

    objects: tuple[Object, ...]
    background: str


def relations(a: Object, b: Object) -> tuple[str, ...]:
    """Every relation in which `a` stands to `b`, by their quadrants: a diagonal pair has two.

    Agrees with GenEval's rule on the true boxes: a center that is off by half a side along an axis, and by as much
    along the other, is past the rule's threshold of 0.5 on both.
    """
    (ax, ay), (bx, by) = PLACES[a.place], PLACES[b.place]
    found = []
    if ax != bx:
        found.append("left of" if ax < bx else "right of")
    if ay != by:
        found.append("above" if ay < by else "below")
    return tuple(found)
