"""Claims: one holder a cell, one completion, whatever the order in which workers claim, die, wake up and publish."""

from __future__ import annotations

import json
import multiprocessing
import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from lensbench.experiment import Experiment
from lensbench.publishing import publish_once
from lensbench.sweep import claims
from lensbench.sweep.study import Study
from lensbench.sweep.sweep import Sweep, cells

SWEEP = Sweep(
    name="s",
    base=Experiment(),
    factors={"captions.set": ("alt",), "seed": (0,)},
    reference={"captions.set": "alt"},
)
(CELL,) = cells(SWEEP)


def silent(cell: Path) -> str | None:
    """What a watcher says that has waited long enough."""
    watcher, found = claims.Watcher(limit=-1), claims.state(cell)
    watcher.dead(cell, found)
    return watcher.dead(cell, found)


class Queue(RuleBasedStateMachine):
    """Three workers and one cell. A worker that is shut out goes on as if it did not know."""

    journal = False

    def __init__(self) -> None:
        super().__init__()
        self.runs = Path(tempfile.mkdtemp())
        self.cell = self.runs / CELL.id
        self.cell.mkdir()
        storage = f"journal:{self.runs}/journal" if self.journal else None
        self.studies = [Study(self.runs, SWEEP, [CELL], storage) for _ in range(3)]
        self.held: dict[int, tuple[claims.Claim, int]] = {}  # worker -> its claim and its trial
        self.newest: int | None = None  # the worker that holds the newest claim and lives
        self.published = 0

    workers = st.integers(0, 2)

    @rule(worker=workers, patient=st.booleans())
    def take(self, worker: int, patient: bool) -> None:
        if worker in self.held or self.published:
            return
        found = claims.state(self.cell)
        dead = None
        if found.held:
            dead = silent(self.cell) if patient else claims.Watcher().dead(self.cell, found)
            if self.newest is not None and not patient:
                assert dead is None, "a holder that lives was called dead"
            if dead is None:
                return
        claim = claims.take(self.cell, found, dead)
        assert claim is not None
        self.held[worker] = claim, self.studies[worker].start(CELL.id, claim.number)
        self.newest = worker

    @rule(worker=workers)
    def publish(self, worker: int) -> None:
        if worker not in self.held:
            return
        claim, trial = self.held.pop(worker)
        try:
            (claim.directory / "records.partial").write_text(str(claim.number))
            publish_once(claim.directory / "records.partial", claim.directory / "records.parquet")
        except FileNotFoundError:
            assert worker != self.newest, "the holder could not publish"
            assert claim.lost()
            with pytest.raises(claims.ClaimLostError):
                claim.end("complete")
            return
        assert worker == self.newest, "a worker that had lost the cell has published"
        self.published += 1
        claim.end("complete")
        self.studies[worker].complete(trial, 0.5)
        self.newest = None

    @rule(worker=workers)
    def fail(self, worker: int) -> None:
        if worker not in self.held:
            return
        claim, trial = self.held.pop(worker)
        if worker == self.newest:
            before = claims.state(self.cell).failures
            claim.end("failed", "no number")
            assert claims.state(self.cell).failures == before + 1
            self.newest = None
        else:
            with pytest.raises(claims.ClaimLostError):
                claim.end("failed")
        self.studies[worker].fail(trial, "no number")

    @rule(worker=workers)
    def beat(self, worker: int) -> None:
        if worker not in self.held:
            return
        if worker == self.newest:
            self.held[worker][0].beat({"stage": "training", "done": 1, "total": 2, "note": ""})
        else:
            with pytest.raises(claims.ClaimLostError):
                self.held[worker][0].beat()

    @precondition(lambda self: self.held)
    @rule(worker=workers)
    def kill(self, worker: int) -> None:
        if worker in self.held:
            self.held.pop(worker)[0].lock.close()
            if self.newest == worker:
                self.newest = None

    @invariant()
    def at_most_one_can_write_and_one_has_completed(self) -> None:
        paths = [path for path in self.cell.glob(f".claims/*/{CELL.id}") if path.is_symlink()]
        assert len(paths) <= 1
        trials = [trial.state.name for trial in self.studies[0]._trials()]
        assert trials.count("RUNNING") <= 1
        assert trials.count("COMPLETE") == self.published <= 1

    def teardown(self) -> None:
        for claim, _ in self.held.values():
            claim.lock.close()
        shutil.rmtree(self.runs)


class JournalQueue(Queue):
    journal = True


TestQueueOnSqlite = Queue.TestCase
TestQueueOnSqlite.settings = settings(max_examples=12, stateful_step_count=25, deadline=None)
TestQueueOnJournal = JournalQueue.TestCase
TestQueueOnJournal.settings = settings(max_examples=25, stateful_step_count=25, deadline=None)


def _race(cell: Path, barrier: multiprocessing.Barrier, won: multiprocessing.Queue) -> None:
    for round_number in range(20):
        barrier.wait()
        found = claims.state(cell)
        barrier.wait()
        claim = claims.take(cell, found)
        barrier.wait()
        if claim is not None:
            claim.end("stopped")
            won.put(round_number)


def test_of_processes_that_claim_at_the_same_moment_one_wins(tmp_path: Path) -> None:
    spawn = multiprocessing.get_context("fork")
    barrier, won = spawn.Barrier(4), spawn.Queue()
    racers = [spawn.Process(target=_race, args=(tmp_path / "cell", barrier, won)) for _ in range(4)]
    for racer in racers:
        racer.start()
    for racer in racers:
        racer.join(60)
        assert racer.exitcode == 0
    assert sorted(won.get() for _ in range(20)) == list(range(20))
    assert won.empty()


