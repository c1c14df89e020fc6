"""Data workers change nothing: not the steps, not what a signal does, not the run when one of them dies."""

from __future__ import annotations

import multiprocessing
import os
import signal
import statistics
import subprocess
import sys
import time
import traceback
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import Dataset

from lensbench.experiment import Experiment
from lensbench.training import files, resume
from lensbench.training.datamodule import Step
from lensbench.training.module import LensModule
from lensbench.training.workers import StepLoader

STOPPED = 7  # exit code of `SCRIPT` after Ctrl-C
SCRIPT = """
import sys, time
from pathlib import Path
sys.path.insert(0, {tests!r})
import conftest
from lensbench.training.module import LensModule

real = LensModule.training_step
def slow(self, batch, index):
    time.sleep(0.02)
    print(self.steps, flush=True)
    while self.steps == 12 and not Path({go!r}).exists():
        time.sleep(0.005)
    real(self, batch, index)
LensModule.training_step = slow
experiment = conftest.EXPERIMENT.replace({{"training.data_workers": 2, "training.resume_seconds": 300}})
try:
    conftest.ShortRun.train(Path({directory!r}), experiment)
except KeyboardInterrupt:
    sys.exit({stopped})
"""


def tensors(step: Step) -> list[torch.Tensor]:
    of = step.parts
    return [x for part in of for x in (part.latents, part.noise, part.timesteps, *part.text_features, part.text_mask)]


@pytest.mark.parametrize("workers", [1, 2])
def test_the_steps_are_the_same_whoever_makes_them(workers: int, short: Any) -> None:
    batches = short.batches(short.experiment.replace({"training.accumulate": 2}))
    here, there = list(StepLoader(batches, 9, 0)), list(StepLoader(batches, 9, workers))
    assert len(here) == len(there) == short.steps - 9
    for one, other in zip(here, there, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(tensors(one), tensors(other), strict=True))
        assert [(part.keys, part.grid, part.text_tokens) for part in one.parts] == [
            (part.keys, part.grid, part.text_tokens) for part in other.parts
        ]
        assert (one.images, one.tokens, one.padded_tokens) == (other.images, other.tokens, other.padded_tokens)
    assert multiprocessing.active_children() == []


def kill_a_worker_in(monkeypatch: pytest.MonkeyPatch, steps: set[int]) -> None:
    """Kill a data worker between the optimizer's step and the average's in each of these steps."""
    real = LensModule.follow

    def follow(self: LensModule, step: int) -> None:
        if step in steps:
            steps.remove(step)  # a step that is done again is done undisturbed
            victim = multiprocessing.active_children()[0]
            assert victim.pid is not None
            os.kill(victim.pid, signal.SIGKILL)
            os.waitid(os.P_PID, victim.pid, os.WEXITED | os.WNOWAIT)  # the news of its death is here
        real(self, step)

    monkeypatch.setattr(LensModule, "follow", follow)


def test_a_worker_that_is_killed_is_replaced_and_the_run_ends_to_the_bit_as_if_it_had_not_been(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, undisturbed: Path, short: Any
) -> None:
    kill_a_worker_in(monkeypatch, {12})
    experiment = short.experiment.replace({"training.data_workers": 2, "training.resume_seconds": 300})
    assert experiment.hash() == short.experiment.hash()
    assert short.train(tmp_path / "run", experiment)[-1] == short.steps
    assert short.outcome(tmp_path / "run") == short.outcome(undisturbed)
    assert multiprocessing.active_children() == []


