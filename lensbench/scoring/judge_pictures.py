"""The pictures the judge learns from: the world's scenes, freer ones, and everything that must not count as an object.

The judge scores imperfect samples, so its training pictures are wider than the renderer's. The rule of visibility:

- an object at 75 % opacity or more, cut or hidden by no more than a fifth, blurred by at most 0.8 px (of 24): present;
- a ghost at 25 % opacity or less, half a shape, an irregular blob, a bar, a loose patch, a smear (blur of 2 px or
  more): absent;
- anything between: either answer is accepted, neither is taught.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from lensbench.data.scenes import BACKGROUNDS, COLORS, SHAPES, Scene
from lensbench.data.shapes import EXTENTS, paint, render, scene
from lensbench.scoring.judge_network import GRID, to_canvas

PRESENT_OPACITY, ABSENT_OPACITY = 0.75, 0.25
PRESENT_BLUR, ABSENT_BLUR = 0.8, 2.0  # px of a picture of 24
_PALETTE = np.array(list(COLORS.values()), dtype=np.float32)
TRAINING, HELD_OUT = "judge", "judge-check"
# The judge's own shares of scenes with one to four objects: crowded ones are what it must get right, whatever is common
# in the corpus.
COUNT_SHARES = (0.35, 0.30, 0.20, 0.15)
ONE_SHAPE_SHARE = 0.35
_GROUNDS = np.array(list(BACKGROUNDS.values()), dtype=np.float32)


class Target(NamedTuple):
    """What stands at a place: `present` 1, or -1 for "either answer". Fractions of the side."""

    present: int
    shape: int
    color: int  # -1: no color of the world
    x: float
    y: float
    half_width: float
    half_height: float


class Batch(NamedTuple):
    """Canvases (N, 3, 32, 32) and, for each cell, objectness (1, 0, or -1 to ignore) and what it should predict."""

    canvas: Tensor
    objectness: Tensor  # (N, 8, 8)
    taught: Tensor  # (N, 8, 8) bool: box, shape and color are taught here
    box: Tensor  # (N, 8, 8, 4)
    shape: Tensor  # (N, 8, 8)
    color: Tensor  # (N, 8, 8), -1 where there is none


def batch(rng: np.random.Generator, count: int, first_index: int) -> Batch:
    """`count` pictures of one drawn size; world scenes are those from `first_index` on of the training stream."""
    size_px = int(rng.choice([16, 20, 24, 24, 28, 32, 32, 48, 64]))
    images = np.empty((count, size_px, size_px, 3), dtype=np.float32)
    targets: list[list[Target]] = []
    kinds = rng.choice(4, size=count, p=[0.30, 0.17, 0.36, 0.17])  # clean, degraded, free, empty
    for i, kind in enumerate(kinds):
        if kind < 2:
            image, found = world_picture(first_index + i, size_px)
            if kind == 1 and rng.random() < 0.35:
                image, found = faded(image, found, float(rng.uniform(0.05, 1)))
        else:
            image, found = free_picture(rng, size_px, objects=kind == 2)
        images[i] = image
        targets.append(found)
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2) / 255
    clean = torch.from_numpy(kinds == 0)
    pixels, gone = drown(rng, pixels, clean)
    for i in torch.nonzero(gone).flatten().tolist():
        targets[i] = []
    pixels = degrade(rng, pixels, clean)
    return Batch(to_canvas(pixels), *cells(targets))


def judge_scene(split: str, index: int) -> Scene:
    """A scene of the world from a stream of the judge's own, `TRAINING` or `HELD_OUT`; no corpus has either."""
    return scene(0, split, index, COUNT_SHARES, ONE_SHAPE_SHARE)


def world_picture(index: int, size_px: int) -> tuple[np.ndarray, list[Target]]:
    """A scene of the world as the renderer draws it."""
    one = judge_scene(TRAINING, index)
    found = []
    for item in one.objects:
        half_w, half_h = (extent * item.radius for extent in EXTENTS[item.shape])
        shape, color = SHAPES.index(item.shape), tuple(COLORS).index(item.color)
        found.append(Target(1, shape, color, item.x, item.y, half_w, half_h))
    return render(one, size_px).astype(np.float32), found


def faded(image: np.ndarray, found: list[Target], opacity: float) -> tuple[np.ndarray, list[Target]]:
    """A whole picture faded towards its background, which fills its first pixel."""
    image = image[0, 0] + opacity * (image - image[0, 0])
    if opacity <= ABSENT_OPACITY:
        return image, []
    return image, found if opacity >= PRESENT_OPACITY else [item._replace(present=-1) for item in found]


