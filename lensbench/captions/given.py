"""Captions in a file of the user's own, for the images of any corpus: the set "given".

    {"key": "train-00000012", "text": "a red circle"}     a line of a .jsonl, or a row of a .parquet or .csv

A folder that `lensbench captions write` made will do too. An image may have several rows: its further texts are the
sets "given2", "given3", ...; where it has fewer than others its own come again. A structured caption is any row without
"text" whose fields a template names: "a {size} {color} {shape}".
"""

from __future__ import annotations

import csv
import functools
import hashlib
import json
import re
import string
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lensbench.json_lines import json_lines

NAME = "given"
NAMED = re.compile(rf"{NAME}(\d*)")
STATE_DONE = "done"
KINDS = (".jsonl", ".parquet", ".csv")
OTHER_MARKS = (";", "\t", "|")  # that spreadsheets put between columns in place of commas


@dataclass(frozen=True)
class Given:
    """The texts of each key in the order of the file, and how many rows there are in each state."""

    texts: Mapping[str, tuple[str, ...]]
    states: Mapping[str, int]

    @property
    def most(self) -> int:
        """The most texts that an image has."""
        return max(map(len, self.texts.values()))

    @property
    def digest(self) -> str:
        """sha256 over every key with its texts in order, whatever the order of the keys."""
        rows = sorted(json.dumps([key, *texts]) for key, texts in self.texts.items())
        return hashlib.sha256("\n".join(rows).encode()).hexdigest()

    def nth(self, key: str, place: int) -> str:
        """The text at a place of an image, from 0; its own come again. Raises KeyError for an image without one."""
        own = self.texts[key]
        return own[place % len(own)]

    def policy_set(self) -> str:
        """All texts of an image drawn alike: the set's name, or a mixture of as many sets as there are texts."""
        names = [NAME if place == 0 else f"{NAME}{place + 1}" for place in range(self.most)]
        if len(names) == 1:
            return NAME
        share = round(1 / len(names), 6)
        shares = [share] * (len(names) - 1)
        return "+".join(f"{s:.6f}*{n}" for s, n in zip([*shares, 1 - sum(shares)], names, strict=True))


def place_of(name: str) -> int | None:
    """Which of an image's texts the set of this name reads, from 0; None for a set that is not given in a file."""
    found = NAMED.fullmatch(name)
    return None if found is None else int(found[1] or 1) - 1


def read_given(path: Path, template: str | None = None, limit: int | None = None) -> Given:
    """The captions of a file or folder; `limit` is of texts an image, the first ones.

    Raises ValueError, one line naming the row, for what is no caption: no key, no text, an empty one, a state that is
    not done without `done` rows beside it.
    """
    texts: dict[str, list[str]] = {}
    states: dict[str, int] = {}
    for where, row in _rows(path):
        state = str(row.get("state") or STATE_DONE)
        states[state] = states.get(state, 0) + 1
        if state != STATE_DONE:
            continue
        key, text = row.get("key"), _text(row, template, where)
        if not isinstance(key, str) or not key:
            raise ValueError(f'{where}: no "key", which names the image')
        own = texts.setdefault(key, [])
        if limit is None or len(own) < limit:
            own.append(text)
    if not texts:
        raise ValueError(f"{path}: holds no caption")
    return Given({key: tuple(own) for key, own in texts.items()}, states)


@functools.lru_cache(maxsize=4)
def checked(path: Path, digest: str, template: str | None, limit: int | None) -> Given:
    """`read_given`, once a process; ValueError when the file is not the one of this digest."""
    found = read_given(path, template, limit)
    if found.digest != digest:
        raise ValueError(
            f"captions.given={path}: its digest is {found.digest!r}, the experiment's {digest!r}: these are others"
        )
    return found


def _text(row: Mapping[str, Any], template: str | None, where: str) -> str:
    if template is None:
        text = row.get("text")
        if not isinstance(text, str):
            hint = "; a structured caption needs --template" if text is None else ""
            raise ValueError(f'{where}: "text" is {"not there" if text is None else repr(text)[:40]}{hint}')
    else:
        wanted = [name for _, name, _, _ in string.Formatter().parse(template) if name is not None]
        if absent := [name for name in wanted if row.get(name) is None]:
            raise ValueError(f"{where}: has no {absent[0]!r}, which the template names")
        text = template.format_map({name: row[name] for name in wanted})
    if not text.strip():
        raise ValueError(f"{where}: an empty caption; leave the row out, or give it a state that is not done")
    return text


def _rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    if (path / "set.json").is_file():
        from lensbench.captions.store import CaptionSet

        for batch in CaptionSet(path).batches(["key", "text", "state"]):
            yield from ((f"{path}: {row['key']}", row) for row in batch.to_pylist())
        return
    if not path.is_file():
        raise ValueError(f"{path}: no such file of captions")
    if path.suffix not in KINDS:
        raise ValueError(f"{path}: captions are a {', '.join(KINDS)} file, or a folder of lensbench captions")
    if path.suffix == ".parquet":
        yield from _parquet(path)
        return
    yield from _csv(path) if path.suffix == ".csv" else json_lines(path, '"key" and "text"')


def _csv(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file)
        try:
            names = reader.fieldnames or []
            if len(names) == 1 and (other := next((mark for mark in OTHER_MARKS if mark in names[0]), "")):
                raise ValueError(f"{path}:1: its columns are separated by {other!r}; save it with commas")
            for row in reader:
                yield f"{path}:{reader.line_num}", row
        except csv.Error as error:
            raise ValueError(f"{path}:{reader.line_num + 1}: no CSV that can be read ({error})") from None
        except UnicodeDecodeError as error:
            raise ValueError(f"{path}: not UTF-8 text ({error.reason} at byte {error.start})") from None


def _parquet(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    number = 0
    try:
        for batch in pq.ParquetFile(path).iter_batches():
            for row in batch.to_pylist():
                number += 1
                yield f"{path}: row {number}", row
    except (pa.ArrowInvalid, OSError) as error:
        raise ValueError(f"{path}: no Parquet file that can be read ({error})") from None
