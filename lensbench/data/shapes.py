"""The shapes world: seeded scenes of plain shapes, drawn at any resolution, with their true boxes.

A scene depends on (world seed, split, index) alone, so a corpus of any length exists without being stored, and a larger
data scale contains every smaller one.
"""

from __future__ import annotations

import functools
from itertools import permutations
from typing import Any

import numpy as np

from lensbench.data.scenes import BACKGROUNDS, COLORS, JITTER, PLACES, SHAPES, SIZES, Object, Scene, relations
from lensbench.streams import numpy_stream

# Shares of scenes with one, two, three and four objects.
COUNT_SHARES = (0.32, 0.48, 0.12, 0.08)
# Share of the scenes with several objects where all have one shape: without them nobody could learn to count.
ONE_SHAPE_SHARE = 0.25

# Half width and half height of each shape, in radii; every shape is centered in its box. The square is smaller than
# the circle's box so that its area is near the circle's: shapes must not be told apart by their area.
EXTENTS: dict[str, tuple[float, float]] = {
    "circle": (1.0, 1.0),
    "square": (0.86, 0.86),
    "triangle": (1.0, 0.9),
    "cross": (1.0, 1.0),
    "ring": (1.0, 1.0),
}
RING_HOLE = 0.5  # radius of the hole, in radii
CROSS_ARM = 1 / 3  # width of an arm as a share of the cross's

_SUPERSAMPLING = 4  # along each side, on top of the analytic edge


def key(split: str, index: int) -> str:
    """The stable name of one image of the world, e.g. "train-00000012"."""
    return f"{split}-{index:08d}"


SCENES_KEPT = 16_384  # several caption sets of the same images are written one after the other


def count_shares(max_objects: int) -> tuple[float, ...]:
    """The world's shares of one, two, ... objects, when a scene has `max_objects` at most."""
    kept = COUNT_SHARES[:max_objects]
    return tuple(share / sum(kept) for share in kept)


@functools.lru_cache(maxsize=SCENES_KEPT)
def scene(
    world_seed: int,
    split: str,
    index: int,
    count_shares: tuple[float, ...] = COUNT_SHARES,
    one_shape_share: float = ONE_SHAPE_SHARE,
) -> Scene:
    """The scene of one image: one to four objects in distinct places on a plain background.

    `count_shares` are the probabilities of one, two, three and four objects, `one_shape_share` that of several objects
    being drawn with one shape.
    Splits ("train", "validation", "judge", ...) are separate streams: none leaks into another, whatever its length.
    """
    rng = numpy_stream(world_seed, f"world/{split}", index)
    count = 1 + int(rng.choice(len(count_shares), p=count_shares))
    shapes = [_pick(rng, SHAPES) for _ in range(count)]
    if count > 1 and rng.random() < one_shape_share:
        shapes = shapes[:1] * count
    places = [tuple(PLACES)[i] for i in rng.permutation(len(PLACES))[:count]]
    objects = tuple(_place(rng, shape, _pick(rng, COLORS), place) for shape, place in zip(shapes, places, strict=True))
    return Scene(objects, _pick(rng, BACKGROUNDS))


def scene_matching(row: dict[str, Any], rng: np.random.Generator) -> Scene:
    """A random scene that satisfies a GenEval row and holds exactly the objects that the row includes.

    What the row leaves open (color, size, place, background) is drawn. The objects stand in the order of `include`.
    Raises ValueError where the world has no such scene.
    """
    parts = [(item, index) for index, item in enumerate(row["include"]) for _ in range(item["count"])]
    prompt = row.get("prompt", row["include"])
    if not 1 <= len(parts) <= len(PLACES):
        raise ValueError(f"row {prompt!r}: a scene holds 1 to {len(PLACES)} objects, the row includes {len(parts)}")
    for item, _ in parts:
        if item["class"] not in SHAPES:
            raise ValueError(f"row {prompt!r}: class {item['class']!r} is no shape; choose from {', '.join(SHAPES)}")
        if item.get("color", "red") not in COLORS:
            raise ValueError(f"row {prompt!r}: color {item['color']!r} is not in the world: {', '.join(COLORS)}")
    for item in row.get("exclude", []):
        if sum(part["class"] == item["class"] for part, _ in parts) >= item["count"]:
            raise ValueError(f"row {prompt!r}: includes {item['count']} or more of {item['class']!r} and excludes them")
    layouts = [layout for layout in permutations(PLACES, len(parts)) if _layout_fits(parts, layout)]
    if not layouts:
        raise ValueError(f"row {prompt!r}: no layout of the world satisfies its positions")
    layout = layouts[int(rng.integers(len(layouts)))]
    objects = tuple(
        _place(rng, item["class"], item.get("color") or _pick(rng, COLORS), place)
        for (item, _), place in zip(parts, layout, strict=True)
    )
    return Scene(objects, _pick(rng, BACKGROUNDS))


