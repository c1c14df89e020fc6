"""Tracking mirrors complete cells: whole or not at all, once, and never at the cost of the sweep."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import pytest
from PIL import Image
from rich.console import Console

from lensbench.experiment import Experiment
from lensbench.sweep.cellfiles import RECORD_COLUMNS
from lensbench.sweep.session import work
from lensbench.sweep.sweep import Cell, Sweep, cells
from lensbench.tracking import LONGEST, WHOLE, Tracker, attach, mirror_cell, open_tracker

SWEEP = Sweep(
    name="q",
    base=Experiment(text_encoder={"layers": tuple(range(6)) * 30}),  # too long a parameter
    factors={"captions.set": ("alt", "detailed")},
    reference={"captions.set": "alt"},
)


def write_cell(directory: Path, experiment: Experiment, value: float = 0.5) -> None:
    """The files of a complete cell; 600 training rows, so that the metrics take more than one batch."""
    for folder in ("pictures", "samples"):
        (directory / folder).mkdir(parents=True, exist_ok=True)
    (directory / "experiment.json").write_text(experiment.model_dump_json())
    steps = np.arange(1, 601)
    table = pd.DataFrame({"step": steps, "loss": 1 / steps, "rate": steps * 0.1})
    table.loc[5, "loss"] = np.nan
    table.to_csv(directory / "train.csv", index=False)
    for picture in ("pictures/grid.png", "samples/step-000600.png"):
        Image.fromarray(np.zeros((8, 8, 3), dtype=np.uint8)).save(directory / picture)
    digests = {name: name[0] * 64 for name in RECORD_COLUMNS if name.endswith("digest")}
    row: dict[str, Any] = dict.fromkeys(RECORD_COLUMNS, 0) | digests
    row |= {"cell": directory.name, "experiment_hash": experiment.hash(), "commit": "abc", "hardware": "a cpu"}
    rows = [
        row | {"metric": "geneval", "prompt_form": form, "value": v, "step": step}
        for form, v, step in [("short", 0.25, 300), ("short", value, 600), ("detailed", 0.75, 600)]
    ]
    rows += [row | {"metric": "train_seconds", "prompt_form": "", "value": 9.0, "step": 600}]
    rows += [row | {"metric": "fd_shapes", "prompt_form": "", "value": np.nan, "step": 600}]
    pd.DataFrame(rows).to_parquet(directory / "records.parquet")


def children(tracker: Tracker) -> list[mlflow.entities.Run]:
    found = tracker.client.search_runs([tracker.experiment_id], f"tags.`mlflow.parentRunId` = '{tracker.parent_id}'")
    return sorted(found, key=lambda run: run.data.tags["lensbench.cell"])


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One store for the tests of one tracker, as making one takes seconds; each test has a sweep of its own."""
    return tmp_path_factory.mktemp("runs")


@pytest.fixture
def sweep(request: pytest.FixtureRequest) -> Sweep:
    return SWEEP.model_copy(update={"name": request.node.name})


@pytest.fixture
def cell(runs: Path) -> Cell:
    """A complete cell in `runs`."""
    cell = cells(SWEEP)[0]
    write_cell(runs / cell.id, cell.experiment)
    return cell


def test_a_mirrored_cell_shows_what_its_directory_holds(runs: Path, sweep: Sweep, cell: Cell) -> None:
    tracker = open_tracker(runs, sweep)
    assert mirror_cell(tracker, runs / cell.id, cell.levels)
    (run,) = children(tracker)
    assert run.info.status == "FINISHED"
    assert run.data.params["model.depth"] == str(cell.experiment.model.depth)
    long = run.data.params["text_encoder.layers"]
    assert len(long) == LONGEST
    assert long.endswith("... (cut; see experiment.json)")
    assert run.data.tags["factor.captions.set"] == "alt"
    assert run.data.tags["mlflow.source.git.commit"] == "abc"
    assert run.data.metrics["geneval/short"] == 0.5  # the last step's
    assert run.data.metrics["geneval/detailed"] == 0.75
    assert run.data.metrics["train_seconds"] == 9
    assert "fd_shapes" not in run.data.metrics  # no number
    history = tracker.client.get_metric_history(run.info.run_id, "train/loss")
    assert len(history) == 599
    assert {(m.step, m.value) for m in history} >= {(1, 1.0), (600, 1 / 600)}
    assert [m.step for m in tracker.client.get_metric_history(run.info.run_id, "geneval/short")] == [300, 600]
    inputs = {item.tags[0].value: item.dataset for item in run.inputs.dataset_inputs}
    assert inputs["images"].digest == "c" * 36
    assert json.loads(inputs["captions"].source) == {"sha256": "c" * 64}
    artifacts = {item.path for item in tracker.client.list_artifacts(run.info.run_id)}
    assert artifacts == {"experiment.json", "pictures", "samples"}
    assert list((runs / "mlartifacts").rglob("pictures/grid.png"))
    assert list((runs / "mlartifacts").rglob("samples/step-000600.png"))


