"""The list of a folder's pictures and of the captions that belong to each, in a small database.

A folder is listed once, so that neither a listing of millions nor its sorting is held in memory, and an import that
goes on sees the files in the order in which it began. A text belongs to the picture with the longest stem that its name
begins with: img.v1.0.txt to img.v1.0.jpg, and cat.alt.txt to cat.jpg. Names are compared in Unicode's form NFC.
"""

from __future__ import annotations

import os
import sqlite3
import unicodedata
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

from lensbench.data.pictures import EXTENSIONS, quiet
from lensbench.data.sources import metadata, splits
from lensbench.data.sources.notes import Note, counted
from lensbench.data.sources.sidecars import Found, name_in, order, walk
from lensbench.data.sources.source import is_set_name

TABLE = "metadata/"  # a column of a table of captions, as it is named among the columns of sidecars
# Why a text file is not used.
_ALONE = "no image has their name, as cat.txt and cat.alt.txt have that of cat.jpg"
_TWICE = "another file is the same caption of the same image"
_NAMELESS = "what follows the image's name is no name of a caption set: letters, digits, '-', '_' and '.'"
_STATEMENTS = (
    "PRAGMA cache_size = -8192",
    "BEGIN IMMEDIATE",
    "CREATE TABLE files (place BLOB PRIMARY KEY, reason TEXT NOT NULL) WITHOUT ROWID",
    # A caption belongs to a stem, or to one file by its whole name; it lies in a file, or is a row of a table.
    "CREATE TABLE captions (owner BLOB, name TEXT, file BLOB, text BLOB, PRIMARY KEY (owner, name)) WITHOUT ROWID",
    "CREATE TABLE columns (name TEXT PRIMARY KEY, count INTEGER, first TEXT)",
    "CREATE TABLE notes (said TEXT, loud INTEGER)",
    "CREATE TEMP TABLE owners (owner BLOB PRIMARY KEY) WITHOUT ROWID",
    "CREATE TEMP TABLE texts (place BLOB PRIMARY KEY) WITHOUT ROWID",
)


class Listed(NamedTuple):
    """A picture's place in the order, its path, and why it is not read, "" where it is."""

    place: bytes
    path: Path
    reason: str


class Listing:
    """The list of `folder` in the database `kept`, which is made where it is not there.

    `columns` maps what captions are read from to how many there are and where the first lies: `alt.txt` stands for
    cat.alt.txt, `.txt` for cat.txt, `metadata/text` for a column of metadata.jsonl. Raises ValueError when there is no
    such folder, a table of captions cannot be read, or `split` is none of the folder's.
    """

    def __init__(self, folder: Path, kept: Path, split: str | None = None) -> None:
        self.folder, self._kept = folder, kept
        with closing(sqlite3.connect(kept, isolation_level=None)) as database:
            if not database.execute("SELECT 1 FROM sqlite_master WHERE name = 'files'").fetchone():
                with quiet():
                    _Lister(folder, database).fill(split)
            (self.total,) = database.execute("SELECT count(*) FROM files").fetchone()
            found = database.execute("SELECT name, count, first FROM columns ORDER BY name").fetchall()
            self.columns: Mapping[str, tuple[int, str]] = {name: (count, first) for name, count, first in found}
            self.notes = [Note(said, bool(loud)) for said, loud in database.execute("SELECT said, loud FROM notes")]

    def files(self, after: bytes = b"") -> Iterator[tuple[Listed, dict[str, Path | bytes]]]:
        """The pictures behind a place, sorted by path, each with its captions by column: a file, or JSON of a row."""
        with closing(sqlite3.connect(self._kept)) as database:
            query = "SELECT place, reason FROM files WHERE place > ? ORDER BY place"
            for place, reason in database.execute(query, [after]):
                file = Listed(place, self._path(place), reason)
                owners = () if reason else (_stem(place), _normal(place))
                said: dict[str, Path | bytes] = {}
                for owner in owners:
                    rows = database.execute("SELECT name, file, text FROM captions WHERE owner = ?", [owner])
                    said |= {name: text if path is None else self._path(path) for name, path, text in rows}
                yield file, said

    def _path(self, place: bytes) -> Path:
        return self.folder / os.fsdecode(place.replace(b"\0", b"/"))


