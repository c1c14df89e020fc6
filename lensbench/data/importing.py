"""Importing: any source into a corpus on disk, once, whatever interrupts it.

A journal, a small database in the corpus, holds the keys that were seen and the place in the source. It is committed
together with every shard and never between two, so that a process that dies at any moment loses the shard it was
filling and nothing else: the next one fills it again, from the same place, with the same images.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import sqlite3
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple, cast

from lensbench.captions.store import CaptionRow, Maker, writing
from lensbench.data import shards
from lensbench.data.pictures import Facts, examine, quiet, reason
from lensbench.data.shards import JOURNAL, Image, Shard, ShardWriter
from lensbench.data.sources.notes import Note
from lensbench.data.sources.opening import Format, guess, open_source
from lensbench.data.sources.source import Sample, SetAsideError, Source, asked_columns
from lensbench.locks import file_lock
from lensbench.publishing import publish

LISTING, LOCK = "files.sqlite", "lock"
MOST_SAMPLES = 50_000  # between two commits, however small the images
CACHE_KIB = 16_384  # of the journal's pages, in memory

# Troubles of the machine and the network, not of a file.
_PASSING = (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ESTALE, errno.ENOTCONN, errno.EHOSTDOWN)

Report = Callable[[int, int | None], None]  # samples done, of how many


class Asked(NamedTuple):
    """What an import is asked to do: an import of other things does not go on from it."""

    source: str
    format: Format
    image_column: str | None = None
    captions: tuple[str, ...] = ()
    split: str | None = None
    lines: bool = False


class Seen(NamedTuple):
    """A sample after its picture was decoded, or why it was not."""

    key: str | None
    data: bytes
    facts: Facts | None
    captions: dict[str, str]
    faults: dict[str, str]
    reason: str
    noted: tuple[str, ...] = ()


def known_format(source: str, out: Path) -> Format:
    """The format of a source: as it was imported into `out`, or guessed. ValueError when it cannot be guessed."""
    if shards.is_imported(out):
        theirs = shards.read_manifest(out)["asked"]
        if theirs["source"] in (source, os.path.abspath(source)):  # which may be gone by now
            return cast(Format, theirs["format"])
    return guess(source)


def finished(what: Asked, out: Path) -> bool:
    """Whether this import is done. Raises ValueError when `out` holds another, or something else."""
    if shards.is_imported(out):
        _refuse_other(shards.read_manifest(out)["asked"], what, out)
        _tidy(out)
        return True
    if out.exists() and not out.is_dir():
        raise ValueError(f"{out} is a file, not a folder")
    ours = {LOCK, *(name + end for name in (JOURNAL, LISTING) for end in ("", "-journal"))}
    if out.is_dir() and not (out / JOURNAL).exists() and {path.name for path in out.iterdir()} - ours:
        raise ValueError(f"{out} is not empty and holds no import: give a new folder")
    return False


def import_corpus(what: Asked, out: Path, *, workers: int, report: Report) -> dict[str, Any]:
    """Import a source into `out`, or go on with it; what `corpus.json` says when it is done.

    Raises ValueError when it cannot be done, OSError for the disk and the network: the same call goes on.
    """
    out.mkdir(parents=True, exist_ok=True)
    with file_lock(out / LOCK, wait=False) as free, _worded(out):
        if not free:
            raise ValueError(f"another process is importing into {out}")
        if not (out / JOURNAL).exists():  # left by a source that could not be opened, and may be another by now
            _remove(out, LISTING)
        source = open_source(
            what.source,
            what.format,
            out / LISTING,
            image_column=what.image_column,
            captions=what.captions,
            split=what.split,
            lines=what.lines,
        )
        with closing(_open_journal(out)) as database, quiet():
            journal = _Journal(database, what, source, out)
            _fill(journal, source, out, workers, report)
            manifest = _finish(journal, source, out)
        _tidy(out)
    return manifest


def _tidy(out: Path) -> None:
    """Remove what a finished import has no more use for."""
    _remove(out, JOURNAL)
    _remove(out, LISTING)


def _remove(out: Path, database: str) -> None:
    for path in out.glob(f"{database}*"):
        path.unlink(missing_ok=True)


def _fill(journal: _Journal, source: Source, out: Path, workers: int, report: Report) -> None:
    shard: ShardWriter | None = None
    pool = ThreadPoolExecutor(workers, thread_name_prefix="decode")
    try:
        report(journal.done, source.total)
        for sample, seen in _in_order(source.samples(journal.place), pool, ahead=2 * workers + 2):
            if journal.take(sample, seen):
                assert seen.key is not None
                assert seen.facts is not None
                shard = shard or ShardWriter(out, len(journal.shards))
                shard.add(Image(seen.key, seen.data, seen.facts, sample.name))
            if journal.uncommitted >= MOST_SAMPLES or (shard and shard.bytes >= shards.SHARD_BYTES):
                journal.commit(shard.publish() if shard else None)
                shard = None
            report(journal.done, source.total)
        journal.commit(shard.publish() if shard else None)
    finally:
        pool.shutdown(cancel_futures=True)


def _in_order(samples: Iterator[Sample], pool: ThreadPoolExecutor, ahead: int) -> Iterator[tuple[Sample, Seen]]:
    """The samples in their order, decoded by the pool, a few ahead."""
    waiting: deque[tuple[Sample, Future[Seen]]] = deque()
    for sample in samples:
        waiting.append((sample, pool.submit(_see, sample)))
        if len(waiting) > ahead:
            first, future = waiting.popleft()
            yield first, future.result()
    for sample, future in waiting:
        yield sample, future.result()


def _see(sample: Sample) -> Seen:
    try:
        content = sample.load()
    except SetAsideError as error:
        return Seen(_key(error.data), b"", None, {}, {}, str(error), error.noted)
    except OSError as error:
        if isinstance(error, ConnectionError | TimeoutError) or error.errno in _PASSING:
            raise  # the picture may be sound: the same command tries it again
        return Seen(None, b"", None, {}, {}, reason(error))
    key = _key(content.data)
    try:
        facts = examine(content.data or b"")
    except Exception as error:  # a broken file can make a decoder raise anything
        return Seen(key, b"", None, {}, {}, reason(error))
    return Seen(key, content.data or b"", facts, content.captions, content.faults, "", content.noted)


def _key(data: bytes | None) -> str | None:
    return hashlib.sha256(data).hexdigest() if data else None


class _Journal:
    """What was seen, between the commits and after them."""

    def __init__(self, database: sqlite3.Connection, what: Asked, source: Source, out: Path) -> None:
        self._db, self._out, self.columns = database, out, dict(source.columns)
        self._began = datetime.now(UTC).isoformat(timespec="seconds")
        self._rows: dict[str, list[tuple[str, str]]] = {}  # caption set -> key and text, since the last commit
        kept = dict(database.execute("SELECT name, value FROM facts"))
        mine = {"asked": json.dumps(_said(what)), "fingerprint": source.fingerprint()}
        if not kept:
            database.execute("BEGIN IMMEDIATE")
            database.executemany("INSERT INTO facts VALUES (?, ?)", mine.items())
            database.execute("COMMIT")
        else:
            _refuse_other(json.loads(kept["asked"]), what, out)
            if kept["fingerprint"] != mine["fingerprint"]:
                raise ValueError(f"{what.source} changed since its import into {out} began: delete {out}, begin again")
        state = json.loads(kept.get("state", "{}"))
        self.asked = _said(what)
        self.place = state.get("place")
        self.done: int = state.get("done", 0)  # samples
        self.merged: int = state.get("merged", 0)
        self.differing: int = state.get("differing", 0)
        self.commits: int = state.get("commits", 0)
        self.noted: dict[str, tuple[int, str]] = {kind: (n, at) for kind, (n, at) in state.get("noted", {}).items()}
        self.shards = [Shard(*shard) for shard in state.get("shards", [])]
        self.uncommitted = 0  # samples
        database.execute("BEGIN IMMEDIATE")

    def take(self, sample: Sample, seen: Seen) -> bool:
        """Note a sample; whether its image is a new one, to be stored."""
        self.place, self.done, self.uncommitted = sample.after, self.done + 1, self.uncommitted + 1
        for kind in seen.noted:
            count, first = self.noted.get(kind, (0, sample.name))
            self.noted[kind] = (count + 1, first)
        if seen.facts is None or seen.key is None:
            self._set_aside("image", seen.key, "", seen.reason, sample.name)
            return False
        for name, fault in seen.faults.items():
            self._set_aside("caption", seen.key, name, fault, sample.name)
        key = bytes.fromhex(seen.key)
        new = self._db.execute("INSERT OR IGNORE INTO images VALUES (?)", [key]).rowcount == 1
        self.merged += not new
        for name, text in seen.captions.items():
            self._caption(name, key, seen.key, text)
        return new

    def commit(self, shard: Shard | None) -> None:
        """Keep what was noted since the last commit, the images of which lie in `shard`."""
        if shard:
            self.shards.append(shard)
        for name, rows in self._rows.items():
            self._write_captions(name, rows)
        self._rows, self.uncommitted, self.commits = {}, 0, self.commits + 1
        names = ("place", "done", "merged", "differing", "commits", "shards", "noted")
        state = json.dumps({name: getattr(self, name) for name in names})
        self._db.execute("INSERT OR REPLACE INTO facts VALUES ('state', ?)", [state])
        self._db.execute("COMMIT")
        self._db.execute("BEGIN IMMEDIATE")

    def rows(self, query: str) -> Iterator[tuple[Any, ...]]:
        """The rows of a query."""
        return iter(self._db.execute(query))

    def _set_aside(self, what: str, key: str | None, caption_set: str, why: str, source: str) -> None:
        self._db.execute("INSERT INTO set_aside VALUES (?, ?, ?, ?, ?)", [what, key, caption_set, why, source])

    def _caption(self, name: str, key: bytes, key_hex: str, text: str) -> None:
        short = hashlib.sha256(text.encode(errors="replace")).digest()[:8]
        had = self._db.execute("SELECT text FROM captions WHERE name = ? AND key = ?", [name, key]).fetchone()
        if had is None:
            self._db.execute("INSERT INTO captions VALUES (?, ?, ?)", [name, key, short])
            self._rows.setdefault(name, []).append((key_hex, text))
        else:
            self.differing += had[0] != short

    def _write_captions(self, name: str, rows: list[tuple[str, str]]) -> None:
        origin = {"format": self.asked["format"], "source": self.asked["source"], "split": self.asked["split"]}
        parameters = json.dumps({k: v for k, v in origin.items() if v}, sort_keys=True, separators=(",", ":"))
        maker = Maker("import", self.columns.get(name, name), parameters)
        with writing(self._out / "captions" / name, maker) as writer:
            made = (CaptionRow(key, *maker, text, "done", "", None, None, None, self._began) for key, text in rows)
            writer.add_part(f"import-{self.commits:05d}", made)


def _open_journal(out: Path) -> sqlite3.Connection:
    database = sqlite3.connect(out / JOURNAL, isolation_level=None)
    for statement in (
        f"PRAGMA cache_size = -{CACHE_KIB}",
        "PRAGMA journal_mode = TRUNCATE",
        "BEGIN IMMEDIATE",
        "CREATE TABLE IF NOT EXISTS facts (name TEXT PRIMARY KEY, value TEXT)",
        "CREATE TABLE IF NOT EXISTS images (key BLOB PRIMARY KEY) WITHOUT ROWID",
        # of a caption, enough of its sha256 to tell it from another
        "CREATE TABLE IF NOT EXISTS captions (name TEXT, key BLOB, text BLOB, PRIMARY KEY (name, key)) WITHOUT ROWID",
        'CREATE TABLE IF NOT EXISTS set_aside (what TEXT, key TEXT, "set" TEXT, reason TEXT, source TEXT)',
        "COMMIT",
    ):
        database.execute(statement)
    return database


def _finish(journal: _Journal, source: Source, out: Path) -> dict[str, Any]:
    images = sum(shard.images for shard in journal.shards)
    aside = _write_set_aside(journal, out)
    if not images:
        first = journal.rows("SELECT source, reason FROM set_aside ORDER BY rowid LIMIT 3")
        what = "; ".join(f"{name}: {why}" for name, why in first)
        raise ValueError(f"no picture in {journal.asked['source']} can be used" + (f": {what}" if what else ""))
    digest = hashlib.sha256()
    for i, (key,) in enumerate(journal.rows("SELECT lower(hex(key)) FROM images ORDER BY key")):
        digest.update(f"\n{key}".encode() if i else key.encode())
    manifest = {
        "images": images,
        "bytes": sum(shard.bytes for shard in journal.shards),
        "digest": digest.hexdigest(),
        "samples": journal.done,
        "merged": journal.merged,
        "differing_captions": journal.differing,
        "set_aside": aside,
        "asked": journal.asked,
        "columns": journal.columns,
        "notes": _notes(journal, source),
        "shards": [shard._asdict() for shard in journal.shards],
    }
    shards.write_manifest(out, manifest)
    return manifest


def _notes(journal: _Journal, source: Source) -> list[Note]:
    """What the source says of the import, and what captions lack."""
    found = source.notes(journal.noted)
    captioned = {name for (name,) in journal.rows("SELECT DISTINCT name FROM captions")}
    if not captioned:
        found.append(Note("no captions were imported: lensbench captions write has a model write them"))
    empty = [name for name in journal.asked["captions"] if asked_columns((name,)).keys().isdisjoint(captioned)]
    return found + [Note(f"--caption {name}: no image has a caption there") for name in empty if captioned]


def _write_set_aside(journal: _Journal, out: Path) -> int:
    """Write the table of what was set aside; how many images it has."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = pa.schema([(name, pa.string()) for name in ("what", "key", "set", "reason", "source")])
    partial = out / f"{shards.SET_ASIDE}.partial"
    rows = journal.rows("SELECT * FROM set_aside ORDER BY rowid")
    images = 0
    with pq.ParquetWriter(partial, schema, compression="zstd") as writer:
        while chunk := [row for _, row in zip(range(10_000), rows, strict=False)]:
            images += sum(row[0] == "image" for row in chunk)
            columns = [pa.array(column, pa.string()) for column in zip(*chunk, strict=True)]
            writer.write_table(pa.Table.from_arrays(columns, schema=schema))
    publish(partial, out / shards.SET_ASIDE)
    return images


