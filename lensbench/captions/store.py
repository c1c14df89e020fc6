"""Caption sets on disk: one row that counts an image key, append-only, safe to read while they are written.

A set is a folder. `set.json` says who makes it; sealed rows lie in Parquet files that never change; rows that came
since the last seal lie in `journal.jsonl`, a line each, so that what was paid for survives a killed process. Only the
holder of the set's lock writes. Readers take no lock: they read the journal first and the Parquet files after it, so a
row on its way from one to the other is seen at least once, and a row seen twice is shown once.

A key that is asked about again gets a further row. It is sealed into again-000000.parquet and so on, whose rows count
before those of all other files and of an earlier again- file. The rows that no longer count stay as the set's history.
In the journal such a row has the number of its again- file behind its fields.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple, get_args

from lensbench.locks import file_lock
from lensbench.publishing import publish, publish_text

if TYPE_CHECKING:
    import pyarrow as pa

State = Literal["done", "refused", "truncated", "failed"]
STATES: tuple[State, ...] = get_args(State)
FULL = (errno.ENOSPC, errno.EDQUOT)  # errors of a full disk
AGAIN = "again-"  # how the names of files begin whose rows replace others
SEAL_ROWS = 5000  # rows in the journal before they become a Parquet file
SYNC_SECONDS = 1.0  # a power cut costs at most the rows of this long; a killed process costs none


class CaptionRow(NamedTuple):
    """One caption, or why there is none. `key` is the sha256 of the image's bytes, `created` ISO 8601 in UTC.

    Token counts and cost are None where nothing was paid. A cost without token counts is the worst case of an answer
    that told no usage.
    """

    key: str
    captioner: str
    prompt_version: str
    parameters: str
    text: str
    state: State
    finish_reason: str
    input_tokens: int | None
    output_tokens: int | None
    cost_usd: float | None
    created: str


class Maker(NamedTuple):
    """What made every caption of a set; `parameters` is canonical JSON. Another maker is another set."""

    captioner: str
    prompt_version: str
    parameters: str


def _schema() -> pa.Schema:
    import pyarrow as pa

    types = {"input_tokens": pa.int64(), "output_tokens": pa.int64(), "cost_usd": pa.float64()}
    return pa.schema([(name, types.get(name, pa.string())) for name in CaptionRow._fields])


class CaptionSet:
    """A caption set to read. Raises ValueError when the folder holds none."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.name = folder, folder.name
        try:
            self.maker = Maker(**json.loads((folder / "set.json").read_text()))
        except FileNotFoundError:
            raise ValueError(f"no caption set in {folder}: it has no set.json") from None
        except (TypeError, ValueError) as error:
            raise ValueError(f"{folder / 'set.json'} cannot be read: {error}") from None

    def batches(self, columns: Sequence[str] | None = None) -> Iterator[pa.RecordBatch]:
        """The row that counts of every key, a piece at a time, as it stands now; sealed rows first."""
        return self._pieces(columns, counting=True)

    def history(self, columns: Sequence[str] | None = None) -> Iterator[pa.RecordBatch]:
        """The rows that no longer count, because their key was asked about again."""
        return self._pieces(columns, counting=False)

    def _pieces(self, columns: Sequence[str] | None, *, counting: bool) -> Iterator[pa.RecordBatch]:
        import pyarrow as pa
        import pyarrow.parquet as pq

        journal = _journal(self.folder)  # before the parts are listed
        parts = _parts(self.folder)
        waiting = {row.key: row for row, again in journal if again is None}
        anew = {row.key: row for row, again in journal if again is not None and _again(self.folder, again) not in parts}
        counts: dict[str, Path | None] = {key: path for path in _agains(parts) for key in _column(path, "key")}
        counts |= dict.fromkeys(anew)
        if not counting and not counts:  # no key was asked about again
            return
        wanted = list(columns or CaptionRow._fields)
        for path in parts:
            try:
                file = pq.ParquetFile(path, memory_map=True)
                for batch in file.iter_batches(columns=list(dict.fromkeys(["key", *wanted]))):
                    keys = batch.column("key").to_pylist() if waiting or counts else []
                    for key in keys:
                        waiting.pop(key, None)
                    counted = [counts.get(key, path) == path for key in keys]
                    if not counting or not all(counted):
                        batch = batch.filter(pa.array([is_so == counting for is_so in counted], pa.bool_()))
                    if batch.num_rows:
                        yield batch.select(wanted)
            except pa.ArrowInvalid as error:
                raise ValueError(f"{path} is damaged: {error}") from None
        rows = [row for row in waiting.values() if (row.key in counts) != counting]
        if rows := rows + list(anew.values() if counting else ()):
            yield _table(rows).select(wanted).combine_chunks().to_batches()[0]

    def table(self, columns: Sequence[str] | None = None) -> pa.Table:
        """Every row, in memory."""
        import pyarrow as pa

        wanted = list(columns or CaptionRow._fields)
        schema = pa.schema([_schema().field(name) for name in wanted])
        return pa.Table.from_batches([batch.cast(schema) for batch in self.batches(wanted)], schema=schema)

    def keys(self) -> set[str]:
        """Every key that has a row, whatever its state."""
        return {key for batch in self.batches(["key"]) for key in batch.column("key").to_pylist()}

    def texts(self, keys: Collection[str] | None = None) -> dict[str, str]:
        """Key -> text of every row that is done, of `keys` alone if given."""
        wanted = None if keys is None else frozenset(keys)
        return {key: text for key, text in self._done() if wanted is None or key in wanted}

    def counts(self) -> dict[State, int]:
        """Rows in each state."""
        found = dict.fromkeys(STATES, 0)
        for batch in self.batches(["state"]):
            for item in batch.column("state").value_counts().to_pylist():
                found[item["values"]] += item["counts"]
        return found

    def cost_usd(self) -> float:
        """Dollars paid for the rows, those of the history as well."""
        import pyarrow.compute as pc

        pieces = chain(self.batches(["cost_usd"]), self.history(["cost_usd"]))
        return sum(pc.sum(piece.column("cost_usd")).as_py() or 0.0 for piece in pieces)

    def assumed_usd(self) -> tuple[int, float]:
        """The answers that told no usage, the history's as well, and the dollars of their worst cases."""
        import pyarrow.compute as pc

        answers, usd = 0, 0.0
        names = ["input_tokens", "cost_usd"]
        for piece in chain(self.batches(names), self.history(names)):
            tokens, paid = piece.columns
            assumed = paid.filter(pc.and_(pc.is_null(tokens), pc.is_valid(paid)))
            answers, usd = answers + len(assumed), usd + (pc.sum(assumed).as_py() or 0.0)
        return answers, usd

    def digest(self) -> str:
        """sha256 of the set's done texts, whatever their order on disk: over the sorted sha256 of each key and text."""
        rows = sorted(hashlib.sha256(f"{key}\0{text}".encode()).digest() for key, text in self._done())
        return hashlib.sha256(b"".join(rows)).hexdigest()

    def _done(self) -> Iterator[tuple[str, str]]:
        for batch in self.batches(["key", "text", "state"]):
            for key, text, state in zip(*(column.to_pylist() for column in batch.columns), strict=True):
                if state == "done":
                    yield key, text


