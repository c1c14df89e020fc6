"""Workers in processes of their own, under faults: real cells, real processes, real signals."""

import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from rich.console import Console

from lensbench.experiment import Experiment
from lensbench.sweep.processes import cores, default_workers, gpus
from lensbench.sweep.session import work
from lensbench.sweep.sweep import Sweep, cells, collect

BASE = Experiment().replace(
    {
        "corpus.size_px": 16,
        "images": 64,
        "text_encoder.layers": (0, 1),
        "model.depth": 1,
        "training.steps": 6,
        "training.batch": 8,
        "evaluation.at": (1.0,),
        "evaluation.prompts_per_task": 2,
        "evaluation.images_per_task": 2,
        "evaluation.scene_images": 8,
        "evaluation.validation_images": 8,
        "evaluation.sampling_steps": 2,
    }
)
ARMS = {"captions.set": ("alt", "brief")}
REFERENCE = {"captions.set": "alt"}
# The sweep of the tests that interrupt: cells of a few seconds each, run by a script that can be killed.
SCRIPT = """
import sys
from pathlib import Path
from rich.console import Console
from lensbench.experiment import Experiment
from lensbench.sweep.session import StoppedError, work
from lensbench.sweep.sweep import Sweep

sweep = Sweep.model_validate_json(Path(sys.argv[1]).read_text())
try:
    session = work(sweep, Path(sys.argv[2]), console=Console(width=200), workers=2)
except StoppedError as stopped:
    print(stopped)
    sys.exit(stopped.exit_code)
sys.exit(1 if session.failed else 0)
"""
LONG = Sweep(
    name="long",
    base=BASE.replace({"training.steps": 400}),
    factors=ARMS | {"seed": (0, 1)},
    reference=REFERENCE,
)


def begin(tmp_path: Path) -> subprocess.Popen[str]:
    (tmp_path / "script.py").write_text(SCRIPT)
    (tmp_path / "sweep.json").write_text(LONG.model_dump_json())
    command = [sys.executable, str(tmp_path / "script.py"), str(tmp_path / "sweep.json"), str(tmp_path / "runs")]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def children(parent: int) -> list[int]:
    done = subprocess.run(["ps", "-o", "pid=", "--ppid", str(parent)], capture_output=True, text=True)
    return [int(pid) for pid in done.stdout.split()]


def under_way(runs: Path, n: int, seconds: float = 90) -> None:
    """Until `n` cells have begun and the first of them is being trained."""
    limit = time.monotonic() + seconds
    while len(list(runs.glob("*/experiment.json"))) < n:
        assert time.monotonic() < limit, "no cell ever began"
        time.sleep(0.02)


def values(sweep: Sweep, runs: Path) -> dict[tuple[str, str, str], float]:
    """Every number of the complete sweep but what it cost."""
    results = collect(sweep, runs)
    assert results.complete, results.missing
    cost = ("_seconds", "images_per_second", "peak_flops_share", "data_wait_share", "peak_memory_bytes")
    cost += ("_hours", "_usd", "_kwh", "_estimated")
    table = results.records[~results.records["metric"].str.endswith(cost)]
    return {(row.cell, row.metric, row.prompt_form): row.value for row in table.itertuples()}


def test_two_processes_give_the_numbers_that_one_gives(tmp_path: Path) -> None:
    sweep = Sweep(name="two", base=BASE, factors=ARMS | {"seed": (0, 1)}, reference=REFERENCE)
    out = io.StringIO()
    session = work(sweep, tmp_path / "two", console=Console(file=out, width=200), workers=2)
    assert session.failed == {}
    assert sorted(session.complete) == sorted(cell.id for cell in cells(sweep))
    assert len(re.findall(r"^\[\d/4\] set=.*: geneval ", out.getvalue(), re.MULTILINE)) == 4
    hardware = set(collect(sweep, tmp_path / "two").records["hardware"])
    assert len(hardware) == 1
    if not gpus():
        assert re.search(rf", {max(1, cores() // 2)} threads?$", hardware.pop())
    work(sweep, tmp_path / "one", console=Console(file=io.StringIO()))
    assert values(sweep, tmp_path / "two") == pytest.approx(values(sweep, tmp_path / "one"), rel=1e-3, nan_ok=True)