def test_a_second_death_ends_the_run_in_one_line_and_what_was_kept_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, undisturbed: Path, short: Any
) -> None:
    kill_a_worker_in(monkeypatch, {3, 14})
    with pytest.raises(ValueError, match="data workers have died") as raised:
        short.train(tmp_path / "run", short.experiment.replace({"training.data_workers": 1}))
    (line,) = str(raised.value).splitlines()
    assert line.startswith("2 data workers have died, the last before step 1")
    assert line.endswith("memory ran out; lower training.data_workers, which is 1, and run again")
    del raised
    assert multiprocessing.active_children() == []
    point = resume.newest(tmp_path / "run" / files.RESUME, short.identity)
    assert point is not None
    assert point.step >= 14
    assert min(short.train(tmp_path / "run")) > point.step
    assert short.outcome(tmp_path / "run") == short.outcome(undisturbed)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_that_reaches_the_workers_too_stops_the_run_after_its_step(
    number: signal.Signals, tmp_path: Path, undisturbed: Path, short: Any
) -> None:
    tests, go = str(Path(__file__).parent), tmp_path / "go"
    code = SCRIPT.format(tests=tests, directory=str(tmp_path / "run"), stopped=STOPPED, go=str(go))
    environment = os.environ | {"OMP_NUM_THREADS": str(torch.get_num_threads())}
    child = subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        start_new_session=True,
    )
    assert child.stdout is not None
    while int(child.stdout.readline()) < 12:
        pass
    os.killpg(child.pid, number)
    go.touch()
    out, err = child.communicate(timeout=30)
    assert child.returncode == (STOPPED if number == signal.SIGINT else -number)
    assert (out, err) == ("", "")
    with pytest.raises(ProcessLookupError):
        os.killpg(child.pid, 0)  # nothing of it is left
    point = resume.newest(tmp_path / "run" / files.RESUME, short.identity)
    assert point is not None
    assert point.step == 13
    short.train(tmp_path / "run")
    assert short.outcome(tmp_path / "run") == short.outcome(undisturbed)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP, signal.SIGUSR1])
def test_a_worker_leaves_signals_to_the_run(number: signal.Signals, short: Any) -> None:
    loader = StepLoader(short.batches(), 0, 1)
    steps = iter(loader)
    next(steps)
    (worker,) = multiprocessing.active_children()
    assert worker.pid is not None
    os.kill(worker.pid, number)
    assert len(list(steps)) == short.steps - 1
    assert loader.deaths == 0


class Shard(Dataset[np.ndarray]):
    def __len__(self) -> int:
        return 6

    def __getitem__(self, number: int) -> np.ndarray:
        if number == 4:
            raise ValueError(f"shard-{number:03d}.arrow is damaged: import the corpus again")
        if number == 5:

            class LocalError(Exception):
                pass

            raise LocalError("no such file")
        return np.array([number])


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_an_error_in_a_worker_is_the_error_itself(workers: int) -> None:
    seen = []
    with pytest.raises(ValueError, match=r"^shard-004\.arrow is damaged: import the corpus again$") as raised:
        seen.extend(int(item[0]) for item in StepLoader(Shard(), 0, workers))
    assert seen == [0, 1, 2, 3]
    text = "".join(traceback.format_exception(raised.value))
    assert ("in a data worker" in text) == bool(workers)
    assert "in __getitem__" in text
    assert text.splitlines()[-1] == "ValueError: shard-004.arrow is damaged: import the corpus again"


def test_an_error_that_cannot_be_sent_is_what_it_says() -> None:
    with pytest.raises(RuntimeError, match=r"^LocalError: no such file$"):
        list(StepLoader(Shard(), 5, 1))
    assert multiprocessing.active_children() == []


def test_it_knows_how_long_a_step_was_waited_for() -> None:
    class Slow(Shard):
        def __getitem__(self, number: int) -> np.ndarray:
            time.sleep(0.02)
            return np.array([number])

    asked = time.perf_counter()
    for _ in (loader := StepLoader(Slow(), 0, 0)):
        assert 0.02 <= loader.waited <= time.perf_counter() - asked
        time.sleep(0.05)
        asked = time.perf_counter()
    waits = []
    for _ in (ahead := StepLoader(Slow(), 0, 1)):
        waits.append(ahead.waited)
        time.sleep(0.2)
    assert statistics.median(waits[2:]) < 0.02


def test_what_the_main_thread_does_with_signals_is_as_it_was(short: Any) -> None:
    before = signal.getsignal(signal.SIGCHLD)
    steps = iter(StepLoader(short.batches(), 0, 1))
    next(steps)
    assert signal.getsignal(signal.SIGCHLD) == before
    assert Experiment().training.data_workers == 0
