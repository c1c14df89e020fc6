"""What an import says beside its counts: what it chose for the user, and what it did not use."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from lensbench.data.sources.sidecars import walk

_LINES, _UNUSED, _FIELD = "lines/", "unused/", "field/"  # kinds of what is noted of a sample


class Note(NamedTuple):
    """What was chosen for the user, or not used, in one line; `loud` where a caption may be missing for it."""

    said: str
    loud: bool = True


Noted = Mapping[str, tuple[int, str]]  # kind -> samples that it was noted of, and the name of the first


def several_lines(caption_set: str) -> str:
    """The kind that counts captions of several lines."""
    return f"{_LINES}{caption_set}"


def unused(column: str) -> str:
    """The kind that counts captions that lie there and are not used."""
    return f"{_UNUSED}{column}"


def field_there(name: str) -> str:
    """The kind that counts images without a caption whose .json has a text in this field."""
    return f"{_FIELD}{name}"


def common_notes(noted: Noted) -> list[Note]:
    """The notes on captions of several lines, on those that lie there and are not used, and on the fields of .json."""
    found = []
    for kind, (count, first) in sorted(noted.items()):
        name = kind.partition("/")[2]
        flag = f"--caption {name.removeprefix('.')} reads them"
        where = f"{count:,}, as of {first}"
        if kind.startswith(_UNUSED):
            found.append(Note(f"captions {name} not used: {where}: another caption of the image is read; {flag}"))
        elif kind.startswith(_FIELD):
            found.append(Note(f"images without a caption that have {name!r} in their .json: {where}; {flag}", False))
        elif kind.startswith(_LINES):
            said = f"captions of several lines in {name}: {where}: each is one caption"
            found.append(Note(f"{said}; --lines makes a caption of every line", False))
    return found


def beside(source: str, endings: tuple[str, ...]) -> list[Note]:
    """What else lies in a folder of files with these endings; nothing for another source."""
    if not Path(source).is_dir():
        return []
    images: Counter[str] = Counter()
    other: Counter[str] = Counter()
    for found in walk(Path(source)):
        if not found.path.name.endswith(endings):
            (images if found.kind == "picture" else other)[found.path.suffix.lower() or "no ending"] += 1
    notes = [Note(f"images beside them, not used: {counted(images)}: --format folder reads them")] if images else []
    return notes + ([Note(f"other files, not used: {counted(other)}", False)] if other else [])


def counted(kinds: Mapping[str, int], most: int = 10) -> str:
    """For example `12 .json, 3 .mp4`, the most frequent first."""
    ranked = sorted(kinds.items(), key=lambda item: (-item[1], item[0]))
    more = sum(count for _, count in ranked[most:])
    return ", ".join(f"{count:,} {kind}" for kind, count in ranked[:most]) + (f", {more:,} more" if more else "")
