"""A cell of photographs whose GenEval is scored by a detector of the user's own."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path

import numpy as np
from PIL import Image

from lensbench.data.corpus import open_corpus
from lensbench.experiment import Evaluation, Experiment, FolderCorpus, Model, TextEncoder, Training
from lensbench.report.grid import arrange
from lensbench.report.page.comparer import compare
from lensbench.sampling.image_sets import read_images
from lensbench.sweep.cell import run_cell
from lensbench.sweep.cellfiles import image_folder, read_cell
from lensbench.sweep.sweep import Results
from tests.scoring.conftest import clip_model, save_pictures

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


def test_the_page_shows_what_a_cell_that_nobody_judged_sampled_with_its_captions_and_cosines(tmp_path: Path) -> None:
    photos = save_pictures(tmp_path / "photos", 80, seed=1, side=32)
    for picture in sorted(photos.glob("*.png")):
        for name in ("alt", "detailed"):
            picture.with_suffix(f".{name}.txt").write_text(f"{name} picture {picture.stem}")
    clip_model(tmp_path / "clip")
    corpus = open_corpus(FolderCorpus(path=photos, size_px=16), 20)
    experiment = Experiment(
        corpus=corpus.config,
        images=20,
        text_encoder=TextEncoder(layers=(0,)),
        model=Model(depth=1, patch_size=8),
        training=Training(steps=2, batch=4, warmup_steps=1, watch_steps=0),
        evaluation=Evaluation(
            metrics=("clip_score",),
            weights={"clip-b32": str(tmp_path / "clip")},
            forms=("short",),
            scene_images=9,
            validation_images=16,
            sampling_steps=2,
        ),
    )
    runs, cell = tmp_path / "runs", experiment.cell_id()
    run_cell(experiment, runs / cell, cache=tmp_path / "cache", report=lambda progress: None)
    records, outcomes = (frame.assign(seed=0) for frame in read_cell(runs / cell, experiment))
    found = compare(arrange(Results("one", {"seed": [0]}, {}, records, outcomes, missing=[], notes=[])), runs, {})
    (panel,) = found.data["panels"]
    (sheet,) = found.sheets.values()
    images = read_images(image_folder(runs, cell, experiment.evaluation_hash(), "scenes-short"))
    assert images is not None
    assert len(panel["items"]) == len(images) == 9
    page = np.asarray(Image.open(io.BytesIO(base64.b64decode(sheet.jpeg))).convert("RGB"), dtype=float)
    cosines = outcomes[outcomes["metric"].str.startswith("clip_cosine")].set_index("prompt_index")
    for at, item in enumerate(panel["items"]):
        _, place, _, text = found.data["items"][item]
        y, x = (sheet.side * n for n in divmod(at, sheet.columns))
        tile = page[y : y + sheet.side, x : x + sheet.side]
        others = [np.abs(tile - image).mean() for image in images]
        assert int(np.argmin(others)) == place
        assert found.data["texts"][text] == cosines["prompt"][place]
        assert abs(panel["scores"][0][at] - cosines["value"][place]) < 1e-6
