"""Score one checkpoint: draw the evaluation prompts, judge every image, reduce to numbers with intervals.

Everything here is the same for every arm: prompts, noise and held-out images depend on the evaluation plan and the
corpus, never on the captions a model was trained on.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from lensbench.captions.store import captions
from lensbench.data.corpus import Corpus
from lensbench.data.features import TextFeatures
from lensbench.experiment import Captions, Experiment, Form
from lensbench.model.autoencoder import Pixels
from lensbench.model.flow import draw_timesteps, flow_loss, timestep_mean
from lensbench.model.transformer import LensTransformer
from lensbench.scoring.detectors import ShapesJudge
from lensbench.scoring.extractors import inception_if_present
from lensbench.scoring.frechet import distance
from lensbench.scoring.generate import generate, sampling_noise
from lensbench.scoring.geneval import summary, verdict
from lensbench.scoring.shapes_prompts import Prompt, digest, prompt_set
from lensbench.scoring.statistics import stratified_mean
from lensbench.streams import torch_stream

SHAPES_PROMPT_SETS: dict[Form, str] = {"short": "brief", "detailed": "detailed"}


@dataclass(frozen=True)
class Plan:
    """What every cell of a sweep is scored on: GenEval's prompts, held-out keys and their texts in each form."""

    experiment: Experiment
    corpus: Corpus
    prompts: list[Prompt]
    keys: list[str]
    held_out: dict[Form, list[str]]

    def texts(self) -> list[str]:
        """Every text the denoiser will be given."""
        prompts = [prompt.texts[form] for prompt in self.prompts for form in self.experiment.evaluation.forms]
        return prompts + [text for form in self.held_out for text in self.held_out[form]]

    def digest(self) -> str:
        """sha256 over the prompts in every form."""
        return digest(self.prompts, {str(form): texts for form, texts in self.held_out.items()})

    def images(self, final: bool) -> int:
        """How many images a checkpoint is asked for."""
        forms = len(self.experiment.evaluation.forms)
        scenes = min(self.experiment.evaluation.scene_images, len(self.keys)) if final else 0
        return forms * (sum(prompt.samples for prompt in self.prompts) + scenes)


def plan(experiment: Experiment, corpus: Corpus) -> Plan:
    """The evaluation plan of an experiment: the same for all experiments with this corpus and `evaluation`."""
    e = experiment.evaluation
    keys = corpus.validation_keys[: max(e.validation_images, e.scene_images)]
    if experiment.corpus.kind == "shapes":
        sets, prompts = SHAPES_PROMPT_SETS, prompt_set(e, experiment.corpus.max_objects)
    else:
        sets = {"short": experiment.corpus.short_prompts, "detailed": experiment.corpus.detailed_prompts}
        prompts = []  # GenEval on photographs needs a COCO detector
    held_out = {form: captions(corpus, Captions(set=sets[form]), keys) for form in e.forms}
    return Plan(experiment, corpus, prompts, keys, held_out)


@dataclass
class Scores:
    """Outcomes (one row a judged image), records (one row a number) and the pictures of one checkpoint."""

    outcomes: list[dict[str, Any]] = field(default_factory=list)
    records: list[dict[str, Any]] = field(default_factory=list)
    pictures: dict[str, np.ndarray] = field(default_factory=dict)

    def add_record(
        self,
        metric: str,
        form: str,
        value: float,
        n: int,
        low: float = np.nan,
        high: float = np.nan,
        *,
        extractor: str = "",
    ) -> None:
        row = {"metric": metric, "prompt_form": form, "value": value, "low": low, "high": high, "n": n}
        self.records.append(row | {"extractor": extractor})


def score(
    denoiser: LensTransformer,
    judge: ShapesJudge,
    plan: Plan,
    features: TextFeatures,
    *,
    final: bool,
    report: Callable[[int], None],
) -> Scores:
    """Scores of a checkpoint; the distance, the alignment and the validation loss only of the final one."""
    scores = Scores()
    denoiser = denoiser.eval()
    for form in plan.experiment.evaluation.forms:
        if plan.prompts:
            _geneval(denoiser, judge, plan, features, form, scores, report)
        if final:
            _held_out(denoiser, judge, plan, features, form, scores, report)
            _validation(denoiser, plan, features, form, scores)
    return scores


def _draw(
    denoiser: LensTransformer,
    plan: Plan,
    features: TextFeatures,
    protocol: str,
    texts: list[str],
    keys: list[tuple[int, int]],
    report: Callable[[int], None],
) -> np.ndarray:
    e = plan.experiment
    patch = e.model.patch_size
    side = e.corpus.size_px // patch
    noise = sampling_noise(e.evaluation.prompt_seed, protocol, keys, side * side, 3 * patch**2)
    return generate(
        denoiser,
        Pixels(patch),
        features,
        texts,
        noise,
        (side, side),
        steps=e.evaluation.sampling_steps,
        guidance=e.evaluation.guidance,
        report=report,
    )


def _as_floats(images: np.ndarray) -> torch.Tensor:
    """(N, S, S, 3) uint8 to (N, 3, S, S) in [0, 1]."""
    return torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255


