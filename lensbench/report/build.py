"""The report of a sweep, written to a folder and told on the console.

The folder (results/<sweep>) holds the collected records and outcomes with everything made from them, and nothing that
depends on the clock: the same records give the same bytes.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from lensbench.report import render
from lensbench.report.captions import CaptionReport, for_page
from lensbench.report.captions import figure as caption_figure
from lensbench.report.captions import table as caption_table
from lensbench.report.figures import arm_colors, figures
from lensbench.report.grid import Grid, arrange, factor_label
from lensbench.report.guidance import guidance_table
from lensbench.report.headline import headline
from lensbench.report.pictures import sheets
from lensbench.report.table import Table
from lensbench.report.tables import tables
from lensbench.report.terminal import print_tables, say

if TYPE_CHECKING:
    from rich.console import Console

    from lensbench.sweep.sweep import Results

MISSING_SHOWN = 12
PROVENANCE = "provenance.json"


def build(
    results: Results, out: Path, runs: Path, console: Console, captions: CaptionReport | None = None
) -> list[Path]:
    """Write tables, figures, pictures and the frozen records of `results` into `out`, print what matters, and return
    every path written. `runs` is where the cells' pictures, recipes and the MLflow database are; `captions` describes
    what the arms were trained on.

    Raises ValueError when results cannot be compared (other judges, other prompts) or a cell's files disagree.
    """
    grid = arrange(results)
    evaluation = _evaluation(results, out, runs)
    built = tables(grid, evaluation)
    if "guidance" in evaluation and (by_guidance := guidance_table(grid, float(evaluation["guidance"]))):
        built["guidance"] = by_guidance
    if captions is not None:
        built["captions"] = caption_table(captions)
    findings = headline(grid)
    missing = missing_lines(grid)
    out.mkdir(parents=True, exist_ok=True)
    for stale in out.glob("figures/*.p[nd][gf]"):
        stale.unlink()
    written = [path for table in built.values() for path in _write_table(table, out)]
    in_latex = built if captions is None else built | {"captions": for_page(built["captions"])}
    for name, table in in_latex.items():
        label = f"tab:{results.sweep_name}-{name}"
        written.append(_write(out / f"{name}.tex", render.to_latex(table, label)))
    drawn = figures(grid, out / "figures")
    if captions is not None:
        drawn += caption_figure(captions, out / "figures" / "captions", arm_colors(grid))
    seen = sheets(grid, runs, out / "pictures")
    frozen = [_freeze(results.records, out / "records.parquet"), _freeze(results.outcomes, out / "outcomes.parquet")]
    frozen.append(_write(out / PROVENANCE, _provenance(results, evaluation)))
    summary = _write(out / "summary.md", _summary(grid, built, findings, missing, drawn, out))
    latex = _write(out / "headline.tex", _headline_latex(findings))
    _tell(console, results, findings, [built["main"], built["differences"]], missing)
    database = runs / "mlflow.db"
    _tell_files(console, out, drawn, seen, summary, database if database.is_file() else None)
    return [*written, *drawn, *seen, *frozen, summary, latex]


def load(folder: Path) -> Results:
    """The results that `build` froze in a folder. Raises ValueError when the folder holds none."""
    from lensbench.sweep.sweep import Results

    path = folder / PROVENANCE
    if not path.is_file():
        raise ValueError(f"{folder}: no {PROVENANCE}; give a folder that lensbench report wrote")
    told = json.loads(path.read_text())
    return Results(
        sweep_name=told["sweep"],
        factors=told["factors"],
        reference=told["reference"],
        records=pd.read_parquet(folder / "records.parquet"),
        outcomes=pd.read_parquet(folder / "outcomes.parquet"),
        missing=told["missing"],
        notes=told["notes"],
    )


def missing_lines(grid: Grid) -> list[str]:
    """One line for each cell without records: what it was, and why it is not there."""
    return [
        f"missing: {', '.join(filter(None, (factor_label(n, row[n]) for n in grid.results.factors if n in row)))} "
        f"(cell {row['cell']}): {row['reason']}"
        for row in grid.results.missing
    ]


def _evaluation(results: Results, out: Path, runs: Path) -> dict[str, Any]:
    """The evaluation part of the cells' recipe, without what is a factor; from an earlier build where runs are gone."""
    for cell in sorted({str(cell) for cell in results.records["cell"]}):
        recipe = runs / cell / "experiment.json"
        if recipe.is_file():
            told = json.loads(recipe.read_text()).get("evaluation", {})
            return {name: value for name, value in told.items() if f"evaluation.{name}" not in results.factors}
    earlier = out / PROVENANCE
    return json.loads(earlier.read_text()).get("evaluation", {}) if earlier.is_file() else {}


