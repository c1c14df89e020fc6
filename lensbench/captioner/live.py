"""Asking live: many requests at a time, as many as the server allows, each answer kept the moment it comes.

Memory holds the requests under way and nothing else. An image whose requests come to nothing is left without a row, for
the next run; one that the server has answered is never asked about again.
"""

from __future__ import annotations

import asyncio
import heapq
import json
import random
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from lensbench.captioner.answers import Reader, Trouble
from lensbench.captioner.client import Server, StoppedError, trouble_of
from lensbench.captioner.keeping import Keeper, full_disk, says_full
from lensbench.captioner.pace import Pace, Window
from lensbench.captioner.requests import NotAPictureError
from lensbench.captioner.spending import Spending
from lensbench.captioner.usefulness import Usefulness
from lensbench.captions.store import CaptionRow, State

if TYPE_CHECKING:
    import openai

TRIES = 6  # of one image, where the server fails or does not answer
LIMITED_TRIES = 40  # where a limit was met: those say nothing of the image
LONGEST_BACKOFF = 60.0  # seconds
FAILURES = 30  # failures one after the other, with no answer between them, that end a run once images are given up
DOWN = 8  # failures one after the other from which the server counts as down: then it is asked now and then alone
DOWN_PAUSE = 0.5  # seconds between two questions to a server that is down
SUSPECTS = 5  # requests refused for an unknown reason before the first answer: then it is their form, not the images
GRACE = 60.0  # seconds for the answers under way when a run is stopped: they are paid for


@dataclass(frozen=True)
class Job:
    """Something to ask about: `build` makes the request's body; NotAPictureError where an image is none."""

    key: str
    build: Callable[[], dict[str, Any]]


@dataclass
class Tally:
    """How a run went, and goes."""

    total: int
    states: Counter[State] = field(default_factory=Counter)
    left: Counter[str] = field(default_factory=Counter)  # reason -> images left without a row
    limits: int = 0  # times that a limit was met
    stop: str = ""  # why no more were asked about: "budget", "interrupted" or ""

    @property
    def rows(self) -> int:
        """Rows written."""
        return sum(self.states.values())

    @property
    def settled(self) -> int:
        """Images that this run is done with."""
        return self.rows + sum(self.left.values())


@dataclass
class _Attempt:
    job: Job
    tries: int = 0
    limited: int = 0


