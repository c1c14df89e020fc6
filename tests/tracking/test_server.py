"""A real MLflow server, on SQLite and on PostgreSQL, that is killed while cells run and started again."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import mlflow
import psycopg
import pytest
from rich.console import Console

from lensbench.experiment import Experiment
from lensbench.sweep.session import work
from lensbench.sweep.sweep import cells
from lensbench.sweep.vitals import telling
from lensbench.tracking import starter, sync
from tests.sweep.postgres import PASSWORD, lacking, server
from tests.tracking.cells import complete, parent_of, runs_of, seen, sweep_of, tell, whole
from tests.tracking.server import Server, mlflow_server
from tests.waiting import wait

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def tracked(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A running server, shared by the tests."""
    folder = tmp_path_factory.mktemp("server")
    if request.param == "sqlite":
        with mlflow_server(folder, f"sqlite:///{folder}/mlflow.db") as running:
            yield running
        return
    if reason := lacking():
        pytest.skip(reason)
    with server() as database, mlflow_server(folder, database.url.replace("://", "+psycopg://")) as running:
        yield running


def test_a_server_that_is_killed_and_started_again_has_everything_once_and_in_order(
    tmp_path: Path, tracked: Server
) -> None:
    sweep = sweep_of(f"server{tracked.port}", (tracked.port,))
    out, live = io.StringIO(), []

    def shown_running() -> bool:
        with suppress(mlflow.MlflowException, AttributeError):  # the experiment is not there yet
            live[:] = [run.info.status for run in runs_of(tracked.url, sweep)]
        return bool(live)

    def told_through_an_outage(experiment: Experiment, directory: Path, **how: Any) -> None:
        with telling(directory):
            tell(directory, 1, 200)
            if tracked.process is not None:
                wait(shown_running, "the cell's run")
                tracked.kill()
                tell(directory, 201, 600)  # the first cell ends with the server away
            else:
                wait(lambda: "is away" in out.getvalue(), "word of the outage")
                tell(directory, 201, 400)
                tracked.start()
                wait(lambda: "is back" in out.getvalue(), "word of its end")
                tell(directory, 401, 600)
            complete(directory, experiment)

    start = starter(tracked.url, tmp_path)
    console = Console(file=out, width=300)
    work(sweep, tmp_path, console=console, run_cell=told_through_an_outage, open_mirror=start)
    said = out.getvalue()
    assert said.count("geneval") == 2, said
    assert live == ["RUNNING"]
    assert said.count("is away") == 1
    assert said.count("is back") == 1
    first = seen(tracked.url, sweep)
    assert [shown[0] for shown in first.values()] == ["FINISHED"] * 2
    assert parent_of(tracked.url, sweep).info.status == "FINISHED"
    client = mlflow.MlflowClient(tracked.url)
    for run in runs_of(tracked.url, sweep):
        history = client.get_metric_history(run.info.run_id, "train/loss")
        assert [m.step for m in history] == list(range(1, 601))
        assert [m.timestamp for m in history] == sorted(m.timestamp for m in history)
    copy = f"sqlite:///{tmp_path}/copy.db"
    sync(tmp_path, sweep, copy)
    assert seen(copy, sweep) == first
    assert sync(tmp_path, sweep, tracked.url)[0].total() == 0


def test_pictures_of_a_cell_go_to_the_server(tmp_path: Path, tracked: Server) -> None:
    sweep = sweep_of(f"pictures{tracked.port}", (tracked.port + 1,))
    whole(tmp_path, sweep)
    assert sync(tmp_path, sweep, tracked.url)[1] == 2
    assert len(list((tracked.folder / "artifacts").rglob("grid.png"))) >= 2
    assert not (tmp_path / "mlartifacts").exists()


@pytest.mark.skipif(bool(lacking()), reason=lacking())
def test_a_database_without_a_server_that_restarts_has_everything_once(tmp_path: Path) -> None:
    sweep = sweep_of("database", (0,))
    with server() as database:
        out = io.StringIO()

        def running() -> bool:
            with suppress(psycopg.Error), psycopg.connect(database.url) as asked:  # before the tables are made
                return bool(asked.execute("SELECT 1 FROM runs WHERE status = 'RUNNING'").fetchone())
            return False

        def restarting(experiment: Experiment, directory: Path, **how: Any) -> None:
            with telling(directory):
                tell(directory, 1, 300)
                if "is away" not in out.getvalue():
                    wait(running, "a run")
                    database.stop()
                    wait(lambda: "is away" in out.getvalue(), "word of the outage")
                    database.start()
                tell(directory, 301, 600)
                complete(directory, experiment)

        start = starter(database.url, tmp_path)
        work(sweep, tmp_path, console=Console(file=out, width=300), run_cell=restarting, open_mirror=start)
        uri = database.url.replace("://", "+psycopg://")
        sync(tmp_path, sweep, uri)
        shown = seen(uri, sweep)
        assert [shown[cell.id][0] for cell in cells(sweep)] == ["FINISHED"] * 2
        assert out.getvalue().count("geneval") == 2, out.getvalue()
        assert PASSWORD not in out.getvalue()
        for path in tmp_path.rglob("*"):
            assert not path.is_file() or PASSWORD.encode() not in path.read_bytes()
        copy = f"sqlite:///{tmp_path}/copy.db"
        sync(tmp_path, sweep, copy)
        assert seen(copy, sweep) == shown
