"""What is scored later: costs, numbers of images, weights that have changed, and cells that nobody holds any more."""

from __future__ import annotations

import multiprocessing
import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from lensbench import cli
from lensbench.experiment import Experiment
from lensbench.records import RECORDS, read, write
from lensbench.sweep import claims
from lensbench.sweep.cell import run_cell
from lensbench.sweep.cellfiles import evaluation_folder, is_evaluated, read_records, read_trained
from lensbench.sweep.progress import Progress
from lensbench.sweep.sweep import Sweep, cells, collect
from lensbench.tracking import contents
from tests.sweep.test_train_once import BASE

ONE = BASE.replace({"evaluation.at": (1.0,), "evaluation.forms": ("short",), "training.steps": 2})
METRICS = ("geneval", "shapes_alignment", "fd:shapes")


def run(experiment: Experiment, directory: Path, cache: Path, **how: Any) -> list[str]:
    said: list[Progress] = []
    run_cell(experiment, directory, cache=cache, report=said.append, **how)
    return [progress.note for progress in said if progress.lasting]


@pytest.fixture(scope="module")
def once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cell trained and scored as ONE says, and the cache beside it."""
    folder = tmp_path_factory.mktemp("once")
    run(ONE, folder / "cell", folder / "cache")
    return folder


@pytest.fixture
def cell(once: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(once / "cell", tmp_path / "cell"))


def command(monkeypatch: pytest.MonkeyPatch, *words: str) -> int | str | None:
    monkeypatch.setattr("sys.argv", ["lensbench", *words])
    with pytest.raises(SystemExit) as left:
        cli.main()
    return left.value.code


def costs(frame: pd.DataFrame) -> float:
    return float(frame.loc[frame["metric"] == "cell_seconds", "value"].sum())


def test_mlflow_is_told_what_training_and_the_first_evaluation_cost_together(cell: Path, once: Path) -> None:
    other = ONE.replace({"evaluation.guidance": 2.0})
    run(ONE, cell, once / "cache", evaluations=[other.evaluation])
    own, later = (evaluation_folder(cell, experiment) for experiment in (ONE, other))
    points, _ = contents.records(cell, own.name)
    sent = {point.name: point.value for point in points}
    assert sent["cell_seconds"] == pytest.approx(costs(read_records(cell, ONE)))
    assert sent["cell_seconds"] > costs(read_trained(cell, ONE)), "not of the training alone"
    assert sent[f"cell_seconds/{later.name}"] == costs(read(later / RECORDS.file, RECORDS))


@pytest.mark.parametrize(("told", "stays"), [("same", True), ("other", False), ("none", False)])
def test_a_thawed_evaluation_stays_where_the_cell_is_trained_to_the_same_weights(
    cell: Path, once: Path, told: str, stays: bool
) -> None:
    folder = evaluation_folder(cell, ONE)
    records = read(folder / RECORDS.file, RECORDS)
    assert records["weights_digest"].dropna().str.fullmatch("[0-9a-f]{64}").all()
    if told == "other":  # as if another machine's training had given them
        records = records.assign(weights_digest="0" * 64)
    elif told == "none":  # results that were frozen before records said it
        records = records.drop(columns="weights_digest")
    shutil.rmtree(folder / "images")
    (folder / RECORDS.file).unlink()
    write(records, folder / RECORDS.file, RECORDS)
    shutil.rmtree(cell / "checkpoints")
    other = ONE.replace({"evaluation.guidance": 2.0})
    news = run(ONE, cell, once / "cache", evaluations=[other.evaluation])
    assert is_evaluated(cell, ONE) == stays
    assert any("was not of these weights" in line for line in news) == (not stays)


def _take(cell: Path) -> None:
    claims.take(cell, claims.state(cell))


def test_a_damaged_evaluation_of_a_cell_whose_holder_is_gone_is_scored_again(
    cell: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (evaluation_folder(cell, ONE) / RECORDS.file).write_bytes(b"PAR1 cut off")
    holder = multiprocessing.get_context("fork").Process(target=_take, args=(cell,))
    holder.start()
    holder.join()
    assert claims.state(cell).held
    assert not claims.is_run(cell)
    assert not command(monkeypatch, "score", str(cell))
    assert "records.parquet cannot be read" in " ".join(capsys.readouterr().out.split())
    assert is_evaluated(cell, ONE)


def test_a_number_of_images_is_given_with_the_command(cell: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = ("--metrics", "kd:shapes", "--metric-images", "kd:shapes=24", "--metric-images", "fd:shapes=30")
    assert not command(monkeypatch, "score", str(cell), *words)
    numbers = {"kd:shapes": 24, "fd:shapes": 30}
    scored = ONE.replace({"evaluation.metrics": (*METRICS, "kd:shapes"), "evaluation.metric_images": numbers})
    counts = read_records(cell, scored).groupby("metric")["n"].max()
    assert (counts["kd_shapes"], counts["fd_shapes"], counts["shapes_alignment"]) == (24, 30, 40)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("kid=24",), "--metric-images kid: not among the metrics (geneval, shapes_alignment, fd:shapes)"),
        (("geneval=24",), "geneval takes no images of held-out captions: evaluation.images_per_task says"),
        (("fd:shapes",), "--metric-images fd:shapes: give NAME=N"),
        (("fd:shapes=many",), "--metric-images fd:shapes=many: give NAME=N"),
        (("fd:shapes=4",), "metric_images"),
        (("fd:shapes=10",), "fd_shapes: 10 drawn pictures for 64 features"),
    ],
)
def test_a_number_of_images_that_means_nothing_is_one_line(
    cell: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], said: str
) -> None:
    assert command(monkeypatch, "score", str(cell), "--metric-images", *words) == 2
    told = capsys.readouterr().err.strip()
    assert said in told
    assert "\n" not in told


def test_a_folder_takes_no_number_of_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(monkeypatch, "score", str(tmp_path), "--metrics", "kid", "--metric-images", "kid=10") == 2
    assert "is scored whole" in capsys.readouterr().err


def test_a_usual_metric_that_is_left_out_is_a_note_of_the_report(tmp_path: Path) -> None:
    factors = {"captions.set": ("alt", "detailed")}
    reference = {"captions.set": "alt"}
    few = ONE.replace({"evaluation.scene_images": 12})
    for base, notes in ((ONE, []), (few, ["not measured: fd:shapes: evaluation.scene_images are too few for it"])):
        sweep = Sweep(name="s", base=base, factors=factors, reference=reference)
        assert [note for note in collect(sweep, tmp_path).notes if "not measured" in note] == notes
        assert len(cells(sweep)) == 2
