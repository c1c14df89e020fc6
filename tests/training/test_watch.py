"""A run that is watched is the run it would have been; what was seen is kept, each of it once."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import lightning
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lensbench.experiment import Experiment
from lensbench.model.sizes import denoiser_config
from lensbench.model.transformer import LensTransformer
from lensbench.training import files
from lensbench.training.milestones import watched_steps
from lensbench.training.resume import ResumePoints
from lensbench.training.run import train

WATCHED = [2, 5, 10, 20, 40]


@given(st.integers(1, 10**6), st.integers(0, 20))
def test_it_is_watched_at_the_end_and_at_halves_of_that(steps: int, times: int) -> None:
    experiment = Experiment().replace({"training.steps": steps, "training.watch_steps": times})
    found = watched_steps(experiment)
    assert list(found) == sorted(set(found))
    assert len(found) <= times
    assert not times or found[-1] == steps
    assert all(1 <= step <= steps for step in found)
    if times and 2**times <= steps:
        assert len(found) == times
        twice = experiment.replace({"training.steps": 2 * steps, "training.watch_steps": times + 1})
        assert set(found) <= set(watched_steps(twice))


def test_watching_is_no_part_of_the_science() -> None:
    default = Experiment()
    assert "watch" not in default.canonical_json()
    watched = default.replace({"training.watch_steps": 3, "training.watch_images": 2})
    assert (watched.hash(), watched.evaluation_hash()) == (default.hash(), default.evaluation_hash())


class Watcher:
    """A probe that notes when it was asked and says a number of the weights."""

    def __init__(self, short: Any, directory: Path) -> None:
        self.short, self.directory = short, directory
        self.asked: list[int] = []
        self.found: list[int] = []  # rows that were there when it was asked

    def __call__(self, averaged: LensTransformer, step: int) -> list[dict[str, int | float | str]]:
        self.asked.append(step)
        path = self.directory / files.WATCHED
        self.found.append(len(pd.read_csv(path)) if path.exists() else 0)
        with torch.no_grad():
            numbers = [float(parameter.double().norm()) for parameter in averaged.parameters()]
        return [
            {"step": step, "form": form, "validation_loss": sum(numbers) * k} for k, form in ((1, "short"), (2, "long"))
        ]

    def train(self, experiment: Experiment) -> None:
        self.directory.mkdir(exist_ok=True)
        batches, config = self.short.batches(experiment), denoiser_config(experiment, 384)
        train(experiment, config, batches, self.directory, lambda *r: None, self.short.identity, self)

    def seen(self) -> bytes:
        return (self.directory / files.WATCHED).read_bytes()


@pytest.fixture(scope="module")
def watched(short: Any, tmp_path_factory: pytest.TempPathFactory) -> Watcher:
    watcher = Watcher(short, tmp_path_factory.mktemp("watched") / "run")
    watcher.train(short.experiment)
    return watcher


def test_a_watched_run_is_the_same_run(watched: Watcher, undisturbed: Path, short: Any) -> None:
    assert short.outcome(watched.directory) == short.outcome(undisturbed)
    assert not (undisturbed / files.WATCHED).exists()


def test_what_it_sees_is_written_as_it_comes(watched: Watcher) -> None:
    assert watched.asked == WATCHED
    assert watched.found == [0, 2, 4, 6, 8]
    table = pd.read_csv(watched.directory / files.WATCHED)
    assert list(table.columns) == ["step", "form", "validation_loss"]
    assert list(table["step"]) == [step for step in WATCHED for _ in range(2)]
    assert table["validation_loss"].nunique() == len(table)


def test_a_run_that_was_watched_is_not_watched_again_unless_that_is_lost(watched: Watcher, short: Any) -> None:
    before = watched.seen()
    again = Watcher(short, watched.directory)
    again.train(short.experiment)
    assert again.asked == []
    (watched.directory / files.WATCHED).unlink()
    again.train(short.experiment)
    assert again.asked == WATCHED
    assert again.seen() == before


@pytest.mark.parametrize("step", [13, 20])
def test_stopped_it_goes_on_with_what_it_has_seen(
    step: int, watched: Watcher, short: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = ResumePoints.on_train_batch_end

    def stop(self: ResumePoints, trainer: lightning.Trainer, *rest: object) -> None:
        if trainer.lightning_module.steps == step:
            os.kill(os.getpid(), signal.SIGINT)
        real(self, trainer, *rest)  # type: ignore[arg-type]

    watcher = Watcher(short, tmp_path / "run")
    with monkeypatch.context() as patch:
        patch.setattr(ResumePoints, "on_train_batch_end", stop)
        with pytest.raises(KeyboardInterrupt):
            watcher.train(short.experiment.replace({"training.resume_seconds": 300}))
    assert watcher.asked == [n for n in WATCHED if n <= step]
    watcher.train(short.experiment)
    assert watcher.asked == WATCHED
    assert watcher.seen() == watched.seen()


def test_killed_between_a_look_and_its_resume_point_it_looks_again_and_keeps_one(
    watched: Watcher, short: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = ResumePoints.write

    def fail(self: ResumePoints, trainer: lightning.Trainer, *rest: object) -> None:
        if trainer.lightning_module.steps == 20:
            raise OSError(28, "No space left on device")
        real(self, trainer, *rest)  # type: ignore[arg-type]

    watcher = Watcher(short, tmp_path / "run")
    with monkeypatch.context() as patch:
        patch.setattr(ResumePoints, "write", fail)
        with pytest.raises(OSError, match="No space"):
            watcher.train(short.experiment.replace({"training.resume_seconds": 1e-6}))
    watcher.train(short.experiment)
    assert watcher.asked == [2, 5, 10, 20, 20, 40]
    assert watcher.seen() == watched.seen()


def test_a_run_that_begins_anew_forgets_what_another_saw(watched: Watcher, short: Any, tmp_path: Path) -> None:
    directory = tmp_path / "run"
    sheet = files.samples(directory, 7)
    sheet.parent.mkdir(parents=True)
    sheet.touch()
    (directory / files.WATCHED).write_text("step\n7\n")
    watcher = Watcher(short, directory)
    watcher.train(short.experiment)
    assert watcher.seen() == watched.seen()
    assert not sheet.exists()
