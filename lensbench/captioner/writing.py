"""Having captions written for a corpus: what is left to ask, what it will cost, asking, and what came of it."""

from __future__ import annotations

import re
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Protocol

from lensbench.captioner.answers import Reader
from lensbench.captioner.batch import Batches, forget
from lensbench.captioner.client import Server, api_key
from lensbench.captioner.estimate import (
    Estimate,
    Measured,
    by_rules,
    measured,
    most_input_tokens,
    worst_usd,
)
from lensbench.captioner.keeping import Keeper, keeping
from lensbench.captioner.ledger import FILE, Batch, Ledger
from lensbench.captioner.live import Job, Live, Tally
from lensbench.captioner.prices import Price
from lensbench.captioner.requests import Asking, NotAPictureError, sent_size
from lensbench.captioner.spending import Spending
from lensbench.captions.store import CaptionSet, State, writing
from lensbench.stopping import handled

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


class ImageBytes(Protocol):
    """The images of a corpus: their keys in order, and the bytes of each as they were imported."""

    @property
    def keys(self) -> Sequence[str]: ...

    def read(self, key: str) -> bytes: ...


class Display(Protocol):
    """Where a run tells how far it is."""

    def say(self, line: str) -> None: ...
    def live(self, tally: Tally, spending: Spending, at_a_time: int) -> None: ...
    def batches(self, tally: Tally, under_way: list[Batch]) -> None: ...


@dataclass(frozen=True)
class Run:
    """How to ask: in batches or live, how fast, and for how much. What is here does not change the texts."""

    server: Server
    budget: float | None = None  # dollars, of the whole set
    limit: int | None = None  # images asked about in this run, at most
    at_a_time: int = 256  # live requests, at most
    batch: bool = False
    poll: float = 60.0  # seconds between looks at batches
    batch_requests: int = 50_000  # in one batch, at most
    again: frozenset[State] = frozenset()  # images with a row in one of these states are asked about again
    forget: str | None = None  # a batch that is given up


@dataclass(frozen=True)
class Outcome:
    """What came of a run. `rows` counts the whole set; dollars are None where the price is not known."""

    tally: Tally
    rows: dict[State, int]
    spent_usd: float | None
    uncertain_usd: float  # of `spent_usd`, what may have been paid for answers that never came
    assumed: tuple[int, float]  # answers that told no usage, and of `spent_usd` their worst cases
    in_batches: int  # images in batches at the server

    @property
    def complete(self) -> bool:
        """Whether everything that was asked for has a row."""
        return not self.tally.stop and not self.tally.left and not self.in_batches


class WritingStoppedError(Exception):
    """A signal ended a run; what came is kept."""


def set_folder(corpus: Path, name: str) -> Path:
    """The folder of a corpus's caption set. Raises ValueError for what is no name of a set."""
    if not NAME.fullmatch(name):
        raise ValueError(f"caption set {name!r}: a name has letters, digits, dots, dashes and underscores")
    return corpus / "captions" / name