def caption_sets(corpus: Path, broken: Callable[[ValueError], object] | None = None) -> list[CaptionSet]:
    """The caption sets of an imported corpus, sorted by name.

    One that cannot be read raises ValueError, or is given to `broken` and left out.
    """
    found = []
    for path in sorted((corpus / "captions").glob("*/set.json")):
        try:
            found.append(CaptionSet(path.parent))
        except ValueError as error:
            if broken is None:
                raise
            broken(error)
    return found


@contextmanager
def writing(folder: Path, maker: Maker) -> Iterator[CaptionWriter]:
    """The only writer of a set, made where there is none; what it was given is sealed when it closes.

    Raises ValueError when another process is writing the set, or when the set has another maker.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock = folder / "lock"
    with file_lock(lock, wait=False) as free:
        if not free:
            raise ValueError(f"caption set {folder.name!r} is being written by process {lock.read_text() or '?'}")
        lock.write_text(str(os.getpid()))
        _claim(folder, maker)
        writer = CaptionWriter(folder)
        try:
            yield writer
        finally:
            writer.close()


class CaptionWriter:
    """Adds rows to a set whose lock it holds: see `writing`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for left in folder.glob("*.partial"):
            left.unlink()
        rows = _journal(folder)
        self._journal = os.open(folder / "journal.jsonl", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        self._waiting: list[CaptionRow] = []
        self._waiting_again: list[CaptionRow] = []
        self._reopened: set[str] = set()
        self._number = len(_agains(_parts(folder)))  # of the next again- file
        self._synced = time.monotonic()
        self._keys: set[str] | None = None
        if rows:  # left by a process that did not close; its last line may be half written
            parts = _parts(folder)
            sealed = {k for path in parts for k in _column(path, "key")}
            first = {row.key: row for row, again in rows if again is None}
            self._waiting = [row for row in first.values() if row.key not in sealed]
            anew = {row.key: row for row, again in rows if again is not None and _again(folder, again) not in parts}
            self._waiting_again = list(anew.values())
        self._seal()

    @property
    def keys(self) -> set[str]:
        """Every key that has a row and is not asked about again. Read from disk when first asked for."""
        if self._keys is None:
            self._keys = CaptionSet(self.folder).keys() - self._reopened
        return self._keys

    def reopen(self, keys: Collection[str]) -> None:
        """Let each of these keys, which have a row, have one more: it will count in place of the row."""
        self._reopened |= set(keys)
        if self._keys is not None:
            self._keys -= self._reopened

    def add(self, row: CaptionRow) -> bool:
        """Keep a row; False where its key has one already. When this returns, the row survives the process."""
        row = _check(row)
        if row.key in self.keys:
            return False
        again = row.key in self._reopened
        fields = [*row, self._number] if again else row
        line = json.dumps(fields, ensure_ascii=False, separators=(",", ":")) + "\n"
        _write_whole(self._journal, line.encode())
        self.keys.add(row.key)
        self._reopened.discard(row.key)
        (self._waiting_again if again else self._waiting).append(row)
        if len(self._waiting) + len(self._waiting_again) >= SEAL_ROWS:
            self._seal()
        elif time.monotonic() - self._synced > SYNC_SECONDS:
            os.fdatasync(self._journal)
            self._synced = time.monotonic()
        return True

    def add_part(self, name: str, rows: Iterable[CaptionRow]) -> int:
        """Rows as one Parquet file, which replaces an earlier one of this name: for imports, which may come again.

        Their keys must be in no other file; that is not checked, so that an import's memory stays flat. Returns how
        many there are.
        """
        checked = [_check(row) for row in rows]
        _write(_table(checked), self.folder / f"part-{name}.parquet")
        self._keys = None
        return len(checked)

    def close(self) -> None:
        """Seal what waits and let go of the journal. On a full disk it stays in the journal, for the next writer."""
        try:
            self._seal()
        except OSError as error:
            if error.errno not in FULL:
                raise
        finally:
            os.close(self._journal)

    def _seal(self) -> None:
        if self._waiting:
            number = sum(1 for _ in self.folder.glob("rows-*.parquet"))
            _write(_table(self._waiting), self.folder / f"rows-{number:06d}.parquet")
            self._waiting = []
        if self._waiting_again:
            _write(_table(self._waiting_again), _again(self.folder, self._number))
            self._waiting_again, self._number = [], self._number + 1
        os.ftruncate(self._journal, 0)


def _claim(folder: Path, maker: Maker) -> None:
    path = folder / "set.json"
    if not path.exists():
        publish_text(path, json.dumps(maker._asdict(), indent=1))
    theirs = CaptionSet(folder).maker
    for field, had, given in zip(Maker._fields, theirs, maker, strict=True):
        if had != given:
            raise ValueError(
                f"caption set {folder.name!r} was made with {field} {had!r}, not {given!r}: captions of two makers are "
                "two sets; choose another name"
                + ("" if CaptionSet(folder).keys() else f", or remove {folder}, which has no row yet")
            )


def _check(row: CaptionRow) -> CaptionRow:
    assert row.state in STATES, f"state {row.state!r} is none of {STATES}"
    assert row.state != "done" or row.text.strip(), f"{row.key}: done without a text"
    # JSON can carry half of a surrogate pair, which is no character and fits no UTF-8.
    return row._replace(text=row.text.encode(errors="replace").decode())


def _write_whole(file: int, line: bytes) -> None:
    # A line cut short by a full disk is taken back, so that the journal holds whole lines alone.
    end = os.fstat(file).st_size
    try:
        written = os.write(file, line)
        while written < len(line):
            written += os.write(file, line[written:])
    except OSError:
        os.ftruncate(file, end)
        raise


def _journal(folder: Path) -> list[tuple[CaptionRow, int | None]]:
    # Each row, and the number of the again- file that it goes to. A last line without its end was being written when it
    # was read, or when its process died: it does not count.
    try:
        whole, _, _ = (folder / "journal.jsonl").read_bytes().rpartition(b"\n")
    except FileNotFoundError:
        return []
    lines = [json.loads(line) for line in whole.split(b"\n") if line]
    fields = len(CaptionRow._fields)
    return [(CaptionRow(*line[:fields]), line[fields] if len(line) > fields else None) for line in lines]


def _again(folder: Path, number: int) -> Path:
    return folder / f"{AGAIN}{number:06d}.parquet"


def _agains(parts: Iterable[Path]) -> list[Path]:
    # In the order in which they were sealed.
    return [path for path in parts if path.name.startswith(AGAIN)]


def _parts(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.parquet"))


def _column(path: Path, name: str) -> list[str]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return pq.read_table(path, columns=[name]).column(name).to_pylist()
    except pa.ArrowInvalid as error:
        raise ValueError(f"{path} is damaged: {error}") from None


def _table(rows: Iterable[CaptionRow]) -> pa.Table:
    import pyarrow as pa

    columns = list(zip(*rows, strict=True)) or [()] * len(CaptionRow._fields)
    return pa.Table.from_arrays(
        [pa.array(column, field.type) for column, field in zip(columns, _schema(), strict=True)], schema=_schema()
    )


def _write(table: pa.Table, path: Path) -> None:
    import pyarrow.parquet as pq

    partial = path.with_suffix(".partial")
    try:
        pq.write_table(table, partial, compression="zstd")
        publish(partial, path)
    except OSError as error:
        if error.errno in FULL:
            said = "no space left on the disk: free some, and the same command goes on"
            raise OSError(error.errno, said, str(path)) from None
        raise
