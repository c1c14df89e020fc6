"""Workers on a real PostgreSQL, killed again and again while the database restarts: nothing is lost or made twice."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import optuna
import pandas as pd
import pytest

from lensbench.sweep.study import study_name
from lensbench.sweep.sweep import cells, load
from lensbench.tracking import sync
from tests.sweep.postgres import PASSWORD, lacking, server
from tests.tracking.cells import parent_of, seen
from tests.tracking.server import mlflow_server

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
if reason := lacking():
    pytestmark.append(pytest.mark.skip(reason))

SWEEP = """from lensbench.experiment import Evaluation, Experiment, Model, ShapesCorpus, TextEncoder, Training
from lensbench.sweep.sweep import Sweep

sweep = Sweep(
    name="chaos",
    base=Experiment(
        corpus=ShapesCorpus(size_px=16),
        images=64,
        model=Model(depth=1),
        text_encoder=TextEncoder(layers=(0,)),
        training=Training(steps=60, batch=8, warmup_steps=5, resume_seconds=0.3),
        evaluation=Evaluation(at=(0.5, 1.0), prompts_per_task=1, images_per_task=1, scene_images=8,
                              validation_images=8, sampling_steps=2),
    ),
    factors={"captions.set": ("alt", "brief", "detailed"), "seed": tuple(range(8))},
    reference={"captions.set": "alt"},
)
"""
LENSBENCH = str(Path(sys.executable).with_name("lensbench"))
WORKERS, KILLS, KILL_EVERY = 4, 10, 4.0
CLOCK = r"_seconds$|_per_second$|_share$|^peak_memory|^device_hours$|^energy_kwh|^cost_usd$"


def worker(folder: Path, log: Path, tracking: str = "none", **environment: str) -> subprocess.Popen[bytes]:
    given = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "LENSBENCH_HEARTBEAT_SECONDS": "2"}
    with log.open("ab") as output:
        return subprocess.Popen(
            [LENSBENCH, "work", "chaos.py", "--tracking", tracking, "--tries", "9"],
            cwd=folder,
            stdout=output,
            stderr=output,
            env=os.environ | given | environment,
        )


def records(runs: Path) -> pd.DataFrame:
    """Every number of every cell but what a clock or a meter gave."""
    paths = [path for name in ("records.parquet", "evaluations/*/records.parquet") for path in runs.glob(f"*/{name}")]
    tables = [pd.read_parquet(path) for path in sorted(paths)]
    table = pd.concat(tables, ignore_index=True)
    return table[~table["metric"].str.contains(CLOCK)].reset_index(drop=True)


def made(runs: Path, names: tuple[str, ...]) -> dict[str, bytes]:
    return {str(path.relative_to(runs)): path.read_bytes() for name in names for path in runs.glob(f"*/{name}")}


def test_kills_and_a_restart_change_no_byte_and_no_cell_is_made_twice(tmp_path: Path) -> None:
    quiet, loud = tmp_path / "quiet", tmp_path / "loud"
    for folder in (quiet, loud):
        folder.mkdir()
        (folder / "chaos.py").write_text(SWEEP)
    sweep = load(quiet / "chaos.py")
    every = cells(sweep)
    assert len(every) == 24
    pair = [worker(quiet, quiet / f"{n}.log") for n in range(2)]
    assert [process.wait(300) for process in pair] == [0, 0], (quiet / "0.log").read_text()

    rng = random.Random(0)
    with server() as database, mlflow_server(loud / "mlflow", f"sqlite:///{loud}/mlflow/store.db") as tracked:
        logs = [loud / f"{n}.log" for n in range(WORKERS)]
        running = [worker(loud, log, tracked.url, LENSBENCH_STORAGE=database.url) for log in logs]
        try:
            killed, restarted, limit = 0, False, time.monotonic() + 400
            while any(process.poll() is None for process in running):
                assert time.monotonic() < limit, [log.read_text()[-500:] for log in logs]
                time.sleep(KILL_EVERY * rng.uniform(0.5, 1.5) if killed < KILLS else 0.5)
                lane = rng.randrange(WORKERS)
                if killed < KILLS and running[lane].poll() is None:
                    running[lane].send_signal(signal.SIGKILL)
                    running[lane].wait()
                    running[lane] = worker(loud, logs[lane], tracked.url, LENSBENCH_STORAGE=database.url)
                    killed += 1
                if killed == KILLS // 4:
                    tracked.kill()
                elif killed == KILLS - 2 and tracked.process is None:
                    tracked.start()
                if killed >= KILLS // 2 and not restarted:
                    database.stop()
                    time.sleep(3)
                    database.start()
                    restarted = True
            assert killed >= KILLS // 2
            assert restarted
            assert [process.wait() for process in running] == [0] * WORKERS, [log.read_text()[-800:] for log in logs]
            if tracked.process is None:  # the cells were quicker than the killer: what is left is sent now
                tracked.start()
            sync(loud / "runs", sweep, tracked.url)
            shown, parent = seen(tracked.url, sweep), parent_of(tracked.url, sweep)
            url = database.url.replace("postgresql://", "postgresql+psycopg://")
            study = optuna.load_study(study_name=study_name(sweep, every, loud / "runs"), storage=url)
            trials = study.get_trials(deepcopy=False)
        finally:
            for process in running:
                process.kill()
                process.wait()

    states: dict[str, list[str]] = {}
    for trial in trials:
        states.setdefault(trial.user_attrs["cell"], []).append(trial.state.name)
    assert states.keys() == {cell.id for cell in every}
    assert {tuple(sorted(set(of) - {"FAIL"})) for of in states.values()} == {("COMPLETE",)}
    assert all(of.count("COMPLETE") == 1 for of in states.values())
    for cell in every:
        ends = [json.loads(path.read_text()) for path in (loud / "runs" / cell.id).glob(".claims/*/ended.json")]
        assert sum(end["end"] == "complete" for end in ends) == 1, cell.label()
        assert not list((loud / "runs" / cell.id).glob(f".claims/*/{cell.id}"))
    assert shown.keys() == {cell.id for cell in every}  # one run a cell, and each point once: see `seen`
    assert {cell[0] for cell in shown.values()} == {parent.info.status} == {"FINISHED"}
    pd.testing.assert_frame_equal(records(loud / "runs"), records(quiet / "runs"), check_exact=True)
    outcomes = "evaluations/*/outcomes.parquet"
    files = (outcomes, "evaluations/*/images/*/*", "checkpoints/*/*", "samples/*", "watch.csv")
    assert made(loud / "runs", files) == made(quiet / "runs", files)
    assert len(made(quiet / "runs", (outcomes,))) == 24
    for log in (*logs, *(path for path in (loud / "runs").rglob("*") if path.is_file())):
        assert PASSWORD.encode() not in log.read_bytes(), log
