"""How far a sweep is: what a running cell reports, how long the rest will take, and how it is shown.

On a terminal two live bars, one for the sweep and one for the cell; elsewhere plain lines, few enough for a log.
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

Stage = Literal["captions", "training", "scoring"]

# The part of a cell's time each stage takes, roughly: only the first cell's estimate leans on it.
SHARE = {"captions": (0.0, 0.1), "training": (0.1, 0.7), "scoring": (0.7, 1.0)}


@dataclass(frozen=True)
class Progress:
    """What a running cell reports: `done` of `total` of a stage, with a short note such as "loss 0.123"."""

    stage: Stage
    done: int
    total: int
    note: str = ""

    def share_of_cell(self) -> float:
        """The part of the whole cell that is done, in [0, 1]."""
        low, high = SHARE[self.stage]
        return low + (high - low) * min(1.0, self.done / max(1, self.total))


def weight(experiment: Experiment) -> float:
    """The relative cost of a cell: images through the model, times the cost of one, in arbitrary units.

    Training counts three passes an image (forward and backward), sampling two a step (with and without text).
    """
    plan, recipe = experiment.evaluation, experiment.training
    trained = 3 * recipe.steps * recipe.batch
    judged = 6 * plan.images_per_task * len(plan.forms) + plan.scene_images
    sampled = 2 * plan.sampling_steps * judged * len(plan.at)
    tokens = (experiment.corpus.size_px / experiment.model.patch_size) ** 2
    depth = experiment.model.depth
    # parameters grow with depth^3, but small models are bound by overhead, which grows with depth alone
    return (trained + sampled) * (tokens + 16) * depth * (1 + depth**2 / 64)


@dataclass
class Estimate:
    """Seconds left, from the cells that are finished and the stage the current one is in."""

    weights: dict[str, float]  # every cell still to do, the current one with them
    pace: list[float] = field(default_factory=list)  # seconds per unit of weight of the finished cells

    def finished(self, cell_id: str, seconds: float | None = None) -> None:
        """A cell is done with: what it took teaches the pace (None: found complete, or failed)."""
        cost = self.weights.pop(cell_id, None)
        if seconds is not None and cost:
            self.pace.append(seconds / cost)

    def cell_left(self, cell_id: str, elapsed: float, share: float) -> float | None:
        """Seconds left of the current cell; None while nothing can be said."""
        from_stage = elapsed * (1 - share) / share if share > 0.02 else None
        if not self.pace:
            return from_stage
        from_pace = max(0.0, statistics.median(self.pace) * self.weights.get(cell_id, 0.0) - elapsed)
        # the further the cell is, the more its own pace says
        return from_pace if from_stage is None else share * from_stage + (1 - share) * from_pace

    def sweep_left(self, cell_id: str, elapsed: float, share: float) -> float | None:
        """Seconds left of the sweep; None while nothing can be said."""
        current = self.cell_left(cell_id, elapsed, share)
        if current is None:
            return None
        own = self.weights.get(cell_id, 0.0)
        pace = statistics.median(self.pace) if self.pace else (elapsed + current) / own if own else 0.0
        return current + pace * (sum(self.weights.values()) - own)


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

    estimate: Estimate

    def begin(self, cell: Cell) -> None: ...
    def report(self, progress: Progress) -> None: ...
    def end(self, line: str, cell_id: str, seconds: float | None) -> None: ...
    def say(self, line: str) -> None: ...


class _Shown:
    """What both displays keep: the estimate, the current cell and the rate of its stage."""

    def __init__(self, console: Console, todo: dict[str, float], total: int) -> None:
        self.console, self.total, self.done = console, total, total - len(todo)
        self.estimate = Estimate(todo)
        self.cell: Cell | None = None
        self.began = self.stage_began = time.monotonic()
        self.stage: Stage | None = None
        self.stage_from = 0

    def begin(self, cell: Cell) -> None:
        self.cell, self.stage = cell, None
        self.began = time.monotonic()

    def end(self, line: str, cell_id: str, seconds: float | None) -> None:
        self.done += 1
        self.estimate.finished(cell_id, seconds)
        self.cell = None
        self.say(f"[{self.done}/{self.total}] {line}")

    def say(self, line: str) -> None:
        self.console.print(line, highlight=False, markup=False, soft_wrap=True)

    def measures(self, progress: Progress) -> tuple[str, float | None]:
        """The cell's state as words, and the seconds left of the sweep."""
        now = time.monotonic()
        if progress.stage != self.stage:
            self.stage, self.stage_began, self.stage_from = progress.stage, now, progress.done
        seconds = now - self.stage_began
        rate = (progress.done - self.stage_from) / seconds if seconds > 0 else 0.0
        cell_id = self.cell.id if self.cell else ""
        elapsed, share = now - self.began, progress.share_of_cell()
        words = [f"{progress.stage} {progress.done}/{progress.total}"]
        if rate > 0:
            words.append(f"{rate:.1f} it/s" if rate >= 1 else f"{1 / rate:.1f} s/it")
        words.append(f"{duration(self.estimate.cell_left(cell_id, elapsed, share))} left")
        words.append(progress.note)
        return ", ".join(word for word in words if word), self.estimate.sweep_left(cell_id, elapsed, share)


class PlainDisplay(_Shown):
    """Lines for a log: one a cell, and one every `every` seconds while it runs."""

    def __init__(self, console: Console, todo: dict[str, float], total: int, every: float = 10.0) -> None:
        super().__init__(console, todo, total)
        self.every, self.last = every, time.monotonic()

    def report(self, progress: Progress) -> None:
        words, left = self.measures(progress)
        now = time.monotonic()
        if self.cell is None or now - self.last < self.every:
            return
        self.last = now
        self.say(f"[{self.done}/{self.total}] {self.cell.label()}: {words}; sweep: {duration(left)} left")


class LiveDisplay(_Shown):
    """Two bars on a terminal: the sweep, and its current cell."""

    def __init__(self, console: Console, todo: dict[str, float], total: int) -> None:
        from rich.progress import BarColumn, TextColumn, TimeElapsedColumn
        from rich.progress import Progress as Bars
        from rich.table import Column

        super().__init__(console, todo, total)
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
        self.current: Any = None

    def begin(self, cell: Cell) -> None:
        super().begin(cell)
        if self.current is not None:
            self.bars.remove_task(self.current)
        self.current = self.bars.add_task(cell.label().replace("[", r"\["), total=1.0, words="starting")

    def report(self, progress: Progress) -> None:
        words, left = self.measures(progress)
        if self.current is None:
            return
        share = progress.share_of_cell()
        self.bars.update(self.current, completed=share, words=words.replace("[", r"\["))
        about = f"{self.done}/{self.total} cells, {duration(left)} left"
        self.bars.update(self.overall, completed=self.done + share, words=about)

    def end(self, line: str, cell_id: str, seconds: float | None) -> None:
        super().end(line, cell_id, seconds)
        if self.current is not None:
            self.bars.remove_task(self.current)
            self.current = None
        self.bars.update(self.overall, completed=self.done, words=f"{self.done}/{self.total} cells")


@contextmanager
def display(console: Console, todo: dict[str, float], total: int) -> Iterator[Display]:
    """Bars on a terminal, plain lines elsewhere. `todo` maps each cell still to do to its weight."""
    if not console.is_terminal:
        yield PlainDisplay(console, todo, total)
        return
    live = LiveDisplay(console, todo, total)
    with live.bars:
        yield live


Report = Callable[[Progress], None]
