"""The signals that ask a run to stop, and heeding them between two steps rather than within one."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)  # SIGUSR1: Slurm's warning before the end


class StopRequest:
    """Which signal asked to stop; 0 while none has."""

    def __init__(self, heeded: Iterable[signal.Signals] = ()) -> None:
        self.signal = 0
        self.heeded = tuple(heeded)

    def note(self, number: int, frame: object) -> None:
        """The handler: the first signal is noted, a second one raises KeyboardInterrupt."""
        if self.signal:
            raise KeyboardInterrupt
        self.signal = number

    def heed(self) -> None:
        """Take the signals back from a library that has put a handler of its own before."""
        if threading.current_thread() is threading.main_thread():
            for number in self.heeded:
                signal.signal(number, self.note)


@contextmanager
def stop_requests() -> Iterator[StopRequest]:
    """The first signal that asks to stop is noted, to be heeded after the step; a second one stops at once.

    Signals that are ignored stay so; outside the main thread nothing is changed.
    """
    request = StopRequest(number for number in STOPPING if signal.getsignal(number) != signal.SIG_IGN)
    with handled(request.heeded, request.note):
        yield request


@contextmanager
def handled(numbers: Iterable[signal.Signals], handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """Signals go to `handler` in the block; outside the main thread, which alone may say so, nothing is changed."""
    before: dict[signal.Signals, Any] = {}
    if threading.current_thread() is threading.main_thread():
        before = {number: signal.signal(number, handler) for number in numbers}
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old)
