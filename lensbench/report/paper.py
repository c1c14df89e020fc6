"""Bring frozen results into the paper: `python -m lensbench.report.paper RESULTS [RESULTS ...] [--into paper]`.

The tables, macros, appendix and figures are built anew in a folder of their own, from the frozen results alone; what
is not whole is refused. Then `paper/main.tex` compiles. The first results are the paper's own; those of further sweeps
go into folders of their name, and their macros begin with it: `\\captionDoseSweepCells`.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

BUILT = ("main", "differences", "scores", "data", "headline", "macros", "appendix")


def fill(results: Path, paper: Path, name: str = "") -> list[Path]:
    """Copy the LaTeX of a report to paper/tables and its PDF figures to paper/figures, into folders of that `name`;
    the paths written.

    Raises ValueError when the report is not there.
    """
    absent = [name for name in BUILT if not (results / f"{name}.tex").is_file()]
    if absent:
        raise ValueError(f"{results}: no {absent[0]}.tex; write it first: lensbench results build {results}")
    written = []
    for folder, files in (
        (paper / "tables" / name, sorted(results.glob("*.tex"))),
        (paper / "figures" / name, sorted((results / "figures").glob("*.pdf"))),
    ):
        folder.mkdir(parents=True, exist_ok=True)
        for stale in folder.glob("*.*"):
            stale.unlink()
        written += [Path(shutil.copyfile(file, folder / file.name)) for file in files]
    return written


def fill_from_frozen(every: Sequence[Path], paper: Path) -> list[Path]:
    """`fill` with what is built from frozen results now, so that nothing of an earlier version gets in.

    Raises ValueError as `refuse` does: for missing cells, several commits or records of another experiment.
    """
    from lensbench.report.build import all_findings, all_tables, draw_figures, write_latex
    from lensbench.report.checks import refuse
    from lensbench.report.freeze import open_frozen
    from lensbench.report.grid import arrange

    opened = {results: open_frozen(results) for results in every}
    for results, frozen in opened.items():
        refuse(frozen, str(results))
    _remove_further(paper)
    written = []
    for results, frozen in opened.items():
        first = None if results == every[0] else opened[every[0]]
        name = "" if first is None else frozen.results.sweep_name
        grid = arrange(frozen.results)
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch)
            write_latex(frozen, grid, all_tables(frozen, grid), all_findings(frozen, grid), folder, first)
            draw_figures(frozen, grid, folder / "figures")
            written += fill(folder, paper, name)
    return written


def _remove_further(paper: Path) -> None:
    """Remove what an earlier call made of further sweeps: the text shows what it finds."""
    from lensbench.report.render import GENERATED

    for macros in (paper / "tables").glob("*/macros.tex"):
        if macros.read_text(encoding="utf-8").startswith(GENERATED):
            for folder in ("tables", "figures"):
                shutil.rmtree(paper / folder / macros.parent.name, ignore_errors=True)


def main(arguments: list[str]) -> int:
    """Exit code: 0, or 2 with one line about what is wrong."""
    parser = argparse.ArgumentParser(prog="python -m lensbench.report.paper", description="Fill the paper's tables.")
    parser.add_argument("results", nargs="+", type=Path, help="frozen results; the first are the paper's own")
    parser.add_argument("--into", type=Path, default=Path("paper"), help="the paper's folder")
    told = parser.parse_args(arguments)
    try:
        written = fill_from_frozen(told.results, told.into)
    except (ValueError, OSError) as error:
        print(f"lensbench: {error}", file=sys.stderr)
        return 2
    print(f"{len(written)} files into {told.into}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
