"""Parquet files with a column of pictures as a source, row group by row group."""

from __future__ import annotations

import functools
import glob
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from lensbench.data.sources import splits
from lensbench.data.sources.columns import caption_columns, content, image_column, unused_columns
from lensbench.data.sources.notes import Note, Noted, beside, common_notes
from lensbench.data.sources.source import Place, Sample

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

ROWS = 32  # read at a time: pictures are large


def parquet_files(source: str) -> list[Path]:
    """The files that a folder (and below), a file or a pattern stands for, sorted."""
    if Path(source).is_dir():
        return sorted(Path(source).rglob("*.parquet"))
    return [Path(source)] if Path(source).exists() else sorted(Path(name) for name in glob.glob(source))


def holds_images(folder: Path) -> bool:
    """Whether the first Parquet file of a folder has a column of images."""
    first = next(iter(parquet_files(str(folder))), None)
    try:
        if first is not None:
            with _opened(first) as file:
                image_column(file.schema_arrow, None, first.name)
                return True
    except (ValueError, OSError):  # none, or not clear which
        pass
    return False


class ParquetSource:
    """The rows of Parquet files. All of them must have the columns that are read."""

    def __init__(
        self,
        source: str,
        image: str | None = None,
        captions: tuple[str, ...] = (),
        *,
        split: str | None = None,
        lines: bool = False,
    ) -> None:
        self._files, choice = splits.files(parquet_files(source), split, source)
        if not self._files:
            raise ValueError(f"no Parquet files: {source}")
        self._source, self._lines = source, lines
        self._notes = [Note(choice.said, choice.loud)] if choice.said else []
        folder = Path(source) if Path(source).is_dir() else self._files[0].parent
        self._names = [os.path.relpath(path, folder) for path in self._files]
        self.total: int | None = 0
        with _opened(self._files[0]) as file:
            self._image = image_column(file.schema_arrow, image, self._files[0].name)
            self.columns = caption_columns(file.schema_arrow, captions, self._files[0].name)
            self._notes += [] if captions else unused_columns(file.schema_arrow, self.columns)
        for path in self._files:
            with _opened(path) as file:
                self.total += file.metadata.num_rows
                image_column(file.schema_arrow, self._image, path.name)
                caption_columns(file.schema_arrow, tuple(f"{c}={s}" for s, c in self.columns.items()), path.name)

    def fingerprint(self) -> str:
        """Names and sizes of the files."""
        return "\n".join(f"{path.name} {path.stat().st_size}" for path in self._files)

    def notes(self, noted: Noted) -> list[Note]:
        """The split that was chosen, and the columns and files that were not used."""
        return [*self._notes, *common_notes(noted), *beside(self._source, (".parquet",))]

    def samples(self, place: Place) -> Iterator[Sample]:
        """Places are (file, rows of it that are done)."""
        begun, done = place or (0, 0)
        for number in range(begun, len(self._files)):
            path = self._files[number]
            with _opened(path) as file:
                for row, batch in _batches(file, list({self._image, *self.columns.values()}), done):
                    texts = {s: _bytes(batch.column(column)) for s, column in self.columns.items()}
                    pictures = batch.column(self._image)
                    for i in range(len(batch)):
                        said = {s: column[i].as_py() for s, column in texts.items()}
                        load = functools.partial(content, pictures[i].as_py(), said, path.parent, self._lines)
                        yield Sample(f"{self._names[number]} row {row + i}", (number, row + i + 1), load)
            done = 0


@contextmanager
def _opened(path: Path) -> Iterator[pq.ParquetFile]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        # Read as it is asked for: whole row groups of pictures can be larger than the memory.
        with pq.ParquetFile(path, pre_buffer=False, buffer_size=1 << 20) as file:
            yield file
    except pa.ArrowInvalid as error:
        raise ValueError(f"{path} is no Parquet file, or is damaged: {error}") from None


def _batches(file: pq.ParquetFile, columns: list[str], done: int) -> Iterator[tuple[int, pa.RecordBatch]]:
    """The rows after the first `done`, a few at a time, each time with the number of the first."""
    row = 0
    for group in range(file.num_row_groups):
        rows = file.metadata.row_group(group).num_rows
        if row + rows <= done:
            row += rows
            continue
        for batch in file.iter_batches(ROWS, row_groups=[group], columns=columns):
            fresh = batch.slice(max(0, done - row))
            if len(fresh):
                yield row + len(batch) - len(fresh), fresh
            row += len(batch)


def _bytes(texts: pa.Array) -> pa.Array:
    """Texts as bytes, so that one that is not UTF-8 can be told from the others."""
    import pyarrow as pa
    import pyarrow.types as types

    if types.is_dictionary(texts.type):
        texts = texts.cast(texts.type.value_type)
    if types.is_list(texts.type) or types.is_large_list(texts.type):
        return texts.cast(pa.large_list(pa.large_binary()))
    return texts.cast(pa.large_binary())
