"""A cell as a sweep leaves it, with weights drawn at random: what is tested is drawing, not learning."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from lensbench.experiment import Evaluation, Experiment, Model, ShapesCorpus, TextEncoder
from lensbench.model.checkpoint import save
from lensbench.model.sizes import lens
from lensbench.model.transformer import LensTransformer
from lensbench.training import files

EXPERIMENT = Experiment(
    corpus=ShapesCorpus(size_px=16, max_objects=2),
    text_encoder=TextEncoder(layers=(0,)),
    model=Model(depth=1, patch_size=4),
    evaluation=Evaluation(prompts_per_task=2, images_per_task=4, sampling_steps=3, guidance=2.0, prompt_seed=7),
)


def random_denoiser(seed: int = 0, **shape: object) -> LensTransformer:
    """A denoiser of one block that draws something: its last projection, zero before training, is random."""
    torch.manual_seed(seed)
    of_pixels = {"in_channels": 48, "out_channels": 3, "patch_size": 4, "enc_hidden_dim": 384}
    model = LensTransformer(lens(1, **(of_pixels | {"selected_layer_index": (0,)} | shape)))  # type: ignore[arg-type]
    torch.nn.init.normal_(model.proj_out.weight, std=0.2)
    return model


@pytest.fixture(scope="session")
def cell(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 pictures in either form; checkpoints at steps 2 and 10."""
    folder = tmp_path_factory.mktemp("cell")
    (folder / "experiment.json").write_text(EXPERIMENT.model_dump_json())
    for step in (2, 10):
        save(random_denoiser(step), files.checkpoint(folder, step))
    return folder


@pytest.fixture(scope="session")
def denoiser() -> Callable[..., LensTransformer]:
    return random_denoiser


@pytest.fixture(scope="session")
def experiment() -> Experiment:
    return EXPERIMENT


def pictures_of(folder: Path) -> dict[str, bytes]:
    """Every picture and row under a folder, by its place."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.suffix in (".png", ".jsonl")
    }


@pytest.fixture(scope="session")
def pictures() -> Callable[[Path], dict[str, bytes]]:
    return pictures_of
