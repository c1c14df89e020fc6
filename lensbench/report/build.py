"""The report of a sweep, written to a folder and told on the console.

The results are frozen into the folder first (lensbench.report.freeze); everything else is made from what is frozen
there, and from nothing that depends on the clock: the same records give the same bytes. Pictures are the exception:
sheets of them are drawn while the runs are there, and stay.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from lensbench.locks import file_lock
from lensbench.report import render
from lensbench.report.answers import ANSWERS
from lensbench.report.appendix import appendix, further_appendix
from lensbench.report.asked import asked_beside
from lensbench.report.captions import CaptionReport, for_page
from lensbench.report.captions import figure as caption_figure
from lensbench.report.captions import table as caption_table
from lensbench.report.dose import dose_figure, dose_table
from lensbench.report.figures import arm_colors, draw, figures, titled
from lensbench.report.freeze import FILES, Frozen, freeze, open_frozen, refuse_another
from lensbench.report.grid import Grid, arrange
from lensbench.report.guidance import guidance_table
from lensbench.report.headline import claims, headline
from lensbench.report.levels import factor_label
from lensbench.report.loss_figure import losses
from lensbench.report.macros import declared_letters, macros
from lensbench.report.multiplier import multiplier_sentences, multiplier_table
from lensbench.report.null import null_table
from lensbench.report.page.write import write_page
from lensbench.report.pareto import pareto_figure, pareto_table
from lensbench.report.pictures import sheets
from lensbench.report.scales_figure import scales
from lensbench.report.scaling import worths
from lensbench.report.scaling_figure import multiplier_figures
from lensbench.report.table import Table
from lensbench.report.tables import tables
from lensbench.report.terminal import print_tables, say
from lensbench.report.tuning import tuning_figure, tuning_table

if TYPE_CHECKING:
    from rich.console import Console

    from lensbench.sweep.sweep import Cell, Results

MISSING_SHOWN = 12
ANSWERS_SHOWN = 24  # rows of what is asked, on the console; the files have all
SUMMARY = "summary.md"


def build(
    results: Results,
    out: Path,
    runs: Path,
    console: Console,
    captions: CaptionReport | None = None,
    cells: Iterable[Cell] | None = None,
) -> list[Path]:
    """Freeze `results` into `out`, write tables, figures and pictures from there, print what matters, and return every
    path written. `runs` is where the cells' pictures, recipes and the MLflow database are; `captions` describes what
    the arms were trained on; `cells` are all those of the sweep.

    Raises ValueError when results cannot be compared (other judges, other prompts), a cell's files disagree, `out`
    holds another sweep's results, or another process writes there.
    """
    arrange(results).comparisons()  # refuses before anything is written
    if cells is not None:
        refuse_another(out, cells := list(cells))
    with _alone(out), _as_it_was_if_that_fails(out):
        frozen = freeze(results, out, runs, cells, captions)
        return [*dict.fromkeys((*_rebuild(out, console, runs), *frozen))]


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """One report at a time is written into a folder: two would mix, and one that fails undo the other's."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with file_lock(folder.with_name(f".{folder.name}.lock"), wait=False) as alone:
        if not alone:
            raise ValueError(f"{folder}: another process is writing a report there; run again when it has ended")
        yield


@contextmanager
def _as_it_was_if_that_fails(folder: Path) -> Iterator[None]:
    """What is frozen in a folder stays when the report of other results cannot be written, or is stopped."""
    before = {name: path.read_bytes() if (path := folder / name).is_file() else None for name in FILES}
    try:
        yield
    except BaseException:
        for name, data in before.items():
            if data is None:
                (folder / name).unlink(missing_ok=True)
            else:
                (folder / name).write_bytes(data)
        raise


def rebuild(folder: Path, console: Console, runs: Path | None = None) -> list[Path]:
    """Write tables, figures, macros and the appendix from what is frozen in `folder`, print what matters, and return
    every path written. `runs` adds sheets of pictures, where the cells left any.

    Raises ValueError as `build` does, and where nothing is frozen.
    """
    if not folder.is_dir():
        open_frozen(folder)  # says so
    with _alone(folder):
        return _rebuild(folder, console, runs)


