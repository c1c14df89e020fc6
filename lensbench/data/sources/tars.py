"""WebDataset shards as a source: tar files in which 000000123.jpg, 000000123.txt and 000000123.json are one sample.

That is img2dataset's layout. The text is the sample's alt-text; cat.detailed.txt is its caption in the set `detailed`.
`members` says which files are one sample.
"""

from __future__ import annotations

import bz2
import functools
import glob
import gzip
import lzma
import shutil
import tempfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, cast

from lensbench.data.pictures import EXTENSIONS, OTHER_PICTURES, holds_picture, not_read
from lensbench.data.sources import metadata, splits
from lensbench.data.sources.folders import choices, default_columns
from lensbench.data.sources.listing import TABLE
from lensbench.data.sources.members import Grouped, Member, Rule, group, members_of, rule_of
from lensbench.data.sources.notes import Note, Noted, beside, common_notes, field_there, unused
from lensbench.data.sources.sidecars import OTHER_ENDINGS, TEXT_ENDINGS
from lensbench.data.sources.source import (
    Content,
    Place,
    Sample,
    SetAsideError,
    asked_columns,
    captions_from,
    is_set_name,
    refuse_many,
)

SUFFIXES = (".tar", ".tar.gz", ".tgz")
_OPENERS: dict[bytes, Callable[[Path], Any]] = {
    b"\x1f\x8b": gzip.GzipFile,
    b"BZh": bz2.BZ2File,
    b"\xfd7zXZ": lzma.LZMAFile,
}
_LOOKED = 3  # shards that are searched for a column that was asked for
_NAMELESS, _OTHER, _ALONE = "nameless/", "member/", "alone"  # kinds of what is noted


def tar_files(source: str) -> list[Path]:
    """The shards that a folder (and below), a file, or a pattern with braces or wildcards stands for, sorted."""
    import braceexpand

    if Path(source).is_dir():
        return sorted(path for path in Path(source).rglob("*") if path.name.endswith(SUFFIXES) and path.is_file())
    names = [source] if Path(source).exists() else list(braceexpand.braceexpand(source))
    expanded = [sorted(glob.glob(name)) if glob.has_magic(name) else [name] for name in names]
    return list(dict.fromkeys(Path(name) for group in expanded for name in group))


