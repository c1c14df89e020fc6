"""Scores of single images, each with its text: who gives them, and what becomes of them.

An entry of lensbench.metrics that names a function of (images, texts) is scored by a `Plain`. One that needs a network
opens a scorer of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lensbench.metrics import MEASURES, Metric
from lensbench.scoring.extractors import one_size
from lensbench.scoring.metrics import EXTRACTORS, Wanted, resolve
from lensbench.scoring.statistics import Interval, stratified_mean

if TYPE_CHECKING:
    from lensbench.scoring.detectors import ShapesJudge

DIGITS = 12  # of a digest


class Opening(NamedTuple):
    """What a network is opened with: its weights, the option that names them in errors, a device, and what stands
    before every text."""

    weights: str
    argument: str
    device: str
    prefix: str = ""


class Number(NamedTuple):
    """A metric of a set of images: each image's value (N,), and their mean with an interval over prompts."""

    metric: Metric
    values: NDArray[np.float64]
    mean: Interval


class Scorer:
    """Gives every image one value. What it is called, what it is of and what it says are for a scorer to say.

    `name` and `digest` identify its network, both "" where it has none, `resize` is what is done to images before it.
    It sees `batch` images at a time. `by_text`: images of one text are of one prompt; else each is of its own.
    `own_words`: it knows the words of captions alone, and is given others in those (`Plan.aligned_with`).
    """

    name, digest, resize = "", "", ""
    batch, by_text, own_words = 32, False, False

    def __init__(self, metric: Metric) -> None:
        self.metric = metric

    def prepare(self, image: np.ndarray) -> np.ndarray:
        """One image uint8 (H, W, 3) as `score` takes it. Called from several threads."""
        return image

    def score(self, prepared: Sequence[np.ndarray], texts: Sequence[str]) -> NDArray[np.float64]:
        """The value (n,) of each prepared image and its text."""
        raise NotImplementedError

    def numbers(self, found: NDArray[np.float64], prompts: Sequence[object]) -> list[Number]:
        """What is recorded of values (N,); images with equal `prompts` are resampled together."""
        return [Number(self.metric, found, over_prompts(found, prompts))]

    def details(self, texts: Sequence[str]) -> dict[str, Any]:
        """What else there is to say of these texts' scores."""
        return {}

    def protocol(self, texts: Sequence[str]) -> dict[str, Any]:
        """What must be known to compare the scores, beside how the images were sampled."""
        return {}

    def each(self, found: NDArray[np.float64], texts: Sequence[str]) -> list[dict[str, Any]]:
        """What `lensbench score --out` writes of every image."""
        return [{"value": float(value)} for value in found]

    def doubts(self, texts: Sequence[str]) -> list[str]:
        """What makes the scores doubtful."""
        return []


class Plain(Scorer):
    """A function of images uint8 (n, H, W, 3) of one size and their texts, that gives (n,)."""

    def __init__(self, metric: Metric, function: Callable[[np.ndarray, Sequence[str]], Any]) -> None:
        super().__init__(metric)
        self._function = function

    def score(self, prepared: Sequence[np.ndarray], texts: Sequence[str]) -> NDArray[np.float64]:
        """Raises ValueError for images of several sizes, and a function that does not give a finite number an image."""
        found = np.asarray(self._function(one_size(prepared, self.metric.name), texts), dtype=np.float64)
        if found.shape != (len(prepared),) or not np.isfinite(found).all():
            raise ValueError(
                f"{self.metric.name}: {len(prepared)} images gave values of shape {found.shape}; one finite number an "
                "image is needed"
            )
        return found


class Shapes(Scorer):
    """How well the judge of drawn shapes finds that texts fit their images."""

    batch, own_words = 256, True  # the judge's own batches

    def __init__(self, metric: Metric, judge: ShapesJudge) -> None:
        super().__init__(metric)
        self._judge, self.name, self.digest = judge, judge.name, judge.digest

    def score(self, prepared: Sequence[np.ndarray], texts: Sequence[str]) -> NDArray[np.float64]:
        """Raises ValueError for images of several sizes, and for any that is no square."""
        import torch

        images = one_size(prepared, self.name)
        if images.shape[1] != images.shape[2]:
            raise ValueError(f"the shapes judge looks at squares, not at {images.shape[2]}x{images.shape[1]} pixels")
        pixels = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255
        found: NDArray[np.float64] = self._judge.alignment(pixels, list(texts))
        return found

    def protocol(self, texts: Sequence[str]) -> dict[str, Any]:
        """Who judged."""
        return {"judge": self.name, "weights": self.digest[:DIGITS]}


def open_shapes(opening: Opening) -> Shapes:
    """The scorer of shapes-alignment. ValueError where the judge's weights are not there."""
    from pathlib import Path

    from lensbench.scoring.detectors import ShapesJudge

    number = MEASURES["shapes_alignment"].numbers["shapes_alignment"]
    assert isinstance(number, Metric)
    return Shapes(number, ShapesJudge.load(Path(opening.weights) if opening.weights else None))


def open_scorer(wanted: Wanted, weights: Mapping[str, str], argument: str, device: str, prefix: str = "") -> Scorer:
    """Who gives the scores that are asked for, with the weights given for its extractor or its own.

    `argument` names the option that gives them. Raises ValueError, one line, when they cannot be had.
    """
    measure = MEASURES[wanted.measure]
    if measure.opens:
        path = weights.get(wanted.extractor, EXTRACTORS[wanted.extractor].weights)
        found: Scorer = resolve(measure.opens)(Opening(path, f"{argument} {wanted.extractor}", device, prefix))
        return found
    (number,) = measure.numbers.values()
    assert isinstance(number, Metric), f"{measure.name}: on no extractor, so its number has one name"
    return Plain(number, resolve(measure.by))


def scored(scorer: Scorer, images: Sequence[np.ndarray], texts: Sequence[str]) -> NDArray[np.float64]:
    """The value (n,) of each image uint8 (H, W, 3) and its text, a batch at a time."""
    found = [np.zeros(0)]
    for start in range(0, len(images), scorer.batch):
        prepared = [scorer.prepare(image) for image in images[start : start + scorer.batch]]
        found.append(scorer.score(prepared, texts[start : start + scorer.batch]))
    return np.concatenate(found)


def over_prompts(values: NDArray[np.float64], prompts: Sequence[object]) -> Interval:
    """The mean of values (N,) with a 95 % interval over prompts, whose images are a cluster."""
    places: dict[object, int] = {}
    clusters = np.array([places.setdefault(prompt, len(places)) for prompt in prompts], dtype=int)
    return stratified_mean(values, clusters, np.zeros(len(values), dtype=int))
