"""Pictures in which there is nothing to find: what the judge's false positives are measured on, at any size.

The last kinds are what models leave that have not learned yet. A model that has not begun gives Gaussian noise, as its
last projection is zero. Later its patches show and are not joined: noise of another strength in each, one fragment
again and again, loose patches on a background.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from lensbench.data.shapes import render
from lensbench.scoring.judge_pictures import (
    ABSENT_BLUR,
    ABSENT_OPACITY,
    HELD_OUT,
    blur,
    ground,
    judge_scene,
    paint_distractor,
    patchwork,
)
from lensbench.streams import numpy_stream

PATCHES = (4, 8)  # patches a side, as the recipes on the shapes world have them


def empty_pictures(kind: str, size_px: int, count: int) -> torch.Tensor:
    """Held-out pictures of a kind of `NOTHING`: float (count, 3, size_px, size_px) in [0, 1]."""
    drawn = [NOTHING[kind](numpy_stream(0, f"{HELD_OUT}/{kind}", i), size_px) for i in range(count)]
    return (torch.from_numpy(np.stack(drawn)).permute(0, 3, 1, 2) / 255).float().clamp(0, 1)


def _plain(rng: np.random.Generator, size_px: int) -> np.ndarray:
    return ground(rng, size_px)


def _noise(rng: np.random.Generator, size_px: int) -> np.ndarray:
    return rng.normal(127, rng.uniform(20, 250), size=(size_px, size_px, 3))


def _coarse_noise(rng: np.random.Generator, size_px: int) -> np.ndarray:
    grain = torch.from_numpy(rng.normal(127, 80, size=(1, 3, 6, 6)))
    fine = torch.nn.functional.interpolate(grain, size=(size_px, size_px), mode="bicubic")
    return fine[0].permute(1, 2, 0).numpy()


def _ghosts(rng: np.random.Generator, size_px: int) -> np.ndarray:
    one = judge_scene(HELD_OUT, int(rng.integers(10**6)))
    image = render(one, size_px).astype(np.float64)
    return image[0, 0] + rng.uniform(0, ABSENT_OPACITY) * (image - image[0, 0])


def _smears(rng: np.random.Generator, size_px: int) -> np.ndarray:
    drawn = render(judge_scene(HELD_OUT, int(rng.integers(10**6))), size_px)
    image = torch.from_numpy(drawn).permute(2, 0, 1)[None] / 255
    smeared = blur(image, float(rng.uniform(ABSENT_BLUR, 4)) * size_px / 24)
    return smeared[0].permute(1, 2, 0).double().numpy() * 255


def _parts(rng: np.random.Generator, size_px: int) -> np.ndarray:
    image = ground(rng, size_px)
    for x, y in rng.permutation([(0.27, 0.27), (0.73, 0.27), (0.27, 0.73), (0.73, 0.73)])[: int(rng.integers(1, 4))]:
        paint_distractor(rng, image, float(x), float(y), float(rng.uniform(0.13, 0.2)))
    return image


def _loose_patches(rng: np.random.Generator, size_px: int) -> np.ndarray:
    return patchwork(rng, ground(rng, size_px))


def _patch_noise(rng: np.random.Generator, size_px: int) -> np.ndarray:
    """A background under noise that knows the patches: each has its own tint and strength, all have one pattern."""
    cells = int(rng.choice(PATCHES))
    image = ground(rng, size_px).astype(np.float64)
    strength = rng.uniform(5, 60) * _tiled(rng.uniform(0.3, 1.7, size=(cells, cells, 1)), size_px)
    image += _tiled(rng.normal(0, rng.uniform(2, 20), size=(cells, cells, 3)), size_px)
    side = -(-size_px // cells)
    pattern = np.tile(rng.normal(size=(side, side, 3)), (cells, cells, 1))[:size_px, :size_px]
    return image + strength * (rng.normal(size=image.shape) + rng.uniform(0, 1) * pattern)


def _repeated_fragments(rng: np.random.Generator, size_px: int) -> np.ndarray:
    """One patch of a scene in every patch, with noise of its own; an object never fits whole in one."""
    cells = int(rng.choice(PATCHES))
    image = render(judge_scene(HELD_OUT, int(rng.integers(10**6))), size_px).astype(np.float64)
    side = size_px // cells
    patches = image[: side * cells, : side * cells].reshape(cells, side, cells, side, 3).swapaxes(1, 2)
    patches = patches.reshape(-1, side, side, 3)
    # the most colorful of some, so that it is seldom plain ground
    some = patches[rng.integers(len(patches), size=4)]
    fragment = some[np.argmax(some.std(axis=(1, 2)).sum(axis=1))]
    image[: side * cells, : side * cells] = np.tile(fragment, (cells, cells, 1))
    return image + rng.normal(0, rng.choice([3.0, 25.0]), size=image.shape)


def _tiled(colors: np.ndarray, size_px: int) -> np.ndarray:
    """(C, C, 3) colors as an image (size_px, size_px, 3) of C x C patches."""
    places = np.arange(size_px) * len(colors) // size_px
    tiled: np.ndarray = colors[places][:, places]
    return tiled


# kind -> a picture of float64 (size_px, size_px, 3), of about 0 to 255
NOTHING: dict[str, Callable[[np.random.Generator, int], np.ndarray]] = {
    "backgrounds": _plain,
    "Gaussian noise": _noise,
    "coarse noise": _coarse_noise,
    "ghosts of at most 25 %": _ghosts,
    "smears": _smears,
    "half shapes, blobs, bars, spots": _parts,
    "loose patches": _loose_patches,
    "patch-grid noise": _patch_noise,
    "repeated fragments": _repeated_fragments,
}
