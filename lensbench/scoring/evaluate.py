"""Score one checkpoint: draw the evaluation prompts, judge every image, reduce to numbers with intervals.

Everything here is the same for every arm: prompts, noise and held-out images depend on the evaluation plan and the
corpus, never on the captions a model was trained on.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from lensbench.captions.texts import captions
from lensbench.data.corpus import Corpus
from lensbench.data.features import TextFeatures
from lensbench.data.latents import Latents
from lensbench.experiment import Captions, Experiment, Form
from lensbench.model.autoencoder import Autoencoder
from lensbench.model.flow import draw_timesteps, flow_loss, timestep_mean
from lensbench.model.transformer import LensTransformer
from lensbench.scoring.coco_prompts import coco_prompts
from lensbench.scoring.detectors import ShapesJudge
from lensbench.scoring.extractors import inception_if_present
from lensbench.scoring.frechet import distance
from lensbench.scoring.generate import generate, sampling_noise
from lensbench.scoring.geneval import summary, verdict
from lensbench.scoring.geneval_folder import Judge, Seen
from lensbench.scoring.shapes_prompts import Prompt, digest, prompt_set, repeated
from lensbench.scoring.statistics import stratified_mean
from lensbench.streams import torch_stream

JUDGED_AT_A_TIME = 256  # pictures
GUIDED = "geneval_guided"  # the metric of verdicts at other guidance scales than the plan's own
SHAPES_PROMPT_SETS: dict[Form, str] = {"short": "brief", "detailed": "detailed"}


@dataclass(frozen=True)
class Plan:
    """What every cell of a sweep is scored on: GenEval's prompts, held-out keys and their texts in each form."""

    experiment: Experiment
    corpus: Corpus
    prompts: list[Prompt]
    keys: list[str]
    held_out: dict[Form, list[str]]

    @property
    def of_shapes(self) -> bool:
        """Whether the pictures are of the shapes world, whose judge is trained on it."""
        return self.experiment.corpus.kind == "shapes"

    def texts(self) -> list[str]:
        """Every text the denoiser will be given."""
        prompts = [prompt.texts[form] for prompt in self.prompts for form in self.experiment.evaluation.forms]
        return prompts + [text for form in self.held_out for text in self.held_out[form]]

    def digest(self) -> str:
        """sha256 over the prompts in every form."""
        return digest(self.prompts, {str(form): texts for form, texts in self.held_out.items()})

    def images(self, final: bool) -> int:
        """How many images a checkpoint is asked for."""
        e = self.experiment.evaluation
        scenes = min(e.scene_images, len(self.keys)) if final else 0
        times = 1 + len(e.guidances) if final else 1
        return len(e.forms) * (times * sum(prompt.samples for prompt in self.prompts) + scenes)


def plan(experiment: Experiment, corpus: Corpus) -> Plan:
    """The evaluation plan of an experiment: the same for all experiments with this corpus and `evaluation`."""
    e = experiment.evaluation
    keys = corpus.validation_keys[e.validation_skip :][: max(e.validation_images, e.scene_images)]
    if not keys:
        raise ValueError(f"evaluation.validation_skip={e.validation_skip} leaves no held-out image of this corpus")
    if experiment.corpus.kind == "shapes":
        sets, prompts = SHAPES_PROMPT_SETS, prompt_set(e, experiment.corpus.max_objects)
    else:
        sets = {"short": experiment.corpus.short_prompts, "detailed": experiment.corpus.detailed_prompts}
        prompts = coco_prompts(e) if e.detector is not None else []
    return Plan(experiment, corpus, prompts, keys, _held_out_texts(corpus, sets, keys, e.forms))