class TarSource:
    """The samples of tar shards, shard by shard. A damaged shard gives what lies before the damage.

    Without `captions` every .txt member is a caption: 1.txt, or 1.alt.txt, in `alt`, 1.detailed.txt in `detailed`. A
    column of `captions` is an extension (txt, detailed.txt), or else a field of the sample's .json.
    """

    total = None

    def __init__(
        self,
        source: str,
        image_column: str | None = None,
        captions: tuple[str, ...] = (),
        *,
        split: str | None = None,
        lines: bool = False,
    ) -> None:
        self._files, self._choice = splits.files(tar_files(source), split, source)
        if not self._files:
            raise ValueError(f"no tar files: {source}")
        for path in self._files:
            if not path.is_file():
                raise ValueError(f"there is no tar file {path}")
        folder = Path(source) if Path(source).is_dir() else None
        self._names = [str(path.relative_to(folder)) if folder else path.name for path in self._files]
        self._source, self._image, self._lines = source, image_column, lines
        self._asked = asked_columns(captions)
        self._rule: Rule | None = None
        self.columns: dict[str, str] = dict(self._asked)
        if self._asked:
            self._refuse_absent()
        else:
            with _opened(self._files[0]) as (stream, faults):
                self._grouped(self._files[0], stream, faults)
        self._rule = None

    def fingerprint(self) -> str:
        """Names and sizes of the shards."""
        return "\n".join(f"{name} {path.stat().st_size}" for name, path in zip(self._names, self._files, strict=True))

    def samples(self, place: Place) -> Iterator[Sample]:
        """Places are (shard, samples of it that are done, the rule by which members are grouped so far)."""
        begun, done, *rest = place or (0, 0)
        self._rule = cast("Rule | None", rest[0] if rest else None)
        for number in range(begun, len(self._files)):
            path = self._files[number]
            with _opened(path) as (stream, faults):
                grouped = self._grouped(path, stream, faults)
                for i, (key, members) in enumerate(grouped.items()):
                    if i >= done:
                        read = {ending: _bytes(stream, m) for ending, m in members.items() if self._wanted(ending)}
                        load = functools.partial(self._load, read, tuple(members.keys() - read.keys()))
                        yield Sample(f"{self._names[number]}/{key}", (number, i + 1, self._rule), load)
            for i, fault in enumerate(faults, len(grouped)):
                if i >= done:
                    what = f"{self._names[number]}: damaged after {len(grouped):,} samples: {fault}"
                    yield Sample(self._names[number], (number, i + 1, self._rule), functools.partial(_damaged, what))
            done = 0

    def notes(self, noted: Noted) -> list[Note]:
        """By which rule members were grouped, and which were not used."""
        found = [Note(self._choice.said, self._choice.loud)] if self._choice.said else []
        found += beside(self._source, SUFFIXES)
        if self._rule == "longest stem":
            found.append(
                Note("names with dots: an image's name up to its last dot is its key, as that of its text", False)
            )
        elif self._rule == "first dot":
            found.append(Note("names with dots: the part up to the first dot is the key, as WebDataset has it", False))
        found += common_notes(noted)
        for kind, (count, first) in sorted(noted.items()):
            name = kind.rpartition("/")[2]
            flag = f"--caption {name} reads them as captions"
            if kind.startswith(_NAMELESS):
                found.append(Note(f"texts not used: {count:,}, as of {first}: {name} gives no name to a caption set"))
            elif kind == _ALONE:
                found.append(Note(f"samples of texts without an image: {count:,}, as {first}"))
            elif kind.startswith(_OTHER):
                found.append(Note(f"members .{name} not used: {count:,}, as of {first}; {flag}", False))
        return found

    def _grouped(self, path: Path, stream: BinaryIO, faults: list[str]) -> Grouped:
        members = list(members_of(stream, faults.append))
        self._rule = self._rule or rule_of(members)
        grouped = group(members, self._rule or "first dot", faults.append)
        if not self._asked:
            endings = {ending for sample in grouped.values() for ending in sample}
            refuse_many(len(default_columns(_columns(endings))), path, "text members", "which is 1.NAME.txt")
        return grouped

    def _refuse_absent(self) -> None:
        """Raise ValueError when a column that was asked for is in none of the first shards."""
        absent = dict(self._asked)
        there: set[str] = set()
        for path in self._files[:_LOOKED]:
            with _opened(path) as (stream, faults):
                for sample in self._grouped(path, stream, faults).values():
                    columns = dict.fromkeys((*_columns(sample), *sample))
                    if "json" in sample and any(not _found(c, columns) for c in absent.values()):
                        columns |= dict.fromkeys(_fields(_bytes(stream, sample["json"])))
                    there |= columns.keys()
                    absent = {name: column for name, column in absent.items() if not _found(column, columns)}
                    if not absent:
                        break
        if absent and there:
            shown = ", ".join(sorted(name.removeprefix(TABLE).removeprefix(".") for name in there)) or "none"
            column = next(iter(absent.values()))
            raise ValueError(
                f"{self._source}: no text member or field {column!r} in its first shards; there are {shown}"
            )

    def _wanted(self, ending: str) -> bool:
        named = ("json", self._image, *self._asked.values())
        return ending in named or not f".{ending}".endswith(OTHER_ENDINGS)

    def _load(self, sample: Mapping[str, bytes], others: tuple[str, ...]) -> Content:
        if self._image:
            pictures = [name for name in sample if name == self._image]
        else:
            pictures = [name for name in sample if f".{name}".endswith(EXTENSIONS)]
        if not pictures:
            unknown = [name for name in sample if not f".{name}".endswith((*TEXT_ENDINGS, ".json"))]
            pictures = [name for name in unknown if not self._image and holds_picture(sample[name])]
        if len(pictures) > 1:
            raise SetAsideError(f"several pictures ({', '.join(sorted(pictures))}): choose with --image-column")
        if not pictures:
            if known := [name for name in sample if f".{name}".endswith(OTHER_PICTURES)]:
                raise SetAsideError(not_read(f".{known[0].rpartition('.')[2]}"), sample[known[0]])
            texts_alone = any(f".{name}".endswith(TEXT_ENDINGS) for name in sample)
            raise SetAsideError("no picture among the sample's files", None, (_ALONE,) if texts_alone else ())
        texts, noted = self._texts(sample)
        captions, faults, of_texts = captions_from(texts, self._lines)
        used = {*pictures, *self._asked.values()}
        unread = [n for n in (*sample, *others) if n not in used and not f".{n}".endswith((*TEXT_ENDINGS, ".json"))]
        if not captions and not self._asked and "json" in sample:
            noted += [field_there(name) for name in metadata.fields(sample["json"])]
        noted += [f"{_OTHER}{name}" for name in unread]
        return Content(sample[pictures[0]], captions, faults, (*noted, *of_texts))

    def _texts(self, sample: Mapping[str, bytes]) -> tuple[dict[str, Any], list[str]]:
        columns = _columns(sample)
        said: dict[str, Any] = {column: sample[ending] for column, ending in columns.items()}
        if self._asked:
            said |= {ending: sample[ending] for ending in self._asked.values() if ending in sample}
            if any(not _found(column, said) for column in self._asked.values()):
                said |= _fields(sample.get("json", b""))
            return {name: said[c] for name, column in self._asked.items() if (c := _found(column, said))}, []
        nameless = [
            f"{_NAMELESS}{ending}"
            for ending in sample
            if f".{ending}".endswith(TEXT_ENDINGS) and ending not in columns.values()
        ]
        chosen = {name: _found(column, said) for name, column in default_columns(said).items()}
        left = [unused(column) for column in said if column not in chosen.values()]
        return {name: said[column] for name, column in chosen.items() if column}, nameless + left


