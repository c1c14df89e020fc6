"""The main job at its smallest real size, through the real command: run, interrupt, run again, read what it wrote."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import mlflow
import pandas as pd
import pytest
from PIL import Image

ROOT = Path(__file__).parents[2]
SWEEP = """
from lensbench.experiment import Experiment
from lensbench.sweep.sweep import Sweep

base = Experiment().replace(
    {
        "corpus.size_px": 16,
        "images": 64,
        "text_encoder.layers": (0, 1),
        "training.steps": STEPS,
        "training.batch": 16,
        "evaluation.at": (0.5, 1.0),
        "evaluation.prompts_per_task": 3,
        "evaluation.images_per_task": 6,
        "evaluation.scene_images": 16,
        "evaluation.validation_images": 16,
        "evaluation.sampling_steps": 4,
    }
)
sweep = Sweep(
    name="tiny",
    base=base,
    factors={"captions.set": ("alt", "brief", "detailed"), "model.depth": (1, 2), "seed": (0, 1)},
    reference={"captions.set": "alt"},
)
"""


def lensbench(*words: str, cwd: Path, **extra: str) -> subprocess.CompletedProcess[str]:
    command = [str(Path(sys.executable).with_name("lensbench")), *words]
    environment = os.environ | {"COLUMNS": "120"} | extra
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=280)


def write_sweep(folder: Path, steps: int = 4) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tiny.py").write_text(SWEEP.replace("STEPS", str(steps)))


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    folder = tmp_path_factory.mktemp("demo")
    write_sweep(folder)
    return folder, lensbench("run", "tiny.py", cwd=folder)


def tables(folder: Path) -> dict[str, bytes]:
    """The tables a reader compares; `data` holds seconds, which no two runs share."""
    return {name: (folder / "results" / "tiny" / name).read_bytes() for name in ("main.md", "main.csv", "main.tex")}


def test_the_table_has_every_arm_depth_and_form_and_says_where_things_are(
    finished: tuple[Path, subprocess.CompletedProcess[str]],
) -> None:
    folder, done = finished
    assert done.returncode == 0, done.stderr
    for word in (
        "alt",
        "brief",
        "detailed",
        "short prompts",
        "detailed prompts",
        "pictures",
        "curves",
        "MLflow",
        "LaTeX",
    ):
        assert word in done.stdout, f"{word!r} is not in what the command printed"
    assert max(map(len, done.stdout.splitlines())) <= 120
    results = folder / "results" / "tiny"
    for name in ("main.md", "main.csv", "main.tex", "differences.tex", "scores.md", "data.csv", "records.parquet"):
        assert (results / name).stat().st_size > 0
    with Image.open(results / "figures" / "curves.png") as figure:
        assert figure.width > 400


def test_every_number_has_its_provenance(finished: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    records = pd.read_parquet(finished[0] / "results" / "tiny" / "records.parquet")
    assert len(records["cell"].unique()) == 12
    for column in ("experiment_hash", "corpus_digest", "captions_digest", "commit"):
        assert records[column].str.len().min() > 0, column
    # One corpus, one set of prompts, one judge; captions for each arm and seed. Training has no prompts and no judge.
    scored = records[records["evaluation_hash"] != ""]
    (digests,) = scored[["corpus_digest", "prompts_digest", "judge_digest"]].drop_duplicates().to_numpy().tolist()
    assert all(digests)
    assert set(records["corpus_digest"]) == {digests[0]}
    # Each seed draws its images, and captions go with them.
    assert records.groupby(["captions.set", "seed"])["captions_digest"].nunique().eq(1).all()
    assert records["captions_digest"].nunique() == 3 * records["seed"].nunique()
    scores = records[records["metric"].str.startswith("geneval")]
    assert scores["value"].between(0, 1).all()
    assert sorted(scores["samples_seen"].unique()) == [32, 64]
    assert set(scores["prompt_form"]) == {"short", "detailed"}
    assert {"shapes_alignment", "validation_loss", "truncated_captions"} <= set(records["metric"])
    assert "fd_shapes" not in set(records["metric"]), "16 images are too few for a distance"


def test_what_was_watched_is_in_the_records_and_ends_with_what_was_scored(
    finished: tuple[Path, subprocess.CompletedProcess[str]],
) -> None:
    records = pd.read_parquet(finished[0] / "results" / "tiny" / "records.parquet")
    losses = records[records["metric"] == "validation_loss"].set_index(["cell", "step", "prompt_form"])
    for cell in records["cell"].unique():
        seen = pd.read_csv(finished[0] / "runs" / cell / "watch.csv", float_precision="round_trip")
        assert list(seen["step"]) == [1, 1, 2, 2, 4, 4]
        for row in seen.to_dict("records"):
            said = losses.loc[(cell, row["step"], row["form"])]
            assert said["value"] == row["validation_loss"]
            assert [said[name] for name in ("low", "high", "n")] == [row[name] for name in ("low", "high", "n")]
            assert (said["samples_seen"], said["train_flops"]) == (row["samples_seen"], row["train_flops"])
        for step in (1, 2, 4):
            with Image.open(finished[0] / "runs" / cell / "samples" / f"step-{step:06d}.png") as sheet:
                assert sheet.height > 8 * 96
    assert len(losses) == 12 * 6
    with Image.open(finished[0] / "results" / "tiny" / "figures" / "losses.png") as figure:
        assert figure.width > 400
    speed = records[records["metric"] == "images_per_second"]
    assert len(speed) == 12
    assert (speed["value"] > 0).all()


def test_arms_are_judged_on_the_same_prompts(finished: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    outcomes = pd.read_parquet(finished[0] / "results" / "tiny" / "outcomes.parquet")
    keys = ["metric", "prompt_form", "task", "prompt_index", "sample", "prompt", "step"]
    judged = [
        tuple(map(tuple, cell[keys].sort_values(keys).to_numpy().tolist())) for _, cell in outcomes.groupby("cell")
    ]
    assert len(judged) == 12
    assert len(set(judged)) == 1


def test_mlflow_has_a_parent_and_a_child_a_cell(finished: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    client = mlflow.MlflowClient(f"sqlite:///{finished[0] / 'runs' / 'mlflow.db'}")
    runs = [run for e in client.search_experiments() for run in client.search_runs([e.experiment_id])]
    children = [run for run in runs if "mlflow.parentRunId" in run.data.tags]
    assert len(children) == 12
    assert len(runs) == 13
    assert all(run.info.status == "FINISHED" for run in runs)
    history = client.get_metric_history(children[0].info.run_id, "train/loss")
    assert [point.step for point in history] == [1, 2, 3, 4]
    assert {artifact.path for artifact in client.list_artifacts(children[0].info.run_id)} >= {"experiment.json"}


def test_running_again_trains_nothing_and_writes_the_same_bytes(
    finished: tuple[Path, subprocess.CompletedProcess[str]],
) -> None:
    folder, _ = finished
    before = tables(folder)
    stamps = {path: path.stat().st_mtime_ns for path in (folder / "runs").glob("*/records.parquet")}
    assert lensbench("run", "tiny.py", cwd=folder).returncode == 0
    assert tables(folder) == before
    assert {path: path.stat().st_mtime_ns for path in (folder / "runs").glob("*/records.parquet")} == stamps


@pytest.mark.slow
def test_killed_anywhere_the_same_command_gives_the_same_table(
    finished: tuple[Path, subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    write_sweep(tmp_path)
    runs = tmp_path / "runs"
    # Killed hard once two cells are done and a third is under way.
    process = subprocess.Popen(
        [str(Path(sys.executable).with_name("lensbench")), "run", "tiny.py"],
        cwd=tmp_path,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    limit = time.monotonic() + 200
    while len(list(runs.glob("*/records.parquet"))) < 2 or not unfinished(runs):
        assert process.poll() is None, "the sweep ended before it could be killed"
        assert time.monotonic() < limit
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    kept = {path: path.stat().st_mtime_ns for path in runs.glob("*/records.parquet")}
    assert 2 <= len(kept) < 12
    assert lensbench("run", "tiny.py", cwd=tmp_path).returncode == 0
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    assert tables(tmp_path) == tables(finished[0])


def unfinished(runs: Path) -> list[Path]:
    return [cell for cell in runs.glob("*/experiment.json") if not (cell.parent / "records.parquet").exists()]


def test_a_report_on_half_a_sweep_says_what_is_missing(
    finished: tuple[Path, subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    write_sweep(tmp_path)
    cells = sorted((finished[0] / "runs").glob("*/records.parquet"))
    for records in cells[1:]:
        (tmp_path / "runs").mkdir(exist_ok=True)
        (tmp_path / "runs" / records.parent.name).symlink_to(records.parent)
    done = lensbench("report", "tiny.py", cwd=tmp_path)
    assert cells[0].parent.name in done.stdout
    assert "missing" in done.stdout.lower()
    # A complete report is never replaced by one of some of the cells.
    whole = shutil.copytree(finished[0] / "results", tmp_path / "results", dirs_exist_ok=True) / "tiny"
    before = {path: path.read_bytes() for path in whole.rglob("*") if path.is_file()}
    done = lensbench("report", "tiny.py", cwd=tmp_path)
    assert done.returncode == 1
    assert "holds a complete report, which stays: this one goes to results/tiny.partial" in done.stdout
    assert {path: path.read_bytes() for path in whole.rglob("*") if path.is_file()} == before
    assert "missing" in (tmp_path / "results" / "tiny.partial" / "main.md").read_text()
