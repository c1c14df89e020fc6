"""How fast to ask: how many requests at a time, and how many a minute the server still allows.

The number at a time grows with every answer and is halved when a limit is met, at most once a round trip (additive
increase, multiplicative decrease; doubling each round trip until the first limit). Where the server says what is left
of its quotas (x-ratelimit-* headers, as OpenAI's), requests wait for the quota instead of running into it.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field

FIRST = 8  # requests at a time, to begin with
DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|h|m|s)")
SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}


@dataclass
class Window:
    """Requests at a time: `size` of them, `most` at most."""

    most: int
    size: float = float(FIRST)
    in_flight: int = 0
    _slow_from: float = float("inf")  # from this size on, growth is by one a round trip
    _cut_at: float = float("-inf")

    def __post_init__(self) -> None:
        self.size = min(self.size, self.most)

    @property
    def free(self) -> bool:
        """Whether one more request may go out."""
        return self.in_flight < int(self.size)

    def answered(self) -> None:
        """An answer came, with no limit met. What was not used does not grow."""
        if self.in_flight + 1 >= int(self.size):
            self.size = min(self.most, self.size + (1.0 if self.size < self._slow_from else 1.0 / self.size))

    def limited(self, sent_at: float, now: float) -> None:
        """A limit was met by a request sent at `sent_at`; those that were under way at a cut do not cut again."""
        if sent_at > self._cut_at:
            self.size = max(1.0, self.size / 2)
            self._slow_from, self._cut_at = self.size, now


@dataclass
class Quota:
    """What the server still allows of one kind (requests or tokens), from its headers and from what was sent since."""

    limit: float = 0.0  # a minute; 0 while nothing is known
    _level: float = 0.0
    _rate: float = 0.0  # refilled a second
    _as_of: float = float("-inf")
    _learned: float = float("-inf")  # when the request that told was sent
    _sent: deque[tuple[float, float]] = field(default_factory=deque)  # when and how much, since `_learned`
    _sent_sum: float = 0.0

    def learn(self, limit: float, remaining: float, reset: float | None, sent_at: float) -> None:
        """What an answer's headers say; `reset` is the seconds until the quota is whole again.

        The server counted when the request arrived: what was sent later is not in it.
        """
        if limit <= 0 or sent_at < self._learned:
            return
        while self._sent and self._sent[0][0] <= sent_at:
            self._sent_sum -= self._sent.popleft()[1]
        self.limit, self._learned, self._as_of = limit, sent_at, sent_at
        self._level = remaining - self._sent_sum
        # A quota of a day says "a minute" nowhere but in how slowly it refills.
        self._rate = limit / 60
        if reset and limit > remaining:
            self._rate = min(self._rate, (limit - remaining) / reset)

    def wait(self, cost: float, now: float) -> float:
        """Seconds until `cost` is allowed."""
        if self.limit <= 0:
            return 0.0
        level = self._level + self._rate * (now - self._as_of)
        # A cost beyond the whole quota is never covered: it goes when the quota is whole.
        missing = min(cost, self.limit) - level
        return 0.0 if missing <= 0 or self._rate <= 0 else missing / self._rate

    def take(self, cost: float, now: float) -> None:
        """`cost` is being sent."""
        if self.limit > 0:
            self._level = min(self.limit, self._level + self._rate * (now - self._as_of)) - cost
            self._as_of = max(now, self._as_of)
            self._sent.append((now, cost))
            self._sent_sum += cost


@dataclass
class Pace:
    """When the next request may go out. `tokens` is what a request is counted as."""

    window: Window
    tokens: float
    requests_quota: Quota = field(default_factory=Quota)
    tokens_quota: Quota = field(default_factory=Quota)
    paused_until: float = float("-inf")

    def wait(self, now: float) -> float:
        """Seconds until the next request may go out, as far as time decides it."""
        return max(
            0.0,
            self.paused_until - now,
            self.requests_quota.wait(1, now),
            self.tokens_quota.wait(self.tokens, now),
        )

    def sent(self, now: float) -> None:
        """A request goes out."""
        self.window.in_flight += 1
        self.requests_quota.take(1, now)
        self.tokens_quota.take(self.tokens, now)

    def learn(self, headers: Mapping[str, str], sent_at: float) -> None:
        """Take in the headers of an answer."""
        for kind, quota in (("requests", self.requests_quota), ("tokens", self.tokens_quota)):
            limit, remaining = (_number(headers.get(f"x-ratelimit-{what}-{kind}")) for what in ("limit", "remaining"))
            if limit is not None and remaining is not None:
                quota.learn(limit, remaining, duration_seconds(headers.get(f"x-ratelimit-reset-{kind}", "")), sent_at)

    def limited(self, sent_at: float, now: float, retry_after: float | None) -> None:
        """A limit was met: fewer at a time, and none before the server says."""
        self.window.limited(sent_at, now)
        if retry_after:
            self.paused_until = max(self.paused_until, now + retry_after)


def duration_seconds(text: str) -> float | None:
    """Seconds of OpenAI's durations (20ms, 1s, 6m0s) or of a plain number; None for anything else."""
    if (plain := _number(text)) is not None:
        return plain
    parts = DURATION.findall(text)
    if not parts or "".join(number + unit for number, unit in parts) != text:
        return None
    return sum(float(number) * SECONDS[unit] for number, unit in parts)


def retry_after_seconds(headers: Mapping[str, str], most: float = 600.0) -> float | None:
    """What Retry-After asks for, in seconds or as a date, and no more than `most`; None where it is not there."""
    if (milliseconds := _number(headers.get("retry-after-ms"))) is not None:
        return min(milliseconds / 1000, most)
    given = headers.get("retry-after")
    seconds = _number(given)
    if seconds is None and given:
        from datetime import UTC, datetime
        from email.utils import parsedate_to_datetime

        try:
            when = parsedate_to_datetime(given)
        except ValueError:
            return None
        seconds = (when - datetime.now(when.tzinfo or UTC)).total_seconds() if when.tzinfo else None
    return None if seconds is None else min(max(0.0, seconds), most)


def _number(text: str | None) -> float | None:
    try:
        value = float(text) if text else None
    except ValueError:
        return None
    return value if value is None or 0 <= value < 1e15 else None
