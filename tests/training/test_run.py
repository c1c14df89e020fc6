"""Training: it learns, it repeats to the bit, it averages its weights, it stops when the loss is gone."""

from pathlib import Path

import pandas as pd
import pytest
import torch

from lensbench.captions.texts import training_texts
from lensbench.data.corpus import open_corpus
from lensbench.data.features import encode_texts
from lensbench.data.latents import encode_images
from lensbench.experiment import Experiment, Training
from lensbench.model.autoencoder import open_autoencoder
from lensbench.model.checkpoint import load
from lensbench.model.flow import flow_loss
from lensbench.model.minilm import MiniLM
from lensbench.model.sizes import denoiser_config
from lensbench.model.transformer import LensTransformer
from lensbench.training.datamodule import Batch, TrainingBatches
from lensbench.training.module import LensModule, rate_factor
from lensbench.training.run import scoring_steps, train

TINY = Experiment().replace(
    {
        "corpus.size_px": 16,
        "images": 64,
        "text_encoder.layers": (0, 1),
        "model.depth": 2,
        "training.steps": 12,
        "training.batch": 16,
        "training.warmup_steps": 2,
        "evaluation.at": (0.5, 1.0),
    }
)


def batches_of(experiment: Experiment, cache: Path) -> TrainingBatches:
    corpus = open_corpus(experiment.corpus, experiment.images)
    texts = training_texts(corpus, experiment.captions, corpus.train_keys, experiment.text_encoder)
    features = {
        name: encode_texts(of_set, MiniLM(layers=experiment.text_encoder.layers), cache)
        for name, of_set in texts.items()
    }
    autoencoder = open_autoencoder(experiment.autoencoder, experiment.model.patch_size)
    latents = encode_images(corpus, corpus.train_keys, autoencoder, cache)
    return TrainingBatches(experiment, latents, texts, features, corpus.train_keys)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


def run(experiment: Experiment, cache: Path, directory: Path) -> pd.DataFrame:
    directory.mkdir()
    reports: list[tuple[int, int, str]] = []
    train(
        experiment,
        denoiser_config(experiment, 384),
        batches_of(experiment, cache),
        directory,
        lambda *r: reports.append(r),
        {"experiment": experiment.hash()},
    )
    assert reports[-1][:2] == (experiment.training.steps, experiment.training.steps)
    return pd.read_csv(directory / "train.csv")


def test_training_repeats_to_the_bit_and_leaves_a_checkpoint_for_each_scoring(cache: Path, tmp_path: Path) -> None:
    first, second = run(TINY, cache, tmp_path / "a"), run(TINY, cache, tmp_path / "b")
    assert list(first["step"]) == list(range(1, 13))
    assert list(first["loss"]) == list(second["loss"])
    assert sorted(p.name for p in (tmp_path / "a" / "checkpoints").iterdir()) == ["step-000006", "step-000012"]
    weights = [load(tmp_path / run_name / "checkpoints" / "step-000012").state_dict() for run_name in ("a", "b")]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_the_loss_falls_below_that_of_knowing_nothing(cache: Path, tmp_path: Path) -> None:
    longer = TINY.replace({"training.steps": 60, "evaluation.at": (1.0,)})
    losses = run(longer, cache, tmp_path / "run")["loss"]
    # The untrained model says 0: its loss is the variance of noise minus image, above 1.
    assert losses[0] > 1.0
    assert losses[-10:].mean() < 0.7 * losses[0]


def test_captions_change_the_loss_only_once_the_text_is_read(cache: Path, tmp_path: Path) -> None:
    arms = {arm: run(TINY.replace({"captions.set": arm}), cache, tmp_path / arm)["loss"] for arm in ("alt", "detailed")}
    # At the first step the modulation is zero, so text cannot reach the output: same images, noise, timesteps and
    # weights give the same loss. Later the arms part.
    assert arms["alt"][0] == arms["detailed"][0]
    assert arms["alt"].iloc[-1] != arms["detailed"].iloc[-1]


def test_a_loss_that_stays_no_number_stops_the_run_with_what_shows_it_again(cache: Path, tmp_path: Path) -> None:
    broken = TINY.replace({"training.learning_rate": 1e30, "training.clip": 1e30, "training.warmup_steps": 0})
    with pytest.raises(ValueError, match=r"1 without a number in a row\): lower training\.learning_rate"):
        run(broken, cache, tmp_path / "run")
    found = torch.load(tmp_path / "run" / "no_number.pt", weights_only=True)
    model = LensTransformer(denoiser_config(broken, 384))
    model.load_state_dict(found["weights"])
    (batch,) = [Batch(**part) for part in found["parts"]]
    losses = flow_loss(
        model, batch.latents, batch.noise, batch.timesteps, batch.text_features, batch.text_mask, batch.grid
    )
    assert not losses.isfinite().all()
    assert set(batch.keys) <= set(open_corpus(broken.corpus, broken.images).train_keys)


def test_averaged_weights_lag_behind_and_catch_up() -> None:
    module = LensModule(TINY.replace({"training.ema_decay": 0.5}), denoiser_config(TINY, 384))
    with torch.no_grad():
        for parameter in module.denoiser.parameters():
            parameter.add_(1.0)
        gap = [next(module.denoiser.parameters()) - next(module.averaged.parameters())]
    for step in range(100, 120):
        module.follow(step)
        gap.append((next(module.denoiser.parameters()) - next(module.averaged.parameters())).detach())
    assert all(parameter.is_leaf and not parameter.requires_grad for parameter in module.averaged.parameters())
    assert float(gap[0].mean()) == pytest.approx(1.0)
    assert float(gap[1].mean()) == pytest.approx(0.5)
    assert float(gap[-1].abs().max()) < 1e-4


def test_the_rate_warms_up_and_then_follows_its_schedule() -> None:
    constant = Training(steps=100, warmup_steps=10, schedule="constant")
    assert [rate_factor(constant, step) for step in (0, 9, 50, 99)] == [0.1, 1.0, 1.0, 1.0]
    wsd = Training(steps=100, warmup_steps=10, schedule="wsd")
    assert [rate_factor(wsd, step) for step in (0, 9, 50, 70, 85, 99)] == pytest.approx([0.1, 1, 1, 1, 0.5, 1 / 30])
    cosine = Training(steps=100, warmup_steps=10, schedule="cosine")
    values = [rate_factor(cosine, step) for step in range(10, 101)]
    assert values[0] == 1.0
    assert values[-1] == pytest.approx(0.0)
    assert values == sorted(values, reverse=True)


def test_scoring_steps_end_with_the_last() -> None:
    assert scoring_steps(TINY) == (6, 12)
    assert scoring_steps(TINY.replace({"training.steps": 1})) == (1,)


def test_bf16_keeps_float32_weights_and_nearly_the_same_losses(cache: Path, tmp_path: Path) -> None:
    half = TINY.replace({"training.precision": "bf16"})
    exact, rounded = run(TINY, cache, tmp_path / "fp32")["loss"], run(half, cache, tmp_path / "bf16")["loss"]
    assert list(exact) != list(rounded)
    assert rounded.to_list() == pytest.approx(exact.to_list(), rel=0.05)
    weights = load(tmp_path / "bf16" / "checkpoints" / "step-000012").state_dict()
    assert {tensor.dtype for tensor in weights.values()} == {torch.float32}
