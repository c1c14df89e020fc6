"""A worker under faults: kills, Ctrl-C, failures, two at once, a full disk: real processes, files and signals."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path

import pandas as pd
import pytest

from lensbench.experiment import Experiment
from lensbench.sweep import claims
from lensbench.sweep.cellfiles import evaluation_folder, is_complete
from lensbench.sweep.status import standings
from lensbench.sweep.sweep import Sweep, cells, collect
from lensbench.sweep.worker import check_writable, clear

# A worker whose cells are small but real: they draw from the experiment's own streams, write as they go, take time,
# and may fail. What a cell does is told by files in the runs directory, so that tests can change it between runs.
WORKER = """
import csv, io, os, sys, time
from pathlib import Path
import numpy as np, pandas as pd
from rich.console import Console
from lensbench.experiment import Experiment
from lensbench.streams import numpy_stream
from lensbench.records import OUTCOMES, RECORDS
from lensbench.sweep.cellfiles import write_cell
from lensbench.sweep.progress import Progress
from lensbench.sweep.sweep import Sweep
from lensbench.sweep.session import StoppedError, work

runs, steps = Path(sys.argv[1]), 20
pause = float(sys.argv[2])

def run_cell(experiment, directory, *, cache, report, evaluations):
    assert evaluations == [experiment.evaluation]
    kept = {".claims", "train.csv", "evaluations", "records.parquet"}
    assert {p.name for p in directory.iterdir()} <= kept, "the directory was not cleared"
    with (runs / "begun").open("a") as log:
        log.write(f"{directory.name} {os.getpid()}\\n")
    while len({line.split()[1] for line in (runs / "begun").read_text().splitlines()}) < int(os.environ.get("MEET", 1)):
        time.sleep(0.01)
    weights = numpy_stream(experiment.seed, experiment.captions.set).normal(size=8)
    with (directory / "train.csv").open("w") as file:
        for step in range(steps):
            weights = weights * 0.9 + numpy_stream(experiment.seed, "noise", step).normal(size=8)
            file.write(f"{step},{weights.mean()}\\n")
            file.flush()
            report(Progress("training", step + 1, steps, "loss"))
            time.sleep(pause / steps)
            while step == 5 and (runs / "hold").exists() and directory.name == (runs / "hold").read_text():
                report(Progress("training", step + 1, steps, "loss"))
                time.sleep(0.01)
            if step == 10 and (runs / "fail").exists() and experiment.captions.set in (runs / "fail").read_text():
                raise RuntimeError("the loss is no number")
            if step == 10 and (runs / "exit").exists():
                sys.exit(1)  # what some libraries do on a signal
    texts = {c.name: "" for schema in (RECORDS, OUTCOMES) for c in schema.columns if c.content == "text"}
    told = ("evaluation_hash", "held_out_digest")
    row = {name: texts.get(name, 0) for name in RECORDS.in_cell if name not in told} | {"metric": "geneval",
        "prompt_form": "short", "value": (score := float(1 / (1 + np.exp(-weights.mean())))), "n": 2,
        "judge_digest": "j", "extractor": "", "prompts_digest": "p", "commit": "c", "hardware": "h"}
    outcome = {name: texts.get(name, 0) for name in OUTCOMES.in_cell} | {
        "metric": "geneval", "prompt_form": "short", "task": "colors", "value": score}
    task, fact = row | {"metric": "geneval.colors"}, row | {"metric": "train_seconds", "value": 1}
    write_cell(directory, experiment, pd.DataFrame([row, task, fact]), pd.DataFrame([outcome, outcome]))

arms = tuple(os.environ.get("ARMS", "alt,brief,detailed").split(","))
sweep = Sweep(name=os.environ.get("SWEEP", "s"), base=Experiment(), factors={"captions.set": arms, "seed": (0, 1)},
              reference={"captions.set": arms[0]})
try:
    session = work(sweep, runs, console=Console(width=200), run_cell=run_cell)
except StoppedError as stopped:
    print(stopped)
    sys.exit(stopped.exit_code)
