"""A sweep as MLflow shows it: one parent run, one child run a cell, one LoggedModel a checkpoint.

The directories are the truth, and what the store has is asked of the store, never kept beside it. So a sender may be
killed at any moment, its requests may be lost or heard late, and several may send the same things:

- a point's time is kept with it, and MLflow keeps one of points that are equal in name, step, time and value;
- a run is found by its tags before one is made, under a lock file beside the cells; should a request that was given up
  make one later, the next look at the cell deletes it;
- a run is FINISHED and tagged with the digest of the cell's records once it shows everything, and not before.

Run directories are told apart by a name that is drawn once, so that several may use one server.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING

from lensbench.locks import file_lock
from lensbench.tracking import contents, target
from lensbench.tracking.cell_run import CELL, IDENTITY, CellRun, models_of, tagged
from lensbench.tracking.contents import Reading
from lensbench.tracking.listing import FOLDER, Listing, name_of

if TYPE_CHECKING:
    import mlflow
    from mlflow.entities import Run

EXPERIMENT = "lensbench"
SWEEP, RUNS = "lensbench.sweep", "lensbench.runs"  # tags
RECORDS = "lensbench.records"
OWN = "lensbench.evaluation"  # tag: the evaluation whose scores have plain names
PARENT = "mlflow.parentRunId"
PAGE = 500  # runs in one answer
TRIES = 2  # at a cell that MLflow refuses or whose files cannot be read, before it is left to the next run


class Mirror:
    """Shows a sweep's cells in an MLflow store; each `send` goes on from what the store has.

    `progress` is called whenever something has been sent. After an error nothing is taken for granted: the next `send`
    asks the store anew.
    """

    def __init__(self, listed: Listing, runs: Path, uri: str, progress: Callable[[], None] = lambda: None) -> None:
        self.listed, self.runs, self.uri, self.progress = listed, runs, uri, progress
        self.folder = runs / FOLDER
        self.sent: Counter[str] = Counter()  # runs, points, models, files
        self.whole: set[str] = set()  # cells that are complete and shown so
        self.refused: dict[str, str] = {}  # cell -> why it is not shown
        self.news: list[str] = []  # what was done that nobody asked for
        self._forget()

    def _forget(self) -> None:
        self.client: mlflow.MlflowClient | None = None
        self.shown: dict[str, CellRun] = {}
        self.tried: Counter[str] = Counter()

    def send(self, session: bool = False) -> None:
        """Show all that the directories have and the store has not; while `session`, the sweep's run is RUNNING.

        Raises whatever MLflow raises where the store cannot be reached.
        """
        try:
            self._open()
            begun = {entry.name for entry in self.runs.iterdir()} & (self.listed.cells.keys() - self.whole)
            for cell_id in (cell_id for cell_id in self.listed.cells if cell_id in begun):
                if self.tried[cell_id] < TRIES:
                    self._try(cell_id)
                    self.progress()
            self._end_parent(session)
        except BaseException:
            self._forget()
            raise

    def running(self) -> bool:
        """Whether any cell is shown as RUNNING."""
        return any(shown.status == "RUNNING" for shown in self.shown.values())

    def attach(self, files: Iterable[Path], folder: str) -> None:
        """Files as artifacts of the sweep's run, in the place of earlier ones; none where the sweep has no run."""
        self.folder.mkdir(exist_ok=True)
        with self._locked():
            self.name = name_of(self.folder)
            client = self.client = target.client(self.uri)
            if (found := client.get_experiment_by_name(EXPERIMENT)) is None:
                return
            self.experiment = found.experiment_id
            for run in self._found(f"tags.`{SWEEP}` = '{self.listed.name}'")[:1]:
                for file in files:
                    client.log_artifact(run.info.run_id, str(file), folder)

    def _try(self, cell_id: str) -> None:
        from mlflow.exceptions import MlflowException

        try:
            with self._locked():
                self._show(cell_id)
        except FileNotFoundError:  # the cell is beginning anew
            self.shown.pop(cell_id, None)
        except (MlflowException, ValueError, KeyError) as error:
            if isinstance(error, MlflowException) and error.error_code != "INVALID_PARAMETER_VALUE":
                raise
            self.shown.pop(cell_id, None)  # for instance a run that was deleted by hand: the next try makes another
            self.tried[cell_id] += 1
            if self.tried[cell_id] == TRIES:
                self.refused[cell_id] = target.reason(error, self.uri)
        else:
            self.tried.pop(cell_id, None)
            self.refused.pop(cell_id, None)

    # The store, and the sweep's own run in it

    def _open(self) -> None:
        if self.client is not None:
            return
        self.folder.mkdir(exist_ok=True)
        with self._locked():
            self.name = name_of(self.folder)
            client = target.client(self.uri)
            found = client.get_experiment_by_name(EXPERIMENT)
            if found is not None and found.lifecycle_stage == "deleted":
                client.restore_experiment(found.experiment_id)
                self.news.append(f"the experiment {EXPERIMENT!r} had been deleted there, and is restored")
            served = self.uri.startswith("http")  # then the server keeps artifacts where it likes
            artifacts = None if served else (self.runs / "mlartifacts").resolve().as_uri()
            self.experiment = found.experiment_id if found else client.create_experiment(EXPERIMENT, artifacts)
            self.client = client
            parents = self._found(f"tags.`{SWEEP}` = '{self.listed.name}'")
            for extra in parents[1:]:
                client.delete_run(extra.info.run_id)
            tags = {
                SWEEP: self.listed.name,
                RUNS: self.name,
                "mlflow.source.name": "lensbench run",
                "mlflow.note.content": self.listed.note,
            }
            name = self.listed.name
            parent = parents[0] if parents else client.create_run(self.experiment, run_name=name, tags=tags)
            self.parent, self.parent_status = parent.info.run_id, parent.info.status
            tagged(client, self.parent, parent.data.tags, tags)
        self._find_whole()

    def _find_whole(self) -> None:
        for run in self._found(f"tags.`{RUNS}` = '{self.name}' AND attributes.status = 'FINISHED'"):
            cell_id, digest = run.data.tags.get(CELL), run.data.tags.get(RECORDS)
            if cell_id in self.listed.cells and self._mine().items() <= run.data.tags.items():
                assert cell_id is not None
                digests = contents.records_digests(self.runs / cell_id)
                if self._is_whole(cell_id, digests) and digest == _in_a_tag(digests):
                    self.whole.add(cell_id)

    def _end_parent(self, session: bool) -> None:
        states = {shown.status for shown in self.shown.values()}
        if len(self.whole) == len(self.listed.cells):
            status = "FINISHED"
        elif session or "RUNNING" in states:
            status = "RUNNING"
        else:
            status = "FAILED" if "FAILED" in states else "KILLED"
        self._set_status(self.parent, self.parent_status, status)
        self.parent_status = status

    def _set_status(self, run_id: str, before: str, status: str, ended: int | None = None) -> None:
        assert self.client is not None
        if status == before:
            return
        if status == "RUNNING":
            self.client.update_run(run_id, status=status)
        else:
            self.client.set_terminated(run_id, status=status, end_time=ended)

    def _found(self, asked: str) -> list[Run]:
        """The runs of this directory, or of no known one, that are not deleted; the oldest first."""
        assert self.client is not None
        found: list[Run] = []
        page = None
        while page is None or page.token:
            page = self.client.search_runs(
                [self.experiment], asked, max_results=PAGE, page_token=page.token if page else None
            )
            found += [run for run in page if run.data.tags.get(RUNS, self.name) == self.name]
        return sorted(found, key=lambda run: (run.info.start_time, run.info.run_id))

    def _locked(self) -> AbstractContextManager[bool]:
        return file_lock(self.folder / "store.lock")

    # A cell

    def _show(self, cell_id: str) -> None:
        directory = self.runs / cell_id
        shown = self.shown.get(cell_id)
        reading = shown.reading if shown else Reading(directory)
        reading.advance()
        digests = contents.records_digests(directory)
        if reading.attempt is None and not digests:
            return
        if shown is None or not _fits(shown.tags, reading.identity, digests):
            if shown is not None:  # what was shown is another run's: read again all that is this one's
                reading = Reading(directory)
                reading.advance()
            shown = self.shown[cell_id] = self._opened(cell_id, reading, digests)
        if self._is_whole(cell_id, digests):
            self._show_whole(cell_id, shown, directory, digests)
            del self.shown[cell_id]
            self.whole.add(cell_id)
        else:
            self._show_unfinished(shown, directory)

    def _is_whole(self, cell_id: str, digests: dict[str, str]) -> bool:
        """Whether a cell is trained and everything that the sweep scores it on is there."""
        return {contents.TRAINING, *self.listed.evaluations[cell_id]} <= digests.keys()

    def _show_unfinished(self, shown: CellRun, directory: Path) -> None:
        reading = shown.reading
        status = reading.status()
        self._set_status(shown.run_id, shown.status, status, reading.last or None)
        shown.status = status
        shown.describe(directory, reading.origin)
        shown.send_points(reading.points)
        reading.points.clear()
        shown.send_files(directory, self._own(shown, directory.name))
        shown.send_models(directory)

    def _show_whole(self, cell_id: str, shown: CellRun, directory: Path, digests: dict[str, str]) -> None:
        assert self.client is not None
        scores, origin = contents.records(directory, self._own(shown, cell_id))
        origin = shown.reading.origin | origin
        shown.tags = tagged(self.client, shown.run_id, shown.tags, {RECORDS: _in_a_tag(digests)})
        shown.describe(directory, origin)
        shown.send_models(directory)
        shown.send_points([*shown.reading.points, *contents.curves(directory), *scores])
        shown.send_files(directory, self._own(shown, cell_id))
        self._only(cell_id, shown.run_id)
        ended = max((point.t for point in scores), default=None)
        self.client.set_terminated(shown.run_id, status="FINISHED", end_time=ended)

    def _opened(self, cell_id: str, reading: Reading, digests: dict[str, str]) -> CellRun:
        assert self.client is not None
        found = self._found(f"tags.`{CELL}` = '{cell_id}'")
        run = next((run for run in found if _fits(run.data.tags, reading.identity, digests)), None)
        levels = self.listed.cells[cell_id]
        tags = {CELL: cell_id, RUNS: self.name} | self._mine()
        tags |= {f"factor.{dotted}": str(level) for dotted, level in levels.items()}
        if run is None:
            name = " ".join(f"{dotted.rpartition('.')[2]}={level}" for dotted, level in levels.items()) or cell_id
            tags |= {PARENT: self.parent, "mlflow.source.name": "lensbench run"}
            tags |= {OWN: self.listed.evaluations[cell_id][0]}
            run = self.client.create_run(self.experiment, reading.began or None, tags, name)
            self.sent["runs"] += 1
        self._only(cell_id, run.info.run_id)
        run_id = run.info.run_id
        there = {
            (name, metric.step): (metric.timestamp, metric.value)
            for name in run.data.metrics
            for metric in self.client.get_metric_history(run_id, name)
        }
        kept = [file.path for file in self.client.list_artifacts(run_id)]
        kept += [file.path for path in kept if "." not in path for file in self.client.list_artifacts(run_id, path)]
        shown = CellRun(
            self.client,
            self.experiment,
            run_id,
            self.sent,
            self.progress,
            reading,
            run.info.status,
            dict(run.data.tags),
            set(run.data.params),
            there,
            set(kept),
        )
        shown.tags = tagged(self.client, run_id, shown.tags, tags)
        outputs = {model.model_id for model in (run.outputs.model_outputs if run.outputs else ())}
        for model in models_of(self.client, self.experiment, run_id):
            if model.model_id in outputs:  # else it was not told of all: it is made ready again
                shown.models[int(model.tags["lensbench.step"])] = model.model_id
                shown.linked |= {(metric.key, metric.step) for metric in model.metrics or ()}
        return shown

    def _own(self, shown: CellRun, cell_id: str) -> str:
        """The evaluation whose scores have plain names."""
        return shown.tags.get(OWN) or self.listed.evaluations[cell_id][0]

    def _mine(self) -> dict[str, str]:
        """The tag of the cells of this sweep. A cell of two sweeps is one run, the child of the first."""
        return {f"sweep.{self.listed.name}": "yes"}

    def _only(self, cell_id: str, run_id: str) -> None:
        """Delete every other run of the cell: of other records, other code, or a request that was given up."""
        assert self.client is not None
        for run in self._found(f"tags.`{CELL}` = '{cell_id}'"):
            if run.info.run_id != run_id:
                for model in models_of(self.client, self.experiment, run.info.run_id):
                    self.client.delete_logged_model(model.model_id)
                self.client.delete_run(run.info.run_id)


def _in_a_tag(digests: dict[str, str]) -> str:
    return " ".join(f"{name}:{digest[:16]}" for name, digest in sorted(digests.items()))


def _fits(tags: dict[str, str], identity: str | None, digests: dict[str, str]) -> bool:
    """Whether a run with these tags is that of a cell: the same code and data, and no record that has changed since.

    Records of further evaluations join the run.
    """
    same = identity is None or tags.get(IDENTITY, identity) == identity
    shown = dict(entry.partition(":")[::2] for entry in tags.get(RECORDS, "").split())
    return same and all(name in digests and digests[name].startswith(digest) for name, digest in shown.items())
