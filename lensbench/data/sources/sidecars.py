"""A folder of pictures with captions beside them: cat.jpg, cat.alt.txt, cat.detailed.txt.

Walking it, and what a caption's text is, for training from the folder itself and for importing it.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, NamedTuple

from lensbench.data.pictures import EXTENSIONS, OTHER_PICTURES, holds_picture, not_read

TEXT_ENDINGS = (".txt", ".caption")
FIELDS_ENDING = ".json"  # of a file that has captions of one image in its fields
# Tables in which Hugging Face's imagefolder keeps captions, a row a file.
METADATA = ("metadata.jsonl", "metadata.csv", "metadata.parquet")
# Files that hold no picture, whatever they begin with: they are not opened to look.
OTHER_ENDINGS = (
    *(".jsonl", ".csv", ".tsv", ".parquet", ".arrow", ".tar", ".gz", ".zip", ".npy", ".npz", ".pt"),
    *(".md", ".html", ".xml", ".yaml", ".yml", ".log", ".py", ".mp4", ".mp3", ".safetensors"),
)


class Found(NamedTuple):
    """What lies in a folder: a picture, text that may be the caption of one, a table of captions, another file, or a
    link to a folder that is read under another name. `reason` says why a picture, or a folder below, is not read."""

    path: Path
    kind: Literal["picture", "text", "metadata", "other", "link"]
    reason: str = ""


def walk(folder: Path) -> Iterator[Found]:
    """What lies in a folder and below it, in no order; each folder once, under its own name before that of a link.

    Links to folders are followed, but for those to a folder that holds the link. Raises ValueError when there is no
    such folder or it cannot be read.
    """
    try:
        is_folder = stat.S_ISDIR(folder.stat().st_mode)
    except (FileNotFoundError, NotADirectoryError):
        raise ValueError(f"there is no folder {folder}") from None
    except (OSError, ValueError) as error:
        raise ValueError(f"the folder {folder} cannot be read: {getattr(error, 'strerror', error)}") from None
    if not is_folder:
        raise ValueError(f"{folder} is a file, not a folder")
    seen: set[tuple[int, int]] = set()
    waiting = [str(folder)]
    links: list[str] = []
    while waiting or links:
        if not waiting:
            links.sort(reverse=True)
            link = links.pop()
            if _leads_up(link):
                yield Found(Path(link), "link")
                continue
            waiting.append(link)
        directory = waiting.pop()
        try:
            here = os.stat(directory)
            if (here.st_dev, here.st_ino) in seen:
                yield Found(Path(directory), "link")
                continue
            seen.add((here.st_dev, here.st_ino))
            with os.scandir(directory) as entries:
                for entry in entries:
                    try:
                        below = entry.is_dir()
                    except OSError as error:  # a link to itself
                        yield Found(Path(entry.path), "picture", f"cannot be followed: {error.strerror}")
                        continue
                    if not below:
                        yield _kind(entry)
                    else:
                        (links if entry.is_symlink() else waiting).append(entry.path)
        except OSError as error:
            if directory == str(folder):
                raise ValueError(f"the folder {folder} cannot be read: {error.strerror}") from None
            yield Found(Path(directory), "picture", f"cannot be read: {error.strerror}")


def _leads_up(link: str) -> bool:
    target, here = os.path.realpath(link), os.path.realpath(os.path.dirname(link))
    return os.path.commonpath((target, here)) == target


def _kind(entry: os.DirEntry[str]) -> Found:
    path, lower = Path(entry.path), os.path.splitext(entry.name)[1].lower()
    if lower in EXTENSIONS:
        return Found(path, "picture", "" if entry.is_file() else "not a file: a broken link or a device")
    if lower in (*TEXT_ENDINGS, FIELDS_ENDING):
        return Found(path, "text")
    if entry.name in METADATA:
        return Found(path, "metadata")
    if lower not in OTHER_ENDINGS and entry.is_file() and holds_picture(path):
        return Found(path, "picture")
    return Found(path, "picture", not_read(lower)) if lower in OTHER_PICTURES else Found(path, "other")


def order(path: Path, folder: Path) -> bytes:
    """By which the files of a folder are sorted: as paths are, name by name. No two files have the same."""
    return os.fsencode(path.relative_to(folder)).replace(b"/", b"\0")


def natural_order(path: Path, folder: Path) -> tuple[list[list[bytes | int]], bytes]:
    """By which people sort files: 2.png before 10.png. No two files have the same."""
    parts = [re.split(rb"(\d+)", os.fsencode(part)) for part in path.relative_to(folder).parts]
    return [[int(word) if i % 2 else word for i, word in enumerate(words)] for words in parts], order(path, folder)


def name_in(path: Path, folder: Path) -> str:
    """The path inside the folder, fit to print whatever its bytes."""
    return os.fsencode(path.relative_to(folder)).decode("utf-8", "replace")


def clean(text: bytes | str) -> str:
    """A caption as it is kept: on one line, no byte order mark. Raises UnicodeDecodeError for other than UTF-8."""
    return " ".join((text.decode("utf-8-sig") if isinstance(text, bytes) else text).split())


def not_utf8(error: UnicodeDecodeError) -> str:
    """For example `not UTF-8 (byte 0xe9 at position 3)`."""
    return f"not UTF-8 (byte {error.object[error.start]:#04x} at position {error.start})"