def _geneval(
    denoiser: LensTransformer,
    judge: ShapesJudge,
    plan: Plan,
    features: TextFeatures,
    form: Form,
    scores: Scores,
    report: Callable[[int], None],
) -> None:
    wanted = [(prompt, number) for prompt in plan.prompts for number in range(prompt.samples)]
    texts = [prompt.texts[form] for prompt, _ in wanted]
    keys = [(prompt.index, number) for prompt, number in wanted]
    # The noise does not depend on the form either: the two wordings of a prompt are drawn from the same noise.
    images = _draw(denoiser, plan, features, "geneval", texts, keys, report)
    rows = []
    for (prompt, number), text, judged in zip(wanted, texts, judge.judge(_as_floats(images)), strict=True):
        said = verdict(prompt.row, judged.detections, functools.partial(_color, judged.colors))
        row = {"metric": "geneval", "prompt_form": form, "task": prompt.task, "prompt_index": prompt.index}
        rows.append(row | {"sample": number, "prompt": text, "value": float(said.correct), "reason": said.reason})
    scores.outcomes += rows
    scores.pictures[f"geneval-{form}"] = images
    summary(rows, {(prompt.task, prompt.index): prompt.samples for prompt in plan.prompts})  # refuses an incomplete set
    for task in dict.fromkeys(prompt.task for prompt in plan.prompts):
        _add_mean(scores, f"geneval.{task}", form, [row for row in rows if row["task"] == task])
    _add_mean(scores, "geneval", form, rows)


def _color(colors: dict[str, list[str]], name: str, index: int) -> str:
    return colors[name][index]


def _held_out(
    denoiser: LensTransformer,
    judge: ShapesJudge,
    plan: Plan,
    features: TextFeatures,
    form: Form,
    scores: Scores,
    report: Callable[[int], None],
) -> None:
    texts = plan.held_out[form][: plan.experiment.evaluation.scene_images]
    images = _draw(denoiser, plan, features, "scenes", texts, [(i, 0) for i in range(len(texts))], report)
    scores.pictures[f"scenes-{form}"] = images
    real = plan.corpus.images(plan.keys[: len(texts)]).permute(0, 2, 3, 1).numpy()
    drawn = _as_floats(images)
    with warnings.catch_warnings():  # fewer images than features: the record holds n, and the table says it
        warnings.simplefilter("ignore", UserWarning)
        fd_shapes = distance(judge.features(drawn), judge.features(_as_floats(real)))
        scores.add_record("fd_shapes", form, fd_shapes, len(texts), extractor=f"shapes judge {judge.digest[:12]}")
        if not plan.prompts and (inception := inception_if_present()):
            name = f"Inception-v3 2015-12-05 {inception.digest[:12]}, {inception.resize}"
            scores.add_record("fid", form, distance(inception(images), inception(real)), len(texts), extractor=name)
    if plan.prompts:  # the alignment is trained on the world's captions: it says nothing about photographs
        cosines = judge.alignment(drawn, texts)
        _add_outcomes(scores, "alignment", "shapes_alignment", form, texts, cosines)


@torch.inference_mode()
def _validation(
    denoiser: LensTransformer, plan: Plan, features: TextFeatures, form: Form, scores: Scores, batch: int = 128
) -> None:
    """Flow-matching loss on held-out images, with noise and timesteps that depend on the image's place alone."""
    e = plan.experiment
    device = next(denoiser.parameters()).device
    texts = plan.held_out[form][: e.evaluation.validation_images]
    keys = plan.keys[: len(texts)]
    pixels = Pixels(e.model.patch_size)
    losses = []
    for start in range(0, len(keys), batch):
        latents, grid = pixels.encode(plan.corpus.images(keys[start : start + batch]))
        n, tokens, channels = latents.shape
        noise = torch.randn(
            n, tokens, channels, generator=torch_stream(e.evaluation.prompt_seed, "validation noise", start)
        )
        stream = torch_stream(e.evaluation.prompt_seed, "validation timesteps", start)
        timesteps = draw_timesteps(stream, n, timestep_mean(tokens))
        text_features, text_mask = features.gather(texts[start : start + n])
        losses.append(
            flow_loss(
                denoiser,
                latents.to(device),
                noise.to(device),
                timesteps.to(device),
                [layer.to(device) for layer in text_features],
                text_mask.to(device),
                grid,
            ).cpu()
        )
    _add_outcomes(scores, "validation_loss", "validation_loss", form, texts, torch.cat(losses).double().numpy())


def _add_outcomes(
    scores: Scores, metric: str, record: str, form: Form, texts: list[str], values: Iterable[float]
) -> None:
    rows = [
        {"metric": metric, "prompt_form": form, "task": "scenes", "prompt_index": i, "sample": 0}
        | {"prompt": text, "value": float(value), "reason": ""}
        for i, (text, value) in enumerate(zip(texts, values, strict=True))
    ]
    scores.outcomes += rows
    _add_mean(scores, record, form, rows)


def _add_mean(scores: Scores, metric: str, form: Form, rows: list[dict[str, Any]]) -> None:
    values = np.array([row["value"] for row in rows])
    clusters = np.array([row["prompt_index"] for row in rows])
    strata = np.array([row["task"] for row in rows])
    mean = stratified_mean(values, clusters, strata)
    scores.add_record(metric, form, mean.estimate, len(rows), mean.low, mean.high)