sys.exit(1 if session.failed else 0)
"""

SWEEP = Sweep(
    name="s",
    base=Experiment(),
    factors={"captions.set": ("alt", "brief", "detailed"), "seed": (0, 1)},
    reference={"captions.set": "alt"},
)
CELLS = cells(SWEEP)


@pytest.fixture(scope="session")
def script(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("worker") / "worker.py"
    path.write_text(WORKER)
    return path


def begin(script: Path, runs: Path, pause: float = 0.02, **environment: str) -> subprocess.Popen[str]:
    runs.mkdir(exist_ok=True)
    return subprocess.Popen(
        [sys.executable, str(script), str(runs), str(pause)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | environment,
    )


def end(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=120)
    return process.returncode, out, err


def wait_for(path: Path, lines: int) -> None:
    """Until a cell has written so many lines of its training log."""
    deadline = time.monotonic() + 60
    while not path.exists() or len(path.read_text().splitlines()) < lines:
        assert time.monotonic() < deadline, f"{path} never came"
        time.sleep(0.01)


def cell_files(runs: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in runs.glob("*/*.*") if path.is_file()}


def fill(path: Path) -> None:
    """Write to a file until its disk is full."""
    with suppress(OSError), path.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(512))


def begun(runs: Path) -> Counter[str]:
    return Counter(line.split()[0] for line in (runs / "begun").read_text().splitlines())


def values(runs: Path) -> dict[str, float]:
    results = collect(SWEEP, runs)
    assert results.complete, results.missing
    scores = results.records[results.records["metric"] == "geneval"]
    return dict(zip(scores["cell"], scores["value"], strict=True))


def trial_states(runs: Path) -> dict[str, list[str]]:
    """Every trial of the sweep's only study, by cell."""
    import optuna

    url = f"sqlite:///{runs / 'sweeps.db'}"
    (name,) = optuna.get_all_study_names(url)
    trials = optuna.load_study(study_name=name, storage=url).get_trials(deepcopy=False)
    found: dict[str, list[str]] = {}
    for trial in trials:
        found.setdefault(trial.user_attrs["cell"], []).append(trial.state.name)
    return found


@pytest.fixture(scope="session")
def undisturbed(script: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, float]:
    """The sweep's values when nothing goes wrong."""
    runs = tmp_path_factory.mktemp("undisturbed")
    code, out, err = end(begin(script, runs))
    assert (code, err) == (0, "")
    assert len(out.splitlines()) == len(CELLS)
    assert begun(runs) == dict.fromkeys((cell.id for cell in CELLS), 1)
    assert trial_states(runs) == {cell.id: ["COMPLETE"] for cell in CELLS}
    return values(runs)


def test_a_complete_sweep_is_not_run_again(script: Path, tmp_path: Path, undisturbed: dict[str, float]) -> None:
    for _ in range(2):
        code, out, _ = end(begin(script, tmp_path))
        assert code == 0
    assert out.splitlines() == ["6 of 6 cells are complete already"]
    assert max(begun(tmp_path).values()) == 1
    assert trial_states(tmp_path) == {cell.id: ["COMPLETE"] for cell in CELLS}
    assert values(tmp_path) == undisturbed


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_a_sweep_stopped_in_a_cell_goes_on_to_the_same_records(
    script: Path, tmp_path: Path, undisturbed: dict[str, float], how: signal.Signals
) -> None:
    (tmp_path / "hold").write_text(CELLS[1].id)  # the first cell is complete, the second is not
    process = begin(script, tmp_path)
    wait_for(tmp_path / CELLS[1].id / "train.csv", lines=5)
    process.send_signal(how)
    code, out, err = end(process)
    (tmp_path / "hold").unlink()
    assert code == (-9 if how == signal.SIGKILL else 128 + how)
    if how != signal.SIGKILL:
        assert err == ""
        assert out.splitlines()[-1] == f"interrupted by {how.name}: 1 of 6 cells are complete and kept"
    assert not (tmp_path / CELLS[1].id / "records.parquet").exists()
    assert end(begin(script, tmp_path))[0] == 0
    assert begun(tmp_path) == {cell.id: 2 if cell is CELLS[1] else 1 for cell in CELLS}
    states = trial_states(tmp_path)
    assert states.pop(CELLS[1].id) == ["FAIL", "COMPLETE"]
    assert set(map(tuple, states.values())) == {("COMPLETE",)}
    assert values(tmp_path) == undisturbed


def test_a_library_that_exits_inside_a_cell_stops_the_sweep_resumably(
    script: Path, tmp_path: Path, undisturbed: dict[str, float]
) -> None:
    (tmp_path / "exit").touch()
    code, out, _ = end(begin(script, tmp_path))
    assert code == 143
    assert out.splitlines()[-1] == "interrupted by SIGTERM: 0 of 6 cells are complete and kept"
    (tmp_path / "exit").unlink()
    assert end(begin(script, tmp_path))[0] == 0
    assert values(tmp_path) == undisturbed


