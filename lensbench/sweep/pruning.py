"""What complete cells leave on the disk and nobody needs any more: `lensbench prune-files`.

Kept are the records and outcomes, the pictures, the curves, the last checkpoint, and whatever a cell that is not
complete could go on from. Features and latents are shared by all cells of a runs directory: they are kept while any
cell of it is not complete, any that `lensbench encode` encoded for, or a process fills them, and can be encoded again.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from lensbench.data.rowstore import being_filled
from lensbench.publishing import publish_text
from lensbench.records import RECORDS
from lensbench.sweep import claims
from lensbench.sweep.cellfiles import EVALUATIONS, is_complete, is_trained
from lensbench.sweep.design import Cell
from lensbench.training import files

PROMISES = "encoded"  # in the cache: for which cells `lensbench encode` has encoded
ATTIC = ("*.partial", ".*.fresh")  # what a kill left half written


@dataclass(frozen=True)
class Leftover:
    """Something that can be removed."""

    path: Path
    what: str
    bytes: int


def leftovers(cells: Iterable[Cell], runs: Path, *, checkpoints: bool = False) -> list[Leftover]:
    """What can be removed of the complete cells; with `checkpoints` also those before the last.

    Scoring again with other prompts needs every checkpoint, so these go only when asked for.
    """
    out, every = [], list(cells)
    for cell in every:
        directory = runs / cell.id
        if not is_complete(directory, cell) or claims.state(directory).held:
            continue
        out += _leftover(directory / files.RESUME, "resume points")
        for pattern in ATTIC:
            for path in directory.glob(pattern):
                out += _leftover(path, "half-written files")
        if checkpoints:
            for path in sorted((directory / files.CHECKPOINTS).glob("step-*"))[:-1]:
                out += _leftover(path, "earlier checkpoints")
    if runs.is_dir() and not (_unfinished(runs, every) or _promised(runs) or being_filled(runs / "cache")):
        out += _leftover(runs / "cache", "features and latents")
    return out


def remove(found: Iterable[Leftover]) -> None:
    """Remove what `leftovers` found; what is gone already is no error."""
    for leftover in found:
        if leftover.path.is_dir():
            shutil.rmtree(leftover.path, ignore_errors=True)
        else:
            leftover.path.unlink(missing_ok=True)


def _unfinished(runs: Path, cells: Iterable[Cell]) -> bool:
    # Any cell of this sweep, or of another that has begun here, that would read the features again.
    begun = [path for path in runs.iterdir() if (path / "experiment.json").exists() or (path / claims.CLAIMS).exists()]
    ours = list(cells)
    others = [path for path in begun if path.name not in {cell.id for cell in ours}]
    return any(not is_trained(path) or not _scored(path) for path in others) or not all(
        is_complete(runs / cell.id, cell) for cell in ours
    )


def promise(runs: Path, sweep: str, cells: Iterable[Cell]) -> None:
    """Note that features were encoded for these cells, so that they are kept until the cells are complete."""
    ids = sorted(cell.id for cell in cells)
    folder = runs / "cache" / PROMISES
    folder.mkdir(parents=True, exist_ok=True)
    digest = hashlib.sha256(" ".join(ids).encode()).hexdigest()[:8]
    publish_text(folder / f"{sweep}-{digest}.json", json.dumps(ids) + "\n")


def _promised(runs: Path) -> bool:
    # Whether features were encoded for a cell that is not complete, begun or not; a note that cannot be read counts.
    for path in (runs / "cache" / PROMISES).glob("*.json"):
        try:
            ids = [str(one) for one in json.loads(path.read_text())]
        except (OSError, ValueError, TypeError):
            return True
        if any(not is_trained(runs / one) or not _scored(runs / one) for one in ids):
            return True
    return False


def _scored(directory: Path) -> bool:
    """Whether each evaluation that has begun there is complete, and one has."""
    begun = [path for path in (directory / EVALUATIONS).glob("*") if path.is_dir()]
    return bool(begun) and all((path / RECORDS.file).exists() for path in begun)


def _leftover(path: Path, what: str) -> list[Leftover]:
    if not path.exists():
        return []
    inside = [file for file in path.rglob("*") if file.is_file()] if path.is_dir() else [path]
    return [Leftover(path, what, sum(file.stat().st_size for file in inside))]
