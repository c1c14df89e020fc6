"""Score one checkpoint: sample the evaluation's images, look at each once, reduce to numbers with intervals.

Everything here is the same for every arm: prompts, noise and real images depend on the evaluation and the corpus,
never on the captions a model was trained on.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from lensbench.data.features import TextFeatures
from lensbench.data.latents import Latents
from lensbench.experiment import Form
from lensbench.metrics import CHOOSING, GUIDED, MEASURES
from lensbench.model.autoencoder import Autoencoder
from lensbench.model.transformer import LensTransformer
from lensbench.sampling.image_sets import FEATURES, IMAGES, ImageSet, Key, sampled
from lensbench.scoring import chance
from lensbench.scoring.evaluation_plan import READ_AS, Plan
from lensbench.scoring.feature_file import FeatureWriter, file_of, set_features
from lensbench.scoring.generate import FirstSteps, generate, sampling_noise
from lensbench.scoring.geneval import summary, verdict
from lensbench.scoring.geneval_folder import Judge, Seen
from lensbench.scoring.image_scores import Scorer, scored
from lensbench.scoring.instruments import Instruments
from lensbench.scoring.metrics import Wanted, check
from lensbench.scoring.protocol import of_distance, of_judge, of_sampling
from lensbench.scoring.scores import Scores
from lensbench.scoring.set_scores import distance_rows
from lensbench.scoring.validation import validation_losses, validation_texts

SCENES = "scenes"  # the protocol whose noise images of held-out captions are sampled from
SEED = 0  # of random halves and subsets of images


@dataclass(frozen=True)
class Checkpoint:
    """A model and all that scoring it takes.

    weights: sha256 of its weights; text_encoder: digest of the text encoder; real: latents of the held-out images, in
    the order of `plan.keys`; folder: of the evaluation, where its images are kept; cache: of what cells share; report:
    told of every n images.
    """

    denoiser: LensTransformer
    step: int
    weights: str
    plan: Plan
    instruments: Instruments
    features: TextFeatures
    text_encoder: str
    autoencoder: Autoencoder
    real: Latents
    folder: Path
    cache: Path
    report: Callable[[int], None]
    scores: Scores = field(default_factory=Scores)
    firsts: FirstSteps | None = None  # what guidance scales share


def evaluate(checkpoint: Checkpoint, *, final: bool) -> Scores:
    """Scores of a checkpoint; only of the final one the held-out loss, further guidance scales, and what is measured on
    images of held-out captions."""
    plan = checkpoint.plan
    checkpoint.denoiser.eval()
    for form in plan.experiment.evaluation.forms:
        if plan.prompts:
            further = plan.experiment.evaluation.guidances if final else ()
            shared = replace(checkpoint, firsts={} if further else None)
            _geneval(shared, form, final)
            for scale in further:
                _guided(shared, form, scale)
            if final:
                _choosing(checkpoint, form)
        if final:
            if plan.scene_images:
                _scenes(checkpoint, form)
            _held_out_loss(checkpoint, form)
    return checkpoint.scores


def _geneval(checkpoint: Checkpoint, form: Form, final: bool) -> None:
    """GenEval's tasks: the verdict on every image, the mean of each task and the mean of the tasks."""
    plan, scores = checkpoint.plan, checkpoint.scores
    name = f"geneval-{form}" if final else f"geneval-{form}-step-{checkpoint.step:06d}"
    rows = _verdicts(checkpoint, form, None, name)
    scores.outcomes += rows
    protocol = _sampling(checkpoint, None) | of_judge(_judge(checkpoint))
    for task in dict.fromkeys(prompt.task for prompt in plan.prompts):
        scores.add_mean(f"geneval.{task}", form, [row for row in rows if row["task"] == task], protocol)
    scores.add_mean("geneval", form, rows, protocol)


def _guided(checkpoint: Checkpoint, form: Form, guidance: float) -> None:
    """The same prompts from the same noise at another guidance scale."""
    _at(checkpoint, form, guidance, GUIDED, f"geneval-{form}-guidance-{guidance:g}")


def _choosing(checkpoint: Checkpoint, form: Form) -> None:
    """Prompts of another seed from noise of their own, at every guidance scale."""
    if (plan := checkpoint.plan.choosing) is None:
        return
    own = checkpoint.plan.experiment.evaluation
    shared = replace(checkpoint, plan=plan, firsts={})
    for scale in (own.guidance, *own.guidances):
        _at(shared, form, scale, CHOOSING, f"{CHOOSING}-{form}-guidance-{scale:g}")


