"""The store of rows: whole shards or none, each row computed once by whichever process, however many die."""

import json
import multiprocessing
import os
import pickle
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lensbench.data import rowstore
from lensbench.data.rowstore import RowStore, names_of
from lensbench.locks import file_lock
from lensbench.sealing import SEAL_BYTES

TEXTS = [f"text {n}" for n in range(40)]
LENGTHS = np.arange(40) % 5
FORK = multiprocessing.get_context("fork")


def row(n: int) -> np.ndarray:
    """What every process computes for text `n`."""
    return np.full((n % 5, 2, 3), n, dtype=np.int16)


def store(cache: Path, **made_from: object) -> RowStore:
    return RowStore(cache, "text", made_from, np.int16, (2, 3))


def fill(cache: Path, numbers: list[int], computed: list[int] | None = None) -> RowStore:
    """Fill a store with some of the texts; `computed` is told which of them were not there."""
    opened = store(cache)

    def compute(rows: np.ndarray) -> Iterator[list[np.ndarray]]:
        for batch in np.array_split(rows, 2):
            if computed is not None:
                computed.extend(numbers[place] for place in batch)
            yield [row(numbers[place]) for place in batch]

    opened.fill(names_of(TEXTS[n] for n in numbers), LENGTHS[numbers], compute)
    return opened


def check(cache: Path, numbers: list[int]) -> None:
    found = store(cache).rows(names_of(TEXTS[n] for n in numbers))
    assert list(found.lengths) == [n % 5 for n in numbers]
    for n, values in zip(numbers, found.read(range(len(numbers))), strict=True):
        assert np.array_equal(values, row(n))


numbers = st.lists(st.integers(0, 39), unique=True, max_size=40)


@settings(max_examples=40, deadline=None)
@given(st.lists(numbers, min_size=1, max_size=4), st.sampled_from([1, 50, 10**6]))
def test_every_row_is_computed_once_whoever_asks_in_whatever_order(
    tmp_path_factory: pytest.TempPathFactory, asked: list[list[int]], shard_bytes: int
) -> None:
    cache, computed = tmp_path_factory.mktemp("cache"), list[int]()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rowstore, "SMALL_BYTES", shard_bytes)
        for some in asked:
            fill(cache, some, computed)
            check(cache, some)
    wanted = {n for some in asked for n in some}
    assert sorted(computed) == sorted(wanted)
    check(cache, sorted(wanted, reverse=True))


def test_rows_are_read_again_without_reading_or_keeping_files_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rowstore, "SMALL_BYTES", 1)
    fill(tmp_path, list(range(40)))
    before = len(os.listdir("/proc/self/fd"))
    found = store(tmp_path).rows(names_of(TEXTS))
    assert len(found.shards) > 20
    assert len(found[np.arange(40)]) == LENGTHS.sum()
    assert found[np.array([], dtype=np.int64)].shape == (0, 2, 3)
    assert len(os.listdir("/proc/self/fd")) == before
    small = pickle.dumps(found)  # for a data worker: the places, not the values
    assert len(small) < 50_000
    assert np.array_equal(pickle.loads(small)[np.array([7, 3])], found[np.array([7, 3])])


def test_a_store_says_what_it_was_made_from(tmp_path: Path) -> None:
    first, second = store(tmp_path, encoder="a"), store(tmp_path, encoder="b")
    assert first.folder != second.folder
    assert not list(tmp_path.iterdir()), "nothing is written before there are rows"
    first.fill(names_of(["x"]), np.array([0]), lambda rows: [[row(0)]])
    assert json.loads((first.folder / "made_from.json").read_text()) == {"encoder": "a"}


def test_rows_that_are_not_there_are_no_rows(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="rows are missing"):
        store(tmp_path).rows(names_of(["x"]))
    assert len(store(tmp_path).rows(names_of([]))) == 0


def truncated(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 1)


def beheaded(path: Path) -> None:
    os.truncate(path, 40)


def emptied(path: Path) -> None:
    path.write_bytes(b"")


