"""Captions in tables, as Hugging Face's imagefolder has them (metadata.jsonl, .csv or .parquet), and in .json files."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

FILE_NAME = "file_name"
LARGEST_CELL = 1 << 27  # characters of a CSV cell


def rows(path: Path) -> Iterator[tuple[str, dict[str, str | list[str]]]]:
    """The file that each row names, relative to the table's folder, and the row's texts by column.

    Nothing where the table has no column `file_name`: GenEval has files of this name too. Raises ValueError, one line,
    for a table that cannot be read.
    """
    try:
        for row in _READERS[path.suffix](path):
            if isinstance(row, Mapping) and isinstance(name := row.get(FILE_NAME), str):
                yield name, {column: text for column, text in row.items() if column != FILE_NAME and is_text(text)}
    except (ValueError, csv.Error) as error:  # not UTF-8, not JSON, no Parquet
        raise ValueError(f"{path} cannot be read: {' '.join(str(error).split())}") from None


def fields(data: bytes) -> dict[str, str | list[str]]:
    """The texts of the .json of one image, by field; none where it is no such JSON."""
    try:
        found = json.loads(data)
    except ValueError:
        return {}
    return {name: value for name, value in found.items() if is_text(value)} if isinstance(found, dict) else {}


def as_bytes(text: str | list[str]) -> bytes:
    """A cell as it is kept: JSON, of a text or of several."""
    return json.dumps(text).encode()


def texts(cell: bytes) -> list[str]:
    """The texts of a cell that was kept."""
    found = json.loads(cell)
    return found if isinstance(found, list) else [found]


def is_text(value: object) -> bool:
    """Whether a value of a table or of JSON is a text, or several."""
    return isinstance(value, str) or (
        isinstance(value, list) and bool(value) and all(isinstance(v, str) for v in value)
    )


def _lines(path: Path) -> Iterator[Any]:
    with path.open("rb") as file:  # lines end at "\n" alone
        for number, line in enumerate(file, 1):
            if line.strip():
                try:
                    yield json.loads(line)
                except ValueError as error:
                    raise ValueError(f"line {number}: {error}") from None


def _cells(path: Path) -> Iterator[Any]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file)
        while True:
            before = csv.field_size_limit(LARGEST_CELL)  # of the whole process: nobody else is to read by it
            try:
                row = next(reader, None)
            finally:
                csv.field_size_limit(before)
            if row is None:
                return
            yield row


def _parquet(path: Path) -> Iterator[Any]:
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as file:
        if FILE_NAME in file.schema_arrow.names:
            for batch in file.iter_batches(1000):
                yield from batch.to_pylist()


_READERS = {".jsonl": _lines, ".csv": _cells, ".parquet": _parquet}
