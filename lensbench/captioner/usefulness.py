"""Whether what a server answers is of use: a run whose answers are paid for and are no captions ends early.

It ends when the first 20 answers of a run are no captions, and later when 180 of the last 200 are none. Answers that
are under way by then are kept as well.
"""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass, field

from lensbench.captions.store import CaptionRow

FIRST = 20  # answers of a run without a caption that end it
LAST = 200  # answers that are looked at later
MOST_USELESS = 180  # of them
SHOWN = 80  # characters of an answer


@dataclass
class Usefulness:
    """What the answers of one run were so far."""

    captions: int = 0
    _answers: int = 0
    _last: deque[str] = field(default_factory=lambda: deque(maxlen=LAST))  # why each is no caption; "" where it is one

    def verdict(self, row: CaptionRow) -> str:
        """Take in a row that a completion gave. Why the run must end, in words, or nothing."""
        self._answers += 1
        self.captions += row.state == "done"
        self._last.append("" if row.state == "done" else f"{row.state}: {row.finish_reason}")
        useless = Counter(why for why in self._last if why)
        at_the_start = not self.captions and self._answers >= FIRST
        if not at_the_start and useless.total() < MOST_USELESS:
            return ""
        why = "; ".join(f"{n:,} {reason}" for reason, n in useless.most_common(3))
        text = f", the last {row.text[:SHOWN]!r}" if row.text else ""
        return (
            f"{useless.total():,} of the last {len(self._last):,} answers are no captions ({why}{text}); they are kept"
        )
