"""What is shown while a sweep runs: estimates that make sense, and a log that stays short."""

from __future__ import annotations

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from lensbench.experiment import Experiment
from lensbench.sweep.progress import Board, Estimate, LiveBoard, Progress, board, duration, weight
from lensbench.sweep.sweep import Sweep, cells

CELLS = cells(
    Sweep(
        name="s",
        base=Experiment(),
        factors={"captions.set": ("alt", "detailed")},
        reference={"captions.set": "alt"},
    )
)


def weights() -> dict[str, float]:
    return {cell.id: weight(cell.experiment) for cell in CELLS}


@given(st.sampled_from(["captions", "training", "scoring"]), st.integers(0, 99), st.integers(0, 100))
def test_the_share_of_a_cell_grows_and_stays_below_one(stage: str, done: int, total: int) -> None:
    before = Progress(stage, done, total).share_of_cell()
    after = Progress(stage, done + 1, total).share_of_cell()
    assert 0 <= before <= after <= 1


def test_the_stages_follow_one_another() -> None:
    for first, second in (("captions", "training"), ("training", "scoring")):
        assert Progress(first, 5, 5).share_of_cell() == Progress(second, 0, 5).share_of_cell()
    assert Progress("scoring", 5, 5).share_of_cell() == 1


@pytest.mark.parametrize(
    "change",
    [{"training.steps": Experiment().training.steps + 1}, {"model.depth": 5}, {"evaluation.sampling_steps": 17}],
)
def test_more_work_weighs_more(change: dict) -> None:
    assert weight(Experiment().replace(change)) > weight(Experiment())


@given(st.floats(1, 1e4), st.floats(0.05, 0.95), st.integers(2, 9))
def test_the_first_cell_predicts_equal_cells_to_come(seconds: float, share: float, n: int) -> None:
    estimate = Estimate({str(i): 3.0 for i in range(n)})
    left = estimate.sweep_left({"0": (seconds * share, share)})
    assert left == pytest.approx(seconds * (n - share))


def test_finished_cells_teach_the_pace_and_nothing_is_said_before_there_is_something_to_say() -> None:
    estimate = Estimate({"a": 1.0, "b": 2.0, "c": 4.0})
    assert estimate.sweep_left({"a": (1.0, 0.0)}) is None
    estimate.finished("a", 10.0)
    assert estimate.sweep_left({"b": (0.0, 0.0)}) == pytest.approx(60)
    estimate.finished("b")  # failed: teaches nothing
    assert estimate.sweep_left({"c": (30.0, 0.0)}) == pytest.approx(10)


@pytest.mark.parametrize(
    ("seconds", "text"), [(None, "?"), (0.2, "0 s"), (59.4, "59 s"), (185, "3 min 05 s"), (7800, "2 h 10 min")]
)
def test_durations_are_for_people(seconds: float | None, text: str) -> None:
    assert duration(seconds) == text


def test_workers_share_what_is_left_and_the_longest_cell_bounds_it() -> None:
    estimate = Estimate(dict.fromkeys("abcdef", 1.0), pace=[10.0])
    assert estimate.sweep_left({"a": (0.0, 0.0), "b": (0.0, 0.0)}, workers=2) == pytest.approx(30)
    lonely = Estimate({"a": 1.0}, pace=[10.0])
    assert lonely.sweep_left({"a": (0.0, 0.0)}, workers=4) == pytest.approx(10)


def test_a_log_gets_one_line_a_cell_and_few_between() -> None:
    out = io.StringIO()
    with board(Console(file=out, width=80), weights(), total=2) as show:
        assert type(show) is Board
        (lane,) = show.lanes
        for cell in CELLS:
            lane.begin(cell)
            for i in range(500):
                lane.report(Progress("training", i, 500, "loss 0.1"))
            lane.end(f"{cell.label()}: done", cell.id, 1.0)
    lines = out.getvalue().splitlines()
    assert lines == ["[1/2] set=alt seed=0: done", "[2/2] set=detailed seed=0: done"]


def test_a_long_cell_speaks_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("lensbench.sweep.progress.time.monotonic", lambda: now[0])
    out = io.StringIO()
    (lane,) = Board(Console(file=out, width=80), weights(), total=2).lanes
    lane.begin(CELLS[0])
    for i in range(101):  # 100 s of training, 5 steps a second
        now[0] = float(i)
        lane.report(Progress("training", 5 * i, 1000, "loss 0.1"))
    lines = out.getvalue().splitlines()
    assert len(lines) == 10
    assert "training 500/1000, 5.0 it/s" in lines[-1]
    assert "loss 0.1; sweep:" in lines[-1]


def test_a_terminal_gets_a_bar_a_worker_that_vanishes_and_brackets_are_text() -> None:
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, width=120)
    with board(console, weights(), total=2, workers=2) as show:
        assert isinstance(show, LiveBoard)
        for lane, cell in zip(show.lanes, CELLS, strict=True):
            lane.begin(cell)
            lane.report(Progress("training", 1, 10, "loss [bold]0.5"))
        show.bars.refresh()
        assert len(show.bars.tasks) == 3
        show.lanes[0].end("first: done [1]", CELLS[0].id, 2.0)
        assert len(show.bars.tasks) == 2
    text = out.getvalue()
    assert "0/2 cells" in text
    assert "loss [bold]0.5" in text
    assert "[1/2] first: done [1]" in text
