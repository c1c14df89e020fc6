"""Asking in batches: half the price, an answer within a day, and nothing submitted or paid twice.

A batch goes packed -> uploaded -> running -> settled, and the ledger says before every call that it is about to be
made. What a killed process leaves in doubt is asked of the server: a file by its name, a batch by the tag in its
metadata. So the command may end at any moment, the batches go on at the server, and the same command collects them.
"""

from __future__ import annotations

import json
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from lensbench.captioner.answers import Reader, Trouble
from lensbench.captioner.client import Server, StoppedError, trouble_of
from lensbench.captioner.ledger import FILE, Batch, Ledger
from lensbench.captioner.live import Job, Tally
from lensbench.captioner.packing import ENDPOINT, MOST_BYTES, MOST_REQUESTS, pack
from lensbench.captioner.spending import Spending
from lensbench.captions.store import CaptionWriter

if TYPE_CHECKING:
    from openai.types import Batch as RemoteBatch

T = TypeVar("T")

CALL_TRIES = 8
SUBMISSIONS = 3  # of one image in one run, where batches end without an answer for it
ENDED = {"completed", "failed", "expired", "cancelled"}
QUEUE_FULL = "token_limit_exceeded"
METADATA = "lensbench"
SETTLING_SECONDS = 3.0  # before the server is asked for a batch whose creation is in doubt: its list may lag
DAY = 86_400


