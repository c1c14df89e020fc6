"""Which metrics an evaluation asks for, how many images each takes, and whether they can be had: told before training.

A metric is a word of `evaluation.metrics`: `geneval`, `shapes_alignment`, `validation_loss` (which is always
measured), an image-text score such as `clip_score:clip-l14`, or a distance such as `fid`, `prdc` or `fd:dinov2`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from lensbench.scoring import metrics as registry
from lensbench.scoring.metrics import CLIP_SCORE, MEASURES, Wanted

if TYPE_CHECKING:
    from collections.abc import Mapping

    from lensbench.experiment import Experiment
    from lensbench.scoring.extractors import Extractor

GENEVAL, ALIGNMENT, LOSS = "geneval", "shapes_alignment", "validation_loss"
SHAPES_DEFAULT = (GENEVAL, ALIGNMENT, "fd:shapes")  # of the shapes world, where an experiment names no metric
SHAPES_ONLY = ("shapes_alignment", "fd:shapes", "fd_shapes")


@dataclass(frozen=True)
class Asked:
    """What an evaluation measures: each distance and image-text score with how many images it takes."""

    geneval: bool
    alignment: int  # images of held-out captions whose alignment is measured; 0 for none
    distances: dict[Wanted, int]
    image_text: dict[Wanted, int]

    @property
    def scene_images(self) -> int:
        """How many held-out captions are sampled in each form."""
        return max([self.alignment, *self.distances.values(), *self.image_text.values()])

    @property
    def extractors(self) -> dict[str, dict[int, bool]]:
        """Extractor -> how many images it sees, and whether features of sampled or real images are needed in full."""
        found: dict[str, dict[int, bool]] = {}
        for metric, images in self.distances.items():
            of_images = found.setdefault(metric.extractor, {})
            of_images[images] = of_images.get(images, False) or any(MEASURES[metric.measure].rows)
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
    judged = of_shapes or e.detector is not None
    words = words_of(experiment)
    alignment, distances, image_text = 0, dict[Wanted, int](), dict[Wanted, int]()
    for word in words:
        images = e.metric_images.get(word, e.scene_images)
        if word in SHAPES_ONLY and not of_shapes:
            raise ValueError(
                f"evaluation.metrics: {word} is of the judge of drawn shapes: it says nothing of photographs"
            )
        if word == GENEVAL and not judged:
            raise ValueError(
                "evaluation.metrics: geneval needs somebody who judges photographs: give evaluation.detector"
            )
        if word == ALIGNMENT:
            alignment = images
        elif word not in (GENEVAL, LOSS):
            (metric,) = registry.parse(word, "evaluation.metrics")
            (image_text if metric.measure == CLIP_SCORE else distances)[metric] = images
    if not e.metrics:  # what is measured by itself is left out where it would mean nothing
        distances = {metric: n for metric, n in distances.items() if _enough(metric, n)}
    return Asked(GENEVAL in words, alignment, distances, image_text)


def left_out(experiment: Experiment) -> list[str]:
    """The usual metrics of the corpus that are not measured, because the evaluation's images are too few for them."""
    what = asked(experiment)
    named = [word for word in words_of(experiment) if word not in (GENEVAL, ALIGNMENT, LOSS)]
    return [word for word in named if not {*registry.parse(word)} & {*what.distances, *what.image_text}]


def _enough(metric: Wanted, images: int) -> bool:
    from lensbench.scoring.judge_network import FEATURES

    try:
        MEASURES[metric.measure].check(images, images, FEATURES)
    except ValueError:
        return False
    return True


DIMENSIONS = {"inception": 2048, "shapes": 64}  # of extractors that are always alike: known before they are loaded


def check_beforehand(experiment: Experiment) -> None:
    """Raise ValueError, one line, where weights that are given as a path are not there, or images are too few for a
    distance whose number of features is known. Nothing is loaded."""
    e, what = experiment.evaluation, asked(experiment)
    for metric, images in what.distances.items():
        if metric.extractor in DIMENSIONS:
            _refuse_few(metric, images, images, DIMENSIONS[metric.extractor])
    names = {metric.extractor for metric in (*what.distances, *what.image_text)}
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
    """Raise ValueError, one line, where a distance of so few images would mean nothing.

    `held_out` is how many held-out captions there are, `reference` how many real images: None for as many as sampled.
    """
    for metric, wanted in what.distances.items():
        images = min(wanted, held_out)
        real = images if reference is None else reference
        _refuse_few(metric, images, real, extractors[metric.extractor].dimensions)


def _refuse_few(metric: Wanted, images: int, real: int | None, dimensions: int) -> None:
    try:
        MEASURES[metric.measure].check(images, real, dimensions)
    except ValueError as error:
        word = next((word for word, wanted in registry.PUBLISHED.items() if wanted == metric), ":".join(metric))
        more = "evaluation.scene_images or evaluation.metric_images say how many"
        raise ValueError(f"evaluation.metrics: {word}: {error}; {more}") from None