def _at(checkpoint: Checkpoint, form: Form, guidance: float, metric: str, name: str) -> None:
    rows = _verdicts(checkpoint, form, guidance, name)
    checkpoint.scores.outcomes += [row | {"metric": metric, "guidance": guidance} for row in rows]
    protocol = _sampling(checkpoint, guidance) | of_judge(_judge(checkpoint))
    checkpoint.scores.add_mean(f"{metric}.{guidance:g}", form, rows, protocol)


def _verdicts(checkpoint: Checkpoint, form: Form, guidance: float | None, name: str) -> list[dict[str, Any]]:
    plan, sees = checkpoint.plan, _judge(checkpoint)
    wanted = [(prompt, number) for prompt in plan.prompts for number in range(prompt.samples)]
    texts = [prompt.texts[form] for prompt, _ in wanted]
    asked = chance.by_task(prompt.row for prompt in plan.prompts)
    # The noise does not depend on the form: the wordings of a prompt are sampled from the same noise.
    keys = [(prompt.index, number) for prompt, number in wanted]
    rows = []
    for chunk, images in _images(checkpoint, name, "geneval", texts, keys, guidance):
        seen = sees.look(list(images))
        for (prompt, number), text, found in zip(wanted[chunk], texts[chunk], seen, strict=True):
            said = verdict(prompt.row, found.detections, found.color)
            row = {"metric": "geneval", "prompt_form": form, "task": prompt.task, "prompt_index": prompt.index}
            told = {"value": float(said.correct), "reason": said.reason}
            told["chance"] = chance.of_image(prompt.row, asked[prompt.task], found.detections, found.color)
            boxes = boxes_json(found, colors=plan.of_shapes)
            rows.append(row | {"sample": number, "prompt": text, **told, "boxes": boxes})
    summary(rows, {(prompt.task, prompt.index): prompt.samples for prompt in plan.prompts})  # refuses an incomplete set
    return rows


def _scenes(checkpoint: Checkpoint, form: Form) -> None:
    """Images of held-out captions, each seen once: scores of single images, and distances to real images."""
    plan, tools = checkpoint.plan, checkpoint.instruments
    texts = plan.held_out[form][: plan.scene_images]
    name = f"{SCENES}-{form}"
    features = checkpoint.folder / IMAGES / name / FEATURES
    writers: dict[str, FeatureWriter] = {}
    for extractor_name, most in plan.asked.extractors.items():
        extractor, count = tools.extractors[extractor_name], min(most, len(texts))
        writers[extractor_name] = FeatureWriter(file_of(features, extractor, count), extractor, count)
    found: dict[Wanted, list[np.ndarray]] = {metric: [] for metric in plan.asked.scores}
    own_words = plan.aligned_with(form)
    read = {metric: own_words if tools.scorers[metric].own_words else texts for metric in found}
    for chunk, images in _images(checkpoint, name, SCENES, texts, [(i, 0) for i in range(len(texts))], None):
        for writer in writers.values():
            writer.take(images)
        for metric, wanted in plan.asked.scores.items():
            some = images[: max(0, wanted - chunk.start)]
            found[metric].append(scored(tools.scorers[metric], some, read[metric][chunk][: len(some)]))
    sampling = _sampling(checkpoint, None)
    for metric, values in found.items():
        _of_images(checkpoint, form, tools.scorers[metric], texts, np.concatenate(values), sampling)
    _distances(checkpoint, form, writers, sampling)


def _of_images(
    checkpoint: Checkpoint, form: Form, scorer: Scorer, texts: list[str], found: np.ndarray, sampling: dict[str, Any]
) -> None:
    """An outcome an image and a record for each number of a scorer."""
    scores, texts = checkpoint.scores, texts[: len(found)]
    protocol = sampling | scorer.protocol(texts)
    if scorer.own_words and form in READ_AS:
        protocol["compared_with"] = READ_AS[form]
    about = f"{scorer.name} {scorer.digest[:12]}, {scorer.resize}" if scorer.resize else ""
    for number in scorer.numbers(found, texts if scorer.by_text else range(len(texts))):
        of, mean = number.metric.name, number.mean
        scores.add_outcomes(of, form, texts, number.values)
        told = (mean.estimate, len(found), mean.low, mean.high)
        scores.add_record(of, form, *told, extractor=about, protocol=protocol)


