"""The shapes judge: finds the objects of a picture, names their colors, and says how well a caption fits.

The weights are trained by this project (`lensbench judge train`) and shipped beside this file with their measured
error (`shapes_judge.md`). Distances on the judge's features are called FD-shapes and its cosine shapes-alignment: they
are not FID and not CLIPScore, and numbers made with other weights (`digest`) are not comparable.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, Self

import numpy as np
import torch
from torch import Tensor

from lensbench.data.scenes import COLORS, PLACES, SHAPES, Object, Scene
from lensbench.scoring.judge_alignment import Alignment, late_interaction
from lensbench.scoring.judge_network import GRID, Detector, to_canvas

WEIGHTS = Path(__file__).with_name("shapes_judge.safetensors")
LOWEST_SCORE = 0.05  # GenEval keeps scores above 0.3, or 0.9: what is far below both is not reported
_OVERLAP = 0.4  # two predictions that share more than this (intersection over union) are one object
_BATCH = 256

Box = tuple[float, float, float, float, float]


class Judged(NamedTuple):
    """What the judge sees in one picture.

    `detections` holds for each class found the boxes (x1, y1, x2, y2, score) in pixels of the given picture, best score
    first; `colors` the color of each, in the same order. An object is reported once, under its likeliest class; its
    score is the probability of an object times that of the class.
    """

    detections: dict[str, list[Box]]
    colors: dict[str, list[str]]

    def color(self, name: str, index: int) -> str:
        """The color of detection `index` of a class."""
        return self.colors[name][index]


class ShapesJudge:
    """Detector, feature extractor and image-text alignment for the shapes world."""

    name = "shapes judge"

    def __init__(self, detector: Detector, towers: Alignment, digest: str) -> None:
        self.detector = detector.eval().requires_grad_(False)
        self.towers = towers.eval().requires_grad_(False)
        self.digest = digest

    @classmethod
    def load(cls, path: Path | None = None) -> Self:
        """Load the shipped weights, or those at `path`. Raises ValueError when the file is missing or does not fit."""
        from safetensors.torch import load

        path = WEIGHTS if path is None else path
        if not path.is_file():
            raise ValueError(f"no judge weights at {path}: train them with `lensbench judge train`")
        data = path.read_bytes()
        detector = Detector()
        try:
            weights = load(data)
            towers = Alignment(bytes(weights.pop("vocabulary").tolist()).decode().split(" "))
            detector.load_state_dict(_part(weights, "detector."))
            towers.load_state_dict(_part(weights, "alignment."))
        except Exception as error:
            raise ValueError(f"{path} holds no weights of this judge: {str(error).splitlines()[0]}") from None
        return cls(detector, towers, hashlib.sha256(data).hexdigest())

    @torch.inference_mode()
    def judge(self, images: Tensor) -> list[Judged]:
        """Find the objects of images (N, 3, S, S), floats in [0, 1]. Raises ValueError for any other values."""
        check_images(images)
        found: list[Judged] = []
        for chunk in images.split(_BATCH):
            predictions, _ = self.detector(to_canvas(chunk.float()))
            found += decode(predictions, images.shape[-1])
        return found

    def look(self, images: Sequence[np.ndarray]) -> list[Judged]:
        """As `judge`, of pictures uint8 (S, S, 3) of any sizes. Raises ValueError for one that is no square."""
        found: dict[int, Judged] = {}
        for shape in dict.fromkeys(image.shape for image in images):
            places = [i for i, image in enumerate(images) if image.shape == shape]
            pixels = torch.from_numpy(np.stack([images[i] for i in places])).permute(0, 3, 1, 2) / 255
            found |= dict(zip(places, self.judge(pixels), strict=True))
        return [found[i] for i in range(len(images))]

    @torch.inference_mode()
    def features(self, images: Tensor) -> np.ndarray:
        """The mean of the detector's last map: float64 (N, 64), for FD-shapes."""
        check_images(images)
        maps = [self.detector(to_canvas(chunk.float()))[1].mean(dim=(2, 3)) for chunk in images.split(_BATCH)]
        return torch.cat(maps).double().numpy()

    @torch.inference_mode()
    def alignment(self, images: Tensor, texts: list[str]) -> np.ndarray:
        """How well each text fits its picture: float64 (N,), a mean of cosines in [-1, 1].

        Trained to be the share of the text's claims that the picture bears out: about 1 for a true caption. What a text
        leaves out costs nothing. Raises ValueError when there are not as many texts as images.
        """
        check_images(images)
        if len(texts) != len(images):
            raise ValueError(f"alignment needs one text an image, got {len(texts)} texts for {len(images)} images")
        scores = [np.zeros(0)]
        for start in range(0, len(texts), _BATCH):
            canvas = to_canvas(images[start : start + _BATCH].float())
            parts, there = self.towers.embed_parts(canvas, self.detector(canvas)[0])
            words, weights = self.towers.embed_words(self.towers.tokens(texts[start : start + _BATCH]))
            # One text and one picture a group.
            pairs = late_interaction(words[:, None], weights[:, None], parts[:, None], there[:, None])
            scores.append(pairs[:, 0, 0].double().numpy())
        return np.concatenate(scores)

    def self_test(self) -> None:
        """Judge a known picture and an empty one. Raises ValueError when the answer is wrong: then no score is worth
        anything, and a broken detector would otherwise show only as scores that are too low."""
        from lensbench.data.shapes import render

        named = zip(PLACES, ("circle", "square", "triangle", "ring"), ("red", "green", "blue", "yellow"), strict=True)
        objects = tuple(Object(shape, color, "large", place, *PLACES[place]) for place, shape, color in named)
        pictures = [render(Scene(objects, "black"), 24), render(Scene((), "black"), 24)]
        full, empty = self.judge(torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2) / 255)
        seen = {(name, color) for name in full.colors for color in full.colors[name]}
        scores = [box[-1] for group in full.detections.values() for box in group]
        if seen != {(o.shape, o.color) for o in objects} or len(scores) != 4 or min(scores) < 0.9 or empty.detections:
            raise ValueError(
                f"the judge did not find the objects of its self-test picture (found {sorted(seen)}, scores "
                f"{[round(score, 2) for score in scores]}): its weights or this machine's torch are broken; no scores"
            )


