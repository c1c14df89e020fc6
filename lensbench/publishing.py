"""Files that appear whole or not at all."""

from __future__ import annotations

import errno
import os
from pathlib import Path


def publish(partial: Path, path: Path) -> None:
    """Put a file that is complete in its place, in one step; it is on the disk before it can be seen there."""
    with partial.open("rb") as file:
        os.fsync(file.fileno())
    os.replace(partial, path)


def publish_once(partial: Path, path: Path) -> None:
    """As `publish`, but FileExistsError where `path` exists: of several processes one alone publishes."""
    with partial.open("rb") as file:
        os.fsync(file.fileno())
    try:
        os.link(partial, path)
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.ENOSYS):
            raise
        if path.exists():  # on a file system without links the moment between this and the next line is left open
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path)) from None
        os.replace(partial, path)
    else:
        partial.unlink()