def _columns(endings: Any) -> dict[str, str]:
    """Column, as a folder's are named, -> ending, of the texts whose endings name a caption set."""
    found = {}
    for ending in endings:
        if ending in ("txt", "caption"):
            found[f".{ending}"] = ending
        elif ending.endswith(TEXT_ENDINGS) and is_set_name(ending.rpartition(".")[0]):
            found[ending] = ending
    return found


def _found(column: str, there: Mapping[str, object]) -> str | None:
    return next((name for name in choices(column, there) if name in there), None)


def _fields(data: bytes) -> dict[str, Any]:
    """The texts of a sample's .json, as columns."""
    return {f"{TABLE}{name}": value for name, value in metadata.fields(data).items()}


def _damaged(what: str) -> Content:
    raise SetAsideError(what)


def _bytes(stream: BinaryIO, member: Member) -> bytes:
    stream.seek(member.offset)
    return stream.read(member.size)


@contextmanager
def _opened(path: Path) -> Iterator[tuple[BinaryIO, list[str]]]:
    """A tar, unpacked into a temporary file where it is compressed, and the list of what is wrong with it."""
    faults: list[str] = []
    with path.open("rb") as file:
        head = file.read(8)
        opener = next((opener for magic, opener in _OPENERS.items() if head.startswith(magic)), None)
        if opener is None:
            yield file, faults
            return
    with tempfile.TemporaryFile() as plain:
        try:
            with opener(path) as packed:
                shutil.copyfileobj(packed, plain)
        except (EOFError, OSError, zlib.error, lzma.LZMAError) as error:
            if isinstance(error, OSError) and error.errno:
                raise
            faults.append(str(error))
        yield plain, faults
