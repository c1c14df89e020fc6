"""MLflow, for looking: one parent run a sweep, one child run a cell, live. The only package that imports mlflow.

The directories of the cells are the truth, and all that is shown is read from them by a process of its own (`sender`),
which may be late, killed or without a server for as long as it takes: training neither waits nor knows.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lensbench.tracking.listing import FOLDER, listing
from lensbench.tracking.sender import Sender
from lensbench.tracking.store import Mirror
from lensbench.tracking.target import reason, shown, target

if TYPE_CHECKING:
    from lensbench.sweep.sweep import Sweep

__all__ = ["attach", "shown", "starter", "sync", "target"]

Start = Callable[[Path, "Sweep", Callable[[str], None]], Sender]


def starter(given: str | None, runs: Path) -> Start | None:
    """What starts to show a sweep's cells in the store at the address (see `target`), as they go; None for "none".

    It is called with the directory of the runs, the sweep and a function that says a line; the sender that it returns
    must be closed. Raises ValueError for an address that is none.
    """
    uri = target(given, runs)
    if uri is None:
        return None
    return lambda runs, sweep, say: Sender(listing(sweep), runs, uri, say)


def sync(runs: Path, sweep: Sweep, uri: str) -> tuple[Counter[str], int, dict[str, str]]:
    """Send everything of the sweep that the store lacks, here and now.

    Returns what was sent (runs, points, models, files), how many cells are complete and shown so, and of the cells
    that could not be shown why. Raises ConnectionError, in one line, when the store cannot be used.
    """
    mirror = Mirror(listing(sweep), runs, uri)
    try:
        for _ in range(2):  # what is refused is tried again
            mirror.send()
    except Exception as error:
        raise ConnectionError(f"{shown(uri)} cannot be used: {reason(error, uri)}") from error
    return mirror.sent, len(mirror.whole), mirror.refused


def attach(runs: Path, sweep: Sweep, files: Sequence[Path], folder: str, given: str | None = None) -> str | None:
    """Files as artifacts of a sweep's run, if it has one, in the place of earlier ones. Returns why not, if that fails.

    `given` is the address, as for `target`. A sweep that has never been shown is not shown now.
    """
    uri = target(given, runs)
    if uri is None or not (runs / FOLDER).is_dir():
        return None
    try:
        Mirror(listing(sweep), runs, uri).attach(files, folder)
    except Exception as error:  # tracking is for looking: its failure is never the report's
        return reason(error, uri)
    return None
