"""A folder of pictures with captions beside them: cat.jpg, cat.alt.txt, cat.detailed.txt.

Walking it and reading a caption, for training from the folder itself and for importing it.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from lensbench.data.pictures import EXTENSIONS, OTHER_PICTURES, not_read


class Found(NamedTuple):
    """A file that matters: a picture, or text that may be the caption of one.

    `reason` says why a picture, or a folder below, is not read. For a text of cat.alt.txt, `stem` is "cat" and
    `caption_set` "alt"; both are "" for a picture.
    """

    path: Path
    reason: str = ""
    stem: str = ""
    caption_set: str = ""


def walk(folder: Path) -> Iterator[Found]:
    """What lies in a folder and below it, in no order; links to folders are not followed.

    Raises ValueError when there is no such folder or it cannot be read.
    """
    try:
        is_folder = stat.S_ISDIR(folder.stat().st_mode)
    except (FileNotFoundError, NotADirectoryError):
        raise ValueError(f"there is no folder {folder}") from None
    except (OSError, ValueError) as error:
        raise ValueError(f"the folder {folder} cannot be read: {getattr(error, 'strerror', error)}") from None
    if not is_folder:
        raise ValueError(f"{folder} is a file, not a folder")
    waiting = [str(folder)]
    while waiting:
        directory = waiting.pop()
        try:
            with os.scandir(directory) as entries:
                for entry in entries:
                    if not entry.is_dir():
                        yield from _kind(entry)
                    elif not entry.is_symlink():
                        waiting.append(entry.path)
        except OSError as error:
            if directory == str(folder):
                raise ValueError(f"the folder {folder} cannot be read: {error.strerror}") from None
            yield Found(Path(directory), f"cannot be read: {error.strerror}")


def _kind(entry: os.DirEntry[str]) -> Iterator[Found]:
    stem, extension = os.path.splitext(entry.name)
    lower = extension.lower()
    if lower in OTHER_PICTURES:
        yield Found(Path(entry.path), not_read(lower))
    elif lower in EXTENSIONS:
        yield Found(Path(entry.path), "" if entry.is_file() else "not a file: a broken link or a device")
    elif extension == ".txt" and "." in stem:
        stem, _, caption_set = stem.rpartition(".")
        if stem and caption_set:
            yield Found(Path(entry.path), stem=stem, caption_set=caption_set)


def order(path: Path, folder: Path) -> bytes:
    """By which the files of a folder are sorted: as paths are, name by name. No two files have the same."""
    return os.fsencode(path.relative_to(folder)).replace(b"/", b"\0")


def name_in(path: Path, folder: Path) -> str:
    """The path inside the folder, fit to print whatever its bytes."""
    return os.fsencode(path.relative_to(folder)).decode("utf-8", "replace")


def clean(text: bytes | str) -> str:
    """A caption as it is kept: on one line, no byte order mark. Raises UnicodeDecodeError for other than UTF-8."""
    return " ".join((text.decode("utf-8-sig") if isinstance(text, bytes) else text).split())


def caption_path(picture: Path, caption_set: str) -> Path:
    """Where the caption of a picture in a set would be; in the set "" it is plain cat.txt."""
    return picture.with_name(f"{picture.stem}.{caption_set}.txt" if caption_set else f"{picture.stem}.txt")


def read_caption(picture: Path, caption_set: str) -> str:
    """The caption beside a picture, "" when it has none.

    Raises ValueError, which says what to do, when it is not UTF-8 or cannot be read.
    """
    path = caption_path(picture, caption_set)
    try:
        return clean(path.read_bytes())
    except FileNotFoundError:
        return ""
    except UnicodeDecodeError as error:
        to_do = "re-encode it, e.g. with iconv -f LATIN1 -t UTF-8"
        raise ValueError(f"caption file {path} is {not_utf8(error)}: {to_do}") from None
    except OSError as error:
        raise ValueError(f"caption file {path} cannot be read: {error.strerror}") from None


def not_utf8(error: UnicodeDecodeError) -> str:
    """For example `not UTF-8 (byte 0xe9 at position 3)`."""
    return f"not UTF-8 (byte {error.object[error.start]:#04x} at position {error.start})"
