"""How far a sweep is: what a running cell reports, how long the rest will take, and how it is shown.

On a terminal live bars, one for the sweep and one for each running cell; elsewhere plain lines, few enough for a log.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol

if TYPE_CHECKING:
    from rich.console import Console

    from lensbench.experiment import Experiment
    from lensbench.sweep.sweep import Cell

Stage = Literal["latents", "captions", "training", "scoring"]

LOG_COLUMNS = 120  # of a line of progress in a log
# The part of a cell's time each stage takes, roughly: only the first cell's estimate leans on it. Latents are computed
# by one cell for all.
SHARE = {"latents": (0.0, 0.0), "captions": (0.0, 0.1), "training": (0.1, 0.7), "scoring": (0.7, 1.0)}


@dataclass(frozen=True)
class Progress:
    """What a running cell reports: `done` of `total` of a stage, with a short note such as "loss 0.123".

    A `lasting` one is news rather than progress: its note is said in a line that stays.
    """

    stage: Stage
    done: int
    total: int
    note: str = ""
    lasting: bool = False

    def share_of_cell(self) -> float:
        """The part of the whole cell that is done, in [0, 1]."""
        low, high = SHARE[self.stage]
        return low + (high - low) * min(1.0, self.done / max(1, self.total))


def weight(experiment: Experiment, *, training: bool = True) -> float:
    """The relative cost of a cell, or of its evaluation alone: images through the model, times the cost of one, in
    arbitrary units.

    Training counts three passes an image (forward and backward), sampling two a step (with and without text).
    """
    plan, recipe = experiment.evaluation, experiment.training
    trained = 3 * recipe.steps * experiment.images_a_step if training else 0.0
    judged = 6 * plan.images_per_task * len(plan.forms) + plan.scene_images
    sampled = 2 * plan.sampling_steps * judged * len(plan.at)
    tokens, depth = experiment.image_tokens, experiment.model.depth
    # parameters grow with depth^3, but small models are bound by overhead, which grows with depth alone
    return (trained + sampled) * (tokens + 16) * depth * (1 + depth**2 / 64)


@dataclass
class Estimate:
    """Seconds left, from the cells that are finished and the stages that the running ones are in."""

    weights: dict[str, float]  # every cell still to do, the running ones with them
    pace: list[float] = field(default_factory=list)  # seconds per unit of weight of the finished cells

    def finished(self, cell_id: str, seconds: float | None = None) -> None:
        """A cell is done with: what it took teaches the pace (None: found complete, or failed)."""
        cost = self.weights.pop(cell_id, None)
        if seconds is not None and cost:
            self.pace.append(seconds / cost)

    def cell_left(self, cell_id: str, elapsed: float, share: float) -> float | None:
        """Seconds left of a running cell; None while nothing can be said."""
        from_stage = elapsed * (1 - share) / share if share > 0.02 else None
        if not self.pace:
            return from_stage
        from_pace = max(0.0, statistics.median(self.pace) * self.weights.get(cell_id, 0.0) - elapsed)
        # the further the cell is, the more its own pace says
        return from_pace if from_stage is None else share * from_stage + (1 - share) * from_pace

    def sweep_left(self, running: dict[str, tuple[float, float]], workers: int = 1) -> float | None:
        """Seconds left of the sweep; None while nothing can be said. `running`: cell id -> (elapsed, share)."""
        left = {cell_id: self.cell_left(cell_id, *state) for cell_id, state in running.items()}
        known = {cell_id: seconds for cell_id, seconds in left.items() if seconds is not None}
        paces = list(self.pace)
        if not paces:
            costs = {cell_id: self.weights.get(cell_id, 0.0) for cell_id in known}
            paces = [(running[cell_id][0] + known[cell_id]) / cost for cell_id, cost in costs.items() if cost]
        if not paces:
            return None
        waiting = sum(cost for cell_id, cost in self.weights.items() if cell_id not in known)
        total = sum(known.values()) + statistics.median(paces) * waiting
        return max([total / workers, *known.values()])


def duration(seconds: float | None) -> str:
    """Seconds for people: `42 s`, `3 min 05 s`, `2 h 10 min`; `?` for None."""
    if seconds is None:
        return "?"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


class Display(Protocol):
    """Where a worker tells how far it is."""

    def begin(self, cell: Cell) -> None: ...
    def report(self, progress: Progress) -> None: ...
    def end(self, line: str, cell_id: str, seconds: float | None) -> None: ...
    def say(self, line: str) -> None: ...


class Lane:
    """A worker's place on the board: its cell and the rate of that cell's stage."""

    def __init__(self, board: Board) -> None:
        self.board = board
        self.cell: Cell | None = None
        self.began = self.stage_began = self.spoke = time.monotonic()
        self.stage: Stage | None = None
        self.stage_from, self.share = 0, 0.0

    def begin(self, cell: Cell) -> None:
        self.cell, self.stage, self.share = cell, None, 0.0
        self.began = time.monotonic()
        self.board.begun(self)

    def report(self, progress: Progress) -> None:
        if progress.lasting:
            self.say(f"{self.cell.label()}: {progress.note}" if self.cell else progress.note)
            return
        now = time.monotonic()
        if progress.stage != self.stage:
            self.stage, self.stage_began, self.stage_from = progress.stage, now, progress.done
        seconds = now - self.stage_began
        rate = (progress.done - self.stage_from) / seconds if seconds > 0.5 else 0.0  # a first batch says little
        self.share = progress.share_of_cell()
        cell_id = self.cell.id if self.cell else ""
        words = [f"{progress.stage} {progress.done}/{progress.total}"]
        if rate > 0:
            words.append(f"{rate:.1f} it/s" if rate >= 1 else f"{1 / rate:.1f} s/it")
        words.append(f"{duration(self.board.estimate.cell_left(cell_id, now - self.began, self.share))} left")
        words.append(progress.note)
        if self.cell is not None:
            self.board.reported(self, [word for word in words if word])

    def end(self, line: str, cell_id: str, seconds: float | None) -> None:
        self.board.done += 1
        self.board.estimate.finished(cell_id, seconds)
        self.cell = None
        self.say(f"[{self.board.done}/{self.board.total}] {line}")
        self.board.ended(self)

    def say(self, line: str) -> None:
        self.board.say(line)


class Board:
    """A sweep's progress for a log: one line a cell, and one every `every` seconds while it runs."""

    def __init__(
        self, console: Console, todo: dict[str, float], total: int, workers: int = 1, every: float = 10.0
    ) -> None:
        self.console, self.total, self.done, self.every = console, total, total - len(todo), every * workers
        self.estimate = Estimate(todo)
        self.lanes = [Lane(self) for _ in range(workers)]

    def left(self) -> float | None:
        """Seconds left of the sweep."""
        now = time.monotonic()
        running = {lane.cell.id: (now - lane.began, lane.share) for lane in self.lanes if lane.cell}
        return self.estimate.sweep_left(running, len(self.lanes))

    def say(self, line: str) -> None:
        self.console.print(line, highlight=False, markup=False, soft_wrap=True)

    def begun(self, lane: Lane) -> None:
        """A lane has begun a cell."""

    def reported(self, lane: Lane, words: list[str]) -> None:
        """A lane's cell got on: how far its stage is, at what rate, for how long, with what; a long line is left out
        from its end."""
        now = time.monotonic()
        if lane.cell is not None and now - lane.spoke >= self.every:
            lane.spoke = now
            head, tail = f"[{self.done}/{self.total}] {lane.cell.label()}: ", f"; sweep: {duration(self.left())} left"
            while len(words) > 1 and len(head + ", ".join(words) + tail) > LOG_COLUMNS:
                words = words[:-1]
            self.say(head + ", ".join(words) + tail)

    def ended(self, lane: Lane) -> None:
        """A lane's cell has ended."""


