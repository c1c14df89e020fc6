"""Caption sets on disk: one row a key whoever writes, whatever is killed, and readable all the while."""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lensbench.captions import store
from lensbench.captions.store import CaptionRow, CaptionSet, Maker, State, caption_sets, writing

MAKER = Maker("gpt-4.1", "detailed-v1", "{}")


def key(n: int) -> str:
    return hashlib.sha256(str(n).encode()).hexdigest()


def row(n: int, text: str | None = None, state: State = "done", cost: float | None = 0.25) -> CaptionRow:
    text = f"picture {n}" if text is None else text
    return CaptionRow(key(n), *MAKER, text, state, "stop", 100 + n, 20, cost, "2026-11-23T12:00:00+00:00")


def test_what_is_written_is_read_with_its_states_cost_and_digest(tmp_path: Path) -> None:
    folder = tmp_path / "captions" / "detailed"
    with writing(folder, MAKER) as writer:
        assert writer.add(row(1))
        assert writer.add(row(2, "", "refused"))
        assert writer.add(row(3, "cut sho", "truncated"))
        assert writer.add(row(4, "", "failed", None))
        assert not writer.add(row(1, "another text"))
    (found,) = caption_sets(tmp_path)
    assert (found.name, found.maker) == ("detailed", MAKER)
    assert found.texts() == {key(1): "picture 1"}
    assert found.texts([key(2), key(9)]) == {}
    assert found.counts() == {"done": 1, "refused": 1, "truncated": 1, "failed": 1}
    assert found.cost_usd() == 0.75
    assert found.keys() == {key(n) for n in (1, 2, 3, 4)}
    assert CaptionRow(**found.table().to_pylist()[0]) == row(1)
    assert found.table(["text", "key"]).column_names == ["text", "key"]


@settings(max_examples=40, deadline=None)
@given(
    runs=st.lists(st.lists(st.tuples(st.integers(0, 30), st.booleans()), max_size=12), max_size=5),
    seal=st.integers(1, 6),
)
def test_one_row_a_key_over_any_number_of_runs_and_the_first_stays(
    tmp_path_factory: pytest.TempPathFactory, runs: list[list[tuple[int, bool]]], seal: int
) -> None:
    folder = tmp_path_factory.mktemp("set")
    expected: dict[str, CaptionRow] = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(store, "SEAL_ROWS", seal)
        for number, run in enumerate([[], *runs]):
            with writing(folder, MAKER) as writer:
                for n, done in run:
                    given = row(n, f"text {n} of run {number}" if done else "", "done" if done else "refused")
                    assert writer.add(given) == (given.key not in expected)
                    expected.setdefault(given.key, given)
                    assert CaptionSet(folder).keys() == expected.keys()
    rows = [CaptionRow(**found) for found in CaptionSet(folder).table().to_pylist()]
    assert len(rows) == len(expected)
    assert {found.key: found for found in rows} == expected


def test_the_digest_is_of_the_texts_and_not_of_their_order_or_files(tmp_path: Path) -> None:
    def written(name: str, rows: list[CaptionRow], sessions: int = 1) -> str:
        for session in range(sessions):
            with writing(tmp_path / name, MAKER) as writer:
                for given in rows[session::sessions]:
                    writer.add(given)
        return CaptionSet(tmp_path / name).digest()

    rows = [row(n) for n in range(20)]
    whole = written("a", rows)
    assert whole == written("b", rows[::-1], sessions=3)
    assert whole == written("c", [*rows, row(99, "", "refused")])
    assert whole != written("d", rows[1:])
    assert whole != written("e", [*rows[1:], row(0, "picture 0.")])


