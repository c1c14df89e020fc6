"""WebDataset shards as a source: tar files in which 000000123.jpg, 000000123.txt and 000000123.json are one sample.

That is img2dataset's layout. The text is the sample's alt-text; cat.detailed.txt is its caption in the set `detailed`.
The webdataset package reads and groups the members.
"""

from __future__ import annotations

import functools
import glob
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lensbench.data.pictures import EXTENSIONS, OTHER_PICTURES, not_read
from lensbench.data.sources.source import Content, Place, Sample, SetAsideError, asked_columns, captions_from

SUFFIXES = (".tar", ".tar.gz", ".tgz")
BLOCK = 512  # bytes that a tar is a multiple of


def tar_files(source: str) -> list[Path]:
    """The shards that a folder, a file, or a pattern with braces or wildcards stands for, sorted."""
    import braceexpand

    if Path(source).is_dir():
        found = [path for path in Path(source).iterdir() if path.name.endswith(SUFFIXES) and path.is_file()]
        return sorted(found)
    names = [source] if Path(source).exists() else list(braceexpand.braceexpand(source))
    expanded = [sorted(glob.glob(name)) if glob.has_magic(name) else [name] for name in names]
    return list(dict.fromkeys(Path(name) for group in expanded for name in group))


class TarSource:
    """The samples of tar shards, shard by shard. A damaged shard gives what lies before the damage.

    Without `captions` every .txt member is a caption: 1.txt, or 1.alt.txt, in `alt`, 1.detailed.txt in `detailed`. A
    column of `captions` is an extension (txt, detailed.txt), or else a field of the sample's .json.
    """

    total = None

    def __init__(self, source: str, image_column: str | None = None, captions: tuple[str, ...] = ()) -> None:
        self._files = tar_files(source)
        if not self._files:
            raise ValueError(f"no tar files: {source}")
        for path in self._files:
            if not path.is_file():
                raise ValueError(f"there is no tar file {path}")
        self._image = image_column
        self._asked = asked_columns(captions)
        self.columns: dict[str, str] = dict(self._asked)

    def fingerprint(self) -> str:
        """Names and sizes of the shards."""
        return "\n".join(f"{path.name} {path.stat().st_size}" for path in self._files)

    def samples(self, place: Place) -> Iterator[Sample]:
        """Places are (shard, samples of it that are done)."""
        begun, done = place or (0, 0)
        for number in range(begun, len(self._files)):
            path = self._files[number]
            for i, item in enumerate(_read(path)):
                if i < done:
                    continue
                if isinstance(item, Exception):
                    what = f"{path.name}: damaged after {i:,} samples: {item}"
                    yield Sample(path.name, (number, i + 1), functools.partial(_damaged, what))
                else:
                    name = f"{path.name}/{item['__key__']}"
                    yield Sample(name, (number, i + 1), functools.partial(self._load, item))
            done = 0

    def _load(self, sample: dict[str, Any]) -> Content:
        members = [name for name in sample if not name.startswith("__")]
        if self._image:
            pictures = [name for name in members if name == self._image]
        else:
            pictures = [name for name in members if f".{name}".endswith(EXTENSIONS)]
        if len(pictures) > 1:
            raise SetAsideError(f"several pictures ({', '.join(sorted(pictures))}): choose with --image-column")
        if not pictures:
            others = [name for name in members if f".{name}".endswith(OTHER_PICTURES)]
            if others:
                raise SetAsideError(not_read(f".{others[0].rpartition('.')[2]}"), sample[others[0]])
            raise SetAsideError("no picture among the sample's files")
        captions, faults = captions_from(self._texts(sample, members))
        return Content(sample[pictures[0]], captions, faults)

    def _texts(self, sample: dict[str, Any], members: list[str]) -> dict[str, bytes | str | None]:
        if not self._asked:
            named = {name.removesuffix(".txt"): sample[name] for name in members if name.endswith(".txt")}
            plain = {"alt": sample["txt"]} if "txt" in sample else {}
            return plain | named
        fields: dict[str, Any] = {}
        if "json" in sample and not set(self._asked.values()) <= set(members):
            try:
                fields = json.loads(sample["json"])
            except ValueError:
                fields = {}
        texts: dict[str, bytes | str | None] = {}
        for name, column in self._asked.items():
            value = sample.get(column, fields.get(column) if isinstance(fields, dict) else None)
            texts[name] = value if isinstance(value, bytes | str) else None
        return texts


def _damaged(what: str) -> Content:
    raise SetAsideError(what)


def _read(path: Path) -> Iterator[dict[str, Any] | Exception]:
    """The samples of a shard, and in their midst what was wrong with it."""
    from webdataset.tariterators import group_by_keys, tar_file_expander

    faults: list[Exception] = []
    damaged = False

    def note(error: Exception) -> bool:
        nonlocal damaged
        damaged = True
        faults.append(error)
        return True

    with path.open("rb") as stream:
        members = tar_file_expander([{"url": str(path), "stream": stream}], handler=note, select_files=_wanted)
        for sample in group_by_keys(members, handler=note):
            yield from _worded(faults)
            yield sample
    if not damaged and path.suffix == ".tar" and not _ended(path):
        faults.append(ValueError("it lacks the end of an archive: cut off between two files, or within the last"))
    yield from _worded(faults)


def _ended(path: Path) -> bool:
    # A tar ends with blocks of zeros. A reader takes the end of the file for the end as well, wherever it comes.
    with path.open("rb") as stream:
        stream.seek(0, 2)
        stream.seek(max(0, stream.tell() - BLOCK))
        return stream.read() == bytes(BLOCK)


def _wanted(name: str) -> bool:
    return name.lower().endswith((*EXTENSIONS, *OTHER_PICTURES, ".txt", ".json"))


def _worded(faults: list[Exception]) -> Iterator[Exception]:
    # The package puts what it was reading, object and all, behind the words.
    while faults:
        yield ValueError(str(faults.pop(0).args[0]).partition(" @ ")[0])
