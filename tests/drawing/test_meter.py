"""What is shown while pictures are drawn."""

from __future__ import annotations

import io

from rich.console import Console

from lensbench.drawing.meter import Meter, shown


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_rate_and_time_left_are_of_what_is_drawn_now() -> None:
    clock = Clock()
    meter = Meter(400, 1000, clock)
    assert meter.words() == "400/1000 pictures"
    meter.done, clock.now = 500, 110.0
    assert meter.words() == "500/1000 pictures, 10.0 pictures/s, 50 s left"
    meter.done, clock.now = 401, 104.0
    assert meter.words() == "401/1000 pictures, 4.0 s a picture, 39 min 56 s left"


def test_a_log_gets_a_line_now_and_then() -> None:
    clock, out = Clock(), io.StringIO()
    with shown(Console(file=out), Meter(0, 6, clock), every=10.0) as count:
        for _ in range(6):
            clock.now += 4.0
            count(1)
    assert out.getvalue().splitlines() == [
        "3/6 pictures, 4.0 s a picture, 12 s left",
        "6/6 pictures, 4.0 s a picture, 0 s left",
    ]


def test_a_terminal_gets_a_bar_with_rate_and_time_left() -> None:
    clock, out = Clock(), io.StringIO()
    console = Console(file=out, force_terminal=True, width=90)
    with shown(console, Meter(2, 10, clock)) as count:
        clock.now += 2.0
        count(4)
    assert "drawing" in out.getvalue()
    assert "6/10 pictures, 2.0 pictures/s, 2 s left" in out.getvalue()
