"""What an ended batch brought: its answers as rows, and of the others why they are none.

Nothing in a batch's files keeps the rest of them from being read: a line that cannot be read, an answer after which the
server would answer nothing more, a file that is gone. The images of such lines are free again.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from lensbench.captioner.answers import Reader, Trouble
from lensbench.captioner.client import StoppedError
from lensbench.captioner.keeping import Keeper
from lensbench.captioner.live import Tally
from lensbench.captioner.spending import Spending
from lensbench.captioner.usefulness import Usefulness

if TYPE_CHECKING:
    import openai
    from openai.types import Batch as RemoteBatch

READINGS = 3  # of a file that is gone or has lines that cannot be read: the server may lag behind


@dataclass
class Brought:
    """What became of the images of one batch. Keys stand in one of the sets at most; those with a row in none."""

    answered: int = 0  # rows that it gave, also those of images that are refused or no images
    stopped: dict[str, str] = field(default_factory=dict)  # key -> why the server would answer nothing more
    errors: set[str] = field(default_factory=set)  # with another error: nothing was paid
    no_completions: set[str] = field(default_factory=set)  # with an answer that is none: it may have been paid for
    unreadable: int = 0  # lines
    gone: list[str] = field(default_factory=list)  # files
    unanswered: set[str] = field(default_factory=set)
    answers_gone: bool = False

    @property
    def lost(self) -> int:
        """Answers that may have been paid for and cannot be had."""
        silent = len(self.unanswered - self.stopped.keys() - self.errors - self.no_completions)
        return len(self.no_completions & self.unanswered) + (
            silent if self.answers_gone else min(silent, self.unreadable)
        )


class Collector:
    """Reads the files of batches in one run. `call` makes a call of the server, again where it fails."""

    def __init__(
        self,
        client: openai.OpenAI,
        call: Callable[[Callable[[], int]], int],
        reader: Reader,
        keeper: Keeper,
        spending: Spending,
        tally: Tally,
        *,
        proven: bool,
        settling: float,
    ) -> None:
        self.client, self.call, self.reader, self.keeper = client, call, reader, keeper
        self.spending, self.tally, self.proven, self.settling = spending, tally, proven, settling
        self.reasons: dict[str, str] = {}  # key -> why its last request came to nothing
        self.suspects: Counter[str] = Counter()  # refused for an unknown reason: their form's fault, or their image's
        self.usefulness = Usefulness()

    def collect(self, remote: RemoteBatch, members: set[str]) -> Brought:
        """Read what a batch of these images brought. Raises StoppedError where the server will answer nothing."""
        brought = Brought()
        for file_id in (remote.output_file_id, remote.error_file_id):
            if file_id and not self._file(file_id, members, brought):
                brought.gone.append(file_id)
                brought.answers_gone |= file_id == remote.output_file_id
        brought.unanswered = members - self.keeper.writer.keys
        for key in brought.unanswered:
            self.reasons.setdefault(key, f"its batch ended as {remote.status} without an answer")
        return brought

    def keep(self, key: str, trouble: Trouble) -> None:
        """The row of an image that came to its own end."""
        row = self.reader.row_of(key, trouble)
        if self.keeper.add(row):
            self.tally.states[row.state] += 1

    def _file(self, file_id: str, members: set[str], brought: Brought) -> bool:
        # Whether the file is there.
        unreadable = 0
        for reading in range(READINGS):
            if reading:
                time.sleep(self.settling)
            try:
                unreadable = self.call(lambda: self._read(file_id, members, brought))
            except StoppedError as stopped:
                if not stopped.refused:
                    raise
                if reading + 1 == READINGS:
                    return False
                continue
            if not unreadable:
                break
        brought.unreadable += unreadable
        return True

    def _read(self, file_id: str, members: set[str], brought: Brought) -> int:
        # How many lines cannot be read.
        with self.client.files.with_streaming_response.content(file_id) as response:
            lines = _lines(response.iter_bytes())
            return sum(not self._take(line, members, brought) for line in lines if line.strip())

    def _take(self, raw: bytes, members: set[str], brought: Brought) -> bool:
        try:
            line = json.loads(raw)
        except (ValueError, RecursionError):
            return False
        key = line.get("custom_id") if isinstance(line, dict) else None
        if not isinstance(key, str):
            return False
        if key not in members or key in self.keeper.writer.keys:
            return True  # of no image of this batch, or a line that comes twice, or again after a kill
        response, error = line.get("response"), line.get("error")
        if isinstance(response, dict) and response.get("status_code") == 200:
            self._completion(key, response.get("body") or {}, brought)
            return True
        body = response.get("body") if isinstance(response, dict) else None
        status = response.get("status_code") if isinstance(response, dict) else None
        said = body.get("error") if isinstance(body, dict) else None
        trouble = self.reader.trouble(status if isinstance(status, int) else 500, said or error or {})
        self._trouble(key, trouble, brought)
        return True

    def _completion(self, key: str, body: Any, brought: Brought) -> None:
        try:
            row = self.reader.row(key, body)
        except ValueError as problem:
            self.reasons[key] = str(problem)
            brought.no_completions.add(key)
            return
        if self.keeper.add(row):
            self.tally.states[row.state] += 1
            self.spending.collected(row.cost_usd or 0.0)
            self.proven = True
            brought.answered += 1
            self.usefulness.take(row)

    def _trouble(self, key: str, trouble: Trouble, brought: Brought) -> None:
        self.reasons[key] = trouble.reason
        if trouble.verdict == "stop":
            brought.stopped[key] = trouble.reason
            return
        brought.errors.add(key)
        if trouble.verdict in ("refused", "failed"):
            self.keep(key, trouble)
            brought.answered += 1
        elif trouble.verdict == "unknown":
            self.suspects[key] += 1
            if self.proven:
                self.keep(key, Trouble("failed", trouble.reason))


def _lines(pieces: Iterator[bytes]) -> Iterator[bytes]:
    # A line of JSON ends at a newline alone: a text may hold U+2028 and other breaks.
    rest = b""
    for piece in pieces:
        *whole, rest = (rest + piece).split(b"\n")
        yield from whole
    yield rest