def test_two_workers_share_a_sweep_and_no_cell_runs_twice(
    script: Path, tmp_path: Path, undisturbed: dict[str, float]
) -> None:
    pair = [begin(script, tmp_path, pause=0.4, MEET="2") for _ in range(2)]
    ends = [end(process) for process in pair]
    assert [code for code, _, _ in ends] == [0, 0], ends
    lines = (tmp_path / "begun").read_text().splitlines()
    assert begun(tmp_path) == dict.fromkeys((cell.id for cell in CELLS), 1)
    assert len({line.split()[1] for line in lines}) == 2  # both did some
    assert trial_states(tmp_path) == {cell.id: ["COMPLETE"] for cell in CELLS}
    assert values(tmp_path) == undisturbed


def test_a_worker_takes_over_the_cell_of_one_that_is_killed(
    script: Path, tmp_path: Path, undisturbed: dict[str, float]
) -> None:
    doomed = begin(script, tmp_path, pause=60.0)
    wait_for(tmp_path / CELLS[0].id / "train.csv", lines=2)
    other = begin(script, tmp_path)
    assert other.stdout is not None
    waiting = "waiting for 1 cell(s) that other processes are running"
    assert any(waiting in line for line in iter(other.stdout.readline, ""))  # there is nothing left to take
    assert sum(is_complete(tmp_path / cell.id, cell) for cell in CELLS) == len(CELLS) - 1
    doomed.kill()
    end(doomed)
    assert end(other)[0] == 0
    assert trial_states(tmp_path)[CELLS[0].id] == ["FAIL", "COMPLETE"]
    assert values(tmp_path) == undisturbed


def test_a_failing_cell_leaves_the_others_running_and_is_tried_again(
    script: Path, tmp_path: Path, undisturbed: dict[str, float]
) -> None:
    (tmp_path / "fail").write_text("brief")
    code, out, err = end(begin(script, tmp_path))
    assert code == 1
    assert err == ""
    bad = [cell.id for cell in CELLS if cell.levels["captions.set"] == "brief"]
    results = collect(SWEEP, tmp_path)
    assert {row["cell"]: row["reason"] for row in results.missing} == dict.fromkeys(
        bad, "failed: RuntimeError: the loss is no number"
    )
    assert sum("the loss is no number" in line for line in out.splitlines()) == len(bad)
    for cell_id in bad:
        assert "Traceback" in (tmp_path / cell_id / "error.txt").read_text()
        assert trial_states(tmp_path)[cell_id] == ["FAIL"]
    assert results.records["cell"].nunique() == len(CELLS) - len(bad)
    (tmp_path / "fail").unlink()
    assert end(begin(script, tmp_path))[0] == 0
    assert begun(tmp_path) == {cell.id: 2 if cell.id in bad else 1 for cell in CELLS}
    assert not any((tmp_path / cell_id / "error.txt").exists() for cell_id in bad)
    assert values(tmp_path) == undisturbed


def test_a_cell_that_has_failed_three_times_is_left_alone_until_it_is_retried(
    script: Path, tmp_path: Path, undisturbed: dict[str, float]
) -> None:
    (tmp_path / "fail").write_text("brief")
    bad = [cell for cell in CELLS if cell.levels["captions.set"] == "brief"]
    for _ in range(5):
        code, out, _ = end(begin(script, tmp_path))
        assert code == 1
    assert {cell_id: n for cell_id, n in begun(tmp_path).items() if n > 1} == {cell.id: 3 for cell in bad}
    assert out.count("failed: RuntimeError: the loss is no number; 3 tries: lensbench retry queues it again") == 2
    standing = {status.cell.id: status for status in standings(CELLS, tmp_path)}[bad[0].id]
    assert (standing.standing, standing.failures) == ("failed", 3)
    assert "RuntimeError: the loss is no number" in standing.traceback[-1]
    (tmp_path / "fail").unlink()
    for cell in bad:
        assert claims.forgive(tmp_path / cell.id)
    assert end(begin(script, tmp_path))[0] == 0
    assert values(tmp_path) == undisturbed


def test_a_cell_that_has_killed_three_workers_is_left_alone(script: Path, tmp_path: Path) -> None:
    for n in range(3):
        doomed = begin(script, tmp_path, pause=30.0)
        wait_for(tmp_path / "begun", n + 1)
        doomed.kill()
        end(doomed)
    code, out, _ = end(begin(script, tmp_path))
    assert code == 1
    assert "ended without a word; 3 tries: lensbench retry queues it again" in out
    assert begun(tmp_path) == {cell.id: 3 if cell is CELLS[0] else 1 for cell in CELLS}


