"""Who measures an evaluation: judges, extractors and image-text scorers, opened and tried before anything trains."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lensbench.experiment import Evaluation
from lensbench.scoring.clip_score import ClipScorer
from lensbench.scoring.detecting import open_detector
from lensbench.scoring.detectors import ShapesJudge
from lensbench.scoring.evaluation_plan import Plan
from lensbench.scoring.extractors import Extractor
from lensbench.scoring.geneval_folder import Judge
from lensbench.scoring.measured import check_beforehand, check_numbers, pinned
from lensbench.scoring.metrics import EXTRACTORS, MEASURES, open_extractor
from lensbench.scoring.real_images import RealImages, open_real_images

AT_A_TIME = 32  # images that a CLIP sees


@dataclass(frozen=True)
class Instruments:
    """The shapes judge where images are of its world, GenEval's judge where GenEval is asked, and the rest by name."""

    judge: ShapesJudge | None
    sees: Judge | None
    extractors: dict[str, Extractor]
    image_text: dict[str, ClipScorer]
    real: RealImages

    @property
    def judge_digest(self) -> str:
        """sha256 of the weights of who judges; empty where nobody does."""
        judge = self.sees or self.judge
        return judge.digest if judge is not None else ""

    def cosines(self, name: str, images: np.ndarray, texts: Sequence[str]) -> np.ndarray:
        """The cosine (n,) of each image uint8 (n, H, W, 3) and its text, by the CLIP of this name."""
        scorer, found = self.image_text[name], [np.zeros(0)]
        for start in range(0, len(images), AT_A_TIME):
            prepared = [scorer.prepare(image) for image in images[start : start + AT_A_TIME]]
            found.append(scorer.cosines(prepared, texts[start : start + AT_A_TIME]))
        return np.concatenate(found)


def open_instruments(plan: Plan, device: str) -> Instruments:
    """All that the plan's evaluation measures with.

    Raises ValueError, one line, for weights that are not there or other ones than the experiment says, a judge that
    fails its self-test, real images of another size or too few of them, and statistics of another extractor.
    """
    e, asked = plan.experiment.evaluation, plan.asked
    check_beforehand(plan.experiment)
    judge = ShapesJudge.load() if plan.of_shapes else None
    if judge is not None:
        judge.self_test()
    sees: Judge | None = judge
    if not plan.of_shapes and asked.geneval:
        sees = open_detector(e, device)
        sees.self_test()
    extractors = {name: open_extractor(name, e.weights, device, "clean") for name in asked.extractors}
    image_text = {metric.extractor: _clip(e, metric.extractor, device) for metric in asked.image_text}
    for name, extractor in extractors.items():
        pinned(name, extractor.digest, e.weights_digests)
    for name, scorer in image_text.items():
        pinned(name, scorer.digest, e.weights_digests)
    real = open_real_images(e, plan.corpus, plan.keys[: plan.scene_images])
    for metric in asked.distances:
        real.check(extractors[metric.extractor], MEASURES[metric.measure].rows[1], ":".join(metric))
    reference = None if e.reference is None else real.count(plan.scene_images)
    check_numbers(asked, len(plan.keys), reference, extractors)
    return Instruments(judge, sees, extractors, image_text, real)


def _clip(evaluation: Evaluation, name: str, device: str) -> ClipScorer:
    return ClipScorer(evaluation.weights.get(name, EXTRACTORS[name].weights), f"evaluation.weights: {name}", device)
