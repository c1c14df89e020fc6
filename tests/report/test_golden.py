"""Every table in every format, the macros and the appendix of a small frozen result, against files that are kept.

After a change that is meant, LENSBENCH_GOLDEN=write writes the files anew; look at their diff.
"""

from __future__ import annotations

import io
import json
import os
import shutil
from pathlib import Path

import pandas as pd
import pytest

from lensbench.report import render
from lensbench.report.appendix import appendix
from lensbench.report.build import all_tables
from lensbench.report.captions import for_page
from lensbench.report.freeze import CAPTIONS, EXPERIMENTS, OUTCOMES, PROVENANCE, RECORDS, freeze, open_frozen
from lensbench.report.grid import arrange
from lensbench.report.macro_names import macro_name
from lensbench.report.macros import macros

HERE = Path(__file__).parent
FROZEN, GOLDEN = HERE / "frozen", HERE / "golden"
TABLES = ("main", "differences", "ablation", "scores", "sizes", "data", "costs", "captions")
FORMATS = ("md", "csv", "tex", "txt")


def rendered(folder: Path) -> dict[str, str]:
    frozen = open_frozen(folder)
    grid = arrange(frozen.results)
    every = all_tables(frozen, grid)
    built = {name: every[name] for name in TABLES}  # estimates that are made of several scores have tests of their own
    texts = {"macros.tex": macros(grid, built, frozen), "appendix.tex": appendix(grid, frozen)}
    for name in TABLES:
        table = built[name]
        texts[f"{name}.md"] = render.to_markdown(table)
        texts[f"{name}.csv"] = render.to_csv(table)
        texts[f"{name}.tex"] = render.to_latex(for_page(table) if name == "captions" else table, f"tab:{name}")
        texts[f"{name}.txt"] = "\n".join(render.to_console(table, width).plain for width in (80, 120))
    return texts


@pytest.fixture(scope="module")
def texts() -> dict[str, str]:
    found = rendered(FROZEN)
    if os.environ.get("LENSBENCH_GOLDEN") == "write":
        for name, text in found.items():
            (GOLDEN / name).write_text(text, encoding="utf-8", newline="\n")
    return found


@pytest.mark.parametrize("name", [f"{table}.{kind}" for table in TABLES for kind in FORMATS])
def test_a_table_is_what_it_was(texts, name):
    kept = (GOLDEN / name).read_text(encoding="utf-8")
    if name.endswith(".csv"):  # unrounded: the last digits are the processor's
        found, wanted = (pd.read_csv(io.StringIO(text)) for text in (texts[name], kept))
        pd.testing.assert_frame_equal(found, wanted, rtol=1e-9)
    else:
        assert texts[name] == kept


@pytest.mark.parametrize("name", ["macros.tex", "appendix.tex"])
def test_macros_and_appendix_are_what_they_were(texts, name):
    assert texts[name] == (GOLDEN / name).read_text(encoding="utf-8")


@pytest.mark.parametrize("table", TABLES)
def test_a_table_fits_eighty_columns(texts, table):
    narrow = texts[f"{table}.txt"].split("\n\n\n")[0]
    assert max(map(len, texts[f"{table}.txt"].splitlines())) <= 120
    assert narrow


def macro_lines(text: str) -> dict[str, str]:
    lines = [line for line in text.splitlines() if line.startswith(r"\newcommand")]
    return {line.split("}")[0].removeprefix(r"\newcommand{"): line for line in lines}


def test_a_changed_record_changes_its_macros_and_no_other(texts, tmp_path):
    for name in (RECORDS, OUTCOMES, EXPERIMENTS, CAPTIONS, PROVENANCE):
        shutil.copy(FROZEN / name, tmp_path)
    records = pd.read_parquet(tmp_path / RECORDS)
    changed = (
        (records["metric"] == "fd_shapes")
        & (records["prompt_form"] == "short")
        & (records["captions.set"] == "detailed")
        & (records["model.depth"] == 2)
        & (records["seed"] == 0)
    )
    assert changed.sum() == 1
    records.loc[changed, "value"] += 5.0
    records.to_parquet(tmp_path / RECORDS, index=False)
    before, after = macro_lines(texts["macros.tex"]), macro_lines(rendered(tmp_path)["macros.tex"])
    assert before.keys() == after.keys()
    moved = {name for name in before if before[name] != after[name]}
    stem = r"\scoresDepthTwoDetailedFdShapesShort"
    assert moved == {stem, f"{stem}Interval"}  # the number of that arm and scale, and the spread of its seeds


def test_every_number_of_a_table_is_a_macro(texts):
    names = macro_lines(texts["macros.tex"])
    frozen = open_frozen(FROZEN)
    every = all_tables(frozen, arrange(frozen.results))
    for table in (every[name] for name in TABLES):
        numbers = [cell for row in table.rows for column, cell in zip(table.columns, row.cells, strict=True)
                   if not column.label]  # fmt: skip
        of_table = [name for name in names if name.startswith(f"\\{table.name}")]
        assert len([n for n in of_table if not n.endswith(("Interval", "P"))]) == len(numbers), table.name


@pytest.mark.parametrize(
    ("words", "name"),
    [
        (("main", "depth 16", "alt-text", "short.mean"), "mainDepthOneSixAltTextShortMean"),
        (("data", "dropout 0.5", "train_flops"), "dataDropoutZeroPointFiveTrainFlops"),
        (("differences", "detailed \N{MINUS SIGN} brief", "color_attr"), "differencesDetailedMinusBriefColorAttr"),
        (("main", "0.8*detailed+0.2*alt", "x"), "mainZeroPointEightTimesDetailedPlusZeroPointTwoTimesAltX"),
    ],
)
def test_macros_are_named_by_rule(words, name):
    assert macro_name(*words) == name


def test_a_frozen_result_survives_freezing_again(tmp_path):
    frozen = open_frozen(FROZEN)
    for name in (EXPERIMENTS, CAPTIONS, PROVENANCE):
        shutil.copy(FROZEN / name, tmp_path)
    freeze(frozen.results, tmp_path, tmp_path / "no runs")
    for name in (EXPERIMENTS, CAPTIONS):
        assert (tmp_path / name).read_bytes() == (FROZEN / name).read_bytes()
    again, before = (json.loads((folder / PROVENANCE).read_text()) for folder in (tmp_path, FROZEN))
    files = again.pop("files")
    assert again == before
    assert files.keys() == {RECORDS, OUTCOMES, EXPERIMENTS, CAPTIONS}
    assert rendered(tmp_path) == rendered(FROZEN)
