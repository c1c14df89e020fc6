"""A cell of photographs whose GenEval is scored by a detector of the user's own."""

from __future__ import annotations

import json
from pathlib import Path

from lensbench.data.corpus import open_corpus
from lensbench.experiment import Evaluation, Experiment, FolderCorpus, Model, TextEncoder, Training
from lensbench.sweep.cell import run_cell
from lensbench.sweep.cellfiles import read_cell
from tests.scoring.conftest import save_pictures

OWN = """
def detect(image):
    return {"dog": [(0, 0, 8, 8, 0.95)], "cat": [(8, 0, 16, 8, float(image.mean()) / 255)]}
def color(image, name, box):
    return "red"
"""


def test_the_official_prompts_are_judged_by_the_detector_that_is_named(tmp_path: Path) -> None:
    photos = save_pictures(tmp_path / "photos", 40, seed=1, side=32)
    for picture in sorted(photos.glob("*.png")):
        for name in ("alt", "detailed"):
            picture.with_suffix(f".{name}.txt").write_text(f"{name} picture {picture.stem}")
    (tmp_path / "own.py").write_text(OWN)
    corpus = open_corpus(FolderCorpus(path=photos, size_px=16), 20)
    plan = Evaluation(
        forms=("short",),
        detector="own",
        detector_model=str(tmp_path / "own.py"),
        prompts_per_task=3,
        images_per_task=6,
        scene_images=8,
        validation_images=8,
        sampling_steps=2,
    )
    experiment = Experiment(
        corpus=corpus.config,
        images=20,
        text_encoder=TextEncoder(layers=(0,)),
        model=Model(depth=1, patch_size=8),
        training=Training(steps=2, batch=4, warmup_steps=1, watch_steps=0),
        evaluation=plan,
    )
    run_cell(experiment, tmp_path / "cell", cache=tmp_path / "cache", report=lambda progress: None)
    records, outcomes = read_cell(tmp_path / "cell", experiment)
    assert {"geneval", "geneval.position", "validation_loss"} <= set(records["metric"])
    assert not records["metric"].isin(["shapes_alignment", "fd_shapes"]).any(), "they say nothing about photographs"
    judged = outcomes[outcomes["metric"] == "geneval"]
    assert len(judged) == 6 * 6
    assert judged["prompt"].str.startswith("a photo of").all()
    boxes = [json.loads(told) for told in judged["boxes"]]
    assert all(box[0][0] == "dog" for box in boxes)
    assert len(set(records["judge_digest"]) - {""}) == 1
    (tmp_path / "own.py").write_text(OWN.replace("red", "blue"))
    run_cell(experiment, tmp_path / "other", cache=tmp_path / "cache", report=lambda progress: None)
    other, _ = read_cell(tmp_path / "other", experiment)
    told_apart = other["judge_digest"].iloc[0] != records["judge_digest"].iloc[0]
    assert told_apart, "another judge's numbers"
