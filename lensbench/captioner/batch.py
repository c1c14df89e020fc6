"""Asking in batches: half the price, an answer within a day, and nothing submitted or paid twice.

A batch goes packed -> uploaded -> running -> settled, and the ledger says before every call that it is about to be
made. What a killed process leaves in doubt is asked of the server: a file by its name, a batch by the tag in its
metadata. So the command may end at any moment, the batches go on at the server, and the same command collects them.
"""

from __future__ import annotations

import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from lensbench.captioner.answers import Reader
from lensbench.captioner.client import Server, StoppedError, trouble_of
from lensbench.captioner.collecting import Brought, Collector
from lensbench.captioner.keeping import Keeper
from lensbench.captioner.ledger import Batch, Ledger
from lensbench.captioner.live import Job, Tally
from lensbench.captioner.packing import ENDPOINT, MOST_BYTES, MOST_REQUESTS, pack
from lensbench.captioner.spending import Spending

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
    """One run in batch mode. `worst` is the most that a request of a batch costs, `poll` the seconds between looks.

    `again` has the images that are asked about again, with the time of the row that they have.
    """

    def __init__(
        self,
        server: Server,
        reader: Reader,
        keeper: Keeper,
        ledger: Ledger,
        spending: Spending,
        *,
        again: Mapping[str, str],
        worst: float,
        poll: float,
        most_requests: int,
        proven: bool,
        report: Callable[[Tally, list[Batch]], None],
        say: Callable[[str], None],
    ) -> None:
        self.reader, self.writer, self.ledger, self.spending = reader, keeper.writer, ledger, spending
        self.worst, self.poll, self.report, self.say = worst, poll, report, say
        self.again = again
        self.most_requests = min(most_requests, MOST_REQUESTS)
        self.client = server.plain()
        self.tally = Tally(0)
        settling = min(SETTLING_SECONDS, poll)
        self.collector = Collector(
            self.client, self._call, reader, keeper, spending, self.tally, proven=proven, settling=settling
        )
        self._submitted: Counter[str] = Counter()
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
                self._advance_all()
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
        return self.collector.proven or not self.collector.suspects[key]

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
            refuse=self.collector.keep,
        )
        if packed is None:
            return False
        n = len(packed.keys)
        batch = Batch(tag, "packed", None, None, n, n * self.worst, int(time.time()), 0)
        self.ledger.add(batch, packed.keys, self.again)
        self._submitted.update(packed.keys)
        self._advance(batch)
        return True

    def _advance_all(self) -> None:
        # What is wrong with one batch keeps no other from being collected.
        problems, bad = [], set()
        for batch in self.ledger.batches():
            try:
                self._advance(batch)
            except StoppedError as stopped:
                if not stopped.refused:
                    raise
                problems.append(str(stopped))
                bad.add(batch.tag)
        if useless := self.collector.usefulness.of_all():
            problems.append(useless)
        if problems:
            there = sum(batch.requests for batch in self.ledger.batches() if batch.tag not in bad)
            rest = f"; {there:,} are in batches at the server, which the same command collects" if there else ""
            raise StoppedError("; ".join(dict.fromkeys(problems)) + rest)

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
                f"--forget-batch {batch_id} to have its {batch.requests:,} images asked about, and paid for, again",
                refused=True,
            ) from None
        if remote.status not in ENDED:
            return
        if remote.status == "failed" and not remote.output_file_id and not remote.error_file_id:
            self._failed(batch, remote)
            return
        brought = self.collector.collect(remote, self.ledger.keys(batch.tag))
        if brought.lost:
            self.spending.lose(brought.lost * batch.worst_usd / batch.requests)
        self._settle(batch)
        if remote.status != "completed" or brought.unanswered:
            self.say(f"batch {batch_id}: {remote.status}, {self._unanswered(brought, batch)}")
        suspects = self.collector.suspects
        if not self.collector.proven and len(suspects) >= batch.requests:
            (why, _), *_ = Counter(self.collector.reasons[key] for key in suspects).most_common(1)
            raise StoppedError(f"the server does not accept the requests: {why}", refused=True)
        if brought.stopped and not brought.answered:
            (why, _), *_ = Counter(brought.stopped.values()).most_common(1)
            raise StoppedError(f"batch {batch_id}: {why}", refused=True)

    def _unanswered(self, brought: Brought, batch: Batch) -> str:
        words = f"{len(brought.unanswered):,} of {batch.requests:,} images unanswered"
        for reason, n in Counter(self.collector.reasons[key] for key in brought.unanswered).most_common(3):
            words += f"; {n:,}: {reason}"
        if brought.unreadable:
            words += f"; {brought.unreadable:,} lines of its files cannot be read"
        if brought.gone:
            words += f"; its file {' and '.join(brought.gone)} is gone at the server"
        if brought.lost:
            words += f"; {brought.lost:,} answers may have been paid for and cannot be had"
        return words

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
        said = self.reader.clean(f"{code}: {message}")
        raise StoppedError(f"batch {remote.id} failed: {said}", refused=True)

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
                self.tally.left[self.collector.reasons.get(job.key, "no answer")] += 1

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


def forget(ledger: Ledger, spending: Spending, batch_id: str) -> int:
    """Give up a batch whose server is not to be reached any more; its worst case stays spent. How many images it has.

    Raises ValueError for a batch that the set does not have.
    """
    there = ledger.batches()
    found = next((batch for batch in there if batch.batch_id == batch_id), None)
    if found is None:
        others = ", ".join(batch.batch_id for batch in there if batch.batch_id)
        raise ValueError(f"--forget-batch {batch_id}: this set has {f'the batches {others}' if others else 'no batch'}")
    spending.lose(found.worst_usd)
    ledger.settle(found.tag)
    return found.requests


def _name(tag: str) -> str:
    return f"lensbench-{tag}.jsonl"
