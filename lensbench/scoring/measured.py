"""Which metrics an evaluation asks for, how many images each takes, and whether they can be had: told before training.

A metric is a word of `evaluation.metrics`: `geneval`, `validation_loss` (which is always measured), or a measure of
images of held-out captions, such as `clip_score:clip-l14`, `fid`, `prdc` or `fd:dinov2`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from lensbench.metrics import GENEVAL, MEASURES
from lensbench.scoring import metrics as registry
from lensbench.scoring.metrics import Wanted

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from lensbench.experiment import Experiment
    from lensbench.scoring.extractors import Extractor

LOSS = "validation_loss"
SHAPES = "shapes"  # the extractor that knows nothing but drawn shapes
SHAPES_DEFAULT = (GENEVAL, "shapes_alignment", "fd:shapes")  # of the shapes world, where an experiment names no metric


@dataclass(frozen=True)
class Asked:
    """What an evaluation measures: GenEval or not, and of images of held-out captions each metric with how many of
    those it takes."""

    geneval: bool
    images: dict[Wanted, int]

    @property
    def scores(self) -> dict[Wanted, int]:
        """The scores of single images."""
        return {metric: images for metric, images in self.images.items() if not metric.of_sets}

    @property
    def distances(self) -> dict[Wanted, int]:
        """The measures of two sets."""
        return {metric: images for metric, images in self.images.items() if metric.of_sets}

    @property
    def scene_images(self) -> int:
        """How many held-out captions are sampled in each form."""
        return max([0, *self.images.values()])

    @property
    def extractors(self) -> dict[str, int]:
        """The extractors of distances, and how many images each sees at most."""
        found: dict[str, int] = {}
        for metric, images in self.distances.items():
            found[metric.extractor] = max(images, found.get(metric.extractor, 0))
        return found


def words_of(experiment: Experiment) -> tuple[str, ...]:
    """The metrics of the experiment's evaluation: its own or, where it names none, the usual ones of its corpus."""
    if experiment.evaluation.metrics:
        return experiment.evaluation.metrics
    if experiment.corpus.kind == "shapes":
        return SHAPES_DEFAULT
    return (GENEVAL,) if experiment.evaluation.detector is not None else (LOSS,)


def asked(experiment: Experiment) -> Asked:
    """What the experiment's evaluation measures. Raises ValueError, one line, for a metric that there is not."""
    e, of_shapes = experiment.evaluation, experiment.corpus.kind == "shapes"
    words = words_of(experiment)
    if GENEVAL in words and not of_shapes and e.detector is None:
        raise ValueError("evaluation.metrics: geneval needs somebody who judges photographs: give evaluation.detector")
    found: dict[Wanted, int] = {}
    for word in words:
        if word in (GENEVAL, LOSS):
            if word in e.metric_images:
                number = "images_per_task" if word == GENEVAL else "validation_images"
                raise ValueError(
                    f"evaluation.metric_images: {word} takes no images of held-out captions: evaluation.{number} says "
                    "how many it takes"
                )
            continue
        (metric,) = registry.parse(word, "evaluation.metrics")
        if metric.extractor == SHAPES and not of_shapes:
            raise ValueError(
                f"evaluation.metrics: {word} is of the judge of drawn shapes: it says nothing of photographs"
            )
        found[metric] = e.metric_images.get(word, e.scene_images)
    if not e.metrics:  # what is measured by itself is left out where it would mean nothing
        found = {metric: images for metric, images in found.items() if _enough(metric, images)}
    return Asked(GENEVAL in words, found)


def left_out(experiments: Iterable[Experiment]) -> str:
    """The usual metrics of the corpus that are not measured and why, in words; "" where there are none."""
    words: dict[str, None] = {}
    for experiment in experiments:
        there = asked(experiment).images
        named = [word for word in words_of(experiment) if word not in (GENEVAL, LOSS)]
        words |= dict.fromkeys(word for word in named if not {*registry.parse(word)} & there.keys())
    if not words:
        return ""
    return f"{', '.join(words)}: evaluation.scene_images are too few for {'them' if len(words) > 1 else 'it'}"


DIMENSIONS = {"inception": 2048, SHAPES: 64}  # of extractors that are always alike: known before they are loaded


def _enough(metric: Wanted, images: int) -> bool:
    try:
        _refuse_few(metric, images, images)
    except ValueError:
        return False
    return True


def check_beforehand(experiment: Experiment) -> None:
    """Raise ValueError, one line, where weights that are given as a path are not there, or images are too few for a
    distance whose number of features is known. Nothing is loaded."""
    e, what = experiment.evaluation, asked(experiment)
    for metric, images in what.images.items():
        _refuse_few(metric, images, images)
    names = {metric.extractor for metric in what.images}
    if stray := sorted({*e.weights, *e.weights_digests} - registry.EXTRACTORS.keys()):
        raise ValueError(f"evaluation.weights: no extractor {stray[0]!r}; there are {', '.join(registry.EXTRACTORS)}")
    for name, path in e.weights.items():
        if name in names and ("/" in path or path.startswith(".")) and path.count("/") != 1 and not Path(path).exists():
            raise ValueError(f"evaluation.weights: {name}: nothing is at {path}")
    if "inception" in names:
        from lensbench.scoring.extractors import inception_missing

        given = e.weights.get("inception")
        if reason := inception_missing(Path(given) if given else None):
            raise ValueError(f"evaluation.metrics: {reason}")


def pinned(name: str, digest: str, digests: Mapping[str, str]) -> None:
    """Raise ValueError, one line, where an extractor has other weights than the evaluation says."""
    if digests.get(name, digest) != digest:
        raise ValueError(
            f"evaluation.weights_digests: {name} must be {digests[name][:12]}..., its weights are {digest[:12]}...; "
            "give the weights that the experiment was made with"
        )


def check_numbers(what: Asked, held_out: int, reference: int | None, extractors: Mapping[str, Extractor]) -> None:
    """Raise ValueError, one line, where a metric of so few images would mean nothing.

    `held_out` is how many held-out captions there are, `reference` how many real images: None for as many as sampled.
    """
    for metric, wanted in what.images.items():
        images = min(wanted, held_out)
        dimensions = extractors[metric.extractor].dimensions if metric.of_sets else None
        _refuse_few(metric, images, images if reference is None else reference, dimensions)


def _refuse_few(metric: Wanted, images: int, real: int | None, dimensions: int | None = None) -> None:
    """The number of `dimensions` is known of some extractors: of others, nothing is refused before they are opened."""
    dimensions = dimensions or DIMENSIONS.get(metric.extractor)
    if dimensions is None and MEASURES[metric.measure].check:
        return
    try:
        registry.check(MEASURES[metric.measure], images, real if metric.of_sets else None, dimensions or 0)
    except ValueError as error:
        more = "evaluation.scene_images or evaluation.metric_images say how many"
        raise ValueError(f"evaluation.metrics: {metric.known_as}: {error}; {more}") from None
