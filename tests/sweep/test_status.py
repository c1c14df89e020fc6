"""What `lensbench status`, `cancel`, `retry` and `prune-files` say and do, at 80 columns and for programs."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lensbench.locks import file_lock
from lensbench.sweep import claims
from lensbench.sweep.cellfiles import evaluation_folder
from lensbench.sweep.pruning import leftovers, promise, remove
from lensbench.sweep.status import by_arm, seconds_left, standings
from lensbench.sweep.sweep import Cell, cells, load

SWEEP = """from lensbench.experiment import Experiment
from lensbench.sweep.sweep import Sweep

sweep = Sweep(
    name="small",
    base=Experiment(),
    factors={"captions.set": ("alt", "brief"), "seed": (0, 1, 2)},
    reference={"captions.set": "alt"},
)
"""
LENSBENCH = str(Path(sys.executable).with_name("lensbench"))


@pytest.fixture
def every(tmp_path: Path) -> list[Cell]:
    (tmp_path / "small.py").write_text(SWEEP)
    return cells(load(tmp_path / "small.py"))


def lensbench(folder: Path, *words: str, code: int = 0) -> str:
    done = subprocess.run([LENSBENCH, *words], cwd=folder, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (code, "") or code, done.stderr
    return done.stdout + done.stderr


def complete(runs: Path, cell: Cell) -> None:
    """The files that say that a cell is complete."""
    for place in cell.evaluations:
        folder = evaluation_folder(runs / cell.id, place.experiment)
        folder.mkdir(parents=True)
        (folder / "records.parquet").touch()
    (runs / cell.id / "records.parquet").touch()


def claim_of(runs: Path, cell: Cell) -> claims.Claim:
    (runs / cell.id).mkdir(parents=True, exist_ok=True)
    claim = claims.take(runs / cell.id, claims.state(runs / cell.id))
    assert claim is not None
    return claim


def test_every_standing_is_told_with_its_reason(tmp_path: Path, every: list[Cell]) -> None:
    runs = tmp_path / "runs"
    done, running, failing, alone, dead, _ = every
    claim_of(runs, done).end("complete")
    complete(runs, done)
    held = claim_of(runs, running)
    held.beat({"stage": "training", "done": 60, "total": 240, "note": "loss 0.5, 100 images/s"})
    claim_of(runs, failing).end("failed", "ValueError: too few images")
    for _ in range(3):
        claim_of(runs, alone).end("failed", "RuntimeError: no number")
    (runs / alone.id / "error.txt").write_text("Traceback:\n  File x, line 3\nRuntimeError: no number\n")
    claim_of(runs, dead).lock.close()
    found = {status.cell.id: status for status in standings(every, runs)}
    assert [found[cell.id].standing for cell in every] == ["done", "running", "waiting", "failed", "running", "waiting"]
    assert found[dead.id].reason == "its process has ended: the next worker takes it"
    assert found[alone.id].traceback == ("Traceback:", "  File x, line 3", "RuntimeError: no number")
    assert found[failing.id].reason == "ValueError: too few images"
    assert sum(sum(counts.values()) for counts in by_arm(list(found.values())).values()) == 6
    left = seconds_left(list(found.values()), runs)
    assert left is not None
    assert left >= 0

    told = lensbench(tmp_path, "status", "small.py")
    assert max(map(len, told.splitlines())) <= 80
    assert told.startswith("small: 1 of 6 cells done")
    for words in ("training 60 of 240, loss 0.5", "3 times: RuntimeError: no number", "1 time: ValueError: too few"):
        assert words in told
    assert "queue them again: lensbench retry small.py [--cell ID]" in told
    values = json.loads(lensbench(tmp_path, "status", "small.py", "--json"))
    assert (values["done"], values["running"], values["waiting"], values["failed"]) == (1, 2, 2, 1)
    assert next(v for v in values["of"] if v["cell"] == running.id)["stage"] == "training"
    held.end("stopped")


def test_cells_are_cancelled_and_queued_again_by_their_ids(tmp_path: Path, every: list[Cell]) -> None:
    runs = tmp_path / "runs"
    assert lensbench(tmp_path, "cancel", "small.py", "--cell", every[0].id[:8]).startswith("1 cell(s) cancelled")
    assert claims.state(runs / every[0].id).cancelled
    assert lensbench(tmp_path, "cancel", "small.py").startswith("5 cell(s) cancelled")
    assert {status.standing for status in standings(every, runs)} == {"cancelled"}
    assert lensbench(tmp_path, "retry", "small.py").startswith("6 cell(s) queued again")
    assert {status.standing for status in standings(every, runs)} == {"waiting"}
    assert "no cell of small.py has this id" in lensbench(tmp_path, "retry", "small.py", "--cell", "zzz", code=2)


def test_a_holder_that_is_silent_is_said_so(tmp_path: Path, every: list[Cell], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LENSBENCH_HEARTBEAT_SECONDS", "0.01")
    held = claim_of(tmp_path, every[0])
    time.sleep(0.2)
    assert standings(every, tmp_path)[0].reason == "not heard of for long: another worker will take it"
    held.end("stopped")


def test_pruning_frees_what_complete_cells_leave_and_nothing_that_is_needed(tmp_path: Path, every: list[Cell]) -> None:
    done, begun = tmp_path / every[0].id, tmp_path / every[1].id
    for directory in (done, begun):
        (directory / "resume").mkdir(parents=True)
        (directory / "resume" / "step-00000010.ckpt").write_bytes(bytes(1000))
        for step in (10, 20):
            (directory / "checkpoints" / f"step-{step:06d}").mkdir(parents=True)
            (directory / "checkpoints" / f"step-{step:06d}" / "model").write_bytes(bytes(100))
        (directory / "experiment.json").touch()
    complete(tmp_path, every[0])
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "features").write_bytes(bytes(10))
    assert {(of.what, of.bytes) for of in leftovers(every, tmp_path)} == {("resume points", 1000)}
    found = leftovers(every, tmp_path, checkpoints=True)
    assert {(of.what, of.bytes) for of in found} == {("resume points", 1000), ("earlier checkpoints", 100)}
    remove(found)
    left = ["checkpoints", "evaluations", "experiment.json", "records.parquet"]
    assert sorted(path.name for path in done.iterdir()) == left
    assert [path.name for path in (done / "checkpoints").iterdir()] == ["step-000020"]
    assert len(list(begun.rglob("*"))) == 8
    for cell in every[1:]:
        complete(tmp_path, cell)
    assert {of.what for of in leftovers(every, tmp_path)} == {"resume points", "features and latents"}
    claim = tmp_path / "cache" / "text" / "store" / "1.claim"
    claim.parent.mkdir(parents=True)
    with file_lock(claim):  # as who computes rows holds it
        assert {of.what for of in leftovers(every, tmp_path)} == {"resume points"}
    assert {of.what for of in leftovers(every, tmp_path)} == {"resume points", "features and latents"}
    promise(tmp_path, "another", [*every, Cell("not begun", {}, every[0].experiment)])
    assert {of.what for of in leftovers(every, tmp_path)} == {"resume points"}
    promise(tmp_path, "ours", every)
    (only,) = (tmp_path / "cache" / "encoded").glob("another-*.json")
    only.unlink()
    assert {of.what for of in leftovers(every, tmp_path)} == {"resume points", "features and latents"}