@pytest.mark.parametrize("storage", ["sqlite", "journal"])
def test_a_worker_that_was_suspended_for_too_long_neither_publishes_nor_harms(
    script: Path, tmp_path: Path, undisturbed: dict[str, float], storage: str
) -> None:
    given = {"LENSBENCH_HEARTBEAT_SECONDS": "0.3"}
    if storage == "journal":
        given["LENSBENCH_STORAGE"] = f"journal:{tmp_path / 'queue.journal'}"
    sleeper = begin(script, tmp_path, pause=10.0, **given)
    wait_for(tmp_path / CELLS[0].id / "train.csv", lines=3)
    sleeper.send_signal(signal.SIGSTOP)
    try:
        code, out, err = end(begin(script, tmp_path, **given))
        assert (code, err) == (0, "")
        kept = cell_files(tmp_path)
        times = {path: path.stat().st_mtime_ns for path in kept}
    finally:
        sleeper.send_signal(signal.SIGCONT)
    code, out, err = end(sleeper)
    assert (code, err) == (0, "")
    assert "another worker has taken it, because this one was suspended for too long" in out
    assert cell_files(tmp_path) == kept
    assert {path: path.stat().st_mtime_ns for path in kept} == times
    assert begun(tmp_path) == {cell.id: 2 if cell is CELLS[0] else 1 for cell in CELLS}
    assert values(tmp_path) == undisturbed


def test_two_sweeps_at_the_same_time_train_the_cells_that_they_share_once(
    script: Path, tmp_path: Path, undisturbed: dict[str, float]
) -> None:
    pair = [
        begin(script, tmp_path, pause=0.4, SWEEP="a", ARMS="alt,brief"),
        begin(script, tmp_path, pause=0.4, SWEEP="b", ARMS="detailed,brief,alt"),
    ]
    ends = [end(process) for process in pair]
    assert [code for code, _, _ in ends] == [0, 0], ends
    assert begun(tmp_path) == dict.fromkeys((cell.id for cell in CELLS), 1)
    assert values(tmp_path) == undisturbed


def test_a_cancelled_cell_is_not_taken_until_it_is_retried(
    script: Path, tmp_path: Path, undisturbed: dict[str, float]
) -> None:
    running, waiting = CELLS[0], CELLS[4]
    process = begin(script, tmp_path, pause=20.0, LENSBENCH_HEARTBEAT_SECONDS="0.1")
    wait_for(tmp_path / running.id / "train.csv", lines=3)
    for cell in (running, waiting):
        claims.cancel(tmp_path / cell.id)
    for cell in CELLS:
        if cell not in (running, waiting):
            (tmp_path / cell.id).mkdir(exist_ok=True)
            claims.cancel(tmp_path / cell.id)
    code, out, _ = end(process)
    assert code == 1
    assert out.count("cancelled: lensbench retry queues it again") == 6
    assert begun(tmp_path) == {running.id: 1}
    assert {status.standing for status in standings(CELLS, tmp_path)} == {"cancelled"}
    assert all(claims.forgive(tmp_path / cell.id) for cell in CELLS)
    assert end(begin(script, tmp_path))[0] == 0
    assert values(tmp_path) == undisturbed


def test_a_cell_that_was_held_before_a_restart_is_waited_for_with_a_word(
    script: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, undisturbed: dict[str, float]
) -> None:
    monkeypatch.setenv("LENSBENCH_HEARTBEAT_SECONDS", "0.2")
    held = tmp_path / CELLS[0].id
    held.mkdir(parents=True)
    claim = claims.take(held, claims.state(held))
    assert claim is not None
    told = json.loads((claim.folder / "holder.json").read_text())
    (claim.folder / "holder.json").write_text(json.dumps(told | {"kernel": "of before", "host": "node7"}))
    code, *said = end(begin(script, tmp_path))
    assert code == 0
    words = "1 cell(s) are held by processes on node7 (another machine, or this one before a restart)"
    assert words in " ".join(" ".join(said).split())
    assert values(tmp_path) == undisturbed


def test_corrupt_and_deleted_records_are_made_again_whatever_the_study_says(
    script: Path, tmp_path: Path, undisturbed: dict[str, float]
) -> None:
    assert end(begin(script, tmp_path))[0] == 0
    corrupt, deleted, torn, cut = CELLS[2:6]
    (tmp_path / corrupt.id / "records.parquet").write_bytes(b"PAR1 torn")
    (tmp_path / deleted.id / "records.parquet").unlink()
    (evaluation_folder(tmp_path / torn.id, torn.experiment) / "outcomes.parquet").write_bytes(b"PAR1 torn")
    images = evaluation_folder(tmp_path / cut.id, cut.experiment) / "outcomes.parquet"
    pd.read_parquet(images).iloc[1:].to_parquet(images)
    reasons = {row["cell"]: row["reason"] for row in collect(SWEEP, tmp_path).missing}
    assert reasons.keys() == {cell.id for cell in CELLS[2:6]}
    assert reasons[cut.id].startswith("outcomes.parquet does not hold the judged images")
    code, *told = end(begin(script, tmp_path))
    assert code == 0
    for what in ("records.parquet cannot be read", "outcomes.parquet cannot be read", "outcomes.parquet does not hold"):
        assert what in " ".join(" ".join(told).split())
    assert begun(tmp_path) == {cell.id: 2 if cell in CELLS[2:6] else 1 for cell in CELLS}
    assert values(tmp_path) == undisturbed