class Live:
    """One run over jobs. `worst` is the most that a request costs in dollars, `tokens` what it is counted as."""

    def __init__(
        self,
        server: Server,
        reader: Reader,
        keeper: Keeper,
        spending: Spending,
        *,
        worst: float,
        tokens: float,
        at_a_time: int,
        proven: bool,
        report: Callable[[Tally], None],
    ) -> None:
        self.server, self.reader, self.keeper, self.spending = server, reader, keeper, spending
        self.worst, self.report, self.proven = worst, report, proven
        self.pace = Pace(Window(at_a_time), tokens)
        self.tally = Tally(0)
        self._again: list[tuple[float, int, _Attempt]] = []  # a heap by when
        self._order = 0
        self._failures = self._suspects = 0
        self._usefulness = Usefulness()
        self._fatal: BaseException | None = None
        self._stopping = False
        self._changed = asyncio.Event()

    def run(self, jobs: Iterator[Job], total: int) -> Tally:
        """Ask about every job. Raises StoppedError when the server will answer none."""
        self.tally.total = total
        asyncio.run(self._run(jobs))
        if self._fatal is not None:
            raise self._fatal
        return self.tally

    async def _run(self, jobs: Iterator[Job]) -> None:
        loop = asyncio.get_running_loop()
        self._changed = asyncio.Event()
        tasks: set[asyncio.Task[None]] = set()

        def interrupted() -> None:
            if self._stopping:  # the second time is meant: what is under way is left
                for task in tasks:
                    task.cancel()
            self._stopping, self.tally.stop = True, "interrupted"
            self._changed.set()

        caught = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        with suppress(ValueError):  # not in the main thread: no signals there
            for number in caught:
                loop.add_signal_handler(number, interrupted)
        try:
            async with self.server.live() as client:
                try:
                    await self._dispatch(jobs, client, tasks)
                except Exception as error:  # the answers under way are paid for
                    self._stop(error)
                if tasks:
                    _, late = await asyncio.wait(tasks, timeout=GRACE if self._stopping else None)
                    for task in late:
                        task.cancel()
                    await asyncio.gather(*tasks, return_exceptions=True)
        finally:
            with suppress(ValueError):
                for number in caught:
                    loop.remove_signal_handler(number)

    async def _dispatch(self, jobs: Iterator[Job], client: openai.AsyncOpenAI, tasks: set[asyncio.Task[None]]) -> None:
        def ended(task: asyncio.Task[None]) -> None:
            tasks.discard(task)
            self._changed.set()

        more = True
        while not self._stopping:
            self._changed.clear()
            now = time.monotonic()
            due = bool(self._again) and self._again[0][0] <= now
            if not due and not more:
                if not tasks and not self._again:
                    return
                await self._wait(self._again[0][0] - now if self._again else None)
                continue
            wait = self.pace.wait(now) if self.pace.window.free else None
            if wait is None or wait > 0:
                await self._wait(wait)
                continue
            reserved = self.spending.reserve(self.worst)
            if reserved is None:
                if tasks:  # what they give back may be enough
                    await self._wait(None)
                    continue
                self.tally.stop = "budget"
                return
            attempt = heapq.heappop(self._again)[2] if due else None
            if attempt is None:
                job = next(jobs, None)
                if job is None:
                    more = False
                    self.spending.release(reserved, lost=False)
                    continue
                attempt = _Attempt(job)
            self.pace.sent(now)
            task = asyncio.create_task(self._ask(attempt, reserved, client))
            tasks.add(task)
            task.add_done_callback(ended)

    async def _wait(self, seconds: float | None) -> None:
        with suppress(TimeoutError):
            await asyncio.wait_for(self._changed.wait(), seconds)

    async def _ask(self, attempt: _Attempt, reserved: float, client: openai.AsyncOpenAI) -> None:
        lost = True  # until something says otherwise: a task that is cancelled may have been paid for
        sent_at = time.monotonic()
        try:
            try:
                body = await asyncio.to_thread(attempt.job.build)
            except NotAPictureError as error:
                lost = False
                self._keep(self.reader.row_of(attempt.job.key, Trouble("failed", f"not a picture: {error}")))
                return
            sent_at = time.monotonic()
            try:
                async with asyncio.timeout(self.server.timeout):
                    raw = await client.chat.completions.with_raw_response.create(**body)
                self.pace.learn(raw.headers, sent_at)
                row = self._read(attempt.job.key, raw.text)
            except Exception as error:
                trouble, retry_after, headers = trouble_of(error, self.reader)
                lost = trouble.billed
                self.pace.learn(headers, sent_at)
                self._in_trouble(attempt, trouble, sent_at, retry_after)
                return
            try:
                self._keep(row)
            except OSError:
                self.keeper.lost += 1
                raise
            lost = False
            self.spending.settle(reserved, row.cost_usd, self.worst)
            reserved = 0.0
            self._failures, self.proven = 0, True
            self._weigh(row)
        except BaseException as error:
            if not isinstance(error, asyncio.CancelledError):
                self._stop(error)
        finally:
            self.spending.release(reserved, lost=lost)
            self.pace.window.in_flight -= 1
            self.report(self.tally)

    def _read(self, key: str, text: str) -> CaptionRow:
        completion = json.loads(text)
        try:
            return self.reader.row(key, completion)
        except ValueError:
            raise json.JSONDecodeError("no completion", "", 0) from None

    def _keep(self, row: CaptionRow) -> None:
        if self.keeper.add(row):
            self.tally.states[row.state] += 1
        if self.keeper.full:
            self._stop(full_disk(self.keeper))

    def _weigh(self, row: CaptionRow) -> None:
        self._usefulness.take(row)
        if useless := self._usefulness.of_late():
            self._stop(StoppedError(useless))
        if self._usefulness.captions:  # until the first caption no more go out at a time
            self.pace.window.answered()

    def _in_trouble(self, attempt: _Attempt, trouble: Trouble, sent_at: float, retry_after: float | None) -> None:
        now = time.monotonic()
        if trouble.verdict == "stop":
            self._stop(StoppedError(trouble.reason))
        elif trouble.verdict in ("refused", "failed"):
            self._keep(self.reader.row_of(attempt.job.key, trouble))
        elif trouble.verdict == "unknown":
            if self.proven:  # others of this form were answered, so it is the image
                self._keep(self.reader.row_of(attempt.job.key, Trouble("failed", trouble.reason)))
                return
            self._suspects += 1
            self.tally.left[trouble.reason] += 1
            if self._suspects >= SUSPECTS:
                self._stop(StoppedError(f"the server does not accept the requests: {trouble.reason}"))
        else:
            self._try_again(attempt, trouble, sent_at, now, retry_after)

    def _try_again(
        self, attempt: _Attempt, trouble: Trouble, sent_at: float, now: float, retry_after: float | None
    ) -> None:
        if trouble.limited:
            self.tally.limits += 1
            attempt.limited += 1
            self.pace.limited(sent_at, now, retry_after)
            tries, most = attempt.limited, LIMITED_TRIES
        else:
            self._failures += 1
            attempt.tries += 1
            tries, most = attempt.tries, TRIES
            if retry_after or self._failures > 3:  # an overloaded server: fewer at a time helps it
                self.pace.limited(sent_at, now, retry_after)
            if self._failures > DOWN:  # each image's own pause is of no use where all images fail
                self.pace.paused_until = max(self.pace.paused_until, now + DOWN_PAUSE)
        if tries >= most or self._stopping:
            self.tally.left[trouble.reason] += 1
            if tries >= most and self._failures >= FAILURES:
                self._stop(
                    StoppedError(f"the server answered none of the last {self._failures} requests: {trouble.reason}")
                )
            return
        backoff = min(LONGEST_BACKOFF, 0.5 * 2 ** (tries - 1)) * random.uniform(0.5, 1.0)
        self._order += 1
        when = now + max(backoff if not trouble.limited or not retry_after else 0.0, retry_after or 0.0)
        heapq.heappush(self._again, (when, self._order, attempt))

    def _stop(self, error: BaseException) -> None:
        self._stopping = True
        if says_full(error):  # the answers under way are to find room
            self.keeper.make_room()
        if self._fatal is None:
            self._fatal = error
