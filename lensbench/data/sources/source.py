"""What every source is: samples in one fixed order, which can be read from any place in it on."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple, Protocol

from lensbench.data.sources.sidecars import clean, not_utf8

Place = Any  # in a source, as JSON keeps it; each has its own kind, and None is the beginning
# Columns, or extensions, that hold a caption by their name alone; the first that a source has becomes the set `alt`.
ALT_NAMES = ("alt", "alt_text", "caption", "text", "txt")
SETS_BY_NAME = ("brief", "detailed")  # these become the sets of their names


class Content(NamedTuple):
    """A sample's picture, its captions by set, none of them empty, and why others could not be read."""

    data: bytes | None
    captions: dict[str, str]
    faults: dict[str, str]


class Sample(NamedTuple):
    """`name` says where it came from; `after` is the place behind it; `load` may be called from any thread, once."""

    name: str
    after: Place
    load: Callable[[], Content]


class SetAsideError(ValueError):
    """Raised by `Sample.load` for what is not to be decoded; `data` are its bytes where it has some."""

    def __init__(self, reason: str, data: bytes | None = None) -> None:
        super().__init__(reason)
        self.data = data


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


def captions_from(texts: Mapping[str, bytes | str | None]) -> tuple[dict[str, str], dict[str, str]]:
    """Set -> caption of those that say something, and set -> fault of those that are not UTF-8."""
    captions, faults = {}, {}
    for name, text in texts.items():
        try:
            if text is not None and (said := clean(text)):
                captions[name] = said
        except UnicodeDecodeError as error:
            faults[name] = not_utf8(error)
    return captions, faults


def asked_columns(asked: tuple[str, ...]) -> dict[str, str]:
    """Caption set -> column, of `--caption COLUMN[=SET]`. Raises ValueError when a set is given twice."""
    found: dict[str, str] = {}
    for item in asked:
        column, _, name = item.partition("=")
        name = name or column
        if not column or not all(c.isalnum() or c in "-_." for c in name) or name.startswith("."):
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
