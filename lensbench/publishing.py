"""Files that appear whole or not at all."""

from __future__ import annotations

import errno
import os
import uuid
from pathlib import Path
from typing import Any


def partial_of(path: Path) -> Path:
    """Where a file is written before it is published: another place for each caller, beside it and hidden."""
    return path.with_name(f".{path.name}.{uuid.uuid4().hex}.partial")


def publish(partial: Path, path: Path) -> None:
    """Put a file that is complete in its place, in one step; it is on the disk before it can be seen there."""
    with partial.open("rb") as file:
        os.fsync(file.fileno())
    os.replace(partial, path)


def publish_text(path: Path, text: str) -> Path:
    """Write a text file in UTF-8, whole or not at all, and say where it is."""
    partial = partial_of(path)
    try:
        partial.write_text(text, encoding="utf-8", newline="\n")
        publish(partial, path)
    finally:
        partial.unlink(missing_ok=True)
    return path


def first_text(path: Path, text: str) -> str:
    """What a file says that is written once: `text`, unless somebody was first. Of several processes one alone is."""
    if not path.exists():
        partial = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
        partial.write_text(text, encoding="utf-8")
        try:
            publish_once(partial, path)
        except FileExistsError:
            partial.unlink()
    return path.read_text(encoding="utf-8").strip()


def nan_to_null(value: Any) -> Any:
    """A value for JSON with None for what is no number: NaN is no JSON."""
    if isinstance(value, dict):
        return {name: nan_to_null(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [nan_to_null(item) for item in value]
    return None if isinstance(value, float) and value != value else value


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
