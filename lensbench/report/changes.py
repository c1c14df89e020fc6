"""What changed in frozen numbers between two commits: `git show` of both, and the tables of both side by side."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from lensbench.records import OUTCOMES, RECORDS, read
from lensbench.report.freeze import PROVENANCE, results_of
from lensbench.report.grid import arrange
from lensbench.report.table import DASH, Cell, Column, Row, Table, number, signed
from lensbench.report.tables import tables
from lensbench.sweep.sweep import Results

SHOWN = 6  # of a list of names
KEY = ["metric", "prompt_form", "step"]


def at_commit(folder: Path, commit: str) -> tuple[Results, dict[str, Any]]:
    """The results that were frozen in a folder at a commit, and their provenance. ValueError where there are none."""
    told = json.loads(_shown(folder, commit, PROVENANCE))
    records, outcomes = (
        read(_shown(folder, commit, schema.file), schema, frozen=True) for schema in (RECORDS, OUTCOMES)
    )
    return results_of(told, records, outcomes, Results), told


def frame_changes(old: tuple[Results, dict[str, Any]], new: tuple[Results, dict[str, Any]]) -> list[str]:
    """Lines about the records themselves: which came, went and changed, and what of the provenance did."""
    lines = []
    before, after = old[0].records, new[0].records
    factors = [name for name in old[0].factors if name in new[0].factors]
    if other := sorted({*old[0].factors} ^ {*new[0].factors}):
        lines.append(f"factors that only one of them has: {', '.join(other)}")
    key = [*factors, *KEY]
    joined = before[[*key, "value"]].merge(after[[*key, "value"]], on=key, how="outer", suffixes=("_a", "_b"))
    gone = joined["value_b"].isna() & joined["value_a"].notna()
    come = joined["value_a"].isna() & joined["value_b"].notna()
    moved = ~gone & ~come & (joined["value_a"] != joined["value_b"])
    moved &= joined["value_a"].notna()
    for rows, word in ((gone, "gone"), (come, "new"), (moved, "changed")):
        if rows.any():
            counts = joined[rows]["metric"].value_counts()
            named = ", ".join(f"{name} {n}" for name, n in list(counts.items())[:SHOWN])
            lines.append(f"records {word}: {int(rows.sum()):,} of {len(joined):,} ({named}{_more(len(counts))})")
    for name in sorted({*old[1], *new[1]} - {"cells", "cost", "notes", "files"}):
        a, b = old[1].get(name), new[1].get(name)
        if a != b:
            lines.append(f"{name}: {_short(a)} -> {_short(b)}")
    return lines


def changes_table(
    old: tuple[Results, dict[str, Any]], new: tuple[Results, dict[str, Any]], title: str, most: int | None
) -> Table:
    """Every number of a table that reads otherwise, the largest changes (in units of its interval) first."""
    a, b = (dict(_cells(*one)) for one in (old, new))
    found = []
    for place in [*a, *(place for place in b if place not in a)]:
        before, after = a.get(place), b.get(place)
        if before is not None and after is not None and (before.text, before.interval) == (after.text, after.interval):
            continue
        found.append((place, before, after))
    found.sort(key=lambda row: -_weight(row[1], row[2]))
    rows = [
        Row(
            (
                *(Cell(word, word) for word in place),
                *(_shown_cell(cell) for cell in (before, after)),
                _change(before, after),
            )
        )
        for place, before, after in found[:most]
    ]
    columns = (
        *(Column(name, name, name, label=True) for name in ("table", "row", "column")),
        Column("before", "before", "before"),
        Column("after", "after", "after"),
        Column("change", "change", "change", key=True),
    )
    more = len(found) - len(rows)
    notes = (f"And {more:,} more changes: --all shows them.",) if more else ()
    return Table("changes", f"Numbers that changed, {title}", columns, tuple(rows), notes, filed=False)


def _cells(results: Results, told: dict[str, Any]) -> Iterator[tuple[tuple[str, str, str], Cell]]:
    grid = arrange(results)
    for name, table in tables(grid, told.get("evaluation", {})).items():
        labels = [i for i, column in enumerate(table.columns) if column.label]
        for row in table.rows:
            where = ", ".join(filter(None, (row.cells[i].text for i in labels)))
            for column, cell in zip(table.columns, row.cells, strict=True):
                if not column.label:
                    yield (name, where, column.name), cell


def _shown_cell(cell: Cell | None) -> Cell:
    if cell is None:
        return Cell(DASH)
    return Cell(f"{cell.text} {cell.interval}".rstrip() + cell.mark, cell.value)


def _change(before: Cell | None, after: Cell | None) -> Cell:
    if before is None or after is None:
        return Cell("new" if before is None else "gone")
    a, b = before.value, after.value
    if not (isinstance(a, int | float) and isinstance(b, int | float)):
        return Cell("")
    if a == b:
        return Cell("interval")
    percent = abs(a) > 0 and abs(b - a) / abs(a) < 10
    change = float(b) - float(a)
    return Cell(f"{signed(100 * change / abs(a))} %" if percent else number(change, 4), change)


def _weight(before: Cell | None, after: Cell | None) -> float:
    """How much a change matters: against the width of the interval, or against the number where there is none."""
    if before is None or after is None:
        return np.inf
    a, b = before.value, after.value
    if not (isinstance(a, int | float) and isinstance(b, int | float)):
        return 0.0
    width = before.high - before.low
    return abs(b - a) / (width if width > 0 else abs(a) or 1.0)


def _shown(folder: Path, commit: str, name: str) -> bytes:
    root = _git(folder if folder.is_dir() else Path(), "rev-parse", "--show-toplevel").decode().strip()
    if commit.startswith("-"):
        raise ValueError(f"{commit}: no commit")
    if not folder.resolve().is_relative_to(Path(root).resolve()):
        raise ValueError(f"{folder}: not in {root}, whose commits are compared")
    path = (folder.resolve() / name).relative_to(Path(root).resolve()).as_posix()
    return _git(Path(root), "show", f"{commit}:{path}")


def _git(folder: Path, *words: str) -> bytes:
    done = subprocess.run(["git", "-C", str(folder), *words], capture_output=True)
    if done.returncode:
        lines = done.stderr.decode(errors="replace").strip().splitlines()
        raise ValueError(f"git {words[0]}: {lines[0].removeprefix('fatal: ') if lines else 'failed'}")
    return done.stdout


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _more(count: int) -> str:
    return f" and {count - SHOWN} more metrics" if count > SHOWN else ""
