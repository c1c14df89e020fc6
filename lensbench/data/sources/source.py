"""What every source is: samples in one fixed order, which can be read from any place in it on."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from lensbench.data.sources.notes import Note, Noted, several_lines
from lensbench.data.sources.sidecars import clean, not_utf8

Place = Any  # in a source, as JSON keeps it; each has its own kind, and None is the beginning
# Columns, or extensions, that hold a caption by their name alone; the first that a source has becomes the set `alt`.
ALT_NAMES = ("alt", "alt_text", "caption", "captions", "text", "txt")
SETS_BY_NAME = ("brief", "detailed")  # these become the sets of their names


MOST_SETS = 50  # that a source has by the names of its files
Texts = Mapping[str, "bytes | str | Sequence[bytes | str | None] | None"]
_SET_NAME = re.compile(r"\w[\w.-]*")


class Content(NamedTuple):
    """A sample's picture, its captions by set, none of them empty, and why others could not be read.

    `noted` are kinds of what is counted over the samples, for `Source.notes`.
    """

    data: bytes | None
    captions: dict[str, str]
    faults: dict[str, str]
    noted: tuple[str, ...] = ()


class Sample(NamedTuple):
    """`name` says where it came from; `after` is the place behind it; `load` may be called from any thread, once."""

    name: str
    after: Place
    load: Callable[[], Content]


class SetAsideError(ValueError):
    """Raised by `Sample.load` for what is not to be decoded; `data` are its bytes where it has some, `noted` is what
    `Content` has."""

    def __init__(self, reason: str, data: bytes | None = None, noted: tuple[str, ...] = ()) -> None:
        super().__init__(reason)
        self.data, self.noted = data, noted


class Source(Protocol):
    """Where an import reads from."""

    @property
    def total(self) -> int | None:
        """Samples, where that is known beforehand."""
        ...

    @property
    def columns(self) -> Mapping[str, str]:
        """Caption set -> the column, extension or file that it is read from."""
        ...

    def fingerprint(self) -> str:
        """Changes when the source does, as far as can be told without reading it."""
        ...

    def samples(self, place: Place) -> Iterator[Sample]:
        """Every sample behind a place, in the same order each time."""
        ...

    def notes(self, noted: Noted) -> list[Note]:
        """What the import chose and did not use, when every sample was read; `noted` counts what samples had."""
        ...


def captions_from(texts: Texts, lines: bool = False) -> tuple[dict[str, str], dict[str, str], tuple[str, ...]]:
    """Set -> caption of those that say something, set -> fault of those that are not UTF-8, and what to note.

    The further captions of a list are in the sets of the name with 2, 3, ...; with `lines` each line of a text is one.
    """
    captions: dict[str, str] = {}
    faults: dict[str, str] = {}
    noted = []
    for name, given in texts.items():
        parts = [given] if isinstance(given, bytes | str) else [part for part in given or () if part is not None]
        by_line = [line for part in parts for line in _lines(part)]
        try:
            said = [text for part in (by_line if lines else parts) if (text := clean(part))]
        except UnicodeDecodeError as error:
            faults[name] = not_utf8(error)
            continue
        captions |= {f"{name}{i}" if i > 1 else name: text for i, text in enumerate(said, 1)}
        if len(by_line) > len(said):
            noted.append(several_lines(name))
    return captions, faults, tuple(noted)


def _lines(text: bytes | str) -> list[bytes | str]:
    """The lines of a text that are not blank. They end at "\n" alone."""
    found: Sequence[bytes | str] = text.split(b"\n") if isinstance(text, bytes) else text.split("\n")
    return [line for line in found if line.strip()]


def is_set_name(name: str) -> bool:
    """Whether a caption set may have this name: letters, digits, '-', '_' and '.', a word's character first."""
    return bool(_SET_NAME.fullmatch(name))


def refuse_many(sets: int, source: object, what: str, hint: str) -> None:
    """Raise ValueError where the names of files make more caption sets than anyone has."""
    if sets > MOST_SETS:
        raise ValueError(
            f"{source}: the {what} are of {sets:,} caption sets; say which to import with --caption NAME, {hint}"
        )


def asked_columns(asked: tuple[str, ...]) -> dict[str, str]:
    """Caption set -> column, of `--caption COLUMN[=SET]`. Raises ValueError when a set is given twice."""
    found: dict[str, str] = {}
    for item in asked:
        column, _, name = item.partition("=")
        name = name or column
        if not column or not is_set_name(name):
            raise ValueError(f"--caption {item}: give COLUMN or COLUMN=SET, SET of letters, digits, '-', '_' and '.'")
        if name in found:
            raise ValueError(f"--caption: set {name!r} is given twice; a set has one column")
        found[name] = column
    return found


def named_columns(there: list[str]) -> dict[str, str]:
    """Caption set -> column, of columns that hold captions by their names."""
    by_name = {column.lower(): column for column in reversed(there)}
    alt = next((by_name[name] for name in ALT_NAMES if name in by_name), None)
    found = {name: by_name[name] for name in SETS_BY_NAME if name in by_name}
    return ({"alt": alt} if alt else {}) | found