def default_name(asking: Asking) -> str:
    """The caption set's name where the user gives none, e.g. "gpt-4.1-detailed-v1"."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", f"{asking.model}-{asking.prompt.name}").strip("-.")


def states_again(said: str) -> frozenset[State]:
    """The states of "failed,truncated". Raises ValueError for any other that can be asked about again."""
    may: tuple[State, ...] = ("failed", "truncated", "refused")
    asked = [word.strip() for word in said.split(",")]
    if wrong := [word for word in asked if word not in may]:
        raise ValueError(f"--again {wrong[0]!r}: choose from {', '.join(may)}, with commas between them")
    return frozenset(state for state in may if state in asked)


def dry_run(images: ImageBytes, folder: Path, asking: Asking, price: Price | None, run: Run) -> Estimate:
    """What the images that a run asks about will cost, by the rules; nothing is sent and nothing written."""
    has = _present_keys(folder, run.again)
    limit = run.limit
    keys = islice((key for key in images.keys if key not in has), limit)
    assert asking.max_side is not None, "images are sent with a largest side"
    side = asking.max_side

    def sizes() -> Iterator[tuple[int, int]]:
        for key in keys:
            with suppress(NotAPictureError):  # costs nothing
                yield sent_size(images.read(key), side)

    return by_rules(asking, price, sizes())


def write(
    images: ImageBytes,
    folder: Path,
    asking: Asking,
    price: Price | None,
    run: Run,
    display: Display,
    only: Sequence[str] | None = None,
) -> Outcome:
    """Ask about every image that has no row, or of those in `only`.

    Raises ValueError when the set has another maker or another writer, or the server will answer nothing; OSError when
    the disk fails; WritingStoppedError when interrupted.
    """
    chosen = images.keys if only is None else only

    def job(key: str) -> Job:
        return Job(key, partial(_about, asking, images, key))

    return ask(folder, asking, price, run, display, chosen, job)


def ask(
    folder: Path,
    asking: Asking,
    price: Price | None,
    run: Run,
    display: Display,
    keys: Sequence[str],
    job: Callable[[str], Job],
    longest_text: str = "",
) -> Outcome:
    """As `write`, about anything that has a key; `longest_text` is the longest that takes the place of an image."""
    if run.budget is not None and price is None:
        raise ValueError(f"--budget: the price of {asking.model} is not known; give it with --prices FILE")
    worst = worst_usd(asking, price, batch=run.batch, longest_text=longest_text)
    reader = Reader(asking, price, api_key(), run.batch, worst)
    room_for = run.at_a_time if not run.batch else 1
    with _interruptible(), writing(folder, asking.maker) as writer, keeping(writer, room_for) as keeper:
        ledger = Ledger(folder)
        try:
            had = CaptionSet(folder)
            spending = Spending(ledger, had.cost_usd(), run.budget)
            if run.forget is not None:
                freed = forget(ledger, spending, run.forget)
                display.say(f"batch {run.forget} is given up: {freed:,} of its images may be asked about again")
            again = _reopened(had, ledger, run.again)
            writer.reopen(again)
            if run.again:  # the oldest rows first: after a stop or with --limit, those not asked about again yet
                keys = sorted(keys, key=lambda key: again.get(key, ""))
            session = _Session(
                run,
                reader,
                keeper,
                ledger,
                spending,
                display,
                again=again,
                worst=worst,
                tokens=most_input_tokens(asking, price, longest_text) + asking.max_output_tokens,
                proven=had.counts()["done"] > 0,
            )
            tally = session.in_batches(keys, job) if run.batch else session.live(keys, job)
            now = CaptionSet(folder)
            spent = None if price is None else spending.spent
            unseen = spending.spent - spending.rows
            return Outcome(tally, now.counts(), spent, unseen, now.assumed_usd(), len(ledger.keys()))
        finally:
            ledger.close()


def _reopened(found: CaptionSet, ledger: Ledger, again: frozenset[State]) -> dict[str, str]:
    """The images to ask about again, with when their row was made: those in these states, and those that are in batches
    for that reason and have no newer row yet."""
    in_batches, pending = ledger.keys(), ledger.again()
    if not again and not pending:
        return {}
    out = {}
    for key, state, created in _states(found):
        if pending.get(key) == created or (state in again and key not in in_batches):
            out[key] = created
    return out


def _states(found: CaptionSet) -> Iterator[tuple[str, State, str]]:
    for batch in found.batches(["key", "state", "created"]):
        yield from zip(*(column.to_pylist() for column in batch.columns), strict=True)


@dataclass(frozen=True)
class _Session:
    """A set that is being written. `worst` and `tokens` are of one request, at most; `proven`: it has captions.

    `again` has the images that are asked about again, with when their row was made.
    """

    run: Run
    reader: Reader
    keeper: Keeper
    ledger: Ledger
    spending: Spending
    display: Display
    again: dict[str, str]
    worst: float
    tokens: float
    proven: bool

    def live(self, keys: Sequence[str], job: Callable[[str], Job]) -> Tally:
        at_server = self.ledger.keys()
        if at_server:
            self.display.say(f"{len(at_server):,} are in batches at the server: --batch collects them")
            self.spending.in_batches = self.ledger.worst_usd()

        def todo() -> Iterator[str]:
            has = self.keeper.writer.keys
            return islice((key for key in keys if key not in has and key not in at_server), self.run.limit)

        total = sum(1 for _ in todo())
        live = Live(
            self.run.server,
            self.reader,
            self.keeper,
            self.spending,
            worst=self.worst,
            tokens=self.tokens,
            at_a_time=self.run.at_a_time,
            proven=self.proven,
            report=lambda tally: self.display.live(tally, self.spending, live.pace.window.in_flight),
        )
        try:
            tally = live.run(map(job, todo()), total)
        finally:
            self.spending.close()
        if tally.stop == "interrupted":
            raise WritingStoppedError(f"interrupted: {tally.rows:,} rows were written and are kept")
        return tally

    def in_batches(self, keys: Sequence[str], job: Callable[[str], Job]) -> Tally:
        writer = self.keeper.writer

        def missing() -> Iterator[str]:
            return (key for key in keys if key not in writer.keys)

        chosen = list(islice(missing(), self.run.limit)) if self.run.limit is not None else None

        def jobs() -> Iterator[Job]:
            return (job(key) for key in (missing() if chosen is None else chosen) if key not in writer.keys)

        if not self.proven:
            self.display.say("this set has no caption yet: --pilot 20 without --batch shows what the answers are like")

        batches = Batches(
            self.run.server,
            self.reader,
            self.keeper,
            self.ledger,
            self.spending,
            again=self.again,
            worst=self.worst,
            poll=self.run.poll,
            most_requests=self.run.batch_requests,
            proven=self.proven,
            report=self.display.batches,
            say=self.display.say,
        )
        try:
            return batches.run(jobs, sum(1 for _ in jobs()))
        except KeyboardInterrupt:
            there = [batch for batch in self.ledger.batches() if batch.state in ("creating", "running")]
            n, images = len(there), sum(batch.requests for batch in there)
            which = f"{images:,} are in {n} {'batch, which goes' if n == 1 else 'batches, which go'} on at the server"
            raise WritingStoppedError(
                f"interrupted: {which if n else 'no batch is at the server'}; {batches.tally.rows:,} rows were "
                "collected and are kept"
            ) from None


def pilot_keys(images: ImageBytes, n: int, seed: int) -> list[str]:
    """`n` images drawn at random; a larger pilot holds a smaller one."""
    from lensbench.streams import numpy_stream

    keys = images.keys
    drawn = numpy_stream(seed, "captions pilot").permutation(len(keys))[:n]
    return [keys[int(i)] for i in drawn]


@dataclass(frozen=True)
class Pilot:
    """What a pilot's images took, and what all that are left will take. Dollars are None without a price."""

    images: int
    input_tokens: Measured
    output_tokens: Measured
    live_usd: Measured | None
    batch_usd: Measured | None
    left: int


