"""A first look at a model that is still trained: the held-out loss and a few pictures, as they are scored at the end.

Images, texts, noise and timesteps are those of lensbench.scoring.evaluate: the loss of a model is the same to the bit,
and its pictures are, but for rounding, those that are judged.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from lensbench.data.features import TextFeatures
from lensbench.data.latents import Latents
from lensbench.experiment import Form
from lensbench.model.autoencoder import Autoencoder
from lensbench.model.transformer import LensTransformer
from lensbench.scoring.evaluate import sample_images
from lensbench.scoring.evaluation_plan import Plan
from lensbench.scoring.scores import Scores
from lensbench.scoring.shapes_prompts import Prompt
from lensbench.scoring.validation import validation_losses, validation_texts


class Samples(NamedTuple):
    """Pictures of the same prompts in each wording: texts (P,) and images (P, S, S, 3) uint8 by form."""

    texts: dict[Form, list[str]]
    images: dict[Form, np.ndarray]


def held_out_losses(denoiser: LensTransformer, plan: Plan, features: TextFeatures, real: Latents) -> Scores:
    """The validation loss of each prompt form, as records with their 95 % intervals over images; NaN where it is no
    number."""
    found = Scores()
    for form in plan.experiment.evaluation.forms:
        texts = validation_texts(plan, form)
        values = validation_losses(denoiser, texts, plan.experiment, features, real)
        if np.isfinite(values).all():
            found.add_mean("validation_loss", form, found.add_outcomes("validation_loss", form, texts, values))
        else:  # the training itself says so, and ends when it lasts
            found.add_record("validation_loss", form, np.nan, len(texts))
    return found


def first_samples(
    denoiser: LensTransformer, plan: Plan, features: TextFeatures, autoencoder: Autoencoder, prompts: int
) -> Samples:
    """Pictures of the first prompts of GenEval's tasks in turn or, without tasks, of the first held-out captions."""
    forms = plan.experiment.evaluation.forms
    if plan.prompts:
        chosen = _in_turn(plan.prompts)[:prompts]
        protocol, keys = "geneval", [(prompt.index, 0) for prompt in chosen]
        texts = {form: [prompt.texts[form] for prompt in chosen] for form in forms}
    else:
        texts = {form: plan.held_out[form][:prompts] for form in forms}
        protocol, keys = "scenes", [(i, 0) for i in range(min(prompts, len(plan.keys)))]
    # All forms at once: a step of so few pictures costs nearly as much as one of twice as many.
    images = sample_images(
        denoiser, plan, features, autoencoder, protocol, [t for form in forms for t in texts[form]], keys * len(forms)
    )
    return Samples(texts, dict(zip(forms, np.split(images, len(forms)), strict=True)))


def _in_turn(prompts: list[Prompt]) -> list[Prompt]:
    """The first prompt of each task, then the second of each, ..."""
    place: dict[str, int] = {}
    turns = []
    for prompt in prompts:
        turns.append(place.setdefault(prompt.task, 0))
        place[prompt.task] += 1
    return [prompts[i] for i in sorted(range(len(prompts)), key=lambda i: turns[i])]