def overwritten(path: Path) -> None:
    path.write_bytes(b"nonsense" * 100)


def of_another_store(path: Path) -> None:
    other = RowStore(path.parent / "other", "text", {}, np.float32, (3,))
    other.fill(names_of(["x"]), np.array([1]), lambda rows: [[np.zeros((1, 3), np.float32)]])
    shutil.copy(next(other.folder.glob("*.rows")), path)


@pytest.mark.parametrize("spoil", [truncated, beheaded, emptied, overwritten, of_another_store])
def test_a_damaged_shard_is_set_aside_and_computed_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spoil: Callable[[Path], None]
) -> None:
    monkeypatch.setattr(rowstore, "SMALL_BYTES", 100)
    everything = list(range(40))
    fill(tmp_path, everything)
    shard = sorted(tmp_path.rglob("*.rows"))[1]
    spoil(shard)
    with pytest.raises(ValueError, match=r"is damaged \(.*\): start again, and it is computed again") as caught:
        store(tmp_path).rows(names_of(TEXTS))
    assert str(shard) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert store(tmp_path).mend(names_of(TEXTS)) == [shard]
    assert shard.with_suffix(".damaged").exists(), "who wants to know what happened can look"
    computed: list[int] = []
    fill(tmp_path, everything, computed)
    assert 0 < len(computed) < 40
    check(tmp_path, everything)


@pytest.fixture(scope="module")
def shard_of_twelve(tmp_path_factory: pytest.TempPathFactory) -> Path:
    cache = tmp_path_factory.mktemp("twelve")
    fill(cache, list(range(12)))
    return next(cache.rglob("*.rows"))


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_no_flipped_bit_of_a_shard_is_read_as_data(shard_of_twelve: Path, data: st.DataObject) -> None:
    whole = shard_of_twelve.read_bytes()
    bit = data.draw(st.integers(0, 8 * len(whole) - 1))
    spoilt = bytearray(whole)
    spoilt[bit // 8] ^= 1 << bit % 8
    cache = shard_of_twelve.parents[2]
    try:
        shard_of_twelve.write_bytes(spoilt)
        with pytest.raises(ValueError, match=r"damaged|missing"):
            store(cache).rows(names_of(TEXTS[:12]))
        fill(cache, list(range(12)))  # sets it aside
        check(cache, list(range(12)))
    finally:
        for path in shard_of_twelve.parent.glob("*.rows"):
            path.unlink()
        shard_of_twelve.write_bytes(whole)


def test_a_shard_of_before_there_were_seals_is_read(tmp_path: Path) -> None:
    fill(tmp_path, list(range(40)))
    (shard,) = tmp_path.rglob("*.rows")
    os.truncate(shard, shard.stat().st_size - SEAL_BYTES)
    check(tmp_path, list(range(40)))
    fill(tmp_path, list(range(40)), pytest.fail)  # type: ignore[arg-type]


def test_a_shard_that_is_lost_meanwhile_is_named(tmp_path: Path) -> None:
    fill(tmp_path, [1, 2])
    found = store(tmp_path).rows(names_of(TEXTS[1:3]))
    (shard,) = tmp_path.rglob("*.rows")
    shard.unlink()
    with pytest.raises(ValueError, match="is gone: start again, and it is computed again") as caught:
        found.read([0])
    assert str(shard) in str(caught.value)


def test_a_disk_that_is_too_small_is_told_before_anything_is_computed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rowstore, "free_bytes", lambda folder: 100)
    with pytest.raises(OSError, match=r"960 bytes are to be written and the disk has 100 bytes free"):
        fill(tmp_path, list(range(40)), pytest.fail)  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir())