class LiveBoard(Board):
    """Bars on a terminal: the sweep, and the cell of each lane."""

    def __init__(self, console: Console, todo: dict[str, float], total: int, workers: int = 1) -> None:
        from rich.progress import BarColumn, TextColumn, TimeElapsedColumn
        from rich.progress import Progress as Bars
        from rich.table import Column

        super().__init__(console, todo, total, workers)
        narrow, wide = Column(no_wrap=True), Column(ratio=1, no_wrap=True, overflow="ellipsis")
        self.bars = Bars(
            TextColumn("{task.description}", table_column=narrow),
            BarColumn(bar_width=16),
            TimeElapsedColumn(table_column=narrow.copy()),
            TextColumn("{task.fields[words]}", table_column=wide),
            console=console,
            transient=True,
            expand=True,
        )
        self.overall = self.bars.add_task("sweep", total=total, completed=self.done, words=f"{self.done}/{total} cells")
        self.bar_of: dict[Lane, Any] = {}

    def begun(self, lane: Lane) -> None:
        assert lane.cell is not None
        self.ended(lane)
        self.bar_of[lane] = self.bars.add_task(lane.cell.label().replace("[", r"\["), total=1.0, words="starting")

    def reported(self, lane: Lane, words: list[str]) -> None:
        self.bars.update(self.bar_of[lane], completed=lane.share, words=", ".join(words).replace("[", r"\["))
        begun = sum(other.share for other in self.lanes if other.cell)
        about = f"{self.done}/{self.total} cells, {duration(self.left())} left"
        self.bars.update(self.overall, completed=self.done + begun, words=about)

    def ended(self, lane: Lane) -> None:
        if lane in self.bar_of:
            self.bars.remove_task(self.bar_of.pop(lane))
        self.bars.update(self.overall, completed=self.done, words=f"{self.done}/{self.total} cells")


@contextmanager
def board(console: Console, todo: dict[str, float], total: int, workers: int = 1) -> Iterator[Board]:
    """Bars on a terminal, plain lines elsewhere. `todo` maps each cell still to do to its weight."""
    if not console.is_terminal:
        yield Board(console, todo, total, workers)
        return
    live = LiveBoard(console, todo, total, workers)
    with live.bars:
        yield live


Report = Callable[[Progress], None]
