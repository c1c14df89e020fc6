"""The sender: a process of its own, so that nothing that trains ever waits for MLflow.

It looks at the directories every few seconds and sends what is new (lensbench.tracking.store). Of several senders of
one sweep, on whatever machines share the directories, one sends and the others stand by. Where MLflow is away it tries
again, ever more seldom; all that is to be sent stays where it is. The process that runs the sweep writes a line when a
cell is complete and when it is done, and reads what there is to say; when it dies, the sender looks a last time.
"""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any

from lensbench.locks import file_lock
from lensbench.tracking.listing import FOLDER, Listing
from lensbench.tracking.store import Mirror
from lensbench.tracking.target import reason, shown

SECONDS = 3.0  # between two looks
MOST_SECONDS = 60.0  # between two tries while MLflow is away
PATIENCE_SECONDS = 30.0  # for a sender that says nothing, at the end of a sweep
ORPHAN_SECONDS = 30.0  # for workers to end whose sweep has died, so that their cells are not left RUNNING
ADDRESS = "LENSBENCH_TRACKING_ADDRESS"  # how a sender is told: what is on a command line can be seen by everyone


class Sender:
    """A sender at work, as the process that runs the sweep sees it. `say` is called from a thread."""

    def __init__(self, listed: Listing, runs: Path, uri: str, say: Callable[[str], None]) -> None:
        self.say, self.uri = say, uri
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-m", __package__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=os.environ | {ADDRESS: uri},
            start_new_session=True,  # the signals of a terminal are for the sweep, which tells the sender
        )
        assert self.process.stdin is not None
        self.orders = self.process.stdin.fileno()
        self.heard = time.monotonic()
        self.thread = threading.Thread(target=self._listen, daemon=True)
        self.thread.start()
        self._write({"runs": str(runs.resolve()), "listing": asdict(listed)})
        os.set_blocking(self.orders, False)  # a sender that hears nothing is not waited for

    def look(self) -> None:
        """Look now: a cell is complete."""
        self._write({"look": True})

    def close(self) -> None:
        """Send the rest, if MLflow is there, and end. What is left then is sent by the next run."""
        self._write({"close": True})
        try:
            while self.process.poll() is None:
                if time.monotonic() - self.heard > PATIENCE_SECONDS:
                    self.say(f"tracking: no answer from {shown(self.uri)}; the next run sends what is left")
                    break
                with suppress(subprocess.TimeoutExpired):
                    self.process.wait(0.2)
        finally:
            self.process.kill()
            self.process.wait()
            self.thread.join(1)

    def _write(self, order: dict[str, Any]) -> None:
        self.heard = time.monotonic()
        data = json.dumps(order).encode() + b"\n"
        with suppress(OSError):  # one that has died: the next run sends what it did not
            while data:
                data = data[os.write(self.orders, data) :]

    def _listen(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.heard = time.monotonic()
            if line.strip():
                self.say(line.decode().rstrip("\n"))


class _Orders:
    """What the sweep's process has written; reading never waits longer than it is told to."""

    def __init__(self, file: IO[bytes]) -> None:
        self.descriptor = file.fileno()
        self.rest = b""
        self.over = self.closed = False  # the process is gone, or done

    def wait(self, seconds: float) -> None:
        """Wait for an order, at most so long."""
        if self.over or self.closed:
            return
        if select.select([self.descriptor], [], [], seconds)[0]:
            self.read()

    def read(self) -> list[dict[str, Any]]:
        """The orders that are there; waits for one."""
        data = os.read(self.descriptor, 2**20)
        self.over = not data
        *lines, self.rest = (self.rest + data).split(b"\n")
        orders = [json.loads(line) for line in lines]
        self.closed = self.closed or any("close" in order for order in orders)
        return orders


class _Voice:
    """Says once that MLflow is away and once that it is back; an empty line is a sign of life."""

    def __init__(self, uri: str) -> None:
        self.uri, self.away = uri, False
        self.told: set[str] = set()

    def __call__(self, line: str = "") -> None:
        with suppress(BrokenPipeError):
            print(line, flush=True)

    def failed(self, error: Exception) -> None:
        if not self.away:
            why = reason(error, self.uri)
            self(f"tracking: {shown(self.uri)} is away, training goes on, nothing is lost ({why})")
        self.away = True

    def went_well(self, refused: dict[str, str]) -> None:
        if self.away:
            self(f"tracking: {shown(self.uri)} is back")
        self.away = False
        for cell_id, why in refused.items():
            if cell_id not in self.told:
                self.told.add(cell_id)
                self(f"tracking: cell {cell_id} cannot be shown ({why})")
        self()


def main() -> None:
    """The process: orders on standard input, what there is to say on standard output."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # a batch system sends them to every process: the sweep says when to end
    with suppress(OSError):
        os.nice(10)
    uri = os.environ.pop(ADDRESS)
    orders = _Orders(sys.stdin.buffer)
    first: list[dict[str, Any]] = []
    while not first and not orders.over:
        first = orders.read()
    if not first:  # the sweep's process died at once
        return
    runs, listed = Path(first[0]["runs"]), Listing(**first[0]["listing"])
    voice = _Voice(uri)
    (runs / FOLDER).mkdir(exist_ok=True)
    mirror, until = Mirror(listed, runs, uri, voice), None
    while True:
        with file_lock(runs / FOLDER / f"{listed.name}.lock", wait=False) as leading:
            if leading:
                _follow(mirror, orders, voice)
        if not leading and not (orders.over or orders.closed):
            orders.wait(SECONDS)
            continue
        until = until or time.monotonic() + ORPHAN_SECONDS
        if orders.closed or not leading or not mirror.running() or time.monotonic() > until:
            return
        time.sleep(SECONDS + 1)  # in which another sender, whose sweep lives, takes over


def _follow(mirror: Mirror, orders: _Orders, voice: _Voice) -> None:
    """Look and send until the sweep's process is done or gone, and then once more."""
    pause = SECONDS
    while True:
        last = orders.over or orders.closed
        try:
            mirror.send(session=not last)
        except Exception as error:
            voice.failed(error)
            pause = min(2 * pause, MOST_SECONDS)
        else:
            voice.went_well(mirror.refused)
            while mirror.news:
                voice(f"tracking: {mirror.news.pop(0)}")
            pause = SECONDS
        if last:
            break
        orders.wait(pause)
    if voice.away:
        voice(
            "tracking: what has not been sent stays in the directories: `lensbench track sync` or the next run sends it"
        )