def free_picture(rng: np.random.Generator, size_px: int, objects: bool) -> tuple[np.ndarray, list[Target]]:
    """Objects of any size at any place (slight overlaps too) among things that are none; or only the latter."""
    image = ground(rng, size_px)
    if not objects and rng.random() < 0.7:
        image = static(rng, size_px) if rng.random() < 0.5 else patchwork(rng, image)
    found: list[Target] = []
    wanted = int(rng.integers(1, 7)) if objects else 0
    distractors = int(rng.integers(0, 3)) if objects else int(rng.integers(0, 5))
    todo = ["object"] * wanted + ["distractor"] * distractors
    standing: list[tuple[float, float, float]] = []
    for kind in rng.permutation(todo) if todo else []:
        radius = float(rng.uniform(0.11, 0.26))
        for _ in range(6):
            x, y = rng.uniform(0.8 * radius, 1 - 0.8 * radius, size=2)
            # Shapes are taught with overlaps of up to a tenth; things that are no shapes keep off them.
            apart = 0.9 if kind == "object" else 1.05
            if all(np.hypot(x - a, y - b) > apart * (radius + r) for a, b, r in standing):
                break
        else:
            continue
        standing.append((float(x), float(y), radius))
        if kind == "object":
            found += paint_object(rng, image, float(x), float(y), radius)
        else:
            paint_distractor(rng, image, float(x), float(y), radius)
    return image, found


def paint_object(rng: np.random.Generator, image: np.ndarray, x: float, y: float, radius: float) -> list[Target]:
    """One shape in a color near the palette's, or any color; opaque, faint or a ghost."""
    below = image[int(y * image.shape[0]), int(x * image.shape[0])].copy()
    shape, color = int(rng.integers(len(SHAPES))), int(rng.integers(len(COLORS)))
    rgb = np.clip(_PALETTE[color] + rng.uniform(-25, 25, size=3), 0, 255)
    if rng.random() < 0.15:
        rgb = rng.uniform(0, 255, size=3)
        distances = np.linalg.norm(_PALETTE - rgb, axis=1)
        nearest, second = np.argsort(distances)[:2]
        color = int(nearest) if distances[nearest] < 0.6 * distances[second] else -1
    opacity = float(rng.choice([1.0, rng.uniform(PRESENT_OPACITY, 1), rng.uniform(0, 1)], p=[0.6, 0.2, 0.2]))
    paint(image, SHAPES[shape], tuple(rgb), x, y, radius, opacity)
    if opacity <= ABSENT_OPACITY:
        return []
    visible = opacity >= PRESENT_OPACITY and np.linalg.norm(rgb - below) > 70
    half_w, half_h = (extent * radius for extent in EXTENTS[SHAPES[shape]])
    return [Target(1 if visible else -1, shape, color, x, y, half_w, half_h)]


def paint_distractor(rng: np.random.Generator, image: np.ndarray, x: float, y: float, radius: float) -> None:
    """Something that is no object: half a shape, a lobed blob, a bar, a soft spot, a patch of noise."""
    rgb = _PALETTE[int(rng.integers(len(_PALETTE)))] + rng.uniform(-40, 40, size=3)
    size_px = image.shape[0]
    axis = (np.arange(size_px, dtype=np.float32) + 0.5) / size_px
    u, v = (axis - x)[None, :] / radius, (axis - y)[:, None] / radius
    distance, angle = np.hypot(u, v), np.arctan2(v, u)
    edge = 1 / (radius * size_px)
    turn = float(rng.uniform(0, 2 * np.pi))
    along, across = np.cos(turn) * u + np.sin(turn) * v, -np.sin(turn) * u + np.cos(turn) * v
    kind = int(rng.integers(5))
    if kind == 0:  # half a shape or less
        drawn = image.copy()
        paint(drawn, SHAPES[int(rng.integers(len(SHAPES)))], tuple(rgb), x, y, radius)
        image += np.clip((along - rng.uniform(0.05, 0.4)) / edge + 0.5, 0, 1)[..., None] * (drawn - image)
        return
    if kind == 1:  # two or five lobes: neither a circle nor a triangle nor a cross
        outline = 0.7 * (1 + rng.uniform(0.4, 0.6) * np.cos(rng.choice([2, 5]) * (angle - turn)))
        cover = np.clip((outline - distance) / edge + 0.5, 0, 1)
    elif kind == 2:  # a bar, three times as long as wide or more
        cover = np.clip((np.minimum(1 - np.abs(along), rng.uniform(0.1, 0.3) - np.abs(across))) / edge + 0.5, 0, 1)
    elif kind == 3:  # a soft spot without an edge
        cover = rng.uniform(0.4, 1) * np.exp(-((along / 0.6) ** 2) - (across / rng.uniform(0.3, 0.6)) ** 2)
    else:  # a patch of colored noise
        cover = (distance < 1) * rng.uniform(0.3, 1, size=distance.shape)
        image += cover[..., None] * (rng.uniform(0, 255, size=image.shape) - image)
        return
    image += cover[..., None] * (rgb - image)