def test_cells_without_a_study_are_adopted_not_run(script: Path, tmp_path: Path, undisturbed: dict[str, float]) -> None:
    assert end(begin(script, tmp_path))[0] == 0
    (tmp_path / "sweeps.db").unlink()
    assert end(begin(script, tmp_path))[0] == 0
    assert max(begun(tmp_path).values()) == 1
    assert trial_states(tmp_path) == {cell.id: ["COMPLETE"] for cell in CELLS}


def test_a_corrupt_study_database_is_an_error_that_says_what_to_do(script: Path, tmp_path: Path) -> None:
    (tmp_path / "sweeps.db").write_bytes(b"no database at all" * 100)
    code, _, err = end(begin(script, tmp_path))
    assert code == 1
    assert "sweeps.db cannot be used" in err.splitlines()[-1]
    assert "move it away" in err.splitlines()[-1]


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small file system takes root")
def test_a_full_disk_ends_the_sweep_in_an_error_that_says_so(script: Path, tmp_path: Path) -> None:
    runs = tmp_path / "small"
    runs.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=800k", "tmpfs", str(runs)], capture_output=True).returncode:
        pytest.skip("this machine does not let root mount")
    try:
        # room for the databases and the first cells' start, and then a cell fills what is left
        process = begin(script, runs, pause=1.0)
        wait_for(runs / CELLS[0].id / "train.csv", lines=3)
        fill(runs / "filler")
        code, _, err = end(process)
        assert code == 1
        assert "No space left on device; free some space" in err.splitlines()[-1]
        assert "complete cells are kept" in err.splitlines()[-1]
        (runs / "filler").unlink()
        assert end(begin(script, runs))[0] == 0
    finally:
        subprocess.run(["umount", "-l", str(runs)], check=True)


def test_an_unwritable_runs_directory_is_found_before_any_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match=r"cannot write in .*: Not a directory"):
        check_writable(tmp_path / "file" / "runs")
    with pytest.raises(OSError, match="a file of that name is in the way"):
        check_writable(tmp_path / "file")
    with monkeypatch.context() as patched:
        patched.setattr(
            tempfile, "TemporaryFile", lambda **how: (_ for _ in ()).throw(OSError(errno.EROFS, "Read-only"))
        )
        with pytest.raises(OSError, match="Read-only; choose a directory that you can write"):
            check_writable(tmp_path / "new" / "runs")
    check_writable(tmp_path / "new" / "runs")
    assert list((tmp_path / "new" / "runs").iterdir()) == []


def test_clearing_a_cell_keeps_its_lock_and_its_training_and_follows_no_link(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "precious").touch()
    cell = tmp_path / "cell"
    (cell / "checkpoints" / "step-1").mkdir(parents=True)
    (cell / ".claims" / "1").mkdir(parents=True)
    (cell / "train.csv").touch()
    (cell / "evaluations" / "one").mkdir(parents=True)
    (cell / "error.txt").touch()
    (cell / "link").symlink_to(outside)
    kept = [".claims", "checkpoints", "evaluations", "train.csv"]
    clear(cell)
    assert sorted(entry.name for entry in cell.iterdir()) == kept
    (cell / "records.parquet").touch()  # then it is trained, and an evaluation alone is to be made
    (cell / "error.txt").touch()
    clear(cell)
    assert sorted(entry.name for entry in cell.iterdir()) == sorted([*kept, "records.parquet"])
    assert (outside / "precious").exists()


def test_a_table_can_be_read_from_a_partial_sweep(script: Path, tmp_path: Path) -> None:
    """A killed sweep's complete cells come out paired: every arm of a seed, or the start of one seed."""
    process = begin(script, tmp_path, pause=0.5)
    wait_for(tmp_path / CELLS[3].id / "train.csv", lines=1)
    process.kill()
    end(process)
    results = collect(SWEEP, tmp_path)
    records = results.records[results.records["metric"] == "geneval"]
    table = records.groupby("seed")["captions.set"].apply(list)
    assert isinstance(table, pd.Series)
    assert table[0] == ["alt", "brief", "detailed"]
