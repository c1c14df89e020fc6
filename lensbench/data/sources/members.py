"""Which members of a tar are one sample.

WebDataset's rule: a member's key is its name up to the first dot of its last part, so that 1.jpg and 1.detailed.txt are
one sample. Tools that write img.v1.0.jpg beside img.v1.0.txt break it. Where the rule would give pictures and
texts endings that are nearly all different, members are grouped by the longest name that they share with a picture.
"""

from __future__ import annotations

import os
import tarfile
from collections.abc import Callable, Iterable, Iterator
from typing import BinaryIO, Literal, NamedTuple

from lensbench.data.pictures import EXTENSIONS
from lensbench.data.sources.sidecars import TEXT_ENDINGS

Rule = Literal["first dot", "longest stem"]
BLOCK = 512  # bytes that a tar is a multiple of; it ends with blocks of zeros
FEWEST_PICTURES = 4  # without texts, that tell which rule their names follow


class Member(NamedTuple):
    """A file of a tar: its name, and where its bytes lie in the tar."""

    name: str
    offset: int
    size: int


Grouped = dict[str, dict[str, Member]]  # key -> what follows the key and its dot, in lower case -> member


def members_of(stream: BinaryIO, report: Callable[[str], None]) -> Iterator[Member]:
    """The files of a tar, in its order, and behind them its links to files; `report` is told what is wrong with it.

    Behind a damaged header nothing can be read.
    """
    end = stream.seek(0, os.SEEK_END)
    stream.seek(0)
    places: dict[str, Member] = {}
    links: dict[str, str] = {}  # name -> that of the file
    try:
        with tarfile.open(fileobj=stream, mode="r:") as archive:
            for found in archive:
                archive.members = []  # type: ignore[attr-defined]  # it would keep every header
                if found.isfile() and found.offset_data + found.size > end:
                    raise tarfile.ReadError("unexpected end of data")
                folder, _, base = found.name.rpartition("/")
                if base.startswith("__") and base.endswith("__"):
                    continue
                if found.islnk():
                    links[found.name] = os.path.normpath(found.linkname)
                elif found.issym():
                    links[found.name] = os.path.normpath(os.path.join(folder, found.linkname))
                elif found.isfile():
                    member = Member(found.name, found.offset_data, found.size)
                    places[os.path.normpath(found.name)] = member
                    yield member
            behind = archive.offset
    except tarfile.TarError as error:
        report(str(error))
        return
    for name, target in links.items():
        if target in places:
            yield places[target]._replace(name=name)
        else:
            report(f"the link {name} leads to no file of it")
    # A reader takes the end of the file, and a header that it cannot read, for the end of the archive.
    stream.seek(behind)
    block = stream.read(BLOCK)
    if len(block) < BLOCK:
        report("it lacks the end of an archive: cut off between two files, or within the last")
    elif block.strip(b"\0"):
        report(f"no header of a file can be read at byte {behind:,}")


def rule_of(members: Iterable[Member]) -> Rule | None:
    """The rule that the names of members follow; None where no picture's name has a dot, and both give the same."""
    names = {member.name for member in members if not member.name.rpartition("/")[2].startswith(".")}
    dotted = [name for name in names if _is_picture(name) and "." in _split(name)[0].rpartition("/")[2]]
    texts = [name for name in dotted if any(_split(name)[0] + ending in names for ending in TEXT_ENDINGS)]
    looked = texts or (dotted if len(dotted) >= FEWEST_PICTURES else [])
    if not looked:
        return None
    endings = {_first_dot(name)[1] for name in looked}
    return "longest stem" if 2 * len(endings) > len(looked) else "first dot"


def group(members: Iterable[Member], rule: Rule, report: Callable[[str], None]) -> Grouped:
    """Members as samples, in the order of their first member, whatever lies between; `report` is told of doubles."""
    listed = list(members)
    stems = {_split(member.name)[0] for member in listed if _is_picture(member.name)} if rule != "first dot" else set()
    found: Grouped = {}
    for member in listed:
        if member.name.rpartition("/")[2].startswith("."):  # hidden, as those of macOS: no sample of others
            found[member.name] = {"": member}
            continue
        key, ending = _first_dot(member.name) if rule == "first dot" else _longest(member.name, stems)
        sample = found.setdefault(key, {})
        if ending in sample:
            report(f"it holds {member.name} twice: the first is read")
        sample.setdefault(ending, member)
    return found


def _is_picture(name: str) -> bool:
    return name.lower().endswith(EXTENSIONS)


def _split(name: str) -> tuple[str, str]:
    return os.path.splitext(name)


def _first_dot(name: str) -> tuple[str, str]:
    folder, slash, base = name.rpartition("/")
    stem, _, ending = base.partition(".")
    return f"{folder}{slash}{stem}", ending.lower()


def _longest(name: str, stems: set[str]) -> tuple[str, str]:
    stem = _split(name)[0]
    while stem and stem not in stems and "." in stem.rpartition("/")[2]:
        stem = stem.rpartition(".")[0]
    if stem in stems:
        return stem, name[len(stem) + 1 :].lower()
    stem, ending = _split(name)
    return stem, ending.removeprefix(".").lower()