class Batches:
    """One run in batch mode. `worst` is the most that a request of a batch costs, `poll` the seconds between looks."""

    def __init__(
        self,
        server: Server,
        reader: Reader,
        writer: CaptionWriter,
        ledger: Ledger,
        spending: Spending,
        *,
        worst: float,
        poll: float,
        most_requests: int,
        proven: bool,
        report: Callable[[Tally, list[Batch]], None],
        say: Callable[[str], None],
    ) -> None:
        self.reader, self.writer, self.ledger, self.spending = reader, writer, ledger, spending
        self.worst, self.poll, self.report, self.say = worst, poll, report, say
        self.most_requests = min(most_requests, MOST_REQUESTS)
        self.proven = proven
        self.client = server.plain()
        self.tally = Tally(0)
        self._submitted: Counter[str] = Counter()
        self._last: dict[str, str] = {}  # key -> why its last request came to nothing
        self._suspects: Counter[str] = Counter()
        self._full = False  # the server's queue takes no more until a batch ends
        self._ended = False  # whether a batch has ended in this round
        self._waiting: Job | None = None

    @property
    def folder(self) -> Path:
        """Where the files of batches are, until the server has them."""
        return self.writer.folder

    def run(self, jobs: Callable[[], Iterator[Job]], total: int) -> Tally:
        """Submit, wait and collect until every job has a row or was submitted in vain.

        `jobs` gives those without a row, also those in batches, anew each time. Raises StoppedError when the server
        will answer none; may be ended at any moment.
        """
        self.tally.total = total
        self._clear_up()
        fresh, looked = self._fresh(jobs), float("-inf")
        while True:
            self._ended = False
            if time.monotonic() - looked >= self.poll:  # not between one submission and the next
                looked = time.monotonic()
                for batch in self.ledger.batches():
                    self._advance(batch)
            if self._ended:
                self._full = False
                fresh = self._fresh(jobs)  # what the ended batches did not answer is asked again
            packed = self._submit(fresh)
            self.report(self.tally, under_way := self.ledger.batches())
            if not under_way and not packed:
                break
            if not packed and not self._ended:
                self._sleep(under_way)
        self._count_left(jobs)
        return self.tally

    def _sleep(self, under_way: list[Batch]) -> None:
        alone = self._full and not any(batch.state == "running" for batch in under_way)
        time.sleep(self.poll * (min(10, max(batch.refusals for batch in under_way)) if alone else 1))
        if alone:  # nothing of this set is in the queue: what fills it may be gone
            self._full = False

    # --- submitting ---------------------------------------------------------------------------------------------------

    def _fresh(self, jobs: Callable[[], Iterator[Job]]) -> Iterator[Job]:
        # The jobs to submit, as things stand now.
        self._waiting = None
        under_way = self.ledger.keys()
        return (job for job in jobs() if job.key not in under_way and self._may_ask(job.key))

    def _may_ask(self, key: str) -> bool:
        if key in self.writer.keys or self._submitted[key] >= SUBMISSIONS:
            return False
        return self.proven or not self._suspects[key]

    def _submit(self, fresh: Iterator[Job]) -> bool:
        # Packs one batch more and hands it in; whether there was one.
        if self._full:
            return False
        self.spending.in_batches = self.ledger.worst_usd()
        room = self.spending.room
        requests = self.most_requests if room == float("inf") or not self.worst else int(room / self.worst)
        if requests < 1:
            if self._waiting is not None or (job := next(fresh, None)) is not None:
                self._waiting = self._waiting or job
                self.tally.stop = "budget"
            return False
        self.tally.stop = ""
        tag = uuid.uuid4().hex
        packed, self._waiting = pack(
            # A generator around `fresh` would close it, and with it this round, when it is let go.
            fresh if self._waiting is None else chain([self._waiting], fresh),
            self._file(tag),
            most_requests=self.most_requests,
            most_bytes=MOST_BYTES,
            room=requests,
            refuse=lambda key, trouble: self._keep(key, trouble),
        )
        if packed is None:
            return False
        n = len(packed.keys)
        batch = Batch(tag, "packed", None, None, n, n * self.worst, int(time.time()), 0)
        self.ledger.add(batch, packed.keys)
        self._submitted.update(packed.keys)
        self._advance(batch)
        return True

    def _advance(self, batch: Batch) -> None:
        # Takes a batch as far as it goes now.
        if batch.state in ("packed", "uploading"):
            batch = self._upload(batch)
        if batch.state in ("uploaded", "creating"):
            if self._full:
                return
            batch = self._create(batch)
        if batch.state == "running":
            self._look(batch)

    def _upload(self, batch: Batch) -> Batch:
        file_id = self._find_file(batch) if batch.state == "uploading" else None
        if file_id is None:
            batch = self._note(batch, state="uploading")

            def upload() -> str:
                with self._file(batch.tag).open("rb") as file:
                    return self.client.files.create(file=(_name(batch.tag), file), purpose="batch").id

            file_id = self._call(upload, in_doubt=lambda: self._find_file(batch))
        return self._note(batch, state="uploaded", file_id=file_id)

    def _create(self, batch: Batch) -> Batch:
        batch_id = None
        if batch.state == "creating":
            time.sleep(min(SETTLING_SECONDS, self.poll))
            batch_id = self._find_batch(batch)
        if batch_id is None:
            batch = self._note(batch, state="creating")
            assert batch.file_id is not None, "uploaded without an id"
            file_id = batch.file_id

            def create() -> str:
                return self.client.batches.create(
                    input_file_id=file_id,
                    endpoint=ENDPOINT,
                    completion_window="24h",
                    metadata={METADATA: batch.tag},
                ).id

            def found() -> str | None:
                time.sleep(min(SETTLING_SECONDS, self.poll))
                return self._find_batch(batch)

            try:
                batch_id = self._call(create, in_doubt=found)
            except StoppedError as stopped:
                if stopped.refused:  # there is no such batch, and its images are free again
                    self._settle(batch)
                raise
        batch = self._note(batch, state="running", batch_id=batch_id)
        self.say(f"batch {batch_id}: {batch.requests:,} images submitted")
        return batch

    def _find_file(self, batch: Batch) -> str | None:
        def find() -> str | None:
            for file in self.client.files.list(purpose="batch", order="desc"):
                if file.filename == _name(batch.tag) and file.bytes == self._file(batch.tag).stat().st_size:
                    return file.id
                if file.created_at < batch.created - DAY:
                    break
            return None

        return self._call(find)

    def _find_batch(self, batch: Batch) -> str | None:
        def find() -> str | None:
            for remote in self.client.batches.list(limit=100):
                if (remote.metadata or {}).get(METADATA) == batch.tag:
                    return remote.id
                if remote.created_at < batch.created - DAY:
                    break
            return None

        return self._call(find)

    # --- collecting ---------------------------------------------------------------------------------------------------

    def _look(self, batch: Batch) -> None:
        assert batch.batch_id is not None, "running without an id"
        batch_id = batch.batch_id
        try:
            remote = self._call(lambda: self.client.batches.retrieve(batch_id))
        except StoppedError as stopped:
            if not stopped.refused:
                raise
            raise StoppedError(
                f"batch {batch_id} is not known there ({stopped}): use the key and --base-url that submitted it, or "
                f"delete {self.folder / FILE} to have its images asked about, and paid for, again"
            ) from None
        if remote.status not in ENDED:
            return
        if remote.status == "failed" and not remote.output_file_id and not remote.error_file_id:
            self._failed(batch, remote)
            return
        for file_id in (remote.output_file_id, remote.error_file_id):
            if file_id:
                self._call(lambda file_id=file_id: self._collect(file_id))  # type: ignore[misc]
        unanswered = self.ledger.keys(batch.tag) - self.writer.keys
        for key in unanswered:
            self._last.setdefault(key, f"its batch ended as {remote.status} without an answer")
        self._settle(batch)
        if remote.status != "completed" or unanswered:
            self.say(f"batch {batch_id}: {remote.status}, {len(unanswered):,} of {batch.requests:,} images unanswered")
        if not self.proven and len(self._suspects) >= batch.requests:
            (why, _), *_ = Counter(self._last[key] for key in self._suspects).most_common(1)
            raise StoppedError(f"the server does not accept the requests: {why}")

    def _failed(self, batch: Batch, remote: RemoteBatch) -> None:
        errors = (remote.errors.data if remote.errors else None) or []
        code, message = (errors[0].code or "", errors[0].message or "") if errors else ("", "no reason given")
        if code == QUEUE_FULL:
            # Nothing was run. The file is there, and goes again as another batch, whose tag tells the two apart.
            self.ledger.retag(batch, uuid.uuid4().hex)
            self._full = True
            self.say(f"batch {remote.id}: the server's queue is full; it is submitted again when there is room")
            return
        self._settle(batch)
        raise StoppedError(f"batch {remote.id} failed: {self.reader.clean(f'{code}: {message}')}")

    def _collect(self, file_id: str) -> None:
        with self.client.files.with_streaming_response.content(file_id) as response:
            for line in response.iter_lines():
                if line.strip():
                    self._take(json.loads(line))

    def _take(self, line: dict[str, Any]) -> None:
        key = line.get("custom_id")
        if not isinstance(key, str) or key in self.writer.keys:
            return  # a line that comes twice, or again after a kill
        response, error = line.get("response"), line.get("error")
        if isinstance(response, dict) and response.get("status_code") == 200:
            try:
                row = self.reader.row(key, response.get("body") or {})
            except ValueError as problem:
                self._last[key] = str(problem)
                return
            if self.writer.add(row):
                self.tally.states[row.state] += 1
                self.spending.collected(row.cost_usd or 0.0)
                self.proven = True
            return
        body = response.get("body") if isinstance(response, dict) else None
        status = int(response.get("status_code") or 500) if isinstance(response, dict) else 500
        said = (body or {}).get("error") if isinstance(body, dict) else None
        trouble = self.reader.trouble(status, said or error or {})
        self._last[key] = trouble.reason
        if trouble.verdict == "stop":
            raise StoppedError(trouble.reason)
        if trouble.verdict in ("refused", "failed"):
            self._keep(key, trouble)
        elif trouble.verdict == "unknown":
            self._suspects[key] += 1
            if self.proven:
                self._keep(key, Trouble("failed", trouble.reason))

    def _keep(self, key: str, trouble: Trouble) -> None:
        row = self.reader.row_of(key, trouble)
        if self.writer.add(row):
            self.tally.states[row.state] += 1

    # --- the ledger, the disk and the wire --------------------------------------------------------------------------

    def _note(self, batch: Batch, **known: Any) -> Batch:
        batch = batch._replace(**known)
        self.ledger.update(batch)
        if batch.state == "running":
            self._file(batch.tag).unlink(missing_ok=True)
        return batch

    def _settle(self, batch: Batch) -> None:
        self._ended = True
        self.ledger.settle(batch.tag)
        self._file(batch.tag).unlink(missing_ok=True)
        if batch.file_id:
            self._forget_file(batch.file_id)

    def _forget_file(self, file_id: str) -> None:
        # The images are not left lying at the server; that it fails costs nothing.
        import openai

        try:
            self.client.files.delete(file_id)
        except openai.OpenAIError:
            return

    def _clear_up(self) -> None:
        # Files of batches that the ledger does not know: their process was killed while it packed them.
        known = {_name(batch.tag) for batch in self.ledger.batches()}
        for path in self.folder.glob("lensbench-*.jsonl"):
            if path.name not in known:
                path.unlink()

    def _count_left(self, jobs: Callable[[], Iterator[Job]]) -> None:
        if self.tally.stop:
            return
        for job in jobs():
            if job.key not in self.writer.keys:
                self.tally.left[self._last.get(job.key, "no answer")] += 1

    def _file(self, tag: str) -> Path:
        return self.folder / _name(tag)

    def _call(self, call: Callable[[], T], in_doubt: Callable[[], T | None] | None = None) -> T:
        # A call that is tried again where the server fails. `in_doubt` finds what an unanswered call has made.
        for tries in range(CALL_TRIES):
            try:
                return call()
            except StoppedError:
                raise
            except Exception as error:
                if isinstance(error, OSError) and not isinstance(error, TimeoutError | ConnectionError):
                    raise  # the disk's, not the wire's
                trouble, retry_after, _ = trouble_of(error, self.reader)
                if trouble.verdict != "again":
                    status = getattr(error, "status_code", 0)
                    raise StoppedError(trouble.reason, refused=status in (400, 404, 413, 422)) from None
            if in_doubt is not None and (found := in_doubt()) is not None:
                return found
            if tries + 1 < CALL_TRIES:
                time.sleep(retry_after or min(60.0, 0.5 * 2**tries))
        raise StoppedError(f"the server does not answer: {trouble.reason}")


def _name(tag: str) -> str:
    return f"lensbench-{tag}.jsonl"
