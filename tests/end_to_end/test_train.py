"""`lensbench train` by one process, by two that it starts and by two that torchrun starts."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest

pytestmark = pytest.mark.slow  # several processes, each of which imports torch

RECIPE = """from lensbench.experiment import Evaluation, Experiment, Model, ShapesCorpus, TextEncoder, Training

experiment = Experiment(
    name="small",
    corpus=ShapesCorpus(size_px=16),
    images=64,
    model=Model(depth=2),
    text_encoder=TextEncoder(layers=(0,)),
    training=Training(steps=240, batch=8, warmup_steps=5, optimizer="adamw", learning_rate=1e-3, resume_seconds=0.3),
    evaluation=Evaluation(at=(0.5, 1.0), prompts_per_task=1, images_per_task=1, scene_images=16, validation_images=8,
                          sampling_steps=2),
)
"""
BIN = Path(sys.executable).parent
TRAIN = [str(BIN / "lensbench"), "train", "small.py", "--out"]
BY_TORCHRUN = [str(BIN / "torchrun"), "--nproc-per-node", "2", "--no-python"]


def begin(folder: Path, command: list[str], changes: str = "") -> subprocess.Popen[str]:
    text = RECIPE if not changes else f"{RECIPE}\nexperiment = experiment.replace({changes})\n"
    (folder / "small.py").write_text(text)
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def finish(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=200)
    return process.returncode, out, err


def processes(of: int) -> list[int]:
    """The ranks that a `lensbench train` started, in order."""
    children = Path(f"/proc/{of}/task/{of}/children").read_text().split()
    variables = {pid: Path(f"/proc/{pid}/environ").read_text().split("\0") for pid in map(int, children)}
    ranks = {int(next(v for v in of if v.startswith("RANK=")).removeprefix("RANK=")): p for p, of in variables.items()}
    return [ranks[rank] for rank in sorted(ranks)]


def wait_for_a_point(process: subprocess.Popen[str], run: Path) -> None:
    limit = time.monotonic() + 100
    while not list((run / "resume").glob("step-*.json")):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < limit
        time.sleep(0.02)


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("alone")
    code, out, err = finish(begin(folder, [*TRAIN, "run"]))
    assert (code, err) == (0, "")
    assert out.endswith("records, checkpoints and pictures are in run\n")
    return folder / "run"


def same_losses(run: Path, other: Path) -> None:
    ours, theirs = (pd.read_csv(folder / "train.csv") for folder in (run, other))
    pd.testing.assert_frame_equal(ours[["step", "loss"]], theirs[["step", "loss"]], rtol=1e-5)
    # Two processes round otherwise than one, and the difference grows with the steps: 1.4e-5 of the norm after 160.
    pd.testing.assert_series_equal(ours["gradient_norm"], theirs["gradient_norm"], rtol=1e-4)


def test_a_process_that_is_killed_ends_all_and_others_go_on(alone: Path, tmp_path: Path) -> None:
    sharded = '{"training.strategy": "fsdp"}'
    process = begin(tmp_path, [*TRAIN, "run", "--devices", "2"], sharded)
    wait_for_a_point(process, tmp_path / "run")
    os.kill(processes(process.pid)[1], signal.SIGKILL)
    code, _, err = finish(process)
    assert code == 2
    (line,) = err.splitlines()
    assert "process 1 of the 2 that train together ended with SIGKILL" in line
    kept = min(int(path.stem.removeprefix("step-")) for path in (tmp_path / "run" / "resume").glob("step-*.json"))
    code, out, err = finish(begin(tmp_path, [*BY_TORCHRUN, *TRAIN, "run"], sharded))
    assert code == 0, err
    assert out.count("records, checkpoints and pictures are in run") == 1
    assert kept > 0
    assert json.loads((tmp_path / "run" / "training.json").read_text())["processes"] == 2
    same_losses(tmp_path / "run", alone)
    assert not (tmp_path / "run" / "resume").exists()
    records = [pd.read_parquet(folder / "records.parquet") for folder in (tmp_path / "run", alone)]
    assert records[0]["metric"].tolist() == records[1]["metric"].tolist()


def test_what_is_complete_is_left_and_another_experiment_refused(alone: Path) -> None:
    before = (alone / "records.parquet").stat().st_mtime_ns
    code, out, _ = finish(begin(alone.parent, [*TRAIN, "run"]))
    assert code == 0
    assert "it is complete: nothing to do" in out
    code, _, err = finish(begin(alone.parent, [*TRAIN, "run"], '{"seed": 1}'))
    assert code == 2
    assert "is the directory of another experiment" in err
    assert (alone / "records.parquet").stat().st_mtime_ns == before


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_stops_all_processes_after_the_step_and_one_goes_on(
    number: signal.Signals, alone: Path, tmp_path: Path
) -> None:
    process = begin(tmp_path, [*TRAIN, "run", "--devices", "2"])
    wait_for_a_point(process, tmp_path / "run")
    ours = processes(process.pid)
    process.send_signal(number)
    code, _, err = finish(process)
    assert code == 128 + number
    assert err == f"lensbench: stopped by {number.name}; what is trained stays in run; the same command goes on\n"
    assert not any(Path(f"/proc/{pid}").exists() for pid in ours)
    assert list((tmp_path / "run" / "resume").glob("step-*.json"))
    assert finish(begin(tmp_path, [*TRAIN, "run"]))[0] == 0
    same_losses(tmp_path / "run", alone)


@pytest.mark.slow
@pytest.mark.parametrize("launcher", [[], BY_TORCHRUN])
def test_a_mistake_is_one_line_whoever_starts_the_processes(launcher: list[str], tmp_path: Path) -> None:
    own = [] if launcher else ["--devices", "2"]
    code, _, err = finish(begin(tmp_path, [*launcher, *TRAIN, "run", *own], '{"training.batch": 1}'))
    assert code != 0
    lines = [line for line in err.splitlines() if line.startswith("lensbench: ")]
    assert len(lines) == 1
    assert "cannot be divided among 2 processes" in lines[0]
    if launcher:
        code, _, err = finish(begin(tmp_path, [*launcher, *TRAIN, "run"], '{"training.devices": 3}'))
        assert "training.devices=3, but torchrun started 2 process(es)" in err