def ground(rng: np.random.Generator, size_px: int) -> np.ndarray:
    """A background: plain, off-color, a gradient, or noise of any grain (the last two seldom)."""
    base = _GROUNDS[int(rng.integers(len(_GROUNDS)))]
    kind = rng.choice(4, p=[0.55, 0.25, 0.12, 0.08])
    image = np.empty((size_px, size_px, 3), dtype=np.float32)
    image[:] = base
    if kind == 1:
        image[:] = np.clip(base + rng.uniform(-30, 30) + rng.uniform(-15, 15, size=3), 0, 255)
    elif kind == 2:
        slope = rng.uniform(-60, 60, size=(2, 3))
        axis = np.linspace(-0.5, 0.5, size_px)
        image += axis[:, None, None] * slope[0] + axis[None, :, None] * slope[1]
    elif kind == 3:
        grain = int(rng.choice([4, 8, size_px]))
        coarse = torch.from_numpy(rng.normal(0, rng.uniform(10, 40), size=(1, 3, grain, grain)).astype(np.float32))
        fine = functional.interpolate(coarse, size=(size_px, size_px), mode="bilinear", align_corners=False)
        image += fine[0].permute(1, 2, 0).numpy()
    return np.clip(image, 0, 255)


def static(rng: np.random.Generator, size_px: int) -> np.ndarray:
    """Strong noise of any grain: colored spots as large as objects, but without their edges."""
    grain = int(rng.choice([3, 4, 5, 6, 8, 12, size_px]))
    coarse = rng.normal(rng.uniform(0, 255), rng.uniform(20, 110), size=(1, 3, grain, grain)).astype(np.float32)
    mode = "bicubic" if rng.random() < 0.5 else "bilinear"
    fine = functional.interpolate(torch.from_numpy(coarse), size=(size_px, size_px), mode=mode, align_corners=False)
    return np.clip(fine[0].permute(1, 2, 0).numpy(), 0, 255)


