"""A cell's run in an MLflow store: what the store has of it, and what it is sent of the rest."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lensbench.tracking import contents
from lensbench.tracking.contents import Point, Reading
from lensbench.tracking.entities import cut, datasets

if TYPE_CHECKING:
    import mlflow

CELL, IDENTITY = "lensbench.cell", "lensbench.identity"  # tags
BATCH = 1000  # metrics in one request, MLflow's limit


@dataclass
class CellRun:
    """What the store has of a cell. `sent` counts what it is sent, and `progress` is called whenever it is."""

    client: mlflow.MlflowClient
    experiment: str
    run_id: str
    sent: Counter[str]
    progress: Callable[[], None]
    reading: Reading
    status: str
    tags: dict[str, str]
    parameters: set[str]
    there: dict[tuple[str, int], tuple[int, float]]  # (name, step) of a point -> its time and value
    files: set[str]  # artifacts, by their paths
    linked: set[tuple[str, int]] = field(default_factory=set)  # points that their checkpoint's model has
    models: dict[int, str] = field(default_factory=dict)  # step of a checkpoint -> id of the LoggedModel
    with_data: bool = False  # its datasets are there

    def describe(self, directory: Path, origin: dict[str, str]) -> None:
        """Send parameters, tags and datasets, as soon as they are known."""
        from mlflow.entities import Param

        parameters = contents.parameters(directory)
        fresh = [Param(key, cut(value)) for key, value in parameters.items() if key not in self.parameters]
        if fresh:
            self.client.log_batch(self.run_id, params=fresh)
            self.parameters |= parameters.keys()
        tags = {IDENTITY: self.reading.identity} if self.reading.identity else {}
        if origin:
            tags |= {"mlflow.source.git.commit": origin["commit"], "hardware": origin["hardware"]}
        if "experiment_hash" in origin:
            tags["lensbench.experiment_hash"] = origin["experiment_hash"]
        self.tags = tagged(self.client, self.run_id, self.tags, tags)
        if origin and parameters and not self.with_data:
            self.client.log_inputs(self.run_id, datasets(origin, parameters))
            self.with_data = True

    def send_points(self, points: Iterable[Point]) -> None:
        """Send the points that the store lacks, or that a checkpoint's model lacks."""
        from mlflow.entities import Metric

        batch, fresh = [], 0
        for point in points:
            place = (point.name, point.step)
            model = self.models.get(point.checkpoint) if point.checkpoint is not None else None
            if place in self.there and (model is None or place in self.linked):
                continue
            if model is not None:
                self.linked.add(place)
            fresh += place not in self.there
            # As it was sent, if it was: MLflow drops what is equal and links it with the model.
            t, value = self.there.setdefault(place, (point.t, point.value))
            batch.append(Metric(point.name, value, t, point.step, model_id=model))
        for start in range(0, len(batch), BATCH):
            self.client.log_batch(self.run_id, metrics=batch[start : start + BATCH])
            self.progress()
        self.sent["points"] += fresh

    def send_files(self, directory: Path, own: str) -> None:
        """Send the recipe and the images; those of other evaluations than `own` have folders of their own."""
        for file, folder in ((directory / "experiment.json", ""), *contents.pictures(directory, own)):
            path = f"{folder}/{file.name}" if folder else file.name
            if path not in self.files and file.exists():
                self.client.log_artifact(self.run_id, str(file), folder or None)
                self.files.add(path)
                self.sent["files"] += 1

    def send_models(self, directory: Path) -> None:
        """Make a LoggedModel for each checkpoint, which stays where it is."""
        from mlflow.entities import LoggedModelOutput, LoggedModelStatus

        folders = {step: folder for step, folder in contents.checkpoints(directory).items() if step not in self.models}
        if not folders:
            return
        made = {
            int(model.tags["lensbench.step"]): model for model in models_of(self.client, self.experiment, self.run_id)
        }
        for step, folder in folders.items():
            tags = {
                "mlflow.model.is_external": "true",
                CELL: directory.name,
                "lensbench.step": str(step),
                "lensbench.path": str(folder.resolve()),
            }
            tags |= {f"sha256.{name}": digest for name, digest in contents.weights(folder).items()}
            model = made.get(step)
            if model is None:
                model = self.client.create_logged_model(
                    self.experiment, f"{directory.name}-{folder.name}", self.run_id, tags, model_type="Lens denoiser"
                )
                self.sent["models"] += 1
            if str(model.status) != str(LoggedModelStatus.READY):
                self.client.finalize_logged_model(model.model_id, LoggedModelStatus.READY)
            self.client.log_outputs(self.run_id, [LoggedModelOutput(model.model_id, step)])
            self.models[step] = model.model_id


def models_of(client: mlflow.MlflowClient, experiment: str, run_id: str) -> list[Any]:
    """The LoggedModels of a run."""
    return list(client.search_logged_models([experiment], f"source_run_id = '{run_id}'"))


def tagged(client: mlflow.MlflowClient, run_id: str, before: dict[str, str], tags: dict[str, str]) -> dict[str, str]:
    """Set the tags that are not set; returns all there are then."""
    from mlflow.entities import RunTag

    fresh = [RunTag(key, value) for key, value in tags.items() if before.get(key) != value]
    if fresh:
        client.log_batch(run_id, tags=fresh)
    return before | tags