def test_what_fails_leaves_the_finished_shards_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rowstore, "SMALL_BYTES", 100)

    def compute(rows: np.ndarray) -> Iterator[list[np.ndarray]]:
        yield [row(n) for n in rows[:1]]
        if 20 in rows:
            raise ValueError("no latents of image 20")
        yield [row(n) for n in rows[1:]]

    with pytest.raises(ValueError, match="no latents of image 20"):
        store(tmp_path).fill(names_of(TEXTS), LENGTHS, compute)
    assert {path.suffix for path in tmp_path.rglob("*.*")} == {".rows", ".json", ""}, "and the lock's file"
    computed: list[int] = []
    fill(tmp_path, list(range(40)), computed)
    assert 20 in computed
    assert 0 not in computed


def slowly(cache: Path, note: Path, seconds: float, shard_bytes: int) -> None:
    """A process that fills the store, noting each row it computes."""
    rowstore.SMALL_BYTES = shard_bytes
    rowstore.WAIT_SECONDS = 0.02

    def compute(rows: np.ndarray) -> Iterator[list[np.ndarray]]:
        for n in rows:
            with note.open("a") as file:
                file.write(f"{os.getpid()} {n}\n")
            time.sleep(seconds)
            yield [row(n)]

    store(cache).fill(names_of(TEXTS), LENGTHS, compute)


def noted(note: Path) -> list[tuple[int, int]]:
    lines = note.read_text().splitlines() if note.exists() else []
    return [(int(line.split()[0]), int(line.split()[1])) for line in lines]


def test_processes_share_the_work_and_compute_nothing_twice(tmp_path: Path) -> None:
    note = tmp_path / "note"
    processes = [FORK.Process(target=slowly, args=(tmp_path / "cache", note, 0.05, 60)) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
        assert process.exitcode == 0
    assert sorted(n for _, n in noted(note)) == list(range(40))
    assert len({pid for pid, _ in noted(note)}) >= 2
    check(tmp_path / "cache", list(range(40)))
    assert not list(tmp_path.rglob("*.claim"))


def test_what_a_killed_process_was_computing_is_taken_over_and_its_files_go(tmp_path: Path) -> None:
    cache, note = tmp_path / "cache", tmp_path / "note"
    victim = FORK.Process(target=slowly, args=(cache, note, 0.2, 60))
    victim.start()
    until = time.monotonic() + 60
    while len(list(cache.rglob("*.rows"))) < 2 or not list(cache.rglob("*.partial")):
        assert time.monotonic() < until
        time.sleep(0.01)
    heir = FORK.Process(target=slowly, args=(cache, note, 0.0, 60))
    heir.start()
    while len({pid for pid, _ in noted(note)}) < 2:  # both are at it
        assert time.monotonic() < until
        time.sleep(0.01)
    assert victim.pid is not None
    os.kill(victim.pid, signal.SIGKILL)
    victim.join(10)
    heir.join(60)
    assert heir.exitcode == 0
    check(cache, list(range(40)))
    counts = [sum(m == n for _, m in noted(note)) for n in range(40)]
    lost = {n for pid, n in noted(note) if pid == victim.pid and counts[n] == 2}
    assert set(counts) <= {1, 2}
    assert 1 <= len(lost) <= 5, "a claim of the dead, no more"
    assert not list(cache.rglob("*.claim"))
    assert not list(cache.rglob("*.partial"))


def test_what_another_computes_is_waited_for_and_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rowstore, "WAIT_SECONDS", 0.01)
    folder = store(tmp_path).folder
    folder.mkdir(parents=True)
    said: list[int] = []

    def report(done: int, total: int) -> None:
        said.append(done)
        if len(said) == 3:
            released.release()

    class Other:
        """A living process's claim on the first ten rows."""

        def __init__(self) -> None:
            claim = folder / "other.claim"
            self.lock = file_lock(claim)
            self.lock.__enter__()
            claim.write_bytes(names_of(TEXTS[:10]).tobytes())

        def release(self) -> None:
            self.lock.__exit__(None, None, None)

    released = Other()
    names = names_of(TEXTS[:10])
    store(tmp_path).fill(names, LENGTHS[:10], lambda rows: [[row(n) for n in rows]], report)
    assert said == [0, 0, 0, 10]
    check(tmp_path, list(range(10)))
