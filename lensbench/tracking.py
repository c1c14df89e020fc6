"""MLflow, for looking: one parent run a sweep, one child run a complete cell. The only module that imports mlflow.

A cell is mirrored in one go after it is complete, from its directory, so tracking can neither slow a training step
nor break a cell. Mirroring twice changes nothing; what a crash left half mirrored is deleted and done again.
Look with: mlflow server --backend-store-uri sqlite:///runs/mlflow.db
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import math
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import mlflow
    import pandas as pd

    from lensbench.sweep.sweep import Sweep

DATABASE = "mlflow.db"
EXPERIMENT = "lensbench"
WHOLE = "lensbench.records"  # set last on a child run, to the digest of the records it shows
LONGEST = 250  # characters of a parameter's value that MLflow's loggers keep
BATCH = 1000  # metrics in one request, MLflow's limit


@dataclass(frozen=True)
class Tracker:
    """An open MLflow store and the sweep's parent run in it."""

    client: mlflow.MlflowClient
    experiment_id: str
    parent_id: str
    database: Path

    def mirror(self, directory: Path, levels: dict[str, Any]) -> None:
        """`mirror_cell` with the cell's factor levels as tags."""
        mirror_cell(self, directory, levels)

    def close(self, status: str) -> None:
        """End the parent run: FINISHED, FAILED (cells are missing) or KILLED."""
        self.client.set_terminated(self.parent_id, status=status)


def open_tracker(runs: Path, sweep: Sweep) -> Tracker:
    """The store `runs`/mlflow.db, made if need be, with the sweep's parent run set to RUNNING.

    A resumed sweep goes on in its earlier parent run. Artifacts lie under `runs`/mlartifacts.
    """
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "ERROR")
    import mlflow
    from mlflow.entities import ViewType
    from mlflow.exceptions import MlflowException

    database = runs / DATABASE
    with _store_lock(runs):  # two processes must neither make the tables at once nor two parent runs
        client = mlflow.MlflowClient(tracking_uri=f"sqlite:///{database.resolve()}")
        found = client.get_experiment_by_name(EXPERIMENT)
        if found is not None and found.lifecycle_stage == "deleted":
            raise MlflowException(f"the experiment {EXPERIMENT!r} was deleted in {database}")
        artifacts = (runs / "mlartifacts").resolve().as_uri()
        experiment_id = found.experiment_id if found else client.create_experiment(EXPERIMENT, artifacts)
        parents = client.search_runs(
            [experiment_id], f"tags.`lensbench.sweep` = '{sweep.name}'", ViewType.ACTIVE_ONLY, max_results=1
        )
        if parents:
            parent_id = parents[0].info.run_id
            client.update_run(parent_id, status="RUNNING")  # logging to an ended run would leave it ended
        else:
            tags = {"lensbench.sweep": sweep.name, "mlflow.source.name": "lensbench run", "mlflow.note.content": ""}
            tags["mlflow.note.content"] = "Factors: " + ", ".join(f"{k} = {list(v)}" for k, v in sweep.factors.items())
            parent_id = client.create_run(experiment_id, run_name=sweep.name, tags=tags).info.run_id
    return Tracker(client, experiment_id, parent_id, database)


def mirror_cell(tracker: Tracker, directory: Path, levels: dict[str, Any] | None = None) -> bool:
    """Show a complete cell as a child run: parameters, data, step metrics, records and pictures.

    Returns whether anything was written: False when the run shows these very records already.
    """
    digest = hashlib.sha256((directory / "records.parquet").read_bytes()).hexdigest()
    with _store_lock(tracker.database.parent):
        client = tracker.client
        earlier = client.search_runs(
            [tracker.experiment_id],
            f"tags.`lensbench.cell` = '{directory.name}' AND tags.`mlflow.parentRunId` = '{tracker.parent_id}'",
        )
        if any(run.data.tags.get(WHOLE) == digest for run in earlier):
            return False
        for run in earlier:  # half mirrored, or of an earlier attempt at the cell
            client.delete_run(run.info.run_id)
        _write_run(tracker, directory, levels or {}, digest)
    return True


