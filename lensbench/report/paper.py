"""Bring a report's tables and figures into the paper: `python -m lensbench.report.paper results/demo`."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

TABLES = ("main", "differences", "scores", "data", "headline")
WITH_CAPTIONS = "captions"  # the table of a report that describes its captions


def fill(results: Path, paper: Path) -> list[Path]:
    """Copy the LaTeX tables of `results` to paper/tables and its PDF figures to paper/figures; the paths written.

    Raises ValueError when the report is not there.
    """
    absent = [name for name in TABLES if not (results / f"{name}.tex").is_file()]
    if absent:
        raise ValueError(f"{results}: no {absent[0]}.tex; write the report first: lensbench report SWEEP")
    written = []
    described = [WITH_CAPTIONS] if (results / f"{WITH_CAPTIONS}.tex").is_file() else []
    for folder, files in (
        ("tables", [results / f"{name}.tex" for name in (*TABLES, *described)]),
        ("figures", sorted((results / "figures").glob("*.pdf"))),
    ):
        (paper / folder).mkdir(parents=True, exist_ok=True)
        for stale in (paper / folder).glob("*.*"):
            stale.unlink()
        written += [Path(shutil.copyfile(file, paper / folder / file.name)) for file in files]
    return written


def main(arguments: list[str]) -> int:
    """Exit code: 0, or 2 with one line about what is wrong."""
    if not 1 <= len(arguments) <= 2:
        print("usage: python -m lensbench.report.paper RESULTS [PAPER]", file=sys.stderr)
        return 2
    try:
        written = fill(Path(arguments[0]), Path(arguments[1] if len(arguments) > 1 else "paper"))
    except (ValueError, OSError) as error:
        print(f"lensbench: {error}", file=sys.stderr)
        return 2
    print(f"{len(written)} files into {written[0].parent.parent}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
