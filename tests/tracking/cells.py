"""Cells as runs leave them on the disk, and what MLflow shows of them."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
from PIL import Image

from lensbench import spool
from lensbench.experiment import Experiment
from lensbench.records import RECORDS
from lensbench.sweep.cellfiles import evaluation_folder, write_cell
from lensbench.sweep.sweep import Sweep, cells
from lensbench.sweep.vitals import telling
from lensbench.tracking.store import EXPERIMENT
from tests.rows import blank

STEPS = 600  # the points of a cell then take more than one request


def sweep_of(name: str, seeds: tuple[int, ...] = (0,)) -> Sweep:
    """A sweep of two arms; no two names share a cell, as long as their seeds differ."""
    return Sweep(
        name=name,
        base=Experiment(text_encoder={"layers": tuple(range(6)) * 30}),  # too long a parameter
        factors={"captions.set": ("alt", "detailed"), "seed": seeds},
        reference={"captions.set": "alt"},
    )


def tell(directory: Path, first: int, last: int, identity: str = "i") -> None:
    """What training tells of the steps `first` to `last`."""
    spool.identify(directory, identity)
    numbers = [{"step": n, "train": {"loss": 1 / n, "learning_rate": 0.1 * n}} for n in range(first, last + 1)]
    held_out = [{"step": n, "held_out": {"short": 2 / n}} for n in (300, 600) if first <= n <= last]
    spool.append(directory, [*numbers, *held_out])


def write_checkpoint(directory: Path, step: int) -> None:
    """A checkpoint as far as tracking looks into it."""
    folder = directory / "checkpoints" / f"step-{step:06d}"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.safetensors").write_bytes(bytes([step % 256]) * 100)


def complete(directory: Path, experiment: Experiment, value: float = 0.5, steps: int = STEPS) -> None:
    """The files of a complete cell, whether or not it has told anything before."""
    images = evaluation_folder(directory, experiment) / "images"
    for folder in (images, directory / "samples"):
        folder.mkdir(parents=True, exist_ok=True)
    (directory / "experiment.json").write_text(experiment.model_dump_json())
    table = pd.DataFrame({"step": np.arange(1, steps + 1)})
    table = table.assign(loss=1 / table["step"], learning_rate=0.1 * table["step"], images=16, seconds=table["step"])
    table.loc[5, "loss"] = np.nan
    table.to_csv(directory / "train.csv", index=False)
    for path in (images / "grid.png", directory / "samples/step-000600.png"):
        Image.fromarray(np.zeros((8, 8, 3), dtype=np.uint8)).save(path)
    write_checkpoint(directory, 300)
    write_checkpoint(directory, 600)
    digests = {name: name[0] * 64 for name in blank(RECORDS) if name.endswith("digest")}
    row: dict[str, Any] = blank(RECORDS) | digests
    row |= {"commit": "abc", "hardware": "a cpu"}
    rows = [
        row | {"metric": metric, "prompt_form": form, "value": v, "step": step}
        for metric, form, v, step in [
            ("geneval", "short", 0.25, 300),
            ("geneval", "short", value, 600),
            ("geneval", "detailed", 0.75, 600),
            ("validation_loss", "short", 2 / 600, 600),
            ("train_seconds", "", 9.0, 600),
            ("fd_shapes", "", np.nan, 600),
        ]
    ]
    write_cell(directory, experiment, pd.DataFrame(rows), pd.DataFrame())


def whole(runs: Path, sweep: Sweep) -> None:
    """Every cell of the sweep, complete, having told what it did."""
    for cell in cells(sweep):
        with telling(runs / cell.id):
            tell(runs / cell.id, 1, STEPS)
            complete(runs / cell.id, cell.experiment)


def store(uri: str) -> tuple[mlflow.MlflowClient, str]:
    """A client and the experiment that everything is in."""
    client = mlflow.MlflowClient(uri)
    return client, client.get_experiment_by_name(EXPERIMENT).experiment_id


def runs_of(uri: str, sweep: Sweep) -> list[mlflow.entities.Run]:
    """The runs of a sweep's cells that are not deleted, by cell."""
    client, experiment = store(uri)
    found = client.search_runs([experiment], f"tags.`sweep.{sweep.name}` = 'yes'", max_results=1000)
    return sorted(found, key=lambda run: run.data.tags["lensbench.cell"])


def parent_of(uri: str, sweep: Sweep) -> mlflow.entities.Run:
    """The sweep's own run, of which there is one."""
    client, experiment = store(uri)
    (found,) = client.search_runs([experiment], f"tags.`lensbench.sweep` = '{sweep.name}'")
    return found


def seen(uri: str, sweep: Sweep) -> dict[str, Any]:
    """All that is shown of a sweep's cells but for ids and times: what two ways of sending must agree in."""
    client, experiment = store(uri)
    out: dict[str, Any] = {}
    for run in runs_of(uri, sweep):
        points = defaultdict(list)
        for name in sorted(run.data.metrics):
            for metric in client.get_metric_history(run.info.run_id, name):
                points[name, metric.step].append(metric.value)
        assert all(len(values) == 1 for values in points.values()), "a point is there twice"
        cell = run.data.tags["lensbench.cell"]
        assert cell not in out, "a cell has two runs"
        models = client.search_logged_models([experiment], f"source_run_id = '{run.info.run_id}'")
        linked = sorted(output.step for output in run.outputs.model_outputs)
        scores = {model.name: sorted((m.key, m.step, m.value) for m in model.metrics or ()) for model in models}
        assert len(scores) == len(models), "a checkpoint has two models"
        files = sorted(
            file.path
            for folder in (None, "images", "samples")
            for file in client.list_artifacts(run.info.run_id, folder)
        )
        data = sorted(item.dataset.name for item in run.inputs.dataset_inputs)
        tags = {
            key: value for key, value in run.data.tags.items() if key not in ("mlflow.parentRunId", "lensbench.runs")
        }
        out[cell] = (run.info.status, dict(points), run.data.params, tags, linked, scores, files, data)
    return out