def render(scene: Scene, size_px: int) -> np.ndarray:
    """Draw a scene: uint8 (size_px, size_px, 3), sRGB, edges blended by the share of the pixel that is covered."""
    image = np.empty((size_px, size_px, 3), dtype=np.float32)
    image[:] = BACKGROUNDS[scene.background]
    for item in scene.objects:
        paint(image, item.shape, COLORS[item.color], item.x, item.y, item.radius)
    return (image + 0.5).astype(np.uint8)


def paint(
    image: np.ndarray, shape: str, color: tuple[float, ...], x: float, y: float, radius: float, opacity: float = 1.0
) -> None:
    """Blend one shape into a float image (S, S, 3), in place; x, y and radius are fractions of the side."""
    size_px = image.shape[0]
    x0, x1 = _window(x, radius, size_px)
    y0, y1 = _window(y, radius, size_px)
    if x0 >= x1 or y0 >= y1:
        return
    n = _SUPERSAMPLING
    # Sample points relative to the center, in sub-pixels: distances then are in units of the edge's blend.
    u = (np.arange(x0 * n, x1 * n, dtype=np.float32) + 0.5 - x * size_px * n)[None, :]
    v = (np.arange(y0 * n, y1 * n, dtype=np.float32) + 0.5 - y * size_px * n)[:, None]
    covered = np.clip(0.5 - _signed_distance(shape, u, v, radius * size_px * n), 0, 1)
    alpha = opacity * covered.reshape(y1 - y0, n, x1 - x0, n).mean(axis=(1, 3))[..., None]
    window = image[y0:y1, x0:x1]
    window += alpha * (np.asarray(color, dtype=np.float32) - window)


def boxes(scene: Scene, size_px: int) -> list[tuple[float, float, float, float]]:
    """The true box (x1, y1, x2, y2) of each object in pixels, in the order of `scene.objects`."""
    found = []
    for item in scene.objects:
        half_w, half_h = (extent * item.radius for extent in EXTENTS[item.shape])
        x1, y1, x2, y2 = item.x - half_w, item.y - half_h, item.x + half_w, item.y + half_h
        found.append((x1 * size_px, y1 * size_px, x2 * size_px, y2 * size_px))
    return found


def _pick(rng: np.random.Generator, words: Any) -> str:
    words = tuple(words)
    return words[int(rng.integers(len(words)))]


def _place(rng: np.random.Generator, shape: str, color: str, place: str) -> Object:
    x, y = (middle + float(rng.uniform(-JITTER, JITTER)) for middle in PLACES[place])
    return Object(shape, color, _pick(rng, SIZES), place, x, y)


def _layout_fits(parts: list[tuple[dict[str, Any], int]], layout: tuple[str, ...]) -> bool:
    """Whether every object of an item with a position stands so to every object of its target."""
    stand_ins = [Object("circle", "red", "small", place, *PLACES[place]) for place in layout]
    for mover, (item, _) in zip(stand_ins, parts, strict=True):
        if item.get("position"):
            relation, target = item["position"]
            for other, (_, index) in zip(stand_ins, parts, strict=True):
                if index == target and relation not in relations(mover, other):
                    return False
    return True


def _window(center: float, radius: float, size_px: int) -> tuple[int, int]:
    """First and last pixel that a shape can reach, clipped to the image."""
    low = int(np.floor((center - radius) * size_px - 1))
    high = int(np.ceil((center + radius) * size_px + 1))
    return max(low, 0), min(high, size_px)


def _signed_distance(shape: str, u: np.ndarray, v: np.ndarray, radius: float) -> np.ndarray:
    """Distance to the shape's edge, negative inside; exact but for the far side of outer corners."""
    if shape in ("circle", "ring"):
        from_center = np.sqrt(u * u + v * v)
        if shape == "circle":
            return from_center - radius
        return np.maximum(from_center - radius, RING_HOLE * radius - from_center)
    u, v = np.abs(u), v if shape == "triangle" else np.abs(v)
    half_w, half_h = (extent * radius for extent in EXTENTS[shape])
    if shape == "square":
        return np.maximum(u - half_w, v - half_h)
    if shape == "cross":
        arm = CROSS_ARM * radius
        return np.minimum(np.maximum(u - half_w, v - arm), np.maximum(u - arm, v - half_h))
    if shape == "triangle":
        # Apex on top; a slanted side runs from (0, -half_h) to (half_w, half_h).
        slant = (2 * half_h * u - half_w * (v + half_h)) / np.hypot(2 * half_h, half_w)
        return np.maximum(slant, v - half_h)
    raise ValueError(f"no shape {shape!r}; choose from {', '.join(SHAPES)}")
