"""How far captioning is: one line on a terminal, plain lines elsewhere, few enough for a log."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from lensbench.sweep.progress import duration

if TYPE_CHECKING:
    from rich.console import Console
    from rich.live import Live as Line

    from lensbench.captioner.ledger import Batch
    from lensbench.captioner.live import Tally
    from lensbench.captioner.spending import Spending

EVERY = 10.0  # seconds between lines in a log
SMOOTH = 30.0  # seconds that the rate is a mean of


def dollars(usd: float) -> str:
    """$12.34, and more digits below a dollar: $0.0123."""
    return f"${usd:,.2f}" if usd >= 1 else f"${usd:.4f}" if usd >= 0.0001 or usd <= 0 else f"${usd:.2g}"


class Meter:
    """Words for a run; see `shown`."""

    def __init__(self, console: Console, what: str, priced: bool, line: Line | None) -> None:
        self.console, self.what, self.priced, self.line = console, what, priced, line
        self.spoke = time.monotonic()
        self.ticks = [(self.spoke, 0)]

    def say(self, line: str) -> None:
        """A line that stays."""
        self.console.print(line, highlight=False, markup=False, soft_wrap=True)

    def live(self, tally: Tally, spending: Spending, at_a_time: int) -> None:
        """How far a live run is."""
        now = time.monotonic()
        if now - self.spoke < (0.2 if self.line else EVERY):
            return
        words = [f"{tally.settled:,}/{tally.total:,} {self.what}", *self._rate(tally, now)]
        if self.priced:
            of = f" of {dollars(spending.budget)}" if spending.budget is not None else ""
            words.append(f"{dollars(spending.spent)}{of}")
        words.append(f"{at_a_time} at a time")
        if tally.limits:
            words.append(f"{tally.limits:,} limits met")
        self._show(", ".join(words), now)

    def batches(self, tally: Tally, under_way: list[Batch]) -> None:
        """How far a run in batches is."""
        now = time.monotonic()
        if now - self.spoke < (0.2 if self.line else EVERY):
            return
        waiting = sum(batch.requests for batch in under_way)
        words = f"{tally.settled:,}/{tally.total:,} {self.what}, {waiting:,} in {len(under_way)} batches at the server"
        self._show(words, now)

    def _rate(self, tally: Tally, now: float) -> list[str]:
        self.ticks.append((now, tally.settled))
        while len(self.ticks) > 2 and now - self.ticks[1][0] > SMOOTH:
            del self.ticks[0]
        (then, had), (_, has) = self.ticks[0], self.ticks[-1]
        if has <= had or now <= then:
            return []
        rate = (has - had) / (now - then)
        shown = f"{rate:.1f} {self.what}/s" if rate >= 1 else f"{1 / rate:.1f} s each"
        return [shown, f"{duration((tally.total - tally.settled) / rate)} left"]

    def _show(self, words: str, now: float) -> None:
        self.spoke = now
        if self.line is None:
            self.say(words)
            return
        from rich.text import Text

        self.line.update(Text(words, no_wrap=True, overflow="ellipsis"))


@contextmanager
def shown(console: Console, what: str, priced: bool) -> Iterator[Meter]:
    """A meter of `what` ("images"), shown while the block runs."""
    if not console.is_terminal:
        yield Meter(console, what, priced, None)
        return
    from rich.live import Live as Line

    with Line(console=console, transient=True, refresh_per_second=5) as line:
        yield Meter(console, what, priced, line)
