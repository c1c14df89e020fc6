"""A folder with captions beside its pictures as a source: see `listing` for what belongs to what."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import cast

from lensbench.data.pictures import OTHER_PICTURES, not_read
from lensbench.data.sources import metadata
from lensbench.data.sources.listing import TABLE, Listed, Listing
from lensbench.data.sources.notes import Note, Noted, common_notes, field_there, unused
from lensbench.data.sources.sidecars import FIELDS_ENDING, TEXT_ENDINGS, name_in
from lensbench.data.sources.source import (
    Content,
    Place,
    Sample,
    SetAsideError,
    asked_columns,
    captions_from,
    named_columns,
    refuse_many,
)

ALT = "alt"
FIELDS = FIELDS_ENDING  # the column of cat.json, each field of which is a column if it is asked for


class FolderSource:
    """The pictures of a folder and below it, sorted by path. `listing` is where their list is, or will be, kept."""

    def __init__(
        self,
        folder: Path,
        listing: Path,
        captions: tuple[str, ...] = (),
        *,
        split: str | None = None,
        lines: bool = False,
    ) -> None:
        self.folder, self._lines, self._asked = folder, lines, bool(captions)
        self._listing = Listing(folder, listing, split)
        self.total = self._listing.total
        there = self._listing.columns
        self.columns = asked_columns(captions) if captions else default_columns(there)
        refuse_many(len(self.columns), folder, "sidecars", "which is cat.NAME.txt")
        if captions:
            for column in self.columns.values():
                if FIELDS not in there and not any(name in there for name in choices(column, there)):
                    shown = ", ".join(name.removeprefix(TABLE) for name in there) or "none"
                    raise ValueError(f"{folder}: no captions {column!r}; there are {shown}")

    def fingerprint(self) -> str:
        """Nothing: the listing is what holds an import to its files."""
        return ""

    def samples(self, place: Place) -> Iterator[Sample]:
        """Places are paths, in hexadecimal."""
        for file, said in self._listing.files(bytes.fromhex(place) if isinstance(place, str) else b""):
            name = name_in(file.path, self.folder) + ("/" if file.reason and file.path.is_dir() else "")
            yield Sample(name, file.place.hex(), functools.partial(self._load, file, said))

    def notes(self, noted: Noted) -> list[Note]:
        """What the listing found, and what its captions are like."""
        return [*common_notes(noted), *self._listing.notes]

    def _load(self, file: Listed, said: Mapping[str, Path | bytes]) -> Content:
        path = file.path
        if file.reason:
            # a picture in another format has bytes, and so a key
            ending = path.suffix.lower()
            has_bytes = ending in OTHER_PICTURES and file.reason == not_read(ending) and path.is_file()
            raise SetAsideError(file.reason, path.read_bytes() if has_bytes else None)
        data = path.read_bytes()
        texts: dict[str, bytes | str | list[str] | None] = {}
        unreadable, used = {}, set()
        for name, column in self.columns.items():
            found = next((choice for choice in choices(column, self._listing.columns) if choice in said), None)
            try:
                if found is not None:
                    used.add(found)
                    texts[name] = text_of(said[found])
                elif self._asked and FIELDS in said:
                    texts[name] = metadata.fields(cast("bytes", text_of(said[FIELDS]))).get(column)
            except OSError as error:
                unreadable[name] = f"cannot be read: {error.strerror}"
        captions, faults, noted = captions_from(texts, self._lines)
        if not self._asked:
            noted += tuple(unused(column.removeprefix(TABLE)) for column in said.keys() - used - {FIELDS})
            if not captions and FIELDS in said:
                noted += tuple(field_there(field) for field in _fields(said[FIELDS]))
        return Content(data, captions, faults | unreadable, noted)


def _fields(said: Path | bytes) -> dict[str, str | list[str]]:
    try:
        return metadata.fields(cast("bytes", text_of(said)))
    except OSError:  # its captions are not asked for
        return {}


def text_of(said: Path | bytes) -> bytes | list[str]:
    """What a sidecar, or the cells of a table, say; OSError for a file that cannot be read."""
    if isinstance(said, Path):
        return said.read_bytes()
    return metadata.texts(said)


def default_columns(there: Mapping[str, object]) -> dict[str, str]:
    """Caption set -> column, of every set that the names of files tell, and of a table's columns by their names."""
    endings = [name for name in there if name.endswith(TEXT_ENDINGS) and not name.startswith(TABLE)]
    sets = {name.removesuffix(ending) for name in endings for ending in TEXT_ENDINGS if name.endswith(ending)}
    return {ALT: ALT} | {name: name for name in sorted(sets - {"", ALT})} | {n: n for n in _table_sets(there)}


def choices(column: str, there: Mapping[str, object]) -> list[str]:
    """The columns that a caption of a picture is looked for in, the first that it has being the one."""
    if column == "txt":
        return [".txt", f"{TABLE}txt"]  # as ever: cat.txt alone, whatever else is in the set alt
    beside = [column, f"{column}.txt", f"{column}.caption", f".{column}"]
    if column == ALT:
        beside = [f"{ALT}.txt", ".txt", f"{ALT}.caption", ".caption"]
    return [*beside, f"{TABLE}{_table_sets(there).get(column, column)}"]


def _table_sets(there: Mapping[str, object]) -> dict[str, str]:
    return named_columns([name.removeprefix(TABLE) for name in there if name.startswith(TABLE)])
