"""What was promised and not yet settled, in a small database beside a caption set: batches at the server, and money.

Every line is written before the call that it is about and again after it, so that a process may be killed between any
two calls: the next one reads here what may have happened, and asks the server before it does anything twice.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Literal, NamedTuple

FILE = "ledger.db"

# packed: its file is written. uploading, creating: the call was about to be made, and may have been. uploaded: the
# server has the file. running: the server has the batch.
BatchState = Literal["packed", "uploading", "uploaded", "creating", "running"]


class Batch(NamedTuple):
    """A batch that is not settled. `tag` is ours: it is in the file's name and in the batch's metadata."""

    tag: str
    state: BatchState
    file_id: str | None
    batch_id: str | None
    requests: int
    worst_usd: float
    created: int  # seconds since 1970
    refusals: int  # times that the server's queue was too full for it


def unseen_usd(folder: Path) -> float:
    """Dollars that a set's requests whose answers never came may have cost. Nothing is locked or changed.

    Raises ValueError, one line, for a ledger that cannot be read.
    """
    path = folder / FILE
    if not path.is_file():
        return 0.0
    try:
        with closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)) as db:
            (usd,) = db.execute("SELECT total(exposure_usd) FROM sessions").fetchone()
    except sqlite3.Error as error:
        raise ValueError(f"{path}: cannot be read ({error})") from None
    return float(usd)


class Ledger:
    """The ledger of one caption set; its user holds the set's lock."""

    def __init__(self, folder: Path) -> None:
        self._db = sqlite3.connect(folder / FILE, isolation_level=None)
        self._db.execute("PRAGMA synchronous = FULL")
        self._db.executescript(
            """
            CREATE TABLE IF NOT EXISTS batches (tag TEXT PRIMARY KEY, state TEXT NOT NULL, file_id TEXT, batch_id TEXT,
                requests INTEGER NOT NULL, worst_usd REAL NOT NULL, created INTEGER NOT NULL,
                refusals INTEGER NOT NULL DEFAULT 0);
            CREATE TABLE IF NOT EXISTS members (key BLOB PRIMARY KEY, tag TEXT NOT NULL) WITHOUT ROWID;
            CREATE TABLE IF NOT EXISTS again (key BLOB PRIMARY KEY, created TEXT NOT NULL) WITHOUT ROWID;
            CREATE INDEX IF NOT EXISTS members_of ON members (tag);
            CREATE TABLE IF NOT EXISTS sessions (id INTEGER PRIMARY KEY, exposure_usd REAL NOT NULL);
            """
        )

    def close(self) -> None:
        """Close the database."""
        self._db.close()

    def batches(self) -> list[Batch]:
        """Every batch that is not settled, oldest first."""
        rows = self._db.execute(
            "SELECT tag, state, file_id, batch_id, requests, worst_usd, created, refusals FROM batches ORDER BY rowid"
        )
        return [Batch(*row) for row in rows]

    def add(self, batch: Batch, keys: Sequence[str], again: Mapping[str, str] = MappingProxyType({})) -> None:
        """A packed batch and the images in it; an image is in one batch at most.

        `again` has the images that have a row already, and when it was made.
        """
        with self._change():
            self._db.execute("INSERT INTO batches VALUES (?, ?, ?, ?, ?, ?, ?, ?)", batch)
            self._db.executemany("INSERT INTO members VALUES (?, ?)", ((bytes.fromhex(k), batch.tag) for k in keys))
            rows = ((bytes.fromhex(k), again[k]) for k in keys if k in again)
            self._db.executemany("INSERT OR REPLACE INTO again VALUES (?, ?)", rows)

    def update(self, batch: Batch) -> None:
        """What is known of a batch now."""
        self._db.execute(
            "UPDATE batches SET state = ?, file_id = ?, batch_id = ?, refusals = ? WHERE tag = ?",
            (batch.state, batch.file_id, batch.batch_id, batch.refusals, batch.tag),
        )

    def retag(self, batch: Batch, tag: str) -> None:
        """A batch that the server did not take goes there again, as another batch of the same file."""
        with self._change():
            self._db.execute("UPDATE members SET tag = ? WHERE tag = ?", (tag, batch.tag))
            self._db.execute(
                "UPDATE batches SET tag = ?, state = 'uploaded', batch_id = NULL, refusals = ? WHERE tag = ?",
                (tag, batch.refusals + 1, batch.tag),
            )

    def settle(self, tag: str) -> None:
        """A batch is done with: its rows are in the store, and what has none is free again."""
        with self._change():
            self._db.execute("DELETE FROM again WHERE key IN (SELECT key FROM members WHERE tag = ?)", (tag,))
            self._db.execute("DELETE FROM members WHERE tag = ?", (tag,))
            self._db.execute("DELETE FROM batches WHERE tag = ?", (tag,))

    def keys(self, tag: str | None = None) -> set[str]:
        """The images in a batch, or in any."""
        if tag is None:
            rows = self._db.execute("SELECT key FROM members")
        else:
            rows = self._db.execute("SELECT key FROM members WHERE tag = ?", (tag,))
        return {key.hex() for (key,) in rows}

    def again(self) -> dict[str, str]:
        """The images in batches that had a row when they were packed, and when it was made."""
        return {key.hex(): created for key, created in self._db.execute("SELECT key, created FROM again")}

    def worst_usd(self) -> float:
        """The worst case of every batch that is not settled."""
        return sum(batch.worst_usd for batch in self.batches())

    def begin_session(self) -> int:
        """A number for this process's own money."""
        return int(self._db.execute("INSERT INTO sessions (exposure_usd) VALUES (0)").lastrowid or 0)

    def expose(self, session: int, usd: float) -> None:
        """What the session may have spent at most, beyond the rows that it has written."""
        self._db.execute("UPDATE sessions SET exposure_usd = ? WHERE id = ?", (usd, session))

    def exposed(self, but: int) -> float:
        """What other sessions may have spent and never saw."""
        (usd,) = self._db.execute("SELECT total(exposure_usd) FROM sessions WHERE id != ?", (but,)).fetchone()
        return float(usd)

    @contextmanager
    def _change(self) -> Iterator[None]:
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self._db.execute("ROLLBACK")
            raise
        self._db.execute("COMMIT")