def attach(runs: Path, sweep: str, files: Sequence[Path], folder: str) -> str | None:
    """Files as artifacts of a sweep's parent run, in the place of earlier ones. Returns why not, where that fails.

    `runs` must hold the store. A sweep without a parent run has none made.
    """
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "ERROR")
    import mlflow

    try:
        client = mlflow.MlflowClient(tracking_uri=f"sqlite:///{(runs / DATABASE).resolve()}")
        with _store_lock(runs):
            experiment = client.get_experiment_by_name(EXPERIMENT)
            asked = f"tags.`lensbench.sweep` = '{sweep}'"
            parents = client.search_runs([experiment.experiment_id], asked, max_results=1) if experiment else []
            for file in files if parents else ():
                client.log_artifact(parents[0].info.run_id, str(file), folder)
    except Exception as error:  # tracking is for looking: its failure is never the report's
        return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
    return None


def _write_run(tracker: Tracker, directory: Path, levels: dict[str, Any], digest: str) -> None:
    import pandas as pd
    from mlflow.entities import Param, RunTag

    client = tracker.client
    records = pd.read_parquet(directory / "records.parquet")
    first = records.iloc[0]
    name = " ".join(f"{dotted.rpartition('.')[2]}={level}" for dotted, level in levels.items()) or directory.name
    tags = {
        "lensbench.cell": directory.name,
        "lensbench.experiment_hash": str(first["experiment_hash"]),
        "mlflow.parentRunId": tracker.parent_id,
        "mlflow.source.name": "lensbench run",
        "mlflow.source.git.commit": str(first["commit"]),
        "hardware": str(first["hardware"]),
    }
    tags |= {f"factor.{dotted}": str(level) for dotted, level in levels.items()}
    run_id = client.create_run(tracker.experiment_id, run_name=name, tags=tags).info.run_id
    parameters = _flat(json.loads((directory / "experiment.json").read_text()))
    client.log_batch(run_id, params=[Param(key, _cut(value)) for key, value in parameters.items()])
    client.log_inputs(run_id, _datasets(first, parameters))
    metrics = _metrics(directory, records)
    for start in range(0, len(metrics), BATCH):
        client.log_batch(run_id, metrics=metrics[start : start + BATCH])
    client.log_artifact(run_id, str(directory / "experiment.json"))
    for folder in ("pictures", "samples"):
        for picture in sorted((directory / folder).glob("*.png")):
            client.log_artifact(run_id, str(picture), folder)
    client.set_terminated(run_id, status="FINISHED")
    client.log_batch(run_id, tags=[RunTag(WHOLE, digest)])


def _metrics(directory: Path, records: pd.DataFrame) -> list[Any]:
    import pandas as pd
    from mlflow.entities import Metric

    now = int(time.time() * 1000)
    out = []
    path = directory / "train.csv"
    if path.exists():
        table = pd.read_csv(path)
        for column in table.columns.drop("step", errors="ignore"):
            for step, value in zip(table["step"], table[column], strict=True):
                if not math.isnan(value):
                    out.append(Metric(f"train/{column}", float(value), now, int(step)))
    for row in records.to_dict("records"):
        if not math.isnan(row["value"]):
            # MLflow's names allow no "@"; a form reads like a folder of its metric
            name = f"{row['metric']}/{row['prompt_form']}" if row["prompt_form"] else str(row["metric"])
            out.append(Metric(name, float(row["value"]), now, int(row["step"])))
    return out


def _datasets(first: pd.Series, parameters: dict[str, str]) -> list[Any]:
    from mlflow.entities import Dataset, DatasetInput, InputTag

    def dataset(name: str, digest: str, context: str) -> DatasetInput:
        source = json.dumps({"sha256": digest})
        # MLflow keeps 36 characters of a digest; the whole one is the source
        entity = Dataset(name=name, digest=digest[:36], source_type="lensbench", source=source)
        return DatasetInput(dataset=entity, tags=[InputTag("mlflow.data.context", context)])

    return [
        dataset(f"images: {parameters.get('corpus.kind', '?')}", str(first["corpus_digest"]), "images"),
        dataset(f"captions: {parameters.get('captions.set', '?')}", str(first["captions_digest"]), "captions"),
        dataset("prompts", str(first["prompts_digest"]), "evaluation"),
    ]


def _flat(tree: dict[str, Any], prefix: str = "") -> dict[str, str]:
    out: dict[str, str] = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            out |= _flat(value, f"{prefix}{key}.")
        else:
            out[prefix + key] = str(value)
    return out


def _cut(value: str) -> str:
    # said in the value itself, so that nobody takes the cut text for the whole; the file is among the artifacts
    note = " ... (cut; see experiment.json)"
    return value if len(value) <= LONGEST else value[: LONGEST - len(note)] + note


@contextmanager
def _store_lock(runs: Path) -> Iterator[None]:
    with (runs / "mlflow.lock").open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
