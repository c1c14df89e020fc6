"""The evaluation knows nothing of the arm, and a right picture scores what it should."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from lensbench.data.corpus import open_corpus
from lensbench.data.features import TextFeatures, encode_texts
from lensbench.data.latents import PatchedImages
from lensbench.data.shapes import render, scene_matching
from lensbench.experiment import Captions, Experiment, FolderCorpus, further_guidances
from lensbench.model.autoencoder import Pixels
from lensbench.model.checkpoint import weights_digest
from lensbench.model.minilm import MiniLM
from lensbench.model.sizes import denoiser_config
from lensbench.model.transformer import LensTransformer
from lensbench.sampling.image_sets import read_images
from lensbench.scoring import chance, evaluate
from lensbench.scoring.evaluate import Checkpoint
from lensbench.scoring.evaluation_plan import Plan, plan
from lensbench.scoring.geneval import TASKS, verdict
from lensbench.scoring.instruments import open_instruments
from lensbench.scoring.scores import Scores
from lensbench.scoring.watching import first_samples, held_out_losses
from lensbench.streams import numpy_stream
from lensbench.sweep.planning import drawn_images

BASE = Experiment().replace(
    {
        "corpus.size_px": 16,
        "images": 32,
        "text_encoder.layers": (0,),
        "model.depth": 1,
        "evaluation.prompts_per_task": 4,
        "evaluation.images_per_task": 8,
        "evaluation.scene_images": 80,
        "evaluation.validation_images": 80,
        "evaluation.sampling_steps": 2,
    }
)


def plan_of(experiment: Experiment) -> Plan:
    return plan(experiment, open_corpus(experiment.corpus, experiment.images))


@pytest.fixture(scope="module")
def features(tmp_path_factory: pytest.TempPathFactory) -> TextFeatures:
    return encode_texts(plan_of(BASE).texts(), MiniLM(layers=(0,)), tmp_path_factory.mktemp("cache"))


def scored(
    denoiser: LensTransformer,
    what: Plan,
    features: TextFeatures,
    folder: Path,
    *,
    final: bool = True,
    report: Callable[[int], None] = lambda n: None,
) -> Scores:
    pixels = Pixels(BASE.model.patch_size)
    checkpoint = Checkpoint(
        denoiser=denoiser,
        step=7,
        weights=weights_digest(denoiser),
        plan=what,
        instruments=open_instruments(what, "cpu"),
        features=features,
        text_encoder="minilm",
        autoencoder=pixels,
        real=PatchedImages(what.corpus.images(what.keys), pixels),
        folder=folder / "evaluations" / "e",
        cache=folder / "cache",
        report=report,
    )
    return evaluate.evaluate(checkpoint, final=final)


@pytest.mark.parametrize(
    "change",
    [{"captions.set": "alt"}, {"model.depth": 2}, {"seed": 5}, {"images": 8}, {"training.steps": 7}],
    ids=lambda change: next(iter(change)),
)
def test_every_cell_of_a_sweep_is_asked_the_same(change: dict[str, object]) -> None:
    assert plan_of(BASE.replace(change)).digest() == plan_of(BASE).digest()


def test_other_prompts_have_another_digest() -> None:
    assert plan_of(BASE.replace({"evaluation.prompt_seed": 9})).digest() != plan_of(BASE).digest()
    assert plan_of(BASE.replace({"evaluation.prompts_per_task": 3})).digest() != plan_of(BASE).digest()


def test_held_out_images_are_not_trained_on() -> None:
    corpus = open_corpus(BASE.corpus, 1000)
    assert not set(plan_of(BASE).keys) & set(corpus.train_keys)


def perfect(  # type: ignore[no-untyped-def]
    denoiser, plan, features, autoencoder, noise, texts, keys, report=None, guidance=None, firsts=None
) -> np.ndarray:
    """Samples what was asked: a scene that satisfies the prompt's row, or the held-out scene itself; and nothing at a
    guidance of 9."""
    side = plan.experiment.corpus.size_px
    report(len(texts))
    if noise == "scenes":
        return plan.corpus.images([plan.keys[index] for index, _ in keys]).permute(0, 2, 3, 1).numpy()
    rows = {prompt.index: prompt.row for prompt in plan.prompts}
    scenes = [scene_matching(rows[index], numpy_stream(3, f"perfect/{index}", number)) for index, number in keys]
    return np.stack([render(scene, side) for scene in scenes]) * np.uint8(guidance != 9)


def test_a_model_that_draws_what_it_is_asked_scores_full_marks(
    features: TextFeatures, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(evaluate, "sample_images", perfect)
    what, drawn = plan_of(BASE.replace({"evaluation.guidances": (1.5, 9.0)})), []
    denoiser = LensTransformer(denoiser_config(BASE, 384))
    scores = scored(denoiser, what, features, tmp_path, report=drawn.append)
    found = {(row["metric"], row["prompt_form"]): row for row in scores.records}
    for form in ("short", "detailed"):
        assert found["geneval", form]["value"] == pytest.approx(1.0, abs=0.03)
        assert found["geneval.position", form]["n"] == 8
        assert found["geneval_guided.1.5", form]["value"] == found["geneval", form]["value"]
        assert found["geneval_guided.9", form]["value"] == found["geneval_guided.9", form]["chance"] == 0.0
        assert found["geneval", form]["chance"] < 0.2  # what other prompts share with the scenes
        of_tasks = [found[f"geneval.{task}", form]["chance"] for task in TASKS]
        assert found["geneval", form]["chance"] == pytest.approx(np.mean(of_tasks))
        assert np.isnan(found["fd_shapes", form]["chance"])
        assert np.isnan(found["validation_loss", form]["chance"])
        assert found["fd_shapes", form]["value"] == pytest.approx(0.0, abs=1e-6)
        assert found["shapes_alignment", form]["value"] > 0.85
        # The untrained model says 0 everywhere: its loss is the mean square of noise minus image.
        assert 1.0 < found["validation_loss", form]["value"] < 3.0
        assert found["validation_loss", form]["low"] < found["validation_loss", form]["value"]
    assert sum(drawn) == what.images(final=True)
    assert len(scores.outcomes) == what.images(final=True) + 2 * 80
    asked = {prompt.index: prompt.row for prompt in what.prompts}
    judged = [row for row in scores.outcomes if row["metric"] in ("geneval", "geneval_guided")]
    for row in judged:  # what is kept of the judge's boxes is enough to judge again
        seen: dict[str, list[tuple[float, ...]]] = {}
        colors: dict[str, list[str]] = {}
        for name, color, *box in json.loads(row["boxes"]):
            seen.setdefault(name, []).append(tuple(box))
            colors.setdefault(name, []).append(color)
        said = verdict(asked[row["prompt_index"]], seen, lambda name, i, of=colors: of[name][i])
        assert (float(said.correct), said.reason) == (row["value"], row["reason"])
    frame = pd.DataFrame(judged)
    for _, rows in frame.groupby(["metric", "prompt_form", frame["guidance"].fillna(0)]):
        assert chance.of_outcomes(rows, asked).tolist() == pytest.approx(rows["chance"].tolist())
    assert sum(len(row["boxes"]) > 2 for row in judged) > len(judged) / 2


def test_a_model_that_draws_noise_scores_nothing(features: TextFeatures, tmp_path: Path) -> None:
    torch.manual_seed(0)
    denoiser = LensTransformer(denoiser_config(BASE, 384))
    what = plan_of(BASE)
    scores = scored(denoiser, what, features, tmp_path, final=False)
    assert {row["metric"] for row in scores.records} == {"geneval", *(f"geneval.{p.task}" for p in what.prompts)}
    assert all(row["value"] <= 0.05 for row in scores.records if row["metric"] == "geneval")


def test_what_is_watched_is_what_is_scored(features: TextFeatures, tmp_path: Path) -> None:
    torch.manual_seed(1)
    denoiser = LensTransformer(denoiser_config(BASE, 384))
    with torch.no_grad():  # the last projection is zero at first: nothing would differ
        denoiser.proj_out.weight.normal_(std=0.1)
    what, pixels = plan_of(BASE), Pixels(BASE.model.patch_size)
    real = PatchedImages(what.corpus.images(what.keys), pixels)
    scores = scored(denoiser, what, features, tmp_path)
    seen = held_out_losses(denoiser, what, features, real)
    losses = [row for row in scores.records if row["metric"] == "validation_loss"]
    numbers = ("prompt_form", "value", "low", "high", "n")
    assert [[row[name] for name in numbers] for row in seen.records] == [[row[n] for n in numbers] for row in losses]
    samples = first_samples(denoiser, what, features, pixels, prompts=8)
    kept = tmp_path / "evaluations" / "e" / "images"
    images = {form: read_images(kept / f"geneval-{form}") for form in ("short", "detailed")}
    rows = {
        (row["prompt_form"], row["prompt"]): image
        for form in ("short", "detailed")
        for row, image in zip(
            [r for r in scores.outcomes if r["metric"] == "geneval" and r["prompt_form"] == form],
            images[form],
            strict=True,
        )
        if row["sample"] == 0
    }
    for form in ("short", "detailed"):
        assert len(samples.texts[form]) == len(samples.images[form]) == 8
        for text, image in zip(samples.texts[form], samples.images[form], strict=True):
            assert np.abs(rows[form, text].astype(int) - image).max() <= 1  # other texts in its batch
    tasks = [next(p.task for p in what.prompts if p.texts["short"] == text) for text in samples.texts["short"]]
    assert len(set(tasks[:6])) == 6


def test_without_geneval_the_first_held_out_captions_are_drawn(features: TextFeatures) -> None:
    what = dataclasses.replace(plan_of(BASE), prompts=[])
    denoiser = LensTransformer(denoiser_config(BASE, 384))
    samples = first_samples(denoiser, what, features, Pixels(BASE.model.patch_size), prompts=3)
    assert samples.texts == {form: texts[:3] for form, texts in what.held_out.items()}
    assert all(images.shape == (3, 16, 16, 3) for images in samples.images.values())


def test_the_guidance_is_chosen_on_other_prompts_and_noise(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    made_of = []

    def sampled(denoiser, plan, features, autoencoder, noise, texts, keys, report, guidance, firsts):  # type: ignore[no-untyped-def]
        made_of.append((plan.experiment.evaluation.prompt_seed, guidance, len(keys)))
        return perfect(denoiser, plan, features, autoencoder, noise, texts, keys, report, guidance)

    monkeypatch.setattr(evaluate, "sample_images", sampled)
    changes = {"evaluation.forms": ("short",), "evaluation.guidances": (9.0,), "evaluation.choosing_seed": 77}
    what = plan_of(BASE.replace(changes))
    assert what.choosing is not None
    assert {prompt.samples for prompt in what.choosing.prompts} == {1}
    found_features = encode_texts(what.texts(), MiniLM(layers=(0,)), tmp_path / "texts")
    scores = scored(LensTransformer(denoiser_config(BASE, 384)), what, found_features, tmp_path)
    own = BASE.evaluation
    geneval = [made for made in made_of if made[2] != own.scene_images]
    assert geneval == [(own.prompt_seed, None, 48), (own.prompt_seed, 9.0, 48), (77, own.guidance, 24), (77, 9.0, 24)]
    assert sum(n for _, _, n in made_of) == what.images(True) == drawn_images(what.experiment)
    found = {row["metric"]: row["value"] for row in scores.records}
    assert found[f"geneval_choosing.{own.guidance:g}"] == pytest.approx(1.0, abs=0.05)
    assert found["geneval_choosing.9"] == 0.0
    asked = {(row["metric"], row["prompt"]) for row in scores.outcomes if row["task"] == "position"}
    assert {text for metric, text in asked if metric == "geneval_choosing"} != {
        text for metric, text in asked if metric == "geneval"
    }


def test_what_is_chosen_on_must_be_other_prompts_and_there_must_be_a_choice() -> None:
    with pytest.raises(ValueError, match="there is no guidance to choose"):
        BASE.replace({"evaluation.choosing_seed": 77})
    with pytest.raises(ValueError, match="choosing_seed=1 is prompt_seed: choose on other prompts"):
        BASE.replace({"evaluation.choosing_seed": 1, "evaluation.guidances": (9.0,)})
    assert further_guidances(2.0) == (1.0, 3.0, 4.0, 6.0, 9.0)
    assert BASE.replace({"evaluation.choosing_seed": None}).evaluation_hash() == BASE.evaluation_hash()


def test_forms_that_are_written_from_scenes_score_full_marks_too(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The judge lacks the words of the held-out form: images are compared with the same claims in words it has."""
    monkeypatch.setattr(evaluate, "sample_images", perfect)
    what = plan_of(BASE.replace({"evaluation.forms": ("relational", "held_out")}))
    assert what.aligned_with("relational") == what.held_out["relational"]
    assert what.aligned_with("held_out") == plan_of(BASE).held_out["detailed"]
    found_features = encode_texts(what.texts(), MiniLM(layers=(0,)), tmp_path / "texts")
    scores = scored(LensTransformer(denoiser_config(BASE, 384)), what, found_features, tmp_path)
    found = {(row["metric"], row["prompt_form"]): row for row in scores.records}
    for form in what.held_out:
        assert found["geneval", form]["value"] == pytest.approx(1.0, abs=0.03)
        assert found["shapes_alignment", form]["value"] > 0.8
        told = json.loads(found["shapes_alignment", form]["protocol"]).get("compared_with")
        assert told == ("detailed" if form == "held_out" else None)
    asked = [row["prompt"] for row in scores.outcomes if row["metric"] == "shapes_alignment"]
    assert asked[-1] in what.held_out["held_out"]


def test_photographs_have_no_forms_that_are_written_from_scenes() -> None:
    with pytest.raises(ValueError, match="held_out prompts are written from scenes of the shapes world; photographs"):
        Experiment(corpus=FolderCorpus(size_px=32), captions=Captions(set="alt")).replace(
            {"evaluation.forms": ("short", "held_out")}
        )


def test_a_guidance_is_named_once() -> None:
    for scales in ((2.0, 2.0), (BASE.evaluation.guidance,)):
        with pytest.raises(ValueError, match="name each scale once"):
            BASE.replace({"evaluation.guidances": scales})