@pytest.mark.slow
def test_isolated_cells_run_in_a_process_each(tmp_path: Path) -> None:
    sweep = Sweep(name="apart", base=BASE, factors=ARMS, reference=REFERENCE)
    session = work(sweep, tmp_path, console=Console(file=io.StringIO(), width=200), isolate=True)
    assert sorted(session.complete) == sorted(cell.id for cell in cells(sweep))
    holders = [json.loads(path.read_text())["pid"] for path in tmp_path.glob("*/.claims/1/holder.json")]
    assert len({*holders, os.getpid()}) == 3


def test_a_failing_cell_is_told_with_its_reason_and_the_others_go_on(tmp_path: Path) -> None:
    rates = {"training.muon_learning_rate": (0.02, 1e30)}
    sweep = Sweep(name="fails", base=BASE, factors=ARMS | rates, reference=REFERENCE)
    out = io.StringIO()
    session = work(sweep, tmp_path, console=Console(file=out, width=300), workers=2)
    bad = {cell.id for cell in cells(sweep) if cell.levels["training.muon_learning_rate"] == 1e30}
    assert set(session.failed) == bad
    assert len(session.complete) == 2
    assert all("lower training.learning_rate" in reason for reason in session.failed.values())
    assert out.getvalue().count("lower training.learning_rate") == 2


@pytest.mark.slow
def test_a_process_that_is_killed_loses_its_cell_to_the_other(tmp_path: Path) -> None:
    process = begin(tmp_path)
    under_way(tmp_path / "runs", 2)
    victim = children(process.pid)[0]
    os.kill(victim, signal.SIGKILL)
    out, err = process.communicate(timeout=120)
    assert (process.returncode, err) == (0, "")
    assert re.search(r"worker \d ended early with exit code -9", out)
    assert collect(LONG, tmp_path / "runs").complete


@pytest.mark.parametrize("how", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
def test_a_signal_stops_every_process_and_the_same_command_goes_on(tmp_path: Path, how: signal.Signals) -> None:
    process = begin(tmp_path)
    under_way(tmp_path / "runs", 2)
    workers = children(process.pid)
    process.send_signal(how)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (128 + how, "")
    assert re.search(rf"interrupted by {how.name}: \d of 4 cells are complete and kept", out.splitlines()[-1])
    assert not any(Path(f"/proc/{pid}").exists() for pid in workers)
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "runs").glob("*/records.parquet")}
    again = begin(tmp_path)
    again.communicate(timeout=120)
    assert again.returncode == 0
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    assert collect(LONG, tmp_path / "runs").complete


@pytest.mark.slow
def test_workers_do_not_outlive_a_killed_parent(tmp_path: Path) -> None:
    process = begin(tmp_path)
    under_way(tmp_path / "runs", 2)
    workers = children(process.pid)
    process.kill()
    process.communicate()
    limit = time.monotonic() + 30
    while any(Path(f"/proc/{pid}").exists() for pid in workers):
        assert time.monotonic() < limit, "a worker went on alone"
        time.sleep(0.05)
    again = begin(tmp_path)
    again.communicate(timeout=120)
    assert again.returncode == 0


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small file system takes root")
def test_a_full_disk_in_a_worker_ends_the_sweep_in_one_line(tmp_path: Path) -> None:
    runs = tmp_path / "small"
    runs.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=600k", "tmpfs", str(runs)], capture_output=True).returncode:
        pytest.skip("this machine does not let root mount")
    try:
        with pytest.raises(OSError, match=r"No space left on device; free some space") as caught:
            work(LONG, runs, console=Console(file=io.StringIO()), workers=2)
        assert "complete cells are kept" in str(caught.value)
    finally:
        subprocess.run(["umount", "-l", str(runs)], check=True)


def test_as_many_workers_as_are_of_use() -> None:
    assert default_workers(1) == 1
    assert 1 <= default_workers(100) <= max(8, len(gpus()))
    if not gpus():
        assert default_workers(100) == min(8, cores())
