"""Who measures an evaluation: judges, extractors and image-text scorers, opened and tried before anything trains."""

from __future__ import annotations

from dataclasses import dataclass

from lensbench.metrics import MEASURES
from lensbench.scoring.detecting import open_detector
from lensbench.scoring.detectors import ShapesJudge
from lensbench.scoring.evaluation_plan import Plan
from lensbench.scoring.extractors import Extractor
from lensbench.scoring.geneval_folder import Judge
from lensbench.scoring.image_scores import Scorer, open_scorer
from lensbench.scoring.measured import check_beforehand, check_numbers, pinned
from lensbench.scoring.metrics import Wanted, open_extractor
from lensbench.scoring.real_images import RealImages, open_real_images


@dataclass(frozen=True)
class Instruments:
    """The shapes judge where images are of its world, GenEval's judge where GenEval is asked, and the rest by name."""

    judge: ShapesJudge | None
    sees: Judge | None
    extractors: dict[str, Extractor]
    scorers: dict[Wanted, Scorer]
    real: RealImages

    @property
    def judge_digest(self) -> str:
        """sha256 of the weights of who judges; empty where nobody does."""
        judge = self.sees or self.judge
        return judge.digest if judge is not None else ""


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
    scorers = {metric: open_scorer(metric, e.weights, "evaluation.weights:", device) for metric in asked.scores}
    for name, extractor in extractors.items():
        pinned(name, extractor.digest, e.weights_digests)
    for metric, scorer in scorers.items():
        pinned(metric.extractor, scorer.digest, e.weights_digests)
    real = open_real_images(e, plan.corpus, plan.keys[: plan.scene_images])
    for metric in asked.distances:
        real.check(extractors[metric.extractor], MEASURES[metric.measure].rows[1], metric.word)
    reference = None if e.reference is None else real.count(plan.scene_images)
    check_numbers(asked, len(plan.keys), reference, extractors)
    return Instruments(judge, sees, extractors, scorers, real)
