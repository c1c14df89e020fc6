"""Bring frozen results into the paper: `python -m lensbench.report.paper results/demo [paper]`.

The tables, macros, appendix and figures are built anew in a folder of their own, from the frozen results alone; what
is not whole is refused. Then `paper/main.tex` compiles.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path

BUILT = ("main", "differences", "scores", "data", "headline", "macros", "appendix")


def fill(results: Path, paper: Path) -> list[Path]:
    """Copy the LaTeX of a report to paper/tables and its PDF figures to paper/figures; the paths written.

    Raises ValueError when the report is not there.
    """
    absent = [name for name in BUILT if not (results / f"{name}.tex").is_file()]
    if absent:
        raise ValueError(f"{results}: no {absent[0]}.tex; write it first: lensbench results build {results}")
    written = []
    for folder, files in (
        ("tables", sorted(results.glob("*.tex"))),
        ("figures", sorted((results / "figures").glob("*.pdf"))),
    ):
        (paper / folder).mkdir(parents=True, exist_ok=True)
        for stale in (paper / folder).glob("*.*"):
            stale.unlink()
        written += [Path(shutil.copyfile(file, paper / folder / file.name)) for file in files]
    return written


def fill_from_frozen(results: Path, paper: Path) -> list[Path]:
    """`fill` with what is built from the frozen results now, so that nothing of an earlier version gets in.

    Raises ValueError as `refuse` does: for missing cells, several commits or records of another experiment.
    """
    from lensbench.report.build import all_findings, all_tables, draw_figures, write_latex
    from lensbench.report.checks import refuse
    from lensbench.report.freeze import open_frozen
    from lensbench.report.grid import arrange

    frozen = open_frozen(results)
    refuse(frozen, str(results))
    grid = arrange(frozen.results)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_latex(frozen, grid, all_tables(frozen, grid), all_findings(frozen, grid), folder)
        draw_figures(frozen, grid, folder / "figures")
        return fill(folder, paper)


def main(arguments: list[str]) -> int:
    """Exit code: 0, or 2 with one line about what is wrong."""
    if not 1 <= len(arguments) <= 2:
        print("usage: python -m lensbench.report.paper RESULTS [PAPER]", file=sys.stderr)
        return 2
    try:
        written = fill_from_frozen(Path(arguments[0]), Path(arguments[1] if len(arguments) > 1 else "paper"))
    except (ValueError, OSError) as error:
        print(f"lensbench: {error}", file=sys.stderr)
        return 2
    print(f"{len(written)} files into {written[0].parent.parent}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
