"""A run that is stopped, in whatever way, ends as if it had not been."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import lightning
import pytest
import torch

from lensbench.experiment import Experiment, Training
from lensbench.stopping import stop_requests
from lensbench.training import files, resume
from lensbench.training.curve import LossCurve

STOPPED = 7  # exit code of `SCRIPT` after Ctrl-C; other signals go on to end the process


SCRIPT = """
import sys, time
from pathlib import Path
sys.path.insert(0, {tests!r})
import conftest, lightning
from lensbench.training import run as module

class Slow(lightning.Callback):
    begun = 0
    def on_train_batch_start(self, trainer, *_):
        time.sleep(0.02)
        print(trainer.lightning_module.steps, flush=True)
        while self.begun == {hold} and not Path({go!r}).exists():
            time.sleep(0.005)
        self.begun += 1

real = lightning.Trainer
def trainer(**options):
    return real(**options | {{"callbacks": [Slow(), *options["callbacks"]]}})
module.lightning.Trainer = trainer
try:
    conftest.ShortRun.train(Path({directory!r}))
except KeyboardInterrupt:
    sys.exit({stopped})
"""


def go(directory: Path) -> Path:
    return directory.with_suffix(".go")


def start(directory: Path, hold: int) -> subprocess.Popen[str]:
    """Train in a process of its own, which waits after so many steps until there is a file `go`."""
    tests, file = str(Path(__file__).parent), str(go(directory))
    code = SCRIPT.format(tests=tests, directory=str(directory), stopped=STOPPED, hold=hold, go=file)
    environment = os.environ | {"OMP_NUM_THREADS": str(torch.get_num_threads())}
    return subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, env=environment)


def test_a_run_that_is_not_stopped_repeats_to_the_bit(tmp_path: Path, undisturbed: Path, short: Any) -> None:
    short.train(tmp_path / "again")
    assert short.outcome(tmp_path / "again") == short.outcome(undisturbed)
    other = short.experiment.replace({"seed": 1})
    short.train(tmp_path / "other", other)
    assert short.outcome(tmp_path / "other")[2] != short.outcome(undisturbed)[2]


@pytest.mark.slow
def test_killed_at_twenty_random_moments_it_ends_to_the_bit_as_if_it_had_not_been(
    tmp_path: Path, undisturbed: Path, short: Any
) -> None:
    moments = random.Random(0)
    furthest, kills = 0, 0
    while kills < 20:
        child = start(tmp_path / "run", hold=moments.randint(0, 3))
        assert child.stdout is not None
        first = child.stdout.readline()
        if not first:  # it reached the end: training was over before the kill
            break
        assert int(first) >= furthest - 10  # it went on from about where it was
        time.sleep(moments.uniform(0, 0.12))
        child.kill()
        steps = [int(line) for line in [first, *child.stdout.read().splitlines()] if line.strip()]
        furthest = max(furthest, *steps)
        child.wait()
        kills += 1
    assert kills >= 10
    short.train(tmp_path / "run")
    assert short.outcome(tmp_path / "run") == short.outcome(undisturbed)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1])
def test_asked_to_stop_it_ends_after_the_step_and_goes_on_from_there(
    number: signal.Signals, tmp_path: Path, undisturbed: Path, short: Any
) -> None:
    child = start(tmp_path / "run", hold=12)
    assert child.stdout is not None
    while (last := int(child.stdout.readline())) < 12:
        pass
    child.send_signal(number)
    go(tmp_path / "run").touch()
    assert child.stdout.read() == ""
    assert child.wait(60) == (STOPPED if number == signal.SIGINT else -number)
    point = resume.newest(tmp_path / "run" / files.RESUME, short.identity)
    assert point is not None
    assert point.step == last + 1  # the step that was under way was ended and kept
    assert min(short.train(tmp_path / "run")) > last
    assert short.outcome(tmp_path / "run") == short.outcome(undisturbed)


def interrupted(short: Any, directory: Path, monkeypatch: pytest.MonkeyPatch, step: int) -> list[Path]:
    """Stop a run after `step` steps; its resume points, oldest first."""
    real = LossCurve.on_train_batch_end

    def stop(self: LossCurve, trainer: lightning.Trainer, *rest: object) -> None:
        real(self, trainer, *rest)  # type: ignore[arg-type]
        if trainer.lightning_module.steps == step:
            os.kill(os.getpid(), signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(LossCurve, "on_train_batch_end", stop)
        with pytest.raises(KeyboardInterrupt):
            short.train(directory, short.experiment.replace({"training.resume_seconds": 1e-6}))
    return sorted((directory / files.RESUME).glob("*.ckpt"))


@pytest.mark.parametrize("damage", ["cut", "flipped", "no manifest", "torn manifest", "gone"])
def test_a_damaged_point_is_passed_over_for_the_one_before(
    damage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, undisturbed: Path, short: Any
) -> None:
    points = interrupted(short, tmp_path / "run", monkeypatch, 20)
    assert [point.stem for point in points] == ["step-00000019", "step-00000020"]
    state, manifest = points[-1], points[-1].with_suffix(".json")
    whole = state.read_bytes()
    if damage == "cut":
        state.write_bytes(whole[: len(whole) // 2])
    elif damage == "flipped":
        state.write_bytes(whole[:1000] + bytes([whole[1000] ^ 1]) + whole[1001:])
    elif damage == "no manifest":
        manifest.unlink()
    elif damage == "torn manifest":
        manifest.write_text(manifest.read_text()[:30])
    else:
        state.unlink()
    found = resume.newest(tmp_path / "run" / files.RESUME, short.identity)
    assert found is not None
    assert found.step == 19
    assert min(short.train(tmp_path / "run")) >= 20
    assert short.outcome(tmp_path / "run") == short.outcome(undisturbed)


def test_what_was_trained_with_other_data_stays_until_the_user_decides(
    short: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    points = interrupted(short, tmp_path / "run", monkeypatch, 20)
    other = dict(short.identity) | {"corpus_digest": "other"}
    with pytest.raises(
        ValueError, match=r"of other data \(corpus_digest None, now other\): .* to train anew"
    ) as caught:
        short.train(tmp_path / "run", identity=other)
    assert "\n" not in str(caught.value)
    assert all(point.exists() for point in points)
    shutil.rmtree(tmp_path / "run" / files.RESUME)
    assert min(short.train(tmp_path / "run", identity=other)) == 1
    with pytest.raises(ValueError, match=r"of other data"):
        short.train(tmp_path / "run")


def test_it_goes_on_with_another_commit_and_other_threads_and_says_so(
    short: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, undisturbed: Path
) -> None:
    interrupted(short, tmp_path / "run", monkeypatch, 20)
    moved = dict(short.identity) | {"commit": "b", "hardware": "CPU, 2 threads"}
    news: list[str] = []
    assert min(short.train(tmp_path / "run", identity=moved, news=news.append)) == 21
    said = (
        "goes on from step 20, trained with a on CPU, 1 thread, now with b on CPU, 2 threads: not promised to the bit"
    )
    assert news == [said]
    noted = resume.trained(tmp_path / "run", moved)
    assert noted is not None
    assert (noted.commit, noted.hardware) == ("b", "CPU, 2 threads")
    assert noted.elsewhere() == "until step 20: commit a, CPU, 1 thread"
    assert short.outcome(tmp_path / "run") == short.outcome(undisturbed), "here nothing but the names has changed"
    assert short.train(tmp_path / "run", news=news.append) == [short.steps], "it is trained, wherever it is asked"


def test_a_lost_checkpoint_starts_anew(short: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    interrupted(short, tmp_path / "run", monkeypatch, 20)
    for file in files.checkpoint(tmp_path / "run", short.steps // 4).iterdir():
        file.unlink()
    files.checkpoint(tmp_path / "run", short.steps // 4).rmdir()
    news: list[str] = []
    assert min(short.train(tmp_path / "run", news=news.append)) == 1
    assert news == [f"the checkpoint of step {short.steps // 4} is missing: the cell is trained again"]


def test_what_is_trained_is_not_trained_again(tmp_path: Path, undisturbed: Path, short: Any) -> None:
    short.train(tmp_path / "run")
    assert not list((tmp_path / "run" / files.RESUME).iterdir())
    assert short.train(tmp_path / "run") == [short.steps]
    assert short.outcome(tmp_path / "run") == short.outcome(undisturbed)


@pytest.mark.parametrize(
    "name",
    ["train.csv", "training.json", "trained.json", "checkpoints/step-000010/diffusion_pytorch_model.safetensors"],
)
def test_a_flipped_bit_of_what_training_left_is_named_and_trained_again(
    name: str, tmp_path: Path, undisturbed: Path, short: Any
) -> None:
    shutil.copytree(undisturbed, tmp_path / "run")
    data = bytearray((tmp_path / "run" / name).read_bytes())
    data[3] ^= 128
    (tmp_path / "run" / name).write_bytes(data)
    news: list[str] = []
    assert min(short.train(tmp_path / "run", news=news.append)) == 1
    (said,) = news
    assert said.startswith(name.rpartition("/")[0] or name)
    assert short.outcome(tmp_path / "run") == short.outcome(undisturbed)


def test_a_full_disk_stops_the_run_and_leaves_the_point_before_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, undisturbed: Path, short: Any
) -> None:
    real = lightning.Trainer.save_checkpoint

    def full(self: lightning.Trainer, path: Path, *rest: object) -> None:
        if self.lightning_module.steps == 15:
            Path(path).write_bytes(b"half of it")
            raise OSError(28, "No space left on device")
        real(self, path)

    with monkeypatch.context() as patch:
        patch.setattr(lightning.Trainer, "save_checkpoint", full)
        with pytest.raises(OSError, match="No space"):
            short.train(tmp_path / "run", short.experiment.replace({"training.resume_seconds": 1e-6}))
    folder = tmp_path / "run" / files.RESUME
    assert sorted(path.name for path in folder.iterdir()) == [
        *("step-00000013.ckpt", "step-00000013.json", "step-00000014.ckpt", "step-00000014.json"),
    ]
    assert min(short.train(tmp_path / "run")) >= 15
    assert short.outcome(tmp_path / "run") == short.outcome(undisturbed)


def test_a_second_signal_stops_at_once_and_ignored_ones_stay_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with stop_requests() as request:
            os.kill(os.getpid(), signal.SIGHUP)
            assert request.signal == 0
            os.kill(os.getpid(), signal.SIGTERM)
            assert request.signal == signal.SIGTERM
            with pytest.raises(KeyboardInterrupt):
                os.kill(os.getpid(), signal.SIGUSR1)
    finally:
        signal.signal(signal.SIGHUP, before)
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_how_often_is_no_part_of_the_science(tmp_path: Path) -> None:
    assert Experiment(training=Training(resume_seconds=1)).hash() == Experiment().hash()
    point = tmp_path / "step-00000001.json"
    point.write_text(json.dumps({"step": 1, "sha256": "0" * 64, "identity": {}}))
    assert resume.newest(tmp_path, {}) is None
