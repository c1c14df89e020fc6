"""How far a drawing is: a bar on a terminal, plain lines elsewhere, few enough for a log."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from lensbench.sweep.progress import duration

if TYPE_CHECKING:
    from rich.console import Console


class Meter:
    """Counts pictures: `done` of `total`; rate and time left are of what was drawn since the meter was made."""

    def __init__(self, done: int, total: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.before = self.done = done
        self.total, self.clock, self.began = total, clock, clock()

    def words(self) -> str:
        """For example `128/2212 pictures, 3.1 pictures/s, 11 min 12 s left`."""
        drawn, seconds = self.done - self.before, self.clock() - self.began
        words = [f"{self.done}/{self.total} pictures"]
        if drawn and seconds > 0:
            rate = drawn / seconds
            words.append(f"{rate:.1f} pictures/s" if rate >= 1 else f"{1 / rate:.1f} s a picture")
            words.append(f"{duration((self.total - self.done) / rate)} left")
        return ", ".join(words)


@contextmanager
def shown(console: Console, meter: Meter, every: float = 10.0) -> Iterator[Callable[[int], None]]:
    """Show the meter while the block runs; the function it yields counts `n` more pictures."""
    if not console.is_terminal:
        spoke = meter.clock()

        def count(n: int) -> None:
            nonlocal spoke
            meter.done += n
            if meter.clock() - spoke >= every:
                spoke = meter.clock()
                console.print(meter.words(), highlight=False, markup=False, soft_wrap=True)

        yield count
        return

    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    bars = Progress(
        TextColumn("drawing"),
        BarColumn(bar_width=16),
        TimeElapsedColumn(),
        TextColumn("{task.fields[words]}"),
        console=console,
        transient=True,
    )
    with bars:
        task = bars.add_task("drawing", total=meter.total, completed=meter.done, words=meter.words())

        def advance(n: int) -> None:
            meter.done += n
            bars.update(task, completed=meter.done, words=meter.words())

        yield advance
