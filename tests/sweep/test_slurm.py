"""Workers as jobs of a real Slurm on this machine: requeued, preempted, out of time, killed, and started twice."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pandas as pd
import pytest

from lensbench.sweep import claims
from lensbench.sweep.slurm import Request, further_options, seconds
from lensbench.sweep.sweep import collect, load
from tests.waiting import wait

SWEEP = """from lensbench.experiment import Evaluation, Experiment, Model, ShapesCorpus, TextEncoder, Training
from lensbench.sweep.sweep import Sweep

sweep = Sweep(
    name="cluster",
    base=Experiment(
        corpus=ShapesCorpus(size_px=16),
        images=64,
        model=Model(depth=1),
        text_encoder=TextEncoder(layers=(0,)),
        training=Training(steps=STEPS, batch=8, warmup_steps=5, resume_seconds=RESUME),
        evaluation=Evaluation(at=(1.0,), prompts_per_task=1, images_per_task=1, scene_images=8,
                              validation_images=8, sampling_steps=2),
    ),
    factors={"captions.set": ("alt", "detailed"), "seed": (0,)},
    reference={"captions.set": "alt"},
)
"""
LENSBENCH = str(Path(sys.executable).with_name("lensbench"))
ONE_THREAD = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "MLFLOW_TRACKING_URI": "none"}


@pytest.fixture
def folder(slurm: dict[str, str], tmp_path: Path) -> Iterator[Path]:
    yield tmp_path
    # Again and again: one that is being requeued at that moment comes back.
    wait(lambda: not (ask(slurm, "scancel", "--user=root") or ask(slurm, "squeue", "-h")), "the jobs' end")


def begin(folder: Path, environment: dict[str, str], *options: str, steps: int = 30, resume: float = 300):
    """`lensbench run` on a sweep of two cells."""
    (folder / "s.py").write_text(SWEEP.replace("STEPS", str(steps)).replace("RESUME", str(resume)))
    return subprocess.Popen(
        [LENSBENCH, "run", "s.py", *options],
        cwd=folder,
        env=os.environ | ONE_THREAD | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def end(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=240)
    return process.returncode, out, err


def ask(environment: dict[str, str], *command: str) -> str:
    done = subprocess.run(command, env=os.environ | environment, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def kept(folder: Path) -> dict[str, int]:
    """The step of each cell's last resume point."""
    points = (folder / "runs").glob("*/resume/step-*.json")
    return {path.parents[1].name: int(path.stem.removeprefix("step-")) for path in sorted(points)}


def losses(folder: Path) -> dict[str, list[float]]:
    return {path.parent.name: list(pd.read_csv(path)["loss"]) for path in (folder / "runs").glob("*/train.csv")}


def numbers(folder: Path) -> pd.DataFrame:
    """Every number of the sweep's records but what it cost and how fast it was."""
    found = collect(load(folder / "s.py"), folder / "runs")
    assert found.complete, found.missing
    cost = (
        "_seconds",
        "images_per_second",
        "peak_flops_share",
        "data_wait_share",
        "peak_memory_bytes",
        "_hours",
        "_usd",
    )
    metric = found.records["metric"]
    table = found.records[~metric.str.endswith(cost) & ~metric.str.startswith("energy")].drop(columns="commit")
    return table.sort_values(["cell", "metric", "prompt_form", "step"], ignore_index=True)


def attempts(folder: Path) -> dict[str, int]:
    """How often each cell was begun."""
    files = {path.parent.name: path.read_text().split("\n") for path in (folder / "runs").glob("*/cost.jsonl")}
    return {cell: len({json.loads(line)["attempt"] for line in lines if line}) for cell, lines in files.items()}


LONG = 900  # steps of a cell that is disturbed


@contextmanager
def still(folder: Path, workers: int, since: str = "watch.csv") -> Iterator[None]:
    """All workers stand still in the block, each within a cell of its own from the moment that this file is there."""
    pids: dict[str, int] = {}

    def stopped() -> bool:
        for cell in (folder / "runs").glob("*"):
            if cell.name not in pids and any(cell.glob(since)) and (holder := claims.state(cell).holder):
                os.kill(holder["pid"], signal.SIGSTOP)
                pids[cell.name] = holder["pid"]
        return len(pids) == workers

    wait(stopped, f"{since} of every worker")
    try:
        yield
    finally:
        for pid in pids.values():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)