def _rebuild(folder: Path, console: Console, runs: Path | None) -> list[Path]:
    frozen = open_frozen(folder)
    grid = arrange(frozen.results)
    built = all_tables(frozen, grid)
    findings = all_findings(frozen, grid)
    missing = missing_lines(grid)
    _remove_stale(folder)
    written = [_write(folder / name, text) for name, text in table_texts(built).items()]
    latex = write_latex(frozen, grid, built, findings, folder)
    drawn = draw_figures(frozen, grid, folder / "figures")
    seen = sheets(grid, runs, folder / "pictures") if runs is not None else []
    page = write_page(grid, built, findings, missing, frozen.provenance, drawn, runs, folder)
    told = _write(folder / SUMMARY, summary(grid, built, findings, missing, drawn, folder))
    long = len(built[ANSWERS].rows) > ANSWERS_SHOWN if ANSWERS in built else True
    shown = [built[name] for name in (ANSWERS, "main", "differences") if name != ANSWERS or not long]
    _tell(console, frozen.results, findings, shown, missing)
    database = runs / "mlflow.db" if runs is not None else None
    _tell_files(console, folder, drawn, seen, page, told, database if database and database.is_file() else None)
    return [*written, *drawn, *seen, page, told, *latex]


def write_latex(
    frozen: Frozen,
    grid: Grid,
    built: dict[str, Table],
    findings: list[str],
    folder: Path,
    first: Frozen | None = None,
) -> list[Path]:
    """Write what `latex_texts` tells."""
    texts = latex_texts(frozen, grid, built, findings, first)
    return [_write(folder / name, text) for name, text in texts.items()]


def table_texts(built: dict[str, Table]) -> dict[str, str]:
    """Every table as Markdown and as CSV, by the name of its file."""
    forms = ((".md", render.to_markdown), (".csv", render.to_csv))
    return {f"{table.name}{suffix}": told(table) for table in built.values() for suffix, told in forms}


def latex_texts(
    frozen: Frozen, grid: Grid, built: dict[str, Table], findings: list[str], first: Frozen | None = None
) -> dict[str, str]:
    """Every table, the headline, the macros and the appendix as LaTeX, by the name of its file.

    Beside the `first` sweep of a paper another's macros and the titles of its tables begin with its name.
    """
    prefix = "" if first is None else grid.results.sweep_name
    in_latex = built | ({"captions": for_page(built["captions"])} if "captions" in built else {})
    label, sweep = f"tab:{grid.results.sweep_name}", f"{prefix}: " if prefix else ""
    texts = {
        name: render.to_latex(replace(table, title=sweep + table.title), f"{label}-{name}")
        for name, table in in_latex.items()
    }
    texts |= {"headline": _headline_latex(findings), "macros": macros(grid, built, frozen, prefix)}
    texts["appendix"] = appendix(grid, frozen) if first is None else further_appendix(grid, frozen, first)
    texts["macros"] += declared_letters(texts.values())
    return {f"{name}.tex": text for name, text in texts.items()}


def draw_figures(frozen: Frozen, grid: Grid, folder: Path) -> list[Path]:
    """Draw every figure that applies, as PNG and PDF."""
    drawn = draw(scales, grid, folder / "scales") + figures(grid, folder) + draw(losses, grid, folder / "losses")
    drawn += pareto_figure(grid, folder / "pareto") + dose_figure(grid, folder / "dose")
    for name in asked_beside(grid):
        drawn += pareto_figure(grid, folder / f"pareto_{name}", name) + dose_figure(grid, folder / f"dose_{name}", name)
    if frozen.results.tuning:
        drawn += tuning_figure(frozen.results.tuning, folder / "tuning")
    drawn += multiplier_figures(grid, worths(grid, frozen.parameters), folder)
    if frozen.captions is not None:
        drawn += caption_figure(frozen.captions, folder / "captions", arm_colors(grid))
    return drawn


def all_findings(frozen: Frozen, grid: Grid) -> list[str]:
    """What the sweep found, in sentences: differences, then what the captions are worth."""
    found = headline(grid)
    return [*found, *multiplier_sentences(grid, worths(grid, frozen.parameters))] if claims(grid) else found


def all_tables(frozen: Frozen, grid: Grid) -> dict[str, Table]:
    """Every table of a frozen result, by name."""
    evaluation = frozen.evaluation
    built = tables(grid, evaluation, frozen.parameters, frozen.provenance.get("captioners", []))
    if "guidance" in evaluation and (by_guidance := guidance_table(grid, float(evaluation["guidance"]))):
        built["guidance"] = by_guidance
    if (by_compute := pareto_table(grid)) is not None:
        built["pareto"] = by_compute
    if frozen.results.tuning:
        built["tuning"] = tuning_table(frozen.results.tuning)
    for table in (multiplier_table(grid, worths(grid, frozen.parameters)), dose_table(grid), null_table(grid)):
        if table is not None:
            built[table.name] = table
    if frozen.captions is not None:
        built["captions"] = caption_table(frozen.captions)
    return built