class _Lister:
    def __init__(self, folder: Path, database: sqlite3.Connection) -> None:
        self._folder, self._db = folder, database
        self._notes: list[Note] = []
        self._other: Counter[str] = Counter()
        self._odd: Counter[str] = Counter()
        self._first: dict[str, str] = {}

    def fill(self, split: str | None) -> None:
        """List the folder in one transaction."""
        for statement in _STATEMENTS:
            self._db.execute(statement)
        try:
            tables = [found.path for found in walk(self._folder) if self._take(found)]
            self._choose(split)
            self._own()
            for path in sorted(tables):
                self._read_table(path)
        except BaseException:
            self._db.execute("ROLLBACK")
            raise
        self._say()
        self._db.execute("COMMIT")

    def _take(self, found: Found) -> bool:
        """Note what was found; whether it is a table of captions."""
        place, ending = order(found.path, self._folder), found.path.suffix.lower()
        if found.kind == "picture":
            self._db.execute("INSERT INTO files VALUES (?, ?)", [place, found.reason])
            if not found.reason and ending not in EXTENSIONS:
                self._odd[ending or "no ending"] += 1
        elif found.kind == "text":
            self._db.execute("INSERT INTO texts VALUES (?)", [place])
        elif found.kind != "metadata":
            kind = "links to a folder that is read already, or that holds the link" if found.kind == "link" else ending
            self._count_other(place, kind or "no ending")
        return found.kind == "metadata"

    def _count_other(self, place: bytes, kind: str) -> None:
        self._other[kind] += 1
        self._first.setdefault(kind, _shown(place))

    def _choose(self, asked: str | None) -> None:
        """Set aside the pictures of other splits, by the folders that they lie in."""
        folders: dict[bytes, str | None] = {}  # folder -> split
        for (place,) in self._db.execute("SELECT place FROM files WHERE reason = ''"):
            within = place.rpartition(b"\0")[0]
            if within not in folders:
                folders[within] = splits.split_of(os.fsdecode(within.replace(b"\0", b"/")))
        choice = splits.choose(folders.values(), asked, str(self._folder), "folders")
        if choice.said:
            self._notes.append(Note(choice.said, choice.loud))
        if choice.split is None:
            return

        def reason(place: bytes) -> str:
            split = folders[place.rpartition(b"\0")[0]]
            return "" if split == choice.split else f"of {f'the split {split}' if split else 'no split'}"

        self._db.create_function("reason_of", 1, reason)
        self._db.execute("UPDATE files SET reason = reason_of(place) WHERE reason = ''")

    def _own(self) -> None:
        """Give every text to its picture."""
        for (place,) in self._db.execute("SELECT place FROM files"):
            self._db.executemany("INSERT OR IGNORE INTO owners VALUES (?)", [[_stem(place)], [_normal(place)]])
        counts: dict[str, tuple[int, str]] = {}
        for (place,) in self._db.execute("SELECT place FROM texts ORDER BY place"):
            owner, name = self._owner(place)
            if owner is not None and name and self._add(owner, name, place, None):
                continue
            if place.lower().endswith(b".json"):
                self._count_other(place, ".json")
                continue
            why = _ALONE if owner is None else _TWICE if name else _NAMELESS
            count, first = counts.get(why, (0, _shown(place)))
            counts[why] = (count + 1, first)
        for why, (count, first) in counts.items():
            self._notes.append(Note(f"text files not used: {count:,}, as {first}: {why}"))

    def _owner(self, place: bytes) -> tuple[bytes | None, str]:
        """The picture that a text belongs to, if any, and the column that it is of, "" where that cannot be named."""
        within, _, name = _normal(place).rpartition(b"\0")
        stem, ending = os.path.splitext(os.fsdecode(name))
        parts: list[str] = []
        while stem:
            owner = within + b"\0" + os.fsencode(stem) if within else os.fsencode(stem)
            if self._db.execute("SELECT 1 FROM owners WHERE owner = ?", [owner]).fetchone():
                caption_set = ".".join(parts)
                return owner, caption_set + ending.lower() if not parts or is_set_name(caption_set) else ""
            stem, _, part = stem.rpartition(".")
            parts.insert(0, part)
        return None, ""

    def _add(self, owner: bytes, name: str, file: bytes | None, text: bytes | None) -> bool:
        new = self._db.execute("INSERT OR IGNORE INTO captions VALUES (?, ?, ?, ?)", [owner, name, file, text]).rowcount
        if new == 1:
            first = _shown(file or owner)
            added = "INSERT INTO columns VALUES (?, 1, ?) ON CONFLICT (name) DO UPDATE SET count = count + 1"
            self._db.execute(added, [name, first])
        return new == 1

    def _add_cell(self, owner: bytes, name: str, text: str | list[str]) -> None:
        """Keep a cell; those of further rows of the same image are its further captions."""
        if not self._add(owner, name, None, metadata.as_bytes(text)):
            of_image = (owner, name)
            (had,) = self._db.execute("SELECT text FROM captions WHERE owner = ? AND name = ?", of_image).fetchone()
            both = metadata.as_bytes(metadata.texts(had) + metadata.texts(metadata.as_bytes(text)))
            self._db.execute("UPDATE captions SET text = ? WHERE owner = ? AND name = ?", [both, *of_image])

    def _read_table(self, path: Path) -> None:
        rows, absent, first = 0, 0, ""
        for name, texts in metadata.rows(path):
            rows += 1
            within = Path(os.path.normpath(path.parent / name))
            place = order(within, self._folder) if within.is_relative_to(self._folder) else b""
            if not self._db.execute("SELECT 1 FROM owners WHERE owner = ?", [_normal(place)]).fetchone():
                absent, first = absent + 1, first or name
                continue
            for column, text in texts.items():
                self._add_cell(_normal(place), f"{TABLE}{column}", text)
        if not rows and path.suffix == ".jsonl":  # as that of a prompt in GenEval's layout
            self._count_other(order(path, self._folder), path.name)
        elif not rows:
            where = name_in(path, self._folder)
            self._notes.append(Note(f"{where} is not used: it has no rows with a {metadata.FILE_NAME}"))
        if absent:
            where = name_in(path, self._folder)
            self._notes.append(
                Note(f"rows of {where} not used: {absent:,}, as that of {first}: there is no such image")
            )

    def _say(self) -> None:
        if self._odd:
            self._notes.append(Note(f"images by their content, not their name: {counted(self._odd)}", False))
        if self._other:
            first = ", ".join(self._first[kind] for kind, _ in self._other.most_common(3))
            self._notes.append(Note(f"other files, not used: {counted(self._other)}, as {first}", False))
        self._db.executemany("INSERT INTO notes VALUES (?, ?)", [(note.said, note.loud) for note in self._notes])


def _shown(place: bytes) -> str:
    return place.replace(b"\0", b"/").decode("utf-8", "replace")


def _normal(place: bytes) -> bytes:
    return os.fsencode(unicodedata.normalize("NFC", os.fsdecode(place)))


def _stem(place: bytes) -> bytes:
    within, _, name = _normal(place).rpartition(b"\0")
    stem = os.path.splitext(name)[0]
    return within + b"\0" + stem if within else stem
