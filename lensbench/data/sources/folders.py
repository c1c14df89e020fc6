"""A folder with sidecars as a source.

Its files are listed once, into a small database, so that neither a listing of millions nor its sorting is held in
memory, and an import that goes on sees the files in the order in which it began.
"""

from __future__ import annotations

import functools
import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from lensbench.data.pictures import not_read
from lensbench.data.sources.sidecars import caption_path, name_in, order, walk
from lensbench.data.sources.source import Content, Place, Sample, SetAsideError, asked_columns, captions_from

MOST_SETS = 50
PLAIN = "txt"  # the column of plain cat.txt, which is in the set `alt` where there is no cat.alt.txt


class FolderSource:
    """The pictures of a folder and below it, sorted by path. `listing` is where their list is, or will be, kept."""

    def __init__(self, folder: Path, listing: Path, captions: tuple[str, ...] = ()) -> None:
        self.folder, self._listing = folder, listing
        with closing(sqlite3.connect(listing, isolation_level=None)) as files:
            if not files.execute("SELECT 1 FROM sqlite_master WHERE name = 'files'").fetchone():
                _list(folder, files)
            (self.total,) = files.execute("SELECT count(*) FROM files").fetchone()
            there = [name for (name,) in files.execute("SELECT name FROM sets ORDER BY name")]
        if captions:
            self.columns = {name: column.removesuffix(".txt") for name, column in asked_columns(captions).items()}
        else:
            self.columns = {"alt": "alt"} | {name: name for name in there}

    def fingerprint(self) -> str:
        """Nothing: the listing is what holds an import to its files."""
        return ""

    def samples(self, place: Place) -> Iterator[Sample]:
        """Places are paths, in hexadecimal."""
        after = bytes.fromhex(place) if isinstance(place, str) else b""
        with closing(sqlite3.connect(self._listing)) as files:
            for key, reason in files.execute("SELECT place, reason FROM files WHERE place > ? ORDER BY place", [after]):
                path = self.folder / os.fsdecode(key.replace(b"\0", b"/"))
                name = name_in(path, self.folder) + ("/" if reason and path.is_dir() else "")
                yield Sample(name, key.hex(), functools.partial(self._load, path, reason))

    def _load(self, path: Path, reason: str) -> Content:
        if reason:
            # a picture in another format has bytes, and so a key
            has_bytes = reason == not_read(path.suffix.lower()) and path.is_file()
            raise SetAsideError(reason, path.read_bytes() if has_bytes else None)
        data = path.read_bytes()
        texts, unreadable = {}, {}
        for name, column in self.columns.items():
            try:
                texts[name] = self._text(path, column)
            except OSError as error:
                unreadable[name] = f"cannot be read: {error.strerror}"
        captions, faults = captions_from(texts)
        return Content(data, captions, faults | unreadable)

    def _text(self, picture: Path, column: str) -> bytes | None:
        for suffix in {"alt": ("alt", ""), PLAIN: ("",)}.get(column, (column,)):
            try:
                return caption_path(picture, suffix).read_bytes()
            except FileNotFoundError:
                continue
        return None


def _list(folder: Path, files: sqlite3.Connection) -> None:
    """List a folder in one transaction: the pictures, and the names of their caption sets."""
    for statement in (
        "PRAGMA cache_size = -8192",
        "BEGIN IMMEDIATE",
        "CREATE TABLE files (place BLOB PRIMARY KEY, reason TEXT NOT NULL) WITHOUT ROWID",
        "CREATE TABLE sets (name TEXT PRIMARY KEY)",
        "CREATE TEMP TABLE stems (stem BLOB PRIMARY KEY) WITHOUT ROWID",
        "CREATE TEMP TABLE texts (stem BLOB, name TEXT, PRIMARY KEY (stem, name)) WITHOUT ROWID",
    ):
        files.execute(statement)
    for found in walk(folder):
        if found.caption_set:
            if not found.caption_set.isprintable():
                continue  # no name that a set could have
            stem = order(found.path.with_name(found.stem), folder)
            files.execute("INSERT OR IGNORE INTO texts VALUES (?, ?)", [stem, found.caption_set])
            continue
        files.execute("INSERT INTO files VALUES (?, ?)", [order(found.path, folder), found.reason])
        if not found.reason:
            stem = order(found.path.with_name(found.path.stem), folder)
            files.execute("INSERT OR IGNORE INTO stems VALUES (?)", [stem])
    files.execute("INSERT INTO sets SELECT DISTINCT name FROM texts JOIN stems USING (stem)")
    (sets,) = files.execute("SELECT count(*) FROM sets").fetchone()
    if sets > MOST_SETS:
        files.execute("ROLLBACK")
        raise ValueError(
            f"{folder}: the sidecars are of {sets:,} caption sets; say which to import with --caption NAME, "
            "which is cat.NAME.txt"
        )
    files.execute("COMMIT")