@pytest.fixture(scope="module")
def quiet(slurm: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The long sweep, run here by one worker that nothing disturbs."""
    folder = tmp_path_factory.mktemp("quiet")
    code, _, err = end(begin(folder, {}, "--workers", "1", steps=LONG))
    assert (code, err) == (0, "")
    return folder


@pytest.mark.slurm
@pytest.mark.slow
def test_two_jobs_give_the_records_of_a_local_run(slurm: dict[str, str], folder: Path, tmp_path: Path) -> None:
    code, out, err = end(begin(folder, slurm, "--launcher", "slurm", "--workers", "2", "--usd-per-hour", "3"))
    assert (code, err) == (0, ""), out
    assert "with 2 workers is submitted; stop it with: scancel" in out
    assert "[2/2] set=" in out
    assert "GenEval accuracy (%) by training captions" in out
    assert "at $3 an hour" in out.splitlines()[-1]
    here = tmp_path / "here"
    here.mkdir()
    assert end(begin(here, {}, "--workers", "1"))[0] == 0
    pd.testing.assert_frame_equal(numbers(folder), numbers(here))
    code, out, _ = end(begin(folder, slurm, "--launcher", "slurm"))
    assert code == 0
    assert "every cell is complete already: nothing is submitted" in out


def requeue(slurm: dict[str, str], job: str) -> None:
    ask(slurm, "scontrol", "requeue", job)


def preempt(slurm: dict[str, str], job: str) -> None:
    ask(slurm, "sbatch", "--partition=urgent", "--exclusive", "--output=/dev/null", "--wrap=sleep 3")


def warn(slurm: dict[str, str], job: str) -> None:
    """What Slurm sends before a job's time is over."""
    ask(slurm, "scancel", "--signal=USR1", "--batch", job)


@pytest.mark.slurm
@pytest.mark.slow
@pytest.mark.parametrize("disturb", [requeue, preempt, warn])
def test_a_requeued_job_goes_on_within_its_cell(
    disturb: Callable[[dict[str, str], str], None], slurm: dict[str, str], folder: Path, quiet: Path
) -> None:
    process = begin(folder, slurm, "--launcher", "slurm", "--workers", "2", "--no-wait", steps=LONG)
    code, out, err = end(process)
    assert (code, err) == (0, "")
    job = out.split()[1]
    with still(folder, workers=2):
        assert kept(folder) == {}
        disturb(slurm, job)
    wait(lambda: len(kept(folder)) == 2, "the state of both cells")
    assert all(0 < step < LONG for step in kept(folder).values())
    code, out, err = end(begin(folder, slurm, "--launcher", "slurm", "--workers", "2", steps=LONG))
    assert (code, err) == (0, ""), out
    assert f"job {job} with 2 workers is still there: no other is submitted" in out
    assert losses(folder) == losses(quiet)
    assert set(attempts(folder).values()) == {2}
    pd.testing.assert_frame_equal(numbers(folder), numbers(quiet))


@pytest.mark.slurm
@pytest.mark.slow
def test_at_its_time_limit_a_job_is_requeued_and_goes_on(slurm: dict[str, str], folder: Path) -> None:
    options = ("--launcher", "slurm", "--workers", "1", "--time", "1", "--no-wait")
    assert end(begin(folder, slurm, *options, steps=200_000))[0] == 0
    wait(lambda: kept(folder), "a state at the time limit")
    (first,) = kept(folder).values()
    wait(lambda: min(attempts(folder).values()) > 1, "the second attempt")
    wait(lambda: max(kept(folder).values()) > first, "further steps, kept at the next time limit")
    assert first > 0


HELD = """#!/bin/sh
trap "" TERM  # which Slurm sends to every process of a job that is cancelled
touch {asked}
until test -e {go}; do sleep 0.1; done
exec {program} "$@"
"""


@pytest.mark.slurm
@pytest.mark.slow
def test_a_job_that_is_cancelled_after_its_warning_does_not_come_back(
    slurm: dict[str, str], folder: Path, tmp_path: Path
) -> None:
    held, asked, go = tmp_path / "held", tmp_path / "asked", tmp_path / "go"
    held.mkdir()
    for name in ("scontrol", "squeue"):  # what a worker asks Slurm by, once its state is kept
        (held / name).write_text(HELD.format(asked=asked, go=go, program=shutil.which(name)))
        (held / name).chmod(0o755)
    environment = slurm | {"PATH": f"{held}:{os.environ['PATH']}"}
    code, out, _ = end(begin(folder, environment, "--launcher", "slurm", "--workers", "1", "--no-wait", steps=LONG))
    assert code == 0
    job = out.split()[1]
    with still(folder, workers=1):
        warn(slurm, job)
    wait(asked.exists, "the worker's question")
    ask(slurm, "scancel", job)
    go.touch()
    wait(lambda: ask(slurm, "squeue", "-h", "--format=%T") != "COMPLETING", "the job's end")
    assert ask(slurm, "squeue", "-h", "--format=%T") == ""
    assert kept(folder)
    (said,) = (folder / "runs" / "slurm").glob("*.out")
    assert said.read_text().splitlines()[-1] == "lensbench: Slurm is ending this job: it is not requeued"


@pytest.mark.slurm
@pytest.mark.slow
def test_the_cell_of_a_killed_job_is_taken_by_another(slurm: dict[str, str], folder: Path, quiet: Path) -> None:
    process = begin(folder, slurm, "--launcher", "slurm", "--workers", "2", steps=LONG, resume=0.5)
    with still(folder, workers=2, since="resume/step-*.json"):
        jobs = ask(slurm, "squeue", "-h", "--array", "--format=%i").split()
        assert len(jobs) == 2
        ask(slurm, "scancel", "--signal=KILL", "--batch", jobs[0])
    code, out, err = end(process)
    assert (code, err) == (0, ""), out
    assert losses(folder) == losses(quiet)
    assert sorted(attempts(folder).values()) == [1, 2]


@pytest.mark.slurm
@pytest.mark.slow
def test_ctrl_c_leaves_the_jobs_and_the_same_command_watches_them_again(slurm: dict[str, str], folder: Path) -> None:
    options = ("--launcher", "slurm", "--workers", "1")
    process = begin(folder, slurm, *options, steps=LONG)
    with still(folder, workers=1):
        process.send_signal(signal.SIGINT)
        code, out, err = end(process)
        assert code == 130
        job = out.split()[1]
        assert f"no longer watched; job {job} goes on. Stop it with: scancel {job}; watch it again with:" in err
        assert ask(slurm, "squeue", "-h", "--array", "--format=%A") == job
    code, out, _ = end(begin(folder, slurm, *options, steps=LONG))
    assert code == 0
    assert f"job {job} with 1 worker is still there" in out


@pytest.mark.slurm
@pytest.mark.slow
def test_a_cell_in_two_processes_is_a_step_that_is_warned_too(slurm: dict[str, str], folder: Path) -> None:
    options = ("--launcher", "slurm", "--workers", "1", "--processes-per-node", "2")
    process = begin(folder, slurm, *options, steps=400)
    wait(lambda: list((folder / "runs").glob("*/watch.csv")), "training")
    warn(slurm, ask(slurm, "squeue", "-h", "--format=%A"))
    wait(lambda: kept(folder), "the state of the cell")
    code, out, err = end(process)
    assert (code, err) == (0, ""), out
    told = [json.loads(path.read_text())["processes"] for path in (folder / "runs").glob("*/training.json")]
    assert told == [2, 2]
    assert sorted(attempts(folder).values()) == [1, 2]
    assert len(list((folder / "runs").glob("*/cost-1.jsonl"))) == 2


@pytest.mark.slurm
@pytest.mark.slow
def test_what_slurm_refuses_and_what_fails_is_said_in_a_line(slurm: dict[str, str], folder: Path) -> None:
    code, _, err = end(begin(folder, slurm, "--launcher", "slurm", "--partition", "nowhere"))
    assert code == 2
    (line,) = err.splitlines()
    assert line.startswith("lensbench: Slurm refuses the jobs: ")
    assert "invalid partition specified: nowhere" in line
    (folder / "runs" / "cache").write_text("in the way")  # so that every cell fails
    code, out, _ = end(begin(folder, slurm, "--launcher", "slurm", "--workers", "2"))
    assert code == 1
    assert out.count(": failed: ") >= 2
    assert "the jobs' output is in runs/slurm/" in out


def test_without_slurm_one_line_says_so(tmp_path: Path) -> None:
    code, _, err = end(begin(tmp_path, {"PATH": str(Path(sys.executable).parent)}, "--launcher", "slurm"))
    assert code == 2
    assert err == "lensbench: --launcher slurm: sbatch is not on this machine; run the command on a login node\n"


@pytest.mark.parametrize(
    ("text", "expected"),
    [("90", 5400), ("1:30", 90), ("1:30:00", 5400), ("2-12", 216_000), ("2-12:30", 217_800), ("1-0:0:30", 86_430)],
)
def test_time_limits_are_read_as_sbatch_reads_them(text: str, expected: int) -> None:
    assert seconds(text) == expected
    assert Request(time=text).notice_seconds == min(120, expected // 3)


@pytest.mark.parametrize("text", ["", "soon", "1:2:3:4", "0", "0:30", "-5"])
def test_another_time_limit_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="--time"):
        seconds(text)


def test_further_options_are_sbatch_s_but_not_the_launcher_s_own() -> None:
    assert further_options(["qos=high", "--gpu_bind=none", "exclusive"]) == {
        "qos": "high",
        "gpu-bind": "none",
        "exclusive": True,
    }
    for taken, instead in (("array=0-3", "--workers"), ("nodes=2", "--nodes-per-cell"), ("signal=9", "nothing")):
        with pytest.raises(ValueError, match=instead):
            further_options([taken])
    with pytest.raises(ValueError, match="long name"):
        further_options(["=3"])
