"""Feature extractors whose weights lensbench cannot ship: what to put where, and how features are taken."""

from __future__ import annotations

import functools
import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np

INCEPTION_FILE = "inception-2015-12-05.pt"
INCEPTION_URL = f"https://nvlabs-fi-cdn.nvidia.com/stylegan2-ada-pytorch/pretrained/metrics/{INCEPTION_FILE}"
INCEPTION_SIDE_PX = 299
INCEPTION_FEATURES = 2048


def cache_folder() -> Path:
    """Where weights are looked for: $LENSBENCH_CACHE, else ~/.cache/lensbench."""
    return Path(os.environ.get("LENSBENCH_CACHE") or Path.home() / ".cache" / "lensbench")


class Inception:
    """Inception-v3 (2015-12-05): the features that FID is defined on. Call it on images.

    `digest` is the sha256 of the weights and `resize` the resize in words; store both with every number, for
    libraries differ in the resize and their FIDs do not agree (clean-fid: Parmar et al. 2022, arXiv 2104.11222).
    """

    resize = "clean-fid 299 bicubic antialias float"

    def __init__(self, path: Path, batch: int = 32) -> None:
        import torch

        self.digest = hashlib.sha256(path.read_bytes()).hexdigest()
        self.batch = batch
        try:
            self._layers = torch.jit.load(str(path), map_location="cpu").eval().layers
        except (RuntimeError, AttributeError) as error:
            raise ValueError(f"{path} is not the TorchScript Inception; take {INCEPTION_URL}") from error

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """Features float64 (N, 2048) of images uint8 (N, H, W, 3), sRGB.

        Raises ValueError for another shape or type: floats that are cast on the way would wrap around silently.
        """
        import torch

        if images.ndim != 4 or images.shape[-1] != 3 or images.dtype != np.uint8:
            raise ValueError(f"images are {images.dtype} {images.shape}; Inception takes uint8 (N, H, W, 3)")
        resize = _clean_resize()
        features = np.empty((len(images), INCEPTION_FEATURES))
        for start in range(0, len(images), self.batch):
            resized = np.stack([resize(image) for image in images[start : start + self.batch]])
            pixels = torch.from_numpy(resized).permute(0, 3, 1, 2)  # float32 (B, 3, 299, 299) in [0, 255]
            with torch.inference_mode():
                found = self._layers.forward((pixels - 128) / 128)
            features[start : start + len(resized)] = found.reshape(len(resized), INCEPTION_FEATURES).double().numpy()
        return features


def inception(path: Path | None = None) -> Inception:
    """The FID extractor from `path`, else from the cache folder; ValueError saying what to put where if absent."""
    if reason := _inception_missing(path):
        raise ValueError(reason)
    return Inception(path or cache_folder() / INCEPTION_FILE)


@functools.cache
def inception_if_present() -> Inception | None:
    """The FID extractor, read once a process, where its weights are in the cache folder."""
    return None if _inception_missing(None) else inception()


def not_scored() -> list[str]:
    """What is not scored on photographs here and what to do about it, one sentence each."""
    inception_missing = _inception_missing(None)
    return [
        *([inception_missing] if inception_missing else []),
        "GenEval on photographs needs a COCO detector, which this version does not run; "
        "detect elsewhere and pass the detections to lensbench.scoring.geneval.verdict.",
        "CLIPScore is not computed in this version; score the saved pictures with a CLIP of your choice.",
    ]


def _inception_missing(path: Path | None) -> str:
    wanted = path or cache_folder() / INCEPTION_FILE
    return "" if wanted.is_file() else f"FID needs the Inception weights: put {INCEPTION_URL} at {wanted}."


def _clean_resize() -> Callable[[np.ndarray], np.ndarray]:
    """clean-fid's resize of one image: uint8 (H, W, 3) to float32 (299, 299, 3) in [0, 255], never re-quantized."""
    try:
        from cleanfid.resize import make_resizer
    except ImportError:
        raise ValueError("FID needs clean-fid's resize: pip install --no-deps clean-fid") from None
    return make_resizer("PIL", False, "bicubic", (INCEPTION_SIDE_PX, INCEPTION_SIDE_PX))