def _write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8", newline="\n")
    return path


def _write_table(table: Table, out: Path) -> list[Path]:
    return [
        _write(out / f"{table.name}.md", render.to_markdown(table)),
        _write(out / f"{table.name}.csv", render.to_csv(table)),
    ]


def _freeze(frame: pd.DataFrame, path: Path) -> Path:
    """The frame as Parquet, in an order that does not depend on how the cells were read."""
    order = [c for c in ("cell", "metric", "prompt_form", "step", "task", "prompt_index", "sample") if c in frame]
    frame = frame.sort_values(order, kind="stable", ignore_index=True) if len(frame) else frame
    frame.to_parquet(path, index=False)
    return path


def is_complete(folder: Path) -> bool:
    """Whether a folder holds the report of a sweep from which no cell was missing."""
    try:
        told = json.loads((folder / PROVENANCE).read_text())
    except (OSError, ValueError):
        return False
    return isinstance(told, dict) and told.get("missing") == []


def _provenance(results: Results, evaluation: dict[str, Any]) -> str:
    records = results.records
    digests = (
        *("corpus_digest", "captions_digest", "prompts_digest", "judge_digest", "text_encoder_digest"),
        *("autoencoder_digest", "commit", "hardware"),
    )
    found = {name: sorted({str(v) for v in records[name].dropna()} - {""}) for name in digests if name in records}
    told = {
        "sweep": results.sweep_name,
        "factors": results.factors,
        "reference": results.reference,
        "evaluation": evaluation,
        "cells": sorted({str(cell) for cell in records["cell"]}),
        "missing": results.missing,
        "notes": results.notes,
        **found,
    }
    return json.dumps(told, indent=1, default=str) + "\n"


def _summary(
    grid: Grid,
    built: dict[str, Table],
    findings: list[str],
    missing: list[str],
    drawn: list[Path],
    out: Path,
) -> str:
    parts = [f"# {grid.results.sweep_name}", "\n".join(f"- {sentence}" for sentence in findings)]
    if missing:
        parts.append("\n".join(f"- {line}" for line in missing))
    alt = {
        "curves": "Scores against training images seen",
        "losses": "Held-out loss along training",
        "differences": "Differences by task",
        "captions": "Lengths and vocabulary of the captions",
    }
    pictures = [(path, alt.get(path.stem, path.stem)) for path in drawn if path.suffix == ".png"]
    parts += [f"![{words}]({path.relative_to(out).as_posix()})" for path, words in pictures]
    parts += [render.to_markdown(table).rstrip() for table in built.values()]
    if grid.results.notes:
        parts.append("### Notes\n\n" + "\n".join(f"- {note}" for note in grid.results.notes))
    return "\n\n".join(part for part in parts if part) + "\n"


def _headline_latex(findings: list[str]) -> str:
    items = "\n".join(rf"\item {render.escape(sentence)}" for sentence in findings)
    body = f"\\begin{{itemize}}\n{items}\n\\end{{itemize}}\n" if items else ""
    return f"% Generated by lensbench; changes will be lost.\n{body}"


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
    console: Console, out: Path, drawn: list[Path], seen: list[Path], summary: Path, database: Path | None
) -> None:
    from rich.text import Text

    files = [("summary", _near(summary))]
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
        console.print(Text(f" {name:<12}", "bold").append(where, "not bold"), soft_wrap=True)


def _near(path: Path) -> str:
    """The path as short as it can be typed from here."""
    relative = os.path.relpath(path)
    return str(path.resolve()) if relative.startswith("..") else relative
