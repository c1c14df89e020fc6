"""Whether what a server answers is of use: a run whose answers are paid for and are no captions ends early.

A live run ends when its first 20 answers are no captions, and later when 180 of the last 200 are none. A run in batches
ends when nine in ten of all its answers, 20 at least, are none: it sees whole batches, in whose files the answers may
stand in any order. Answers that are under way by then are kept as well.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable
from dataclasses import dataclass, field

from lensbench.captions.store import CaptionRow

FIRST = 20  # answers of a run, at least
LAST = 200  # answers that a live run looks at later
MOST_USELESS = 180  # of them
SHARE = MOST_USELESS / LAST
SHOWN = 80  # characters of an answer


@dataclass
class Usefulness:
    """What the answers of one run were so far."""

    answers: int = 0
    captions: int = 0
    _text: str = ""  # of the last answer that is no caption
    _reasons: Counter[str] = field(default_factory=Counter)
    _last: deque[str] = field(default_factory=lambda: deque(maxlen=LAST))  # why each is no caption; "" where it is one

    def take(self, row: CaptionRow) -> None:
        """A row that a completion gave."""
        self.answers += 1
        if row.state == "done":
            self.captions += 1
            self._last.append("")
            return
        reason = f"{row.state}: {row.finish_reason}"
        self._reasons[reason] += 1
        self._last.append(reason)
        self._text = row.text

    def of_late(self) -> str:
        """Why a live run must end now, in words, or nothing."""
        useless = [reason for reason in self._last if reason]
        at_the_start = not self.captions and self.answers >= FIRST
        return (
            self._words(useless, f"the last {len(self._last)}") if at_the_start or len(useless) >= MOST_USELESS else ""
        )

    def of_all(self) -> str:
        """Why a run in batches must end now, in words, or nothing."""
        many = self.answers >= FIRST and self._reasons.total() >= SHARE * self.answers
        return self._words(self._reasons.elements(), f"{self.answers:,}") if many else ""

    def _words(self, useless: Iterable[str], answers: str) -> str:
        counts = Counter(useless)
        why = "; ".join(f"{n:,} {reason}" for reason, n in counts.most_common(3))
        text = f", the last {self._text[:SHOWN]!r}" if self._text else ""
        return f"{counts.total():,} of {answers} answers are no captions ({why}{text}); they are kept"