def missing_lines(grid: Grid) -> list[str]:
    """One line for each cell without records: what it was, and why it is not there."""
    return [
        f"missing: {', '.join(filter(None, (factor_label(n, row[n]) for n in grid.results.factors if n in row)))} "
        f"(cell {row['cell']}): {row['reason']}"
        for row in grid.results.missing
    ]


def generated(folder: Path) -> list[Path]:
    """The tables, macros and other texts of a report that lie in a folder; whatever else lies there is not ours."""
    begins = render.GENERATED.encode()
    of = [path for path in folder.glob("*.tex") if path.is_file() and path.read_bytes().startswith(begins)]
    found = [path.with_suffix(suffix) for path in sorted(of) for suffix in (".tex", ".md", ".csv")]
    return [path for path in found if path.is_file()]


def _remove_stale(folder: Path) -> None:
    for path in [*folder.glob("figures/*.p[nd][gf]"), *generated(folder)]:
        path.unlink()


def _write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8", newline="\n")
    return path


def summary(
    grid: Grid,
    built: dict[str, Table],
    findings: list[str],
    missing: list[str],
    drawn: list[Path],
    out: Path,
) -> str:
    """The findings, the figures that were `drawn` and every table, as Markdown."""
    parts = [f"# {grid.results.sweep_name}", "\n".join(f"- {sentence}" for sentence in findings)]
    if missing:
        parts.append("\n".join(f"- {line}" for line in missing))
    alt = {
        "scales": "Scores against scale",
        "curves": "Scores against training images seen",
        "losses": "Held-out loss along training",
        "differences": "Differences by task",
        "captions": "Lengths and vocabulary of the captions",
        "pareto": "Quality against compute",
        "tuning": "What was tuned",
        "multiplier": "What the captions are worth",
        "multiplier_validation_loss": "What the captions are worth by the held-out loss",
        "dose": "Score by the captions' attributes",
    }
    pictures = [(path, titled(path.stem, alt)) for path in drawn if path.suffix == ".png"]
    parts += [f"![{words}]({path.relative_to(out).as_posix()})" for path, words in pictures]
    parts += [render.to_markdown(table).rstrip() for table in built.values()]
    if grid.results.notes:
        parts.append("### Notes\n\n" + "\n".join(f"- {note}" for note in grid.results.notes))
    return "\n\n".join(part for part in parts if part) + "\n"


def _headline_latex(findings: list[str]) -> str:
    items = "\n".join(rf"\item {render.escape(sentence)}" for sentence in findings)
    body = f"\\begin{{itemize}}\n{items}\n\\end{{itemize}}\n" if items else ""
    return f"{render.HEAD}\n{body}"


def _tell(console: Console, results: Results, findings: list[str], shown: list[Table], missing: list[str]) -> None:
    console.print()
    for sentence in findings:
        say(console, sentence, "bold", " • ")
    print_tables(console, shown)
    for note in results.notes:
        say(console, f"note: {note}", "yellow")
    if missing:
        console.print()
        for line in missing[:MISSING_SHOWN]:
            say(console, line, "yellow")
        if len(missing) > MISSING_SHOWN:
            say(console, f"and {len(missing) - MISSING_SHOWN} more missing cells, in summary.md", "yellow")


def _tell_files(
    console: Console, out: Path, drawn: list[Path], seen: list[Path], page: Path, summary: Path, database: Path | None
) -> None:
    from rich.text import Text

    files = [("page", f"{_near(page)} (open it in a browser)"), ("summary", _near(summary))]
    files += [(path.stem, _near(path)) for path in drawn if path.suffix == ".png"]
    files += [("pictures", _near(path)) for path in seen]
    files += [
        ("tables", f"{_near(out)}{os.sep}*.md, *.csv"),
        ("LaTeX", f"{_near(out)}{os.sep}*.tex, figures{os.sep}*.pdf"),
    ]
    if database:
        where = _near(database)
        files.append(("MLflow", f"{where} (open with: mlflow ui --backend-store-uri sqlite:///{where})"))
    console.print()
    for name, where in files:
        console.print(Text(f" {name:<11} ", "bold").append(where, "not bold"), soft_wrap=True)


def _near(path: Path) -> str:
    """The path as short as it can be typed from here."""
    relative = os.path.relpath(path)
    return str(path.resolve()) if relative.startswith("..") else relative
