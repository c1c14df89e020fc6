"""A second stage: from the first one's weights, in several sizes, in parts by text length; the real command."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

FIRST = """
from lensbench.experiment import *
experiment = Experiment(
    corpus=ShapesCorpus(size_px=16, max_objects=2),
    images=48,
    text_encoder=TextEncoder(layers=(0,)),
    model=Model(depth=1, patch_size=4),
    training=Training(steps=6, batch=16, warmup_steps=2),
    evaluation=Evaluation(
        forms=("short", "repeated", "detailed"), guidances=(1.0, 5.0), prompts_per_task=2, images_per_task=4,
        scene_images=8, validation_images=16, sampling_steps=2,
    ),
)
"""
SECOND = """
import sys
sys.path.insert(0, {here!r})
from pathlib import Path
from first import experiment as first
from lensbench.experiment import Buckets, Start
experiment = first.replace({{
    "training.buckets": Buckets(sides=(16, 24, 32), groups=2),
    "training.accumulate": 2,
    "training.start": Start(path=Path({checkpoint!r}), weights={weights!r}),
}})
"""


def lensbench(*words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [str(Path(sys.executable).with_name("lensbench")), *words]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=200)


@pytest.mark.slow
def test_the_second_stage_goes_on_from_the_first_in_several_sizes(tmp_path: Path) -> None:
    (tmp_path / "first.py").write_text(FIRST)
    done = lensbench("train", "first.py", "--out", "one", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    checkpoint = tmp_path / "one" / "checkpoints" / "step-000006"
    said = {"here": str(tmp_path), "checkpoint": str(checkpoint), "weights": "0" * 64}
    (tmp_path / "second.py").write_text(SECOND.format(**said))
    wrong = lensbench("train", "second.py", "--out", "two", cwd=tmp_path)
    assert wrong.returncode == 2
    found = re.search(r"but those in .* are ([0-9a-f]{64})", wrong.stderr)
    assert found, wrong.stderr
    (tmp_path / "second.py").write_text(SECOND.format(**said | {"weights": found[1]}))
    done = lensbench("train", "second.py", "--out", "two", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    curve = pd.read_csv(tmp_path / "two" / "train.csv")
    # 16 images at 16 px have the tokens of 7 at 24 px and of 4 at 32 px; a step is two groups.
    assert set(curve["images"]) <= {a + b for a in (16, 7, 4) for b in (16, 7, 4)}
    assert len(set(curve["images"])) > 1
    tables = [*(tmp_path / "two").glob("evaluations/*/records.parquet"), tmp_path / "two" / "records.parquet"]
    records = pd.concat([pd.read_parquet(path) for path in tables])
    last = records[records["step"] == 6]
    assert set(last["samples_seen"]) == {curve["images"].sum()}
    assert set(records[records["metric"] == "validation_loss"]["prompt_form"]) == {"short", "repeated", "detailed"}
    assert {"geneval_guided.1", "geneval_guided.5"} <= set(records["metric"])