def _held_out_texts(
    corpus: Corpus, sets: Mapping[Form, str], keys: list[str], forms: tuple[Form, ...]
) -> dict[Form, list[str]]:
    """The text of each held-out image in each form; the repeated ones are made of the two others."""
    found = {form: captions(corpus, Captions(set=name), keys) for form, name in sets.items()}
    both = zip(found["short"], found["detailed"], strict=True)
    found["repeated"] = [repeated(short, detailed) for short, detailed in both]
    return {form: found[form] for form in forms}


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

    def add_mean(self, metric: str, form: str, rows: list[dict[str, Any]]) -> None:
        """The mean over tasks of the rows' values, with its interval over prompts."""
        values = np.array([row["value"] for row in rows])
        clusters = np.array([row["prompt_index"] for row in rows])
        strata = np.array([row["task"] for row in rows])
        mean = stratified_mean(values, clusters, strata)
        self.add_record(metric, form, mean.estimate, len(rows), mean.low, mean.high)

    def add_outcomes(self, metric: str, record: str, form: str, texts: list[str], values: np.ndarray) -> None:
        """One outcome for each held-out text, and their mean."""
        rows = [
            {"metric": metric, "prompt_form": form, "task": "scenes", "prompt_index": i, "sample": 0}
            | {"prompt": text, "value": float(value), "reason": ""}
            for i, (text, value) in enumerate(zip(texts, values, strict=True))
        ]
        self.outcomes += rows
        self.add_mean(record, form, rows)


def score(
    denoiser: LensTransformer,
    judge: ShapesJudge,
    plan: Plan,
    features: TextFeatures,
    autoencoder: Autoencoder,
    real: Latents,
    *,
    final: bool,
    report: Callable[[int], None],
    detector: Judge | None = None,
) -> Scores:
    """Scores of a checkpoint; the distance, the alignment and the validation loss only of the final one.

    `real` are the latents of the held-out images, in the order of `plan.keys`; `detector` judges GenEval's prompts
    where the pictures are photographs.
    """
    sees = judge if detector is None else detector
    checkpoint = _Checkpoint(denoiser.eval(), judge, sees, plan, features, autoencoder, real, report, Scores())
    for form in plan.experiment.evaluation.forms:
        if plan.prompts:
            checkpoint.geneval(form)
        if final:
            if plan.prompts:
                for scale in plan.experiment.evaluation.guidances:
                    checkpoint.guided(form, scale)
            checkpoint.held_out(form)
            checkpoint.validation(form)
    return checkpoint.scores


@dataclass(frozen=True)
class _Checkpoint:
    """A model and all that scoring it takes; each method adds to `scores`."""

    denoiser: LensTransformer
    judge: ShapesJudge
    sees: Judge
    plan: Plan
    features: TextFeatures
    autoencoder: Autoencoder
    real: Latents
    report: Callable[[int], None]
    scores: Scores

    def draw(
        self, protocol: str, texts: list[str], keys: list[tuple[int, int]], guidance: float | None = None
    ) -> np.ndarray:
        """Images (n, S, S, 3) uint8 of texts, each from the noise of its (prompt index, sample)."""
        of = (self.plan, self.features, self.autoencoder)
        return draw(self.denoiser, *of, protocol, texts, keys, self.report, guidance)

    def geneval(self, form: Form) -> None:
        """GenEval's tasks: the verdict on every image, the mean of each task and the mean of the tasks."""
        rows, images = self._verdicts(form, None)
        self.scores.outcomes += rows
        self.scores.pictures[f"geneval-{form}"] = images
        for task in dict.fromkeys(prompt.task for prompt in self.plan.prompts):
            self.scores.add_mean(f"geneval.{task}", form, [row for row in rows if row["task"] == task])
        self.scores.add_mean("geneval", form, rows)

    def guided(self, form: Form, guidance: float) -> None:
        """The same prompts from the same noise at another guidance scale."""
        rows, _ = self._verdicts(form, guidance)
        self.scores.outcomes += [row | {"metric": GUIDED, "guidance": guidance} for row in rows]
        self.scores.add_mean(f"{GUIDED}.{guidance:g}", form, rows)

    def _verdicts(self, form: Form, guidance: float | None) -> tuple[list[dict[str, Any]], np.ndarray]:
        prompts = self.plan.prompts
        wanted = [(prompt, number) for prompt in prompts for number in range(prompt.samples)]
        texts = [prompt.texts[form] for prompt, _ in wanted]
        # The noise does not depend on the form: the two wordings of a prompt are drawn from the same noise.
        images = self.draw("geneval", texts, [(prompt.index, number) for prompt, number in wanted], guidance)
        rows = []
        for start in range(0, len(wanted), JUDGED_AT_A_TIME):
            some = slice(start, start + JUDGED_AT_A_TIME)
            seen = self.sees.look(list(images[some]))
            for (prompt, number), text, found in zip(wanted[some], texts[some], seen, strict=True):
                said = verdict(prompt.row, found.detections, found.color)
                row = {"metric": "geneval", "prompt_form": form, "task": prompt.task, "prompt_index": prompt.index}
                told = {"value": float(said.correct), "reason": said.reason}
                boxes = boxes_json(found, colors=self.plan.of_shapes)
                rows.append(row | {"sample": number, "prompt": text, **told, "boxes": boxes})
        summary(rows, {(prompt.task, prompt.index): prompt.samples for prompt in prompts})  # refuses an incomplete set
        return rows, images

    def held_out(self, form: Form) -> None:
        """Distances between pictures of the held-out captions and the held-out images, and the alignment."""
        texts = self.plan.held_out[form][: self.plan.experiment.evaluation.scene_images]
        images = self.draw("scenes", texts, [(i, 0) for i in range(len(texts))])
        self.scores.pictures[f"scenes-{form}"] = images
        real = self.plan.corpus.images(self.plan.keys[: len(texts)]).permute(0, 2, 3, 1).numpy()
        drawn, judge = _as_floats(images), self.judge
        with warnings.catch_warnings():  # fewer images than features: the record holds n, and the table says it
            warnings.simplefilter("ignore", UserWarning)
            fd_shapes = distance(judge.features(drawn), judge.features(_as_floats(real)))
            name = f"shapes judge {judge.digest[:12]}"
            self.scores.add_record("fd_shapes", form, fd_shapes, len(texts), extractor=name)
            if not self.plan.of_shapes and (inception := inception_if_present()):
                # FID where it is FID: by other weights it is a distance of another name
                metric = "fid" if inception.name == "inception" else f"fd_{inception.name}"
                name = f"{inception.name} {inception.digest[:12]}, {inception.resize}"
                value = distance(inception(images), inception(real))
                self.scores.add_record(metric, form, value, len(texts), extractor=name)
        if self.plan.of_shapes:  # the alignment is trained on the world's captions: it says nothing about photographs
            self.scores.add_outcomes("alignment", "shapes_alignment", form, texts, judge.alignment(drawn, texts))

    def validation(self, form: Form) -> None:
        """Flow-matching loss on held-out images."""
        texts = validation_texts(self.plan, form)
        values = validation_losses(self.denoiser, texts, self.plan.experiment, self.features, self.real)
        self.scores.add_outcomes("validation_loss", "validation_loss", form, texts, values)


