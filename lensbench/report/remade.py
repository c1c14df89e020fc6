"""Whether the tables that lie beside frozen results are those that the results give: all are made again and compared.

Figures, pictures and the page are not looked at.
"""

from __future__ import annotations

import csv
import io
import math
import re
from pathlib import Path

from lensbench.report.build import (
    SUMMARY,
    all_findings,
    all_tables,
    generated,
    latex_texts,
    missing_lines,
    summary,
    table_texts,
)
from lensbench.report.checks import few
from lensbench.report.freeze import Frozen
from lensbench.report.grid import arrange

LAST_DIGITS = 1e-6  # relative: in which processors differ
PICTURE = re.compile(r"^!\[.*\]\(.*\)\n\n", re.MULTILINE)  # which figures there are is not looked at


def tables_otherwise(frozen: Frozen, folder: Path) -> list[str]:
    """A line for tables and macros in `folder` that are not what is frozen gives, and one for those that are gone."""
    grid = arrange(frozen.results)
    built, findings = all_tables(frozen, grid), all_findings(frozen, grid)
    wanted = table_texts(built) | latex_texts(frozen, grid, built, findings)
    wanted[SUMMARY] = summary(grid, built, findings, missing_lines(grid), [], folder)
    ours = {*generated(folder), *(folder / name for name in wanted if (folder / name).is_file())}
    there = {path.name: path.read_text(encoding="utf-8", errors="replace") for path in ours}
    there |= {SUMMARY: PICTURE.sub("", there[SUMMARY])} if SUMMARY in there else {}
    other = sorted(name for name, text in there.items() if name not in wanted or not _same(name, text, wanted[name]))
    gone = sorted(name for name in wanted if not (folder / name).is_file())
    again = f"lensbench results build {folder} makes them again"
    found = [f"not what the records give: {few(other)}; {again}"] if other else []
    return [*found, *([f"not there: {few(gone)}; {again}"] if gone else [])]


def _same(name: str, text: str, wanted: str) -> bool:
    if text == wanted or not name.endswith(".csv"):
        return text == wanted
    one, other = (list(csv.reader(io.StringIO(told, newline=""))) for told in (text, wanted))
    if [len(row) for row in one] != [len(row) for row in other]:
        return False
    return all(_close(a, b) for rows in zip(one, other, strict=True) for a, b in zip(*rows, strict=True))


def _close(one: str, other: str) -> bool:
    try:
        return one == other or math.isclose(float(one), float(other), rel_tol=LAST_DIGITS)
    except ValueError:
        return False