def test_mirroring_again_does_nothing_but_a_redone_cell_replaces_its_run(runs: Path, sweep: Sweep, cell: Cell) -> None:
    tracker = open_tracker(runs, sweep)
    assert mirror_cell(tracker, runs / cell.id)
    assert not mirror_cell(open_tracker(runs, sweep), runs / cell.id)
    write_cell(runs / cell.id, cell.experiment, value=0.875)
    assert mirror_cell(tracker, runs / cell.id)
    (run,) = children(tracker)
    assert run.data.metrics["geneval/short"] == 0.875


def test_a_half_mirrored_run_is_not_reused(
    runs: Path, sweep: Sweep, cell: Cell, monkeypatch: pytest.MonkeyPatch
) -> None:
    tracker = open_tracker(runs, sweep)
    with monkeypatch.context() as patch:
        patch.setattr(mlflow.MlflowClient, "log_artifact", lambda *a: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            mirror_cell(tracker, runs / cell.id)
    (half,) = children(tracker)
    assert WHOLE not in half.data.tags
    assert mirror_cell(tracker, runs / cell.id)
    (whole,) = children(tracker)
    assert whole.info.run_id != half.info.run_id
    assert whole.data.tags[WHOLE]


def test_a_resumed_sweep_goes_on_in_its_parent_run(runs: Path, sweep: Sweep) -> None:
    first = open_tracker(runs, sweep)
    first.close("FAILED")
    second = open_tracker(runs, sweep)
    assert second.parent_id == first.parent_id
    assert second.client.get_run(second.parent_id).info.status == "RUNNING"
    other = open_tracker(runs, SWEEP)
    assert other.parent_id != first.parent_id


def run_cell(experiment: Experiment, directory: Path, *, cache: Path, report: Any) -> None:
    write_cell(directory, experiment)


def test_broken_tracking_costs_one_line_and_the_next_run_catches_up(tmp_path: Path) -> None:
    out = io.StringIO()
    console = Console(file=out, width=300)
    (tmp_path / "mlflow.lock").mkdir()
    session = work(SWEEP, tmp_path, console=console, run_cell=run_cell, open_mirror=open_tracker)
    assert len(session.complete) == 2
    assert session.failed == {}
    assert sum("tracking stopped" in line for line in out.getvalue().splitlines()) == 1
    (tmp_path / "mlflow.lock").rmdir()
    work(SWEEP, tmp_path, console=console, run_cell=run_cell, open_mirror=open_tracker)
    tracker = open_tracker(tmp_path, SWEEP)
    assert [run.data.tags["lensbench.cell"] for run in children(tracker)] == sorted(c.id for c in cells(SWEEP))


def test_a_sweep_mirrors_its_cells_as_they_complete_and_ends_its_parent_run(
    runs: Path, sweep: Sweep, tmp_path: Path
) -> None:
    seen: list[int] = []

    def opened(_: Path, sweep: Sweep) -> Tracker:
        return open_tracker(runs, sweep)

    def counting(experiment: Experiment, directory: Path, *, cache: Path, report: Any) -> None:
        seen.append(len(children(open_tracker(runs, sweep))))
        write_cell(directory, experiment)

    work(sweep, tmp_path, console=Console(file=io.StringIO()), run_cell=counting, open_mirror=opened)
    assert seen == [0, 1]
    client = open_tracker(runs, SWEEP).client
    experiment = client.get_experiment_by_name("lensbench")
    (parent,) = client.search_runs([experiment.experiment_id], f"tags.`lensbench.sweep` = '{sweep.name}'")
    assert parent.info.status == "FINISHED"


def test_what_is_attached_is_found_in_the_sweeps_run_and_twice_is_once(
    runs: Path, sweep: Sweep, tmp_path: Path
) -> None:
    tracker = open_tracker(runs, sweep)
    table = tmp_path / "captions.md"
    for words in ("first", "second"):
        table.write_text(words)
        assert attach(runs, sweep.name, [table], "captions") is None
    (found,) = tracker.client.list_artifacts(tracker.parent_id, "captions")
    assert found.path == "captions/captions.md"
    copy = tracker.client.download_artifacts(tracker.parent_id, found.path, str(tmp_path))
    assert Path(copy).read_text() == "second"


def test_what_cannot_be_attached_is_one_line(runs: Path, sweep: Sweep, tmp_path: Path) -> None:
    open_tracker(runs, sweep)
    why = attach(runs, sweep.name, [tmp_path / "not there.md"], "captions")
    assert why is not None
    assert "\n" not in why
