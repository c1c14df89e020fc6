"""A simulated sweep on photographs that nobody judged: images of held-out captions, a distance, and CLIP's cosines."""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from lensbench.sweep.sweep import Results
from tests.images import EVALUATION, keep_images

ARMS, SEEDS, FORMS = ("alt", "detailed"), (0, 1), ("short", "detailed")
SAMPLED, CAPTIONED, SCORED = 40, 32, 24  # images of a cell and form; with a caption in the outcomes; with a cosine
COSINE = "clip_cosine_vit_b32"
WORDS = "a wooden boat on a calm lake at dawn, mist over the far shore, photographed from a low jetty"


def caption(form: str, place: int) -> str:
    return f"{place}: {WORDS if form == 'detailed' else 'a boat on a lake'}"


def cosine(arm: str, seed: int, form: str, place: int) -> float:
    return 0.2 + 0.05 * ARMS.index(arm) + 0.01 * seed + 0.001 * place + 0.002 * FORMS.index(form)


def color_of(arm: str, seed: int, form: str, place: int) -> tuple[int, int, int]:
    """The color of an image, which no other has."""
    return (60 + 120 * ARMS.index(arm) + 30 * seed, 20 + 5 * place, 80 + 90 * FORMS.index(form))


def photographs(*, clip: bool = True, fid: bool = True) -> Results:
    """Two arms and two seeds; the cell of the last arm and seed failed."""
    records: list[dict[str, Any]] = []
    outcomes: list[dict[str, Any]] = []
    missing = []
    for arm, seed in product(ARMS, SEEDS):
        values = {"captions.set": arm, "seed": seed}
        cell = f"{arm}-{seed}"
        if (arm, seed) == (ARMS[-1], SEEDS[-1]):
            missing.append({"cell": cell, **values, "reason": "failed: the disk is full"})
            continue
        common = {"sweep": "photographs", **values, "cell": cell, "step": 100, "evaluation_hash": EVALUATION}
        for form in FORMS:
            told = {"prompt_form": form, "low": np.nan, "high": np.nan, "samples_seen": 3200, "train_flops": 1e12}
            if fid:
                records.append(common | told | {"metric": "fid", "value": 30.0 - 5 * ARMS.index(arm), "n": SAMPLED})
            cosines = [cosine(arm, seed, form, i) for i in range(SCORED)] if clip else []
            losses = [0.5 + 0.001 * i for i in range(CAPTIONED)]
            for name, found in ((COSINE, cosines), ("validation_loss", losses)):
                if found:
                    mean = {"metric": name, "value": float(np.mean(found)), "n": len(found)}
                    records.append(common | told | mean)
                outcomes += [
                    common
                    | {"metric": name, "prompt_form": form, "task": "scenes", "prompt_index": i, "sample": 0}
                    | {"prompt": caption(form, i), "value": value, "reason": ""}
                    for i, value in enumerate(found)
                ]
    factors: dict[str, list[Any]] = {"captions.set": [*ARMS], "seed": [*SEEDS]}
    frames = (pd.DataFrame(records), pd.DataFrame(outcomes))
    return Results("photographs", factors, {"captions.set": "alt"}, *frames, missing=missing, notes=[])


def keep_photographs(runs: Path, images: int = SAMPLED, side: int = 64) -> None:
    """Each cell's images as an evaluation leaves them, each of one color."""
    for arm, seed, form in product(ARMS, SEEDS, FORMS):
        if (arm, seed) == (ARMS[-1], SEEDS[-1]):
            continue
        pixels = np.zeros((images, side, side, 3), np.uint8)
        pixels[:] = np.array([color_of(arm, seed, form, i) for i in range(images)])[:, None, None]
        keep_images(runs, f"{arm}-{seed}", form, pixels, of="scenes")