@settings(max_examples=40, deadline=None)
@given(
    runs=st.lists(
        st.tuples(st.lists(st.integers(0, 9), max_size=8), st.booleans(), st.booleans()), min_size=1, max_size=6
    ),
    seal=st.integers(1, 6),
)
def test_a_key_that_is_asked_about_again_has_its_newest_row_and_a_history_through_any_kills(
    tmp_path_factory: pytest.TempPathFactory, runs: list[tuple[list[int], bool, bool]], seal: int
) -> None:
    folder = tmp_path_factory.mktemp("set")
    attempts: dict[str, list[CaptionRow]] = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(store, "SEAL_ROWS", seal)
        for number, (chosen, again, killed) in enumerate(runs):
            with pytest.MonkeyPatch.context() as dying, writing(folder, MAKER) as writer:
                if killed:  # what is in the journal stays there
                    dying.setattr(writer, "_seal", lambda: None)
                if again:
                    writer.reopen({key(n) for n in chosen} & attempts.keys())
                for n in chosen:
                    given = row(n, f"text of run {number}")
                    had = attempts.setdefault(given.key, [])
                    fresh = not had or (again and had[-1].text != given.text)
                    assert writer.add(given) == fresh
                    if fresh:
                        had.append(given)
                    assert CaptionSet(folder).texts() == {k: rows[-1].text for k, rows in attempts.items()}
    found = CaptionSet(folder)
    current = [CaptionRow(**item) for item in found.table().to_pylist()]
    assert sorted(current) == sorted(rows[-1] for rows in attempts.values())
    older = [CaptionRow(**item) for batch in found.history() for item in batch.to_pylist()]
    assert sorted(older) == sorted(given for rows in attempts.values() for given in rows[:-1])
    assert found.cost_usd() == pytest.approx(0.25 * sum(map(len, attempts.values()))), "the history was paid for too"


WRITE = """
import sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from test_store import MAKER, row
from lensbench.captions import store
store.SEAL_ROWS = 7
with store.writing(Path({folder!r}), MAKER) as writer:
    for n in range({start}, 100000):
        if writer.add(row(n)):
            print(n, flush=True)
"""


def test_every_row_that_was_acknowledged_survives_sigkill(tmp_path: Path) -> None:
    folder = tmp_path / "set"
    acknowledged: set[int] = set()
    delays = random.Random(0)
    for _ in range(8):
        code = WRITE.format(tests=str(Path(__file__).parent), folder=str(folder), start=0)
        writer = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
        assert writer.stdout is not None
        acknowledged.add(int(writer.stdout.readline()))
        time.sleep(delays.uniform(0, 0.15))
        writer.send_signal(signal.SIGKILL)
        acknowledged.update(int(line) for line in writer.stdout.read().splitlines() if line)
        writer.wait()
        found = CaptionSet(folder)
        keys = [item for batch in found.batches(["key"]) for item in batch.column("key").to_pylist()]
        assert len(keys) == len(set(keys))
        assert {key(n) for n in acknowledged} <= set(keys)
    with writing(folder, MAKER):
        pass
    assert not (folder / "journal.jsonl").read_bytes()
    assert CaptionSet(folder).keys() >= {key(n) for n in acknowledged}


def test_a_reader_sees_every_row_once_while_rows_are_written_and_sealed(tmp_path: Path) -> None:
    folder = tmp_path / "set"
    code = WRITE.format(tests=str(Path(__file__).parent), folder=str(folder), start=0)
    writer = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert writer.stdout is not None
    try:
        last = int(writer.stdout.readline())
        for _ in range(30):
            last = int(writer.stdout.readline())
            keys = CaptionSet(folder).table(["key"]).column("key").to_pylist()
            assert len(keys) == len(set(keys))
            assert {key(n) for n in range(last + 1)} <= set(keys)
    finally:
        writer.kill()
        writer.wait()
        writer.stdout.close()


def test_a_second_writer_is_told_who_writes(tmp_path: Path) -> None:
    said = f"'s' is being written by process {os.getpid()}"
    with writing(tmp_path / "s", MAKER), pytest.raises(ValueError, match=said), writing(tmp_path / "s", MAKER):
        pass
    with writing(tmp_path / "s", MAKER):
        pass


@pytest.mark.parametrize(
    ("other", "said"),
    [
        (Maker("gpt-4.1-mini", "detailed-v1", "{}"), "captioner 'gpt-4.1', not 'gpt-4.1-mini'"),
        (Maker("gpt-4.1", "detailed-v2", "{}"), "prompt_version 'detailed-v1', not 'detailed-v2'"),
        (Maker("gpt-4.1", "detailed-v1", '{"seed":1}'), "parameters '{}', not"),
    ],
)
def test_captions_of_another_maker_never_join_a_set(tmp_path: Path, other: Maker, said: str) -> None:
    with writing(tmp_path / "s", MAKER) as writer:
        writer.add(row(1))
    with pytest.raises(ValueError, match=said), writing(tmp_path / "s", other):
        pass
    assert CaptionSet(tmp_path / "s").maker == MAKER