def _said(what: Asked) -> dict[str, Any]:
    """As it is kept: a source that lies here by its whole path, so that it is the same one from any folder."""
    source = os.path.abspath(what.source) if Path(what.source).exists() else what.source
    return {**what._asdict(), "source": source, "captions": list(what.captions)}


def _refuse_other(theirs: dict[str, Any], what: Asked, out: Path) -> None:
    for name, value in _said(what).items():
        had = theirs.get(name, False)  # an option that came later was not given
        if had != value:
            shown = f"{name.replace('_', ' ')} {had or 'left out'}, not {value or 'left out'}"
            raise ValueError(f"{out} holds the import of another source or other options ({shown}): give a new folder")


@contextmanager
def _worded(out: Path) -> Iterator[None]:
    """A full disk as one error, whoever met it."""
    try:
        yield
    except sqlite3.OperationalError as error:
        if "is full" not in str(error):
            raise OSError(errno.EIO, f"the import's journal: {error}", str(out / JOURNAL)) from None
        raise _full(out) from None
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise _full(out) from None


def _full(out: Path) -> OSError:
    free = shutil.disk_usage(out).free / 1e6
    said = f"no space left on the disk ({free:,.0f} MB free): free some, and the same command goes on"
    return OSError(errno.ENOSPC, said, str(out))