def check_images(images: Tensor) -> None:
    """Raise ValueError unless images are floats (N, 3, S, S) in [0, 1]: uint8 pixels would be judged as pure white."""
    if images.ndim != 4 or images.shape[1] != 3 or images.shape[2] != images.shape[3]:
        raise ValueError(f"images must have shape (N, 3, S, S), got {tuple(images.shape)}")
    if not images.is_floating_point():
        raise ValueError(f"images must be floats in [0, 1], got {images.dtype}: divide uint8 pixels by 255")
    if images.numel() and not (images.amin() >= 0 and images.amax() <= 1):
        low, high = images.amin().item(), images.amax().item()
        raise ValueError(f"images must lie in [0, 1], got {low:.3g} to {high:.3g}: clip the samples first")


def decode(predictions: Tensor, size_px: int) -> list[Judged]:
    """Predictions (N, 8, 8, 18) of the detector -> objects, in pixels of a picture of side `size_px`."""
    shapes, colors = len(SHAPES), len(COLORS)
    probability = predictions[..., 0].sigmoid()
    likeliest = predictions[..., 5 : 5 + shapes].softmax(-1).max(-1)
    score = probability * likeliest.values
    middles = torch.arange(GRID) + 0.5
    x, y = middles[None, None, :] + predictions[..., 1], middles[None, :, None] + predictions[..., 2]
    half_w, half_h = predictions[..., 3].exp() / 2, predictions[..., 4].exp() / 2
    corners = torch.stack([x - half_w, y - half_h, x + half_w, y + half_h], -1).clamp(0, GRID) * (size_px / GRID)
    color = predictions[..., 5 + shapes : 5 + shapes + colors].argmax(-1)
    rows = np.concatenate(
        [corners.numpy(), score[..., None].numpy(), likeliest.indices[..., None].numpy(), color[..., None].numpy()], -1
    ).reshape(len(predictions), GRID * GRID, 7)
    return [_objects(cells[cells[:, 4] > LOWEST_SCORE]) for cells in rows]


def overlap(a: np.ndarray | Box, b: np.ndarray | Box) -> float:
    """Intersection over union of two boxes (x1, y1, x2, y2, ...)."""
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    shared = width * height
    return float(shared / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared))


def _objects(cells: np.ndarray) -> Judged:
    """Cells (K, 7) of one picture -> objects, one for each group of cells that claim the same box."""
    kept: list[np.ndarray] = []
    for cell in cells[np.argsort(-cells[:, 4], kind="stable")]:
        if all(overlap(cell, other) < _OVERLAP for other in kept):
            kept.append(cell)
    judged = Judged({}, {})
    for x1, y1, x2, y2, score, shape, color in (cell.tolist() for cell in kept):
        name = SHAPES[int(shape)]
        judged.detections.setdefault(name, []).append((x1, y1, x2, y2, score))
        judged.colors.setdefault(name, []).append(tuple(COLORS)[int(color)])
    return judged


def _part(weights: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in weights.items() if name.startswith(prefix)}