def validation_texts(plan: Plan, form: Form) -> list[str]:
    """The texts of the held-out images that the validation loss is taken on."""
    return plan.held_out[form][: plan.experiment.evaluation.validation_images]


@torch.inference_mode()
def validation_losses(
    denoiser: LensTransformer,
    texts: list[str],
    experiment: Experiment,
    features: TextFeatures,
    real: Latents,
    batch: int = 128,
) -> np.ndarray:
    """The loss (N,) of each held-out image with its text, at noise and a timestep that depend on its place alone."""
    device = next(denoiser.parameters()).device
    losses = []
    for start in range(0, len(texts), batch):
        latents = real.gather(np.arange(start, min(start + batch, len(texts))))
        seed = experiment.evaluation.prompt_seed
        noise = torch.randn(latents.shape, generator=torch_stream(seed, "validation noise", start))
        stream = torch_stream(seed, "validation timesteps", start)
        timesteps = draw_timesteps(stream, len(latents), timestep_mean(latents.shape[1]))
        text_features, text_mask = features.gather(texts[start : start + len(latents)])
        loss = flow_loss(
            denoiser,
            latents.to(device),
            noise.to(device),
            timesteps.to(device),
            [layer.to(device) for layer in text_features],
            text_mask.to(device),
            real.grid,
        )
        losses.append(loss.cpu())
    return torch.cat(losses).double().numpy()


def draw(
    denoiser: LensTransformer,
    plan: Plan,
    features: TextFeatures,
    autoencoder: Autoencoder,
    protocol: str,
    texts: list[str],
    keys: list[tuple[int, int]],
    report: Callable[[int], None] | None = None,
    guidance: float | None = None,
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
        sampling_noise(e.evaluation.prompt_seed, protocol, keys, side * side, autoencoder.channels),
        (side, side),
        steps=e.evaluation.sampling_steps,
        guidance=e.evaluation.guidance if guidance is None else guidance,
        report=report,
    )


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


def _as_floats(images: np.ndarray) -> torch.Tensor:
    """(N, S, S, 3) uint8 to (N, 3, S, S) in [0, 1]."""
    return torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255
