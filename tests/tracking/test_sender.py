"""The sender is a process beside the sweep: live, and neither waited for nor missed when MLflow is away."""

from __future__ import annotations

import io
import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from lensbench.experiment import Experiment
from lensbench.sweep.session import work
from lensbench.sweep.sweep import Sweep, cells
from lensbench.sweep.vitals import telling
from lensbench.tracking import starter, sync
from tests.tracking.cells import complete, parent_of, runs_of, seen, sweep_of, tell, whole

CELL_SECONDS = 0.3


def run_cell(experiment: Experiment, directory: Path, *, cache: Path, report: Any, evaluations: Any) -> None:
    """A cell that takes CELL_SECONDS and tells of it."""
    with telling(directory):
        tell(directory, 1, 300)
        time.sleep(CELL_SECONDS)
        tell(directory, 301, 600)
        complete(directory, experiment)


def run(sweep: Sweep, runs: Path, uri: str, cell: Callable[..., None] = run_cell) -> tuple[str, float]:
    """Run a sweep in this process; what it says, and the seconds from its first cell to its last."""
    out = io.StringIO()
    times: list[float] = []

    def timed(*args: Any, **named: Any) -> None:
        times.append(time.monotonic())
        cell(*args, **named)
        times.append(time.monotonic())

    start = starter(uri, runs)
    session = work(sweep, runs, console=Console(file=out, width=300), run_cell=timed, open_mirror=start)
    assert len(session.complete) == 2
    return out.getvalue(), times[-1] - times[0]


def test_a_sweep_is_shown_while_it_runs_and_whole_when_it_has(tmp_path: Path) -> None:
    sweep = sweep_of("live")
    uri = f"sqlite:///{tmp_path}/store.db"
    Path(tmp_path / "runs").mkdir()
    sync(tmp_path / "runs", sweep, uri)  # making a store takes seconds
    states = []

    def watched(experiment: Experiment, directory: Path, **how: Any) -> None:
        with telling(directory):
            tell(directory, 1, 300)
            until = time.monotonic() + 30
            while time.monotonic() < until:
                shown = {run.data.tags["lensbench.cell"]: run for run in runs_of(uri, sweep)}
                if directory.name in shown and shown[directory.name].data.metrics.get("train/loss") == 1 / 300:
                    break
                time.sleep(0.2)
            states.append((shown[directory.name].info.status, parent_of(uri, sweep).info.status))
            tell(directory, 301, 600)
            complete(directory, experiment)

    run(sweep, tmp_path / "runs", uri, watched)
    assert states == [("RUNNING", "RUNNING")] * 2
    assert [shown[0] for shown in seen(uri, sweep).values()] == ["FINISHED"] * 2
    assert parent_of(uri, sweep).info.status == "FINISHED"


@contextmanager
def silent() -> Iterator[int]:
    """The port of a server that takes every connection and never answers."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen(100)
        yield server.getsockname()[1]


@pytest.mark.parametrize("answers", ["silence", "refusal"])
def test_mlflow_that_is_away_costs_the_cells_no_time_and_two_lines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answers: str
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "2")
    sweep = sweep_of("away")
    with silent() as port:
        port = port if answers == "silence" else 9
        said, seconds = run(sweep, tmp_path, f"http://user:open-sesame@127.0.0.1:{port}")
    assert seconds < 2 * CELL_SECONDS + 1
    told = [line for line in said.splitlines() if "tracking" in line]
    assert len(told) == 2
    assert told[0].startswith(f"tracking: http://127.0.0.1:{port} is away, training goes on")
    assert "track sync" in told[1]
    assert "open-sesame" not in said
    uri = f"sqlite:///{tmp_path}/store.db"
    sent, shown, _ = sync(tmp_path, sweep, uri)
    assert (sent["runs"], shown) == (2, 2)


def sender(runs: Path, sweep: Sweep, uri: str) -> subprocess.Popen[bytes]:
    """A sender whose sweep is this process."""
    environment = os.environ | {"LENSBENCH_TRACKING_ADDRESS": uri}
    process = subprocess.Popen(
        [sys.executable, "-m", "lensbench.tracking"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment
    )
    from lensbench.tracking.listing import listing

    assert process.stdin is not None
    process.stdin.write(json.dumps({"runs": str(runs), "listing": vars(listing(sweep))}).encode() + b"\n")
    process.stdin.flush()
    return process


@pytest.mark.slow
def test_a_sender_killed_at_any_time_leaves_nothing_out_and_nothing_twice(tmp_path: Path) -> None:
    sweep = sweep_of("killed")
    uri = f"sqlite:///{tmp_path}/store.db"
    runs = tmp_path / "runs"
    runs.mkdir()
    sync(runs, sweep, uri)
    for cell in cells(sweep):
        (runs / cell.id).mkdir()
    for step in range(0, 600, 100):
        for cell in cells(sweep):
            with telling(runs / cell.id):
                tell(runs / cell.id, step + 1, step + 100)
        with sender(runs, sweep, uri) as process:
            time.sleep(1.7 + 0.23 * (step // 100))
            process.send_signal(signal.SIGKILL)
    for cell in cells(sweep):
        complete(runs / cell.id, cell.experiment)
    with sender(runs, sweep, uri) as process:
        assert process.stdin is not None
        process.stdin.write(b'{"close": true}\n')
        process.stdin.close()
        process.wait(60)
    copy = f"sqlite:///{tmp_path}/copy.db"
    sync(runs, sweep, copy)
    assert seen(uri, sweep) == seen(copy, sweep)
    assert [shown[0] for shown in seen(uri, sweep).values()] == ["FINISHED"] * 2


@pytest.mark.slow
def test_of_two_senders_one_stands_by_and_takes_over(tmp_path: Path) -> None:
    sweep = sweep_of("two")
    uri = f"sqlite:///{tmp_path}/store.db"
    runs = tmp_path / "runs"
    runs.mkdir()
    sync(runs, sweep, uri)
    first, second = sender(runs, sweep, uri), sender(runs, sweep, uri)
    with first, second:
        assert first.stdout is not None
        assert second.stdout is not None
        leading = ready([first, second], 60)
        assert leading is not None
        other = second if leading is first else first
        assert ready([other], 5) is None  # it has nothing to tell
        leading.kill()
        whole(runs, sweep)
        assert ready([other], 60) is other
        assert other.stdin is not None
        other.stdin.close()  # its sweep dies: it looks a last time
        other.wait(60)
    assert [shown[0] for shown in seen(uri, sweep).values()] == ["FINISHED"] * 2


def ready(processes: list[subprocess.Popen[bytes]], seconds: float) -> subprocess.Popen[bytes] | None:
    """The first sender that gives a sign of life in time."""
    files = {process.stdout: process for process in processes if process.stdout is not None}
    readable = select.select(list(files), [], [], seconds)[0]
    return files[readable[0]] if readable and readable[0].readline() else None
