"""What every cell of a sweep is scored on: prompts, held-out images and their texts, and which metrics.

A plan depends on the evaluation and the corpus, never on the captions a model was trained on.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass

from lensbench.captions.scene_writer import claims, wording
from lensbench.captions.texts import caption_stream, captions
from lensbench.captions.unseen_writer import unseen_wording
from lensbench.data.corpus import Corpus, ShapesWorld
from lensbench.experiment import Captions, Experiment, Form
from lensbench.scoring.coco_prompts import coco_prompts
from lensbench.scoring.measured import Asked, asked
from lensbench.scoring.shapes_prompts import Prompt, digest, prompt_set, repeated, without_places

SHAPES_PROMPT_SETS: dict[Form, str] = {"short": "brief", "detailed": "detailed"}
READ_AS = {"held_out": "detailed"}  # form -> the form whose words shapes-alignment has, of the same claims


@dataclass(frozen=True)
class Plan:
    """GenEval's prompts, held-out keys and their texts in each form, and what is measured."""

    experiment: Experiment
    corpus: Corpus
    asked: Asked
    prompts: list[Prompt]
    keys: list[str]
    held_out: dict[Form, list[str]]
    choosing: Plan | None = None  # other prompts, which the guidance is chosen on

    @property
    def of_shapes(self) -> bool:
        """Whether the images are of the shapes world, whose judge is trained on it."""
        return self.experiment.corpus.kind == "shapes"

    @property
    def scene_images(self) -> int:
        """How many held-out captions are sampled in each form; none where no metric takes them."""
        return min(self.asked.scene_images, len(self.keys))

    def aligned_with(self, form: Form) -> list[str]:
        """The texts that shapes-alignment compares images of a form's held-out captions with: those captions or, where
        the judge lacks their words, the same claims in its own."""
        if form not in READ_AS or not self.of_shapes:
            return self.held_out[form]
        return captions(self.corpus, Captions(set=READ_AS[form]), self.keys)

    def texts(self) -> list[str]:
        """Every text the denoiser will be given."""
        asked = [*self.prompts, *(self.choosing.prompts if self.choosing else ())]
        prompts = [prompt.texts[form] for prompt in asked for form in self.experiment.evaluation.forms]
        return prompts + [text for form in self.held_out for text in self.held_out[form]]

    def digest(self) -> str:
        """sha256 over the prompts in every form."""
        return digest(self.prompts, {str(form): texts for form, texts in self.held_out.items()})

    def held_out_digest(self) -> str:
        """sha256 of what the held-out loss is taken on: images, their texts in each form, noise and timesteps."""
        e = self.experiment.evaluation
        texts = {str(form): texts[: e.validation_images] for form, texts in self.held_out.items()}
        told = [self.corpus.digest, self.keys[: e.validation_images], texts, e.prompt_seed]
        return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()

    def images(self, final: bool) -> int:
        """How many images a checkpoint is asked for."""
        e = self.experiment.evaluation
        scenes = self.scene_images if final else 0
        times = 1 + len(e.guidances) if final else 1
        asked = [*self.prompts, *(self.choosing.prompts if self.choosing and final else ())]
        return len(e.forms) * (times * sum(prompt.samples for prompt in asked) + scenes)


def plan(experiment: Experiment, corpus: Corpus) -> Plan:
    """The evaluation plan of an experiment: the same for all experiments with this corpus and `evaluation`.

    Raises ValueError, one line, for metrics that there are not, and held-out images that are too few.
    """
    e = experiment.evaluation
    what = asked(experiment)
    keys = corpus.validation_keys[e.validation_skip :][: e.held_out_images]
    if not keys:
        raise ValueError(f"evaluation.validation_skip={e.validation_skip} leaves no held-out image of this corpus")
    if experiment.corpus.kind == "shapes":
        sets = SHAPES_PROMPT_SETS
    else:
        sets = {"short": experiment.corpus.short_prompts, "detailed": experiment.corpus.detailed_prompts}
    prompts = _prompts(experiment) if what.geneval else []
    held_out = _held_out_texts(corpus, sets, keys, e.forms)
    choosing = None
    if prompts and (other := e.choosing()) is not None:
        chooser = experiment.model_copy(update={"evaluation": other})
        choosing = Plan(chooser, corpus, what, _prompts(chooser), [], {})
    return Plan(experiment, corpus, what, prompts, keys, held_out, choosing)


def _prompts(experiment: Experiment) -> list[Prompt]:
    if experiment.corpus.kind == "shapes":
        return prompt_set(experiment.evaluation, experiment.corpus.max_objects)
    return coco_prompts(experiment.evaluation)


def _held_out_texts(
    corpus: Corpus, sets: Mapping[Form, str], keys: list[str], forms: tuple[Form, ...]
) -> dict[Form, list[str]]:
    """The text of each held-out image in each form: those of two caption sets, and what is made of them or written
    from the scene."""
    found = {form: captions(corpus, Captions(set=name), keys) for form, name in sets.items()}
    both = zip(found["short"], found["detailed"], strict=True)
    found["repeated"] = [repeated(short, detailed) for short, detailed in both]
    if isinstance(corpus, ShapesWorld):
        found["relational"] = [_relational(corpus, key) for key in keys]
        found["held_out"] = [_unseen(corpus, key) for key in keys]
    return {form: found[form] for form in forms}


def _relational(world: ShapesWorld, key: str) -> str:
    """The detailed caption of an image without its places."""
    rng = caption_stream(world, "detailed", key)
    return wording(without_places(claims(world.scene(key), rng)), rng)


def _unseen(world: ShapesWorld, key: str) -> str:
    """What the detailed caption of an image says, in words that no caption uses."""
    said = claims(world.scene(key), caption_stream(world, "detailed", key))
    return unseen_wording(said, caption_stream(world, "held_out", key))
