"""What a checkpoint says belongs to it, and what the user must say."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image
from rich.console import Console
from safetensors.torch import load_file, save_file

from lensbench.drawing.draw import Wishes, draw
from lensbench.drawing.pipeline import Parts, open_pipeline
from lensbench.drawing.prompts import find_prompts
from lensbench.experiment import Experiment
from lensbench.model.checkpoint import load, save, weights_digest
from lensbench.model.transformer import LensTransformer

OF_PIXELS = Parts(text_encoder="minilm", autoencoder="pixels")
Denoiser = Callable[..., LensTransformer]


def test_a_cell_says_everything_and_its_last_checkpoint_is_taken(cell: Path, experiment: Experiment) -> None:
    pipeline = open_pipeline(cell, Parts())
    assert pipeline.name == f"cell {experiment.cell_id()}, step 10"
    assert pipeline.experiment == experiment
    assert pipeline.text_encoder == experiment.text_encoder
    assert pipeline.autoencoder.stride == 4
    assert not pipeline.denoiser.training
    assert weights_digest(pipeline.denoiser) == weights_digest(load(cell / "checkpoints" / "step-000010"))
    assert open_pipeline(cell, Parts(), step=2).identity() != pipeline.identity()


def test_a_denoiser_alone_takes_its_parts_from_the_user(cell: Path) -> None:
    pipeline = open_pipeline(cell / "checkpoints" / "step-000010", OF_PIXELS)
    assert pipeline.text_encoder.layers == (0,)
    assert pipeline.autoencoder.channels == 48
    assert pipeline.experiment is None
    assert pipeline.identity() == open_pipeline(cell, Parts()).identity()


def test_the_digest_is_of_the_weights_not_of_their_files(denoiser: Denoiser, tmp_path: Path) -> None:
    model = denoiser(3)
    save(model, tmp_path / "a")
    weights = tmp_path / "a" / "diffusion_pytorch_model.safetensors"
    save_file(dict(reversed(load_file(weights).items())), weights, {"format": "pt", "note": "rewritten"})
    assert weights_digest(load(tmp_path / "a")) == weights_digest(model)
    with torch.no_grad():
        model.proj_out.bias[0] += 1e-6
    assert weights_digest(load(tmp_path / "a")) != weights_digest(model)


@pytest.mark.parametrize(
    ("parts", "step", "said"),
    [
        (Parts(), 3, "step=3: the cell has checkpoints at 2, 10"),
        (Parts(text_encoder="qwen3"), None, "--text-encoder qwen3: the cell was trained with minilm"),
        (Parts(autoencoder="flux2"), None, "--autoencoder flux2: the cell was trained with pixels"),
    ],
)
def test_what_a_cell_does_not_have_is_refused(cell: Path, parts: Parts, step: int | None, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        open_pipeline(cell, parts, step)


@pytest.mark.parametrize(
    ("parts", "step", "said"),
    [
        (Parts(), None, "give --text-encoder minilm, qwen3 or gpt_oss"),
        (Parts(text_encoder="minilm"), None, "give --autoencoder pixels or flux2"),
        (Parts(text_encoder="clip", autoencoder="pixels"), None, "text_encoder: kind"),
        (Parts(text_encoder="minilm", autoencoder="jpeg"), None, "autoencoder: kind"),
        (OF_PIXELS, 2, "step=2: .* is no cell"),
    ],
)
def test_what_a_denoiser_alone_lacks_is_asked_for(cell: Path, parts: Parts, step: int | None, said: str) -> None:
    with pytest.raises(ValueError, match=said) as raised:
        open_pipeline(cell / "checkpoints" / "step-000002", parts, step)
    assert "\n" not in str(raised.value)


def test_a_place_without_a_checkpoint_is_one_line(cell: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="nowhere: no such checkpoint"):
        open_pipeline(tmp_path / "nowhere", Parts())
    (tmp_path / "experiment.json").write_text((cell / "experiment.json").read_text())
    with pytest.raises(ValueError, match="the cell has no checkpoint yet"):
        open_pipeline(tmp_path, Parts())
    (tmp_path / "experiment.json").write_text('{"modle": {}}')
    with pytest.raises(ValueError, match=r"experiment.json: not an experiment of this version \(modle"):
        open_pipeline(tmp_path, Parts())


def test_an_autoencoder_that_does_not_fit_is_refused(denoiser: Denoiser, tmp_path: Path) -> None:
    save(denoiser(in_channels=12, out_channels=12, patch_size=1), tmp_path)
    with pytest.raises(ValueError, match="tokens have 12 channels, the autoencoder's 3"):
        open_pipeline(tmp_path, OF_PIXELS)


@pytest.fixture
def published(denoiser: Denoiser, qwen3_folder: Path, flux2_folder: Path, tmp_path: Path) -> Path:
    """A pipeline's folder as the published one is laid out, with tiny random parts."""
    folder = tmp_path / "Lens-Tiny"
    latents = {"in_channels": 128, "out_channels": 32, "patch_size": 2}
    save(denoiser(**latents, enc_hidden_dim=24, selected_layer_index=(1, 3)), folder / "transformer", 10**6)
    shutil.copytree(flux2_folder, folder / "vae")
    for part, wanted in (("text_encoder", ("config.json", "*.safetensors")), ("tokenizer", ("*token*",))):
        (folder / part).mkdir()
        for pattern in wanted:
            for path in qwen3_folder.glob(pattern):
                shutil.copy(path, folder / part)
    return folder


def test_a_published_pipeline_says_everything(published: Path, tmp_path: Path) -> None:
    pipeline = open_pipeline(published, Parts())
    assert pipeline.name == "Lens-Tiny"
    assert (pipeline.text_encoder.kind, pipeline.text_encoder.layers) == ("qwen3", (1, 3))
    assert (pipeline.autoencoder.stride, pipeline.autoencoder.channels) == (16, 128)
    (tmp_path / "p.txt").write_text("a cat\na dog on a mat")
    prompts = find_prompts(str(tmp_path / "p.txt"), None, None, 2)
    draw(pipeline, prompts, Wishes(steps=2, height=32, width=48), tmp_path / "out", Console(quiet=True))
    pictures = sorted((tmp_path / "out").glob("*/samples/*.png"))
    assert len(pictures) == 4
    assert len({path.read_bytes() for path in pictures}) == 4
    assert all(Image.open(path).size == (48, 32) for path in pictures)
    record = json.loads((tmp_path / "out" / "generation.json").read_text())["settings"]
    assert record["text_encoder_layers"] == [1, 3]
    assert len(record["autoencoder"]) == 64


def test_parts_of_a_pipeline_may_lie_elsewhere(published: Path, qwen3_folder: Path) -> None:
    shutil.rmtree(published / "text_encoder")
    with pytest.raises(ValueError, match="give --text-encoder"):
        open_pipeline(published, Parts())
    moved = open_pipeline(published, Parts(text_encoder="qwen3", text_encoder_model=str(qwen3_folder)))
    assert moved.text_encoder.model == str(qwen3_folder)


def test_a_text_encoder_that_lens_does_not_read_is_named(published: Path) -> None:
    (published / "text_encoder" / "config.json").write_text('{"model_type": "t5"}')
    with pytest.raises(ValueError, match=r"text_encoder/config.json: model_type .*t5"):
        open_pipeline(published, Parts())
