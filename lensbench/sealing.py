"""Files that end with the sha256 of all that is before it: bit rot and cuts are noticed, never read as data.

A seal is 32 bytes. Readers that know how long the content is (.npy, rows of a store) read such a file as any other.
"""

from __future__ import annotations

import functools
import hashlib
import os
from pathlib import Path

SEAL_BYTES = hashlib.sha256().digest_size
_BLOCK = 2**20


def seal(path: Path) -> None:
    """Append the seal to a file that is written."""
    digest = _digest(path, path.stat().st_size)
    with path.open("ab") as file:
        file.write(digest)


def is_whole(path: Path) -> bool:
    """Whether a sealed file is as it was sealed. A process reads each file once, and again when it has changed."""
    try:
        about = path.stat()
    except FileNotFoundError:
        return False
    return _is_whole(path, about.st_size, about.st_mtime_ns, about.st_ino)


@functools.lru_cache(maxsize=100_000)
def _is_whole(path: Path, size: int, changed: int, inode: int) -> bool:
    if size < SEAL_BYTES:
        return False
    with path.open("rb") as file:
        file.seek(-SEAL_BYTES, os.SEEK_END)
        told = file.read()
    return told == _digest(path, size - SEAL_BYTES)


def _digest(path: Path, size: int) -> bytes:
    """sha256 of the first `size` bytes of a file."""
    found = hashlib.sha256()
    with path.open("rb") as file:
        while size > 0 and (block := file.read(min(_BLOCK, size))):
            found.update(block)
            size -= len(block)
    return found.digest()