def _distances(
    checkpoint: Checkpoint, form: Form, writers: Mapping[str, FeatureWriter], sampling: dict[str, Any]
) -> None:
    plan, tools = checkpoint.plan, checkpoint.instruments
    for metric, wanted in plan.asked.distances.items():
        extractor, writer, measure = tools.extractors[metric.extractor], writers[metric.extractor], metric.measure
        count = min(wanted, writer.count)
        keep = any(MEASURES[measure].rows)
        ours = set_features(writer.read()[:count], SEED, keep=keep).whole()
        real = tools.real.features(extractor, count, checkpoint.cache, keep=keep, seed=SEED)
        doubts = check(MEASURES[measure], count, real.whole.count, extractor.dimensions)
        for row in distance_rows(metric, extractor, ours, real.whole, real.halves, None, SEED):
            about = f"{row.extractor} {row.weights[:12]}, {row.resize}"
            protocol = sampling | of_distance(row, tools.real, doubts)
            checkpoint.scores.add_record(
                row.metric, form, row.value, count, extractor=about, floor=row.floor, protocol=protocol
            )


def _held_out_loss(checkpoint: Checkpoint, form: Form) -> None:
    """Flow-matching loss on held-out images."""
    plan = checkpoint.plan
    texts = validation_texts(plan, form)
    values = validation_losses(checkpoint.denoiser, texts, plan.experiment, checkpoint.features, checkpoint.real)
    rows = checkpoint.scores.add_outcomes("validation_loss", form, texts, values)
    protocol = {"held_out": plan.held_out_digest()[:12], "prompt_seed": plan.experiment.evaluation.prompt_seed}
    checkpoint.scores.add_mean("validation_loss", form, rows, protocol)


def _images(
    checkpoint: Checkpoint, name: str, noise: str, texts: list[str], keys: list[Key], guidance: float | None
) -> Any:
    """The images of texts, chunk by chunk: (slice, uint8 (n, S, S, 3)). Those that are kept are not sampled again."""
    e = checkpoint.plan.experiment
    made_by = {
        "weights": checkpoint.weights,
        "text_encoder": checkpoint.text_encoder,
        "autoencoder": checkpoint.autoencoder.digest,
        "noise": noise,
        "prompt_seed": e.evaluation.prompt_seed,
        "sampling_steps": e.evaluation.sampling_steps,
        "guidance": e.evaluation.guidance if guidance is None else guidance,
    }
    wanted = ImageSet(name, texts, keys, e.corpus.size_px, made_by)

    def sample(some: Sequence[str], of: Sequence[Key]) -> np.ndarray:
        return sample_images(
            checkpoint.denoiser,
            checkpoint.plan,
            checkpoint.features,
            checkpoint.autoencoder,
            noise,
            list(some),
            list(of),
            checkpoint.report,
            guidance,
            checkpoint.firsts,
        )

    return sampled(wanted, checkpoint.folder, sample, checkpoint.report)


def sample_images(
    denoiser: LensTransformer,
    plan: Plan,
    features: TextFeatures,
    autoencoder: Autoencoder,
    noise: str,
    texts: list[str],
    keys: list[Key],
    report: Callable[[int], None] | None = None,
    guidance: float | None = None,
    firsts: FirstSteps | None = None,
) -> np.ndarray:
    """Images (n, S, S, 3) uint8 of texts, each from the noise of its (prompt index, sample); None is the plan's own
    guidance."""
    e = plan.experiment
    side = e.corpus.size_px // autoencoder.stride
    return generate(
        denoiser,
        autoencoder,
        features,
        texts,
        sampling_noise(e.evaluation.prompt_seed, noise, keys, side * side, autoencoder.channels),
        (side, side),
        steps=e.evaluation.sampling_steps,
        guidance=e.evaluation.guidance if guidance is None else guidance,
        report=report,
        firsts=firsts,
    )


def _sampling(checkpoint: Checkpoint, guidance: float | None) -> dict[str, Any]:
    return of_sampling(checkpoint.plan, next(checkpoint.denoiser.parameters()), guidance)


def _judge(checkpoint: Checkpoint) -> Judge:
    judge = checkpoint.instruments.sees
    assert judge is not None
    return judge


def boxes_json(seen: Seen, *, colors: bool) -> str:
    """What the judge saw, as an outcome keeps it: a JSON list of [class, color, x1, y1, x2, y2, score], in pixels.

    Without `colors` those are empty: naming one is the costly part of judging photographs.
    """
    found = [
        [name, seen.color(name, i) if colors else "", *(round(float(at), 2) for at in box[:4]), round(float(box[4]), 4)]
        for name, boxes in seen.detections.items()
        for i, box in enumerate(boxes)
    ]
    return json.dumps(found, separators=(",", ":"))