def patchwork(rng: np.random.Generator, image: np.ndarray) -> np.ndarray:
    """Loose patches on a grid, flat or grainy, as a denoiser leaves that has not learned to join its patches.

    A patch is a sixth of the side or less, so a single one is smaller than the smallest square of the world.
    """
    size_px = image.shape[0]
    side = max(2, round(size_px / int(rng.choice([6, 6, 8]))))
    cells = -(-size_px // side)
    filled = rng.random((cells, cells)) < rng.choice([0.05, 0.15, 0.4, 0.9])
    hues = _PALETTE[rng.integers(len(_PALETTE), size=2)]
    colors = hues[rng.integers(2, size=(cells, cells))] + rng.normal(0, 35, size=(cells, cells, 3))
    opacity = filled * rng.uniform(0.3, 1, size=(cells, cells))
    cover = np.kron(opacity, np.ones((side, side)))[:size_px, :size_px, None]
    fill = np.kron(colors, np.ones((side, side, 1)))[:size_px, :size_px]
    fill = fill + rng.normal(0, rng.choice([3, 40]), size=image.shape)
    # Patches have no even coverage either: each is grainy in its own way.
    cover = cover * rng.uniform(rng.choice([0.4, 1.0]), 1, size=cover.shape)
    return np.clip(image + cover * (fill - image), 0, 255)


def degrade(rng: np.random.Generator, pixels: Tensor, clean: Tensor) -> Tensor:
    """Warp, blur, tint and noise, each on a share of the pictures that are not `clean`; what they show stays visible.

    pixels (N, 3, S, S) in [0, 1], clean (N,) bool.
    """
    count, _, size_px, _ = pixels.shape
    noise = torch.Generator().manual_seed(int(rng.integers(2**62)))

    def share(probability: float) -> Tensor:
        return ((torch.rand(count, generator=noise) < probability) & ~clean)[:, None, None, None]

    # A warp by a smooth field of up to about a 48th of the side: less than the box's tolerance.
    field = torch.randn(count, 2, 5, 5, generator=noise) * (0.45 / 24)
    field = functional.interpolate(field, size=(size_px, size_px), mode="bicubic", align_corners=True)
    straight = functional.affine_grid(torch.eye(2, 3).repeat(count, 1, 1), list(pixels.shape), align_corners=False)
    grid = straight + field.permute(0, 2, 3, 1)
    warped = functional.grid_sample(pixels, grid, padding_mode="border", align_corners=False)
    pixels = torch.where(share(0.4), warped, pixels)
    pixels = torch.where(share(0.4), blur(pixels, float(rng.uniform(0.3, PRESENT_BLUR)) * size_px / 24), pixels)
    tint = 1 + 0.06 * torch.randn(count, 3, 1, 1, generator=noise)
    shift = 0.03 * torch.randn(count, 3, 1, 1, generator=noise)
    pixels = torch.where(share(0.5), pixels * tint + shift, pixels)
    spread = 0.1 * torch.rand(count, 1, 1, 1, generator=noise)
    pixels = torch.where(share(0.5), pixels + spread * torch.randn(pixels.shape, generator=noise), pixels)
    return pixels.clamp(0, 1)


def drown(rng: np.random.Generator, pixels: Tensor, clean: Tensor) -> tuple[Tensor, Tensor]:
    """Smear some pictures and drown some in static: (pixels, (N,) bool of those whose objects are gone)."""
    count, _, size_px, _ = pixels.shape
    noise = torch.Generator().manual_seed(int(rng.integers(2**62)))
    smeared = (torch.rand(count, generator=noise) < 0.08) & ~clean
    static = (torch.rand(count, generator=noise) < 0.05) & ~clean & ~smeared
    smear = blur(pixels, float(rng.uniform(ABSENT_BLUR, 3.5)) * size_px / 24)
    level = 0.85 + 0.15 * torch.rand(count, 1, 1, 1, generator=noise)
    spread = 0.1 + torch.rand(count, 1, 1, 1, generator=noise)
    snow = (1 - level) * pixels + level * (0.5 + spread * torch.randn(pixels.shape, generator=noise))
    pixels = torch.where(smeared[:, None, None, None], smear, pixels)
    return torch.where(static[:, None, None, None], snow, pixels).clamp(0, 1), smeared | static


def blur(pixels: Tensor, sigma: float) -> Tensor:
    """Gaussian blur of (N, 3, S, S), `sigma` in pixels, the border's pixels repeated outside: one matrix a side."""
    size_px = pixels.shape[-1]
    reach = max(1, int(3 * sigma + 0.5))
    offsets = torch.arange(-reach, reach + 1)
    weights = torch.exp(-0.5 * (offsets / sigma) ** 2)
    sources = (torch.arange(size_px)[:, None] + offsets).clamp(0, size_px - 1)
    matrix = torch.zeros(size_px, size_px).scatter_add_(1, sources, (weights / weights.sum()).expand(size_px, -1))
    return matrix @ pixels @ matrix.T


def cells(targets: list[list[Target]]) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """What each cell should say: 1 in the cell of a center, ignored in those beside it, 0 elsewhere."""
    count = len(targets)
    objectness = np.zeros((count, GRID, GRID), dtype=np.float32)
    taught = np.zeros((count, GRID, GRID), dtype=bool)
    box = np.zeros((count, GRID, GRID, 4), dtype=np.float32)
    shape = np.zeros((count, GRID, GRID), dtype=np.int64)
    color = np.full((count, GRID, GRID), -1, dtype=np.int64)
    middles = np.arange(GRID) + 0.5
    for i, found in enumerate(targets):
        nearest = np.full((GRID, GRID), np.inf)
        for item in found:
            dx, dy = item.x * GRID - middles[None, :], item.y * GRID - middles[:, None]
            distance = np.hypot(dx, dy)
            near = (np.maximum(np.abs(dx), np.abs(dy)) < 1.25) & (distance < nearest)
            nearest = np.where(near, distance, nearest)
            objectness[i][near & (objectness[i] != 1)] = -1
            if item.present == 1:
                row, column = min(int(item.y * GRID), GRID - 1), min(int(item.x * GRID), GRID - 1)
                objectness[i, row, column] = 1
                taught[i][near] = True
                size = np.log(2 * GRID * np.array([item.half_width, item.half_height]))
                rows, columns = np.nonzero(near)
                box[i, rows, columns, 0], box[i, rows, columns, 1] = dx[0, columns], dy[rows, 0]
                box[i, rows, columns, 2:] = size
                shape[i][near] = item.shape
                color[i][near] = item.color
    arrays = (objectness, taught, box, shape, color)
    o, t, b, s, c = (torch.from_numpy(array) for array in arrays)
    return o, t, b, s, c
