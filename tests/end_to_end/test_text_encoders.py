"""A cell on the features of a large language model, whole: from a tiny random one on disk to records."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lensbench.experiment import Experiment, TextEncoder
from lensbench.model import causal_encoder
from lensbench.model.checkpoint import load
from lensbench.model.text_encoder import open_text_encoder
from lensbench.sweep.cell import run_cell
from lensbench.sweep.cell_parts import encoder_of
from lensbench.sweep.cellfiles import read_records

BASE = Experiment().replace(
    {
        "corpus.size_px": 16,
        "images": 8,
        "captions.set": "alt",
        "model.depth": 1,
        "training.steps": 2,
        "training.batch": 4,
        "evaluation.forms": ("short",),
        "evaluation.prompts_per_task": 1,
        "evaluation.images_per_task": 1,
        "evaluation.scene_images": 8,
        "evaluation.validation_images": 8,
        "evaluation.sampling_steps": 1,
    }
)


def test_a_cell_on_a_large_text_encoder_is_trained_and_scored(
    gpt_oss_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config: dict[str, Any] = {
        "kind": "gpt_oss",
        "model": str(gpt_oss_folder),
        "layers": (1, 3),
        "width": 32,
        "prefix_tokens": 218,
        "max_tokens": 218 + 95 + 15,
    }
    digest = open_text_encoder(TextEncoder(**config)).digest
    with pytest.raises(ValueError, match=f"give text_encoder.digest='{digest}'"):  # it may be any model
        run_cell(
            BASE.replace({"text_encoder": TextEncoder(**config)}),
            tmp_path / "unpinned",
            cache=tmp_path / "cache",
            report=lambda progress: None,
        )

    base = BASE.replace({"text_encoder": TextEncoder(**config, digest=digest), "which_images": "first"})
    run_cell(base, tmp_path / "first", cache=tmp_path / "cache", report=lambda progress: None)
    records = read_records(tmp_path / "first", base)
    assert np.isfinite(records["value"]).all()
    assert set(records["text_encoder_digest"]) == {digest}
    value = dict(zip(records["metric"], records["value"], strict=True))
    assert 0 < value["truncated_captions"] <= 8, "an alt-text of more than 15 letters loses the end of its chat"
    assert 95 < value["caption_tokens"] <= 95 + 15
    denoiser = load(tmp_path / "first" / "checkpoints" / "step-000002").config
    assert denoiser.enc_hidden_dim == 32
    assert denoiser.selected_layer_index == (1, 3)
    encoder: Any = encoder_of(base.text_encoder)
    assert encoder._model is None, "the weights do not stay beside the denoiser"

    # Another seed on the same images reads the features, not the weights.
    monkeypatch.setattr(causal_encoder, "load_blocks", lambda *args, **options: pytest.fail("read the weights"))
    run_cell(base.replace({"seed": 1}), tmp_path / "second", cache=tmp_path / "cache", report=lambda progress: None)
