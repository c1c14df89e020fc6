"""`lensbench run` stopped by a person, a scheduler or a crash: what is trained is kept, to the bit."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest

SWEEP = """from lensbench.experiment import Evaluation, Experiment, Model, ShapesCorpus, TextEncoder, Training
from lensbench.sweep.sweep import Sweep

sweep = Sweep(
    name="stopped",
    base=Experiment(
        corpus=ShapesCorpus(size_px=16),
        images=64,
        model=Model(depth=2),
        text_encoder=TextEncoder(layers=(0,)),
        training=Training(steps=300, batch=8, warmup_steps=5, resume_seconds=RESUME),
        evaluation=Evaluation(at=(0.05, 1.0), prompts_per_task=1, images_per_task=1, scene_images=16,
                              validation_images=8, sampling_steps=2),
    ),
    factors={"captions.set": ("alt", "detailed"), "seed": (0,)},
    reference={"captions.set": "alt"},
)
"""
LENSBENCH = [str(Path(sys.executable).with_name("lensbench"))]
# A machine so busy that the process which was asked to stop asks its workers two seconds later.
BUSY = """
import sys, time
from lensbench.sweep import processes
stop = processes._stop
def late(children, say):
    if any(child.poll() is None for child in children):
        time.sleep(2)
    return stop(children, say)
processes._stop = late
from lensbench.cli import main
sys.argv[0] = "lensbench"
main()
"""


def begin(folder: Path, resume_seconds: float = 300, busy: bool = False) -> subprocess.Popen[str]:
    (folder / "stopped.py").write_text(SWEEP.replace("RESUME", str(resume_seconds)))
    command = [sys.executable, "-c", BUSY] if busy else LENSBENCH
    return subprocess.Popen(
        [*command, "run", "stopped.py"], cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def losses(folder: Path) -> dict[str, list[float]]:
    return {path.parent.name: list(pd.read_csv(path)["loss"]) for path in (folder / "runs").glob("*/train.csv")}


def wait_until_both_train(process: subprocess.Popen[str], folder: Path) -> None:
    limit = time.monotonic() + 120
    while len(list((folder / "runs").glob("*/checkpoints/step-000015/config.json"))) < 2:
        assert process.poll() is None
        assert time.monotonic() < limit
        time.sleep(0.02)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[float]]:
    folder = tmp_path_factory.mktemp("undisturbed")
    process = begin(folder)
    process.communicate(timeout=200)
    assert process.returncode == 0
    assert not list((folder / "runs").glob("*/resume"))
    return losses(folder)


@pytest.mark.slow
@pytest.mark.parametrize(("how", "busy"), [(signal.SIGINT, False), (signal.SIGINT, True), (signal.SIGKILL, False)])
def test_a_stopped_sweep_goes_on_within_its_cells(
    how: signal.Signals, busy: bool, tmp_path: Path, undisturbed: dict[str, list[float]]
) -> None:
    process = begin(tmp_path, 0.05 if how == signal.SIGKILL else 300, busy)
    wait_until_both_train(process, tmp_path)
    process.send_signal(how)
    out, err = process.communicate(timeout=100)
    # A cell that was far ahead of the other when both had begun has trained to its end, and says so.
    kept = sorted((tmp_path / "runs").glob("*/resume/*.json"))
    complete = {path.parents[2].name for path in (tmp_path / "runs").glob("*/evaluations/*/records.parquet")}
    if how != signal.SIGKILL:
        assert process.returncode == 128 + how
        assert "stopping: what is being trained is kept; Ctrl-C again stops at once" in out
        (line,) = err.splitlines()
        assert f"{len(complete)} of 2 cells are complete and kept" in line
        assert line.endswith("run stopped.py")
    assert {path.parents[1].name for path in kept} | complete == set(undisturbed)
    points = [int(path.stem.removeprefix("step-")) for path in kept if path.stem != "trained"]
    assert points, "no cell was stopped within its training"
    assert how == signal.SIGKILL or min(points) >= 15
    again = begin(tmp_path)
    again.communicate(timeout=200)
    assert again.returncode == 0
    assert losses(tmp_path) == undisturbed
    assert not list((tmp_path / "runs").glob("*/resume"))