def test_a_half_written_line_is_no_row_and_its_key_can_be_written_again(tmp_path: Path) -> None:
    with writing(tmp_path / "s", MAKER) as writer:
        writer.add(row(1))
    with (tmp_path / "s" / "journal.jsonl").open("a") as journal:
        journal.write(json.dumps(row(2)) + "\n" + json.dumps(row(3))[:40])
    assert CaptionSet(tmp_path / "s").keys() == {key(1), key(2)}
    with writing(tmp_path / "s", MAKER) as writer:
        assert not writer.add(row(2))
        assert writer.add(row(3))
    assert CaptionSet(tmp_path / "s").texts() == {key(n): f"picture {n}" for n in (1, 2, 3)}


def test_an_imported_part_that_comes_again_replaces_itself(tmp_path: Path) -> None:
    with writing(tmp_path / "alt", MAKER) as writer:
        assert writer.add_part("00000", [row(1), row(2)]) == 2
        assert writer.add_part("00001", []) == 0
    with writing(tmp_path / "alt", MAKER) as writer:
        writer.add_part("00000", [row(1), row(2), row(3)])
        assert not writer.add(row(3))
        assert writer.add(row(4))
    assert CaptionSet(tmp_path / "alt").texts() == {key(n): f"picture {n}" for n in (1, 2, 3, 4)}


def test_half_a_surrogate_pair_and_line_breaks_are_kept_as_text_can_be(tmp_path: Path) -> None:
    with writing(tmp_path / "s", MAKER) as writer:
        writer.add(row(1, "a cat \ud83d"))
        writer.add(row(2, "two\nlines\u2028here \U0001f408"))
    assert CaptionSet(tmp_path / "s").texts() == {key(1): "a cat ?", key(2): "two\nlines\u2028here \U0001f408"}


def test_a_full_disk_keeps_whole_rows_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with writing(tmp_path / "s", MAKER) as writer:
        writer.add(row(1))
        real = os.write

        def full(file: int, data: bytes) -> int:
            real(file, data[:10])
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(os, "write", full)
        with pytest.raises(OSError, match="No space"):
            writer.add(row(2))
        monkeypatch.setattr(os, "write", real)
        assert writer.add(row(2))
    assert CaptionSet(tmp_path / "s").keys() == {key(1), key(2)}


def test_a_disk_too_full_to_seal_leaves_the_rows_in_the_journal_and_names_the_file_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(table: pa.Table, where: Path, **how: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch, writing(tmp_path / "s", MAKER) as writer:
        writer.add(row(1))
        patch.setattr(pq, "write_table", full)
    assert CaptionSet(tmp_path / "s").keys() == {key(1)}
    with monkeypatch.context() as patch:
        patch.setattr(pq, "write_table", full)
        with (
            pytest.raises(OSError, match="no space left on the disk: free some") as caught,
            writing(tmp_path / "s", MAKER),
        ):
            pass
    assert caught.value.filename == str(tmp_path / "s" / "rows-000000.parquet")
    with writing(tmp_path / "s", MAKER):
        pass
    assert not (tmp_path / "s" / "journal.jsonl").read_bytes()
    assert CaptionSet(tmp_path / "s").keys() == {key(1)}


def test_what_is_no_set_or_damaged_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no caption set in"):
        CaptionSet(tmp_path)
    (tmp_path / "set.json").write_text("{")
    with pytest.raises(ValueError, match=r"set\.json cannot be read"):
        CaptionSet(tmp_path)
    (tmp_path / "set.json").write_text(json.dumps(MAKER._asdict()))
    (tmp_path / "rows-000000.parquet").write_bytes(b"PAR1 no")
    with pytest.raises(ValueError, match=r"rows-000000\.parquet is damaged"):
        CaptionSet(tmp_path).table()


def test_a_million_rows_are_read_a_piece_at_a_time(tmp_path: Path) -> None:
    with writing(tmp_path / "s", MAKER) as writer:
        writer.add_part("0", (row(n) for n in range(200_000)))
    sizes = [batch.num_rows for batch in CaptionSet(tmp_path / "s").batches(["text"])]
    assert sum(sizes) == 200_000
    assert max(sizes) <= 65_536
    assert isinstance(CaptionSet(tmp_path / "s").table(["cost_usd"]), pa.Table)