def pilot_result(images: ImageBytes, folder: Path, keys: Sequence[str], price: Price | None) -> Pilot | None:
    """What the pilot's answers measured; None where the server told no usage."""
    wanted, found = set(keys), CaptionSet(folder)
    used: list[tuple[int, int, float | None]] = []
    rows = 0
    for batch in found.batches(["key", "input_tokens", "output_tokens", "cost_usd"]):
        for row in batch.to_pylist():
            rows += 1
            if row["key"] in wanted and row["input_tokens"] is not None:
                used.append((row["input_tokens"], row["output_tokens"], row["cost_usd"]))
    if not used:
        return None
    live = [price.usd(i, o, batch=False) if paid is None else paid for i, o, paid in used] if price else []
    batches = [price.usd(i, o, batch=True) for i, o, _ in used] if price else []
    return Pilot(
        len(used),
        measured([i for i, _, _ in used]),
        measured([o for _, o, _ in used]),
        measured(live) if live else None,
        measured(batches) if batches else None,
        len(images.keys) - rows,
    )


def _about(asking: Asking, images: ImageBytes, key: str) -> dict[str, object]:
    return asking.about_image(images.read(key))


def _present_keys(folder: Path, again: frozenset[State]) -> set[str]:
    # Those with a row in another state, and those in batches.
    if not (folder / "set.json").exists():
        return set()
    keys = {key for key, state, _ in _states(CaptionSet(folder)) if state not in again}
    if (folder / FILE).exists():
        ledger = Ledger(folder)
        try:
            keys |= ledger.keys()
        finally:
            ledger.close()
    return keys


@contextmanager
def _interruptible() -> Iterator[None]:
    """SIGTERM and SIGHUP end the block as Ctrl-C does."""

    def handler(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    with handled((signal.SIGTERM, signal.SIGHUP), handler):
        try:
            yield
        except KeyboardInterrupt:
            raise WritingStoppedError("interrupted: what came is kept") from None