def test_a_holder_that_beats_is_not_called_dead_and_one_that_stops_is(tmp_path: Path) -> None:
    cell = tmp_path / "cell"
    claim = claims.take(cell, claims.state(cell))
    assert claim is not None
    watcher = claims.Watcher(limit=0.05)
    import time

    for _ in range(5):
        assert watcher.dead(cell, claims.state(cell)) is None
        time.sleep(0.03)
        claim.beat()
    assert watcher.dead(cell, claims.state(cell)) is None
    time.sleep(0.1)
    assert watcher.dead(cell, claims.state(cell)) == "silent"
    claim.lock.close()
    assert watcher.dead(cell, claims.state(cell)) == "gone"


def test_a_woken_worker_writes_into_no_file_that_its_successor_reads(tmp_path: Path) -> None:
    cell = tmp_path / "cell"
    first = claims.take(cell, claims.state(cell))
    assert first is not None
    opened = (first.directory / "train.csv").open("w")
    opened.write("1\n")
    opened.flush()
    (first.directory / "state.partial").write_text("half")
    second = claims.take(cell, claims.state(cell), silent(cell))
    assert second is not None
    opened.write("2\n")
    opened.close()
    assert (second.directory / "train.csv").read_text() == "1\n"
    assert not (cell / "state.partial").exists()
    with pytest.raises(FileNotFoundError):
        (first.directory / "more.csv").write_text("3")
    # Nor where it makes the folder anew that its path was.
    first.directory.mkdir()
    (first.directory / "records.parquet").touch()
    assert first.lost()
    assert not (cell / "records.parquet").exists()
    third = claims.take(cell, claims.state(cell), silent(cell))
    assert third is not None


def test_a_worker_stopped_while_it_took_over_shuts_nobody_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Claim 2 was made, but its maker never got to remove the path of claim 1; claim 3 removes both."""
    cell = tmp_path / "cell"
    first = claims.take(cell, claims.state(cell))
    found, dead = claims.state(cell), silent(cell)
    with monkeypatch.context() as patched:
        patched.setattr(claims.os, "listdir", lambda path: [])
        second = claims.take(cell, found, dead)
    assert first is not None
    assert second is not None
    assert not first.lost()
    third = claims.take(cell, claims.state(cell), silent(cell))
    assert third is not None
    assert first.lost()
    assert second.lost()
    assert not third.lost()


def test_failures_count_but_not_stops_nor_deaths_of_a_training_that_gets_on(tmp_path: Path) -> None:
    cell = tmp_path / "cell"

    def attempt() -> claims.Claim:
        found = claims.state(cell)
        claim = claims.take(cell, found, "gone" if found.held else None)
        assert claim is not None
        return claim

    def failures() -> int:
        return claims.state(cell).failures

    attempt().end("failed", "ValueError: no number")
    assert (failures(), claims.state(cell).reason) == (1, "ValueError: no number")
    attempt().end("stopped")
    attempt().end("cancelled")
    assert failures() == 1
    attempt().lock.close()  # killed
    attempt().lock.close()
    assert failures() == 2, "the second kill is not known yet"
    (cell / "resume").mkdir()
    (cell / "resume" / "step-00000010.json").touch()
    attempt().end("stopped")
    assert failures() == 2, "the second had got to step 10"
    assert claims.forgive(cell)
    assert failures() == 0
    attempt().end("failed", "again")
    assert failures() == 1
    attempt().end("complete")
    assert failures() == 0


def test_cancelling_is_seen_and_forgiven(tmp_path: Path) -> None:
    cell = tmp_path / "cell"
    claims.cancel(cell)
    assert claims.state(cell).cancelled
    assert claims.forgive(cell)
    assert not claims.state(cell).cancelled
    assert not claims.forgive(cell)


def test_records_are_published_once(tmp_path: Path) -> None:
    for text in ("first", "second"):
        (tmp_path / "partial").write_text(text)
        if text == "first":
            publish_once(tmp_path / "partial", tmp_path / "records")
        else:
            with pytest.raises(FileExistsError):
                publish_once(tmp_path / "partial", tmp_path / "records")
    assert (tmp_path / "records").read_text() == "first"


def test_a_killed_processes_claim_is_excused_when_a_person_asked(tmp_path: Path) -> None:
    cell = tmp_path / "cell"
    claim = claims.take(cell, claims.state(cell))
    assert claim is not None
    claim.lock.close()
    holder = json.loads((cell / ".claims" / "1" / "holder.json").read_text())
    claims.excuse(cell, {holder["pid"] + 1})
    assert claims.state(cell).held
    claims.excuse(cell, {holder["pid"]})
    assert claims.state(cell).end == "stopped"
    assert claims.state(cell).failures == 0


def test_a_worker_beside_others_takes_as_many_threads_as_they_have(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    free, held = tmp_path / "free", tmp_path / "held"
    for cell in (free, held):
        cell.mkdir()
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    claim = claims.take(held, claims.state(held))
    assert claim is not None
    assert claims.threads_beside([free, held]) == 3
    claim.end("stopped")
    assert claims.threads_beside([free, held]) == 0


@pytest.mark.parametrize("content", ["", "{", "[]", '{"end": "eaten"}', "\x00\x00"])
def test_a_claim_whose_end_cannot_be_read_has_ended(content: str, tmp_path: Path) -> None:
    claim = claims.take(tmp_path, claims.state(tmp_path))
    assert claim is not None
    claim.end("complete")
    (claim.folder / "ended.json").write_text(content)
    found = claims.state(tmp_path)
    assert not found.held
    assert found.failures == 0
    again = claims.take(tmp_path, found)
    assert again is not None
    again.end("complete")
