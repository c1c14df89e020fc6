"""Answers on their way to the disk: those under way when the disk fills up are kept as well.

They have been paid for. So a file of some room lies beside the set while it is written; when the disk is full the file
goes, the answers take its place, and the run ends.
"""

from __future__ import annotations

import errno
import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from lensbench.captioner.ledger import FILE
from lensbench.captions.store import FULL, CaptionRow, CaptionWriter

RESERVE = "room"
BYTES_PER_ANSWER = 2**14  # on the disk, amply


@dataclass
class Keeper:
    """The writer of a set with room in reserve. `lost` counts live answers that could not be kept all the same."""

    writer: CaptionWriter
    full: bool = False
    lost: int = 0

    def add(self, row: CaptionRow) -> bool:
        """As `CaptionWriter.add`. OSError only where the reserve was not enough."""
        try:
            return self.writer.add(row)
        except OSError as error:
            if error.errno not in FULL:
                raise
        self.make_room()
        return self.writer.add(row)

    def make_room(self) -> None:
        """The disk is full: let the reserve go."""
        self.full = True
        (self.writer.folder / RESERVE).unlink(missing_ok=True)


@contextmanager
def keeping(writer: CaptionWriter, at_a_time: int) -> Iterator[Keeper]:
    """A keeper with room for the answers of `at_a_time` requests.

    A full disk, whoever meets it, becomes one OSError that names the folder and says what was kept and what to do.
    """
    keeper = Keeper(writer)
    path = writer.folder / RESERVE
    try:
        _fill(path, at_a_time * BYTES_PER_ANSWER)
        yield keeper
    except (OSError, sqlite3.OperationalError) as error:
        if says_full(error):
            raise _worded(keeper) from None
        if isinstance(error, sqlite3.OperationalError):
            raise OSError(errno.EIO, f"the set's ledger: {error}", str(writer.folder / FILE)) from None
        raise
    finally:
        path.unlink(missing_ok=True)


def full_disk(keeper: Keeper) -> OSError:
    """What ends a run that filled the disk."""
    return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(keeper.writer.folder))


def _fill(path: Path, size: int) -> None:
    # Written, and not only named: a sparse file takes no room.
    with path.open("wb") as file:
        file.write(bytes(size))


def says_full(error: BaseException) -> bool:
    """Whether an error is of a full disk."""
    return (
        error.errno in FULL
        if isinstance(error, OSError)
        else isinstance(error, sqlite3.Error) and "is full" in str(error)
    )


def _worded(keeper: Keeper) -> OSError:
    kept = "every answer that came is kept"
    if n := keeper.lost:
        kept = f"{n:,} {'answer is' if n == 1 else 'answers are'} lost that may have been paid for"
    said = f"no space left on the disk; {kept}: free some space, and the same command goes on"
    return OSError(errno.ENOSPC, said, str(keeper.writer.folder))
