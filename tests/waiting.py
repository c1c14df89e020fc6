"""Waiting for what another process does: for the event, never for a time."""

from __future__ import annotations

import time
from collections.abc import Callable


def wait(ready: Callable[[], object], what: str, limit: float = 120) -> None:
    """Until it is ready; an assertion that names it where that takes more than `limit` seconds."""
    until = time.monotonic() + limit
    while not ready():
        assert time.monotonic() < until, f"{what} never came within {limit:.0f} s"
        time.sleep(0.1)
