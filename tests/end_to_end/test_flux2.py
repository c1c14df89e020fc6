"""A cell on latents, whole: from pictures through a tiny random FLUX.2 autoencoder to records."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from lensbench.experiment import Experiment
from lensbench.model.checkpoint import load
from lensbench.model.flux2_autoencoder import Flux2Autoencoder
from lensbench.sampling.image_sets import read_images
from lensbench.sweep.cell import run_cell
from lensbench.sweep.cellfiles import evaluation_folder, read_outcomes, read_records
from lensbench.sweep.progress import Progress

BASE = Experiment().replace(
    {
        "corpus.size_px": 32,
        "images": 24,
        "text_encoder.layers": (0,),
        "model.depth": 1,
        "model.patch_size": 2,
        "autoencoder.kind": "flux2",
        "training.steps": 3,
        "training.batch": 8,
        "evaluation.prompts_per_task": 1,
        "evaluation.images_per_task": 1,
        "evaluation.scene_images": 20,
        "evaluation.validation_images": 8,
        "evaluation.sampling_steps": 2,
    }
)


def test_a_cell_on_latents_is_trained_and_scored(flux2_folder: Path, tmp_path: Path) -> None:
    cache, stages = tmp_path / "cache", []
    losses = {}
    digest = Flux2Autoencoder(str(flux2_folder)).digest
    base = BASE.replace({"autoencoder.model": str(flux2_folder), "autoencoder.digest": digest})
    for arm in ("alt", "detailed"):
        experiment = base.replace({"captions.set": arm})
        seen: list[Progress] = []
        run_cell(experiment, tmp_path / arm, cache=cache, report=seen.append)
        stages.append({progress.stage for progress in seen})
        records = read_records(tmp_path / arm, experiment)
        assert {"geneval", "validation_loss", "fd_shapes", "shapes_alignment"} <= set(records["metric"])
        assert np.isfinite(records["value"]).all()
        assert set(records["autoencoder_digest"]) == {digest}
        assert len(read_outcomes(tmp_path / arm, experiment, records))
        images = read_images(evaluation_folder(tmp_path / arm, experiment) / "images" / "scenes-short")
        assert images is not None
        assert images.shape == (20, 32, 32, 3)
        losses[arm] = pd.read_csv(tmp_path / arm / "train.csv")["loss"]
    # The images are encoded for the first arm, and read by the second.
    assert "latents" in stages[0]
    assert "latents" not in stages[1]
    (store,) = (cache / "latents").iterdir()
    assert len(list(store.glob("*.rows"))) == 2, "training and held-out images"
    config = load(tmp_path / "alt" / "checkpoints" / "step-000003").config
    assert (config.in_channels, config.out_channels, config.patch_size) == (128, 32, 2)
    # Same images, noise, timesteps and weights: the arms part only once the text is read.
    assert losses["alt"][0] == pytest.approx(losses["detailed"][0], rel=1e-6)


def test_a_folder_that_may_hold_any_weights_must_be_pinned(flux2_folder: Path, tmp_path: Path) -> None:
    experiment = BASE.replace({"autoencoder.model": str(flux2_folder)})
    digest = Flux2Autoencoder(str(flux2_folder)).digest
    with pytest.raises(ValueError, match=f"give autoencoder.digest='{digest}'"):
        run_cell(experiment, tmp_path / "cell", cache=tmp_path / "cache", report=lambda progress: None)
