"""Every whole line of a spool is read once, and every step of training told once and in order, whoever is killed."""

from __future__ import annotations

import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lensbench import spool
from lensbench.tracking.contents import Reading
from lensbench.training import live
from lensbench.training.curve import LossCurve, Row
from lensbench.training.live import Live


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 4), st.integers(0, 40), st.booleans()), min_size=1, max_size=8))
def test_lines_cut_short_are_left_out_and_no_other(plan: list[tuple[int, int, bool]]) -> None:
    """Appends of some lines, each followed by a kill that takes so many bytes of the next line, and a look or none."""
    with tempfile.TemporaryDirectory() as name:
        folder, at, read, number = Path(name), 0, [], 0
        for lines, torn, look in plan:
            assert spool.append(folder, [{"n": number + k} for k in range(lines)])
            number += lines
            with (folder / spool.NAME).open("ab") as file:
                file.write(b'{"t":1,"n":"a line that a kill cut short"}'[:torn])
            if look:
                found, at = spool.read(folder, at)
                read += found
        spool.append(folder, [{"n": number}])
        found, at = spool.read(folder, at)
        assert [line["n"] for line in read + found] == list(range(number + 1))
        assert spool.read(folder, at)[0] == []


def test_a_spool_that_cannot_be_written_stops_nobody(tmp_path: Path) -> None:
    assert not spool.append(tmp_path / "gone", [{"step": 1}])
    spool.identify(tmp_path / "gone", "x")
    assert spool.read(tmp_path / "gone") == ([], 0)


def row(step: int) -> Row:
    tensor = torch.tensor(1 / step)
    return Row(step, tensor, 0.1, tensor, float(step), 0.0, False, 1, 1, 1.0, 1.0, 1, torch.full((4,), 0.5))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 30), st.integers(0, 30), st.booleans()), max_size=6))
def test_each_step_is_told_once_and_in_order_whenever_training_is_killed(plan: list[tuple[int, int, bool]]) -> None:
    """Attempts of so many steps that go on so many before the last one's end, some of which had told the last steps."""
    steps = 60
    trainer: Any = SimpleNamespace(is_global_zero=True)
    with tempfile.TemporaryDirectory() as name, pytest.MonkeyPatch.context() as patch:
        folder, reached = Path(name), 0
        spool.identify(folder, "i")
        for went, back, telling in [*plan, (steps, 0, True)]:
            resumed = max(0, reached - back)
            reached = min(steps, resumed + went)
            curve = LossCurve(folder / "train.csv", folder / "training.json")
            curve.rows = [row(step) for step in range(1, resumed + 1)]  # as a resume point has them
            callback = Live(folder, steps, curve, None)
            callback.on_train_start(trainer, None)  # type: ignore[arg-type]
            for step in range(resumed + 1, reached + 1):
                curve.rows.append(row(step))
                module = SimpleNamespace(steps=step)
                patch.setattr(live, "SECONDS", 0.0 if telling and step % 7 == 0 else 1e9)
                patch.setattr(live, "LensModule", SimpleNamespace)
                callback.on_train_batch_end(trainer, module, None, None, 0)  # type: ignore[arg-type]
        if reached == steps:
            told = [line for line in spool.read(folder)[0] if "train" in line]
            assert [line["step"] for line in told] == list(range(1, steps + 1))
            assert [line["train"]["loss"] for line in told] == [float(f"{1 / n:.6g}") for n in range(1, steps + 1)]


def test_a_long_training_is_told_in_part_and_to_its_end() -> None:
    told = [step for step in range(1, 100_001) if spool.is_told(step, 100_000)]
    assert len(told) <= spool.POINTS + 2
    assert told[0] == 1
    assert told[-1] == 100_000
    assert all(spool.is_told(step, 2500) for step in range(1, 2501))


def test_another_identity_begins_another_run(tmp_path: Path) -> None:
    for identity in ("a", "a", "b"):
        spool.append(tmp_path, [{"begin": {"host": "h", "pid": 1, "started": "1"}}])
        spool.identify(tmp_path, identity)
        spool.append(
            tmp_path, [{"step": 1, "train": {"loss": 1.0 if identity == "a" else 2.0, "nothing": float("nan")}}]
        )
    reading = Reading(tmp_path)
    reading.advance()
    assert reading.identity == "b"
    assert [(point.name, point.value) for point in reading.points] == [("train/loss", 2.0)]
    assert [line["step"] for line in spool.of_this_run(spool.read(tmp_path)[0]) if "step" in line] == [1]
