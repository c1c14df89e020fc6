"""Judged images as an evaluation keeps them, for tests of what reads them."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from lensbench.sampling.image_sets import ImageSet, sampled
from lensbench.sweep.cellfiles import EVALUATIONS

EVALUATION = "e" * 64  # the hash of the evaluation that simulated outcomes are of


def keep_images(
    runs: Path, cell: str, form: str, images: np.ndarray, evaluation: str = EVALUATION, of: str = "geneval"
) -> Path:
    """Keep a cell's images (N, S, S, 3) of one form, in the order of its outcomes; the folder they are in."""
    keys = [(i, 0) for i in range(len(images))]
    wanted = ImageSet(f"{of}-{form}", [""] * len(images), keys, images.shape[1], {"cell": cell, "form": form})
    folder = runs / cell / EVALUATIONS / evaluation[:12]
    for _ in sampled(wanted, folder, lambda texts, of: images[[key for key, _ in of]], lambda n: None):
        pass
    return folder / "images" / wanted.name
