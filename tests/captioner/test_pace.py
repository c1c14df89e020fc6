"""How fast to ask: the headers' formats, and quotas that are used up without being run into."""

from __future__ import annotations

import heapq
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lensbench.captioner.pace import Pace, Quota, Window, duration_seconds, retry_after_seconds


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("20ms", 0.02), ("1s", 1), ("6m0s", 360), ("1h2m3.5s", 3723.5), ("12", 12), ("0s", 0)],
)
def test_durations_as_openai_writes_them(text: str, seconds: float) -> None:
    assert duration_seconds(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "soon", "1x", "s", "-1s", "1s2", "nan", "inf"])
def test_what_is_no_duration_is_none(text: str) -> None:
    assert duration_seconds(text) is None


def test_retry_after_in_every_form() -> None:
    assert retry_after_seconds({"retry-after": "2.5"}) == 2.5
    assert retry_after_seconds({"retry-after-ms": "250", "retry-after": "9"}) == 0.25
    when = datetime.now(UTC) + timedelta(seconds=30)
    assert retry_after_seconds({"retry-after": format_datetime(when, usegmt=True)}) == pytest.approx(30, abs=2)
    assert retry_after_seconds({"retry-after": "1e9"}) == 600
    for headers in ({}, {"retry-after": "later"}, {"retry-after": "-3"}, {"retry-after": "nan"}):
        assert not retry_after_seconds(headers)


def test_the_window_doubles_until_a_limit_halves_once_a_round_trip_and_then_grows_slowly() -> None:
    window = Window(100)
    for _ in range(8):
        window.in_flight = int(window.size)
        window.answered()
    assert window.size == 16
    window.limited(sent_at=1.0, now=2.0)
    for _ in range(5):  # of the same round trip
        window.limited(sent_at=1.5, now=2.1)
    assert window.size == 8
    for _ in range(8):
        window.in_flight = 8
        window.answered()
    assert 8.9 < window.size < 9.1
    window.in_flight = 2
    window.answered()
    assert 8.9 < window.size < 9.1, "what is not used does not grow"
    for now in range(3, 20):
        window.limited(sent_at=now, now=now)
    assert window.size == 1


@settings(max_examples=20, deadline=None)
@given(
    rpm=st.integers(60, 6_000),
    latency=st.floats(0.05, 5),
    burst=st.floats(1, 60),
    told=st.booleans(),
)
def test_a_quota_that_the_headers_tell_is_used_and_hardly_ever_run_into(
    rpm: int, latency: float, burst: float, told: bool
) -> None:
    """A server in simulated time: a bucket that holds `burst` seconds' worth and counts when a request arrives.

    The number at a time sets no bound here; the first request goes alone, as nothing is known before its answer.
    """
    rate = rpm / 60
    capacity = max(1.0, rate * burst)
    level, as_of = capacity, 0.0
    pace = Pace(Window(100_000, size=100_000.0), 1.0)
    now, sent, limited, end = 0.0, 0, 0, 30.0
    answers: list[tuple[float, int, float, dict[str, str]]] = []
    while now < end:
        wait = pace.wait(now) if sent != 1 or not answers else float("inf")
        if wait <= 0:
            level, as_of = min(capacity, level + (now - as_of) * rate), now
            pace.sent(now)
            sent += 1
            if ok := level >= 1:
                level -= 1
            else:
                limited += 1
            headers = {
                "x-ratelimit-limit-requests": str(rpm),
                "x-ratelimit-remaining-requests": str(int(level)),
                "x-ratelimit-reset-requests": f"{(capacity - level) / rate:.3f}s" if told else "",
            }
            heapq.heappush(answers, (now + (latency if ok else 0.02), sent, now, headers))
            now += 1e-4
        elif answers and answers[0][0] <= now + wait:
            when, _, sent_at, headers = heapq.heappop(answers)
            now = max(now, when)
            pace.learn(headers, sent_at)
        else:
            now += wait + 1e-6
    allowed = capacity + rate * (end - latency)
    assert sent - limited >= 0.95 * allowed - 2
    # After the first answer a latency's worth seems to have refilled, and no header says how much the bucket holds.
    assert limited <= 5 + 0.02 * sent + rate * latency


def test_a_quota_of_a_day_is_told_by_how_slowly_it_refills() -> None:
    quota = Quota()
    quota.learn(limit=10_000, remaining=0, reset=86_400, sent_at=0.0)
    assert quota.wait(1, 0.0) == pytest.approx(8.64)


def test_a_later_answer_about_an_earlier_request_is_old_news() -> None:
    quota = Quota()
    quota.learn(limit=60, remaining=0, reset=60, sent_at=5.0)
    quota.learn(limit=60, remaining=50, reset=10, sent_at=4.0)
    assert quota.wait(1, 5.0) == pytest.approx(1.0)


def test_requests_under_way_count_against_what_is_left() -> None:
    quota = Quota()
    quota.learn(limit=60, remaining=10, reset=50, sent_at=0.0)
    for _ in range(10):
        assert quota.wait(1, 0.0) == 0
        quota.take(1, 0.0)
    assert quota.wait(1, 0.0) > 0


def test_a_request_larger_than_the_quota_goes_when_the_quota_is_whole() -> None:
    quota = Quota()
    quota.learn(limit=600, remaining=600, reset=0, sent_at=0.0)
    assert quota.wait(5000, 0.0) == 0
