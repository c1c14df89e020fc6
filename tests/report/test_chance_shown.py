"""Chance where people look: beside the scores of tables, as a line of figures, in the bars of the page."""

from __future__ import annotations

import csv
import io
from dataclasses import replace

import numpy as np
import pytest

from lensbench.report import render
from lensbench.report.ablation import ablation_table
from lensbench.report.chance_line import GRAY
from lensbench.report.dose import dose_figure, dose_table
from lensbench.report.figures import curves
from lensbench.report.grid import Grid, arrange
from lensbench.report.guidance import guidance_table
from lensbench.report.page.write import write_page
from lensbench.report.pareto import pareto_table
from lensbench.report.scales_figure import scales
from lensbench.report.table import AT_CHANCE, Table
from lensbench.report.tables import main_table, tables
from tests.report.conftest import simulate
from tests.report.test_chance import committed

FACTORS = {"captions.set": ["alt", "brief", "detailed"], "model.depth": [2, 3, 4], "seed": [0]}


def with_chance(at_chance: str, steps: tuple[int, ...] = (300, 600)) -> Grid:
    """Simulated results in which one arm scores its chance, image by image, and the chance of the others is 0.01."""
    results = simulate(FACTORS, steps=steps, prompts=12)
    outcomes = results.outcomes
    chance = outcomes["value"].where(outcomes["captions.set"] == at_chance, 0.01)
    return arrange(replace(results, outcomes=outcomes.assign(chance=chance.where(outcomes["metric"] == "geneval"))))


@pytest.fixture(scope="module")
def grid() -> Grid:
    return with_chance("alt")


def of_arm(table: Table, arm: str) -> list[list[str]]:
    place = [column.name for column in table.columns].index("captions.set")
    numbers = [i for i, column in enumerate(table.columns) if not column.label]
    return [[row.cells[i].text + row.cells[i].mark for i in numbers] for row in table.rows
            if row.cells[place].value == arm]  # fmt: skip


def test_each_mean_has_its_chance_beside_it_and_what_is_not_above_is_marked(grid: Grid) -> None:
    table = main_table(grid)
    names = [column.name for column in table.columns if not column.label]
    assert names[7] == "short.mean.chance"
    assert names[15] == "detailed.mean.chance"
    for row in of_arm(table, "alt"):
        assert all(text.endswith(AT_CHANCE) for i, text in enumerate(row) if i not in (7, 15))
        assert row[6] == row[7] + AT_CHANCE
    for row in of_arm(table, "detailed"):
        assert not any(AT_CHANCE in row[i] for i in (6, 14))
        assert row[7] == row[15] == "1.0"
    assert any(f"{AT_CHANCE}: not shown to be above chance" in note for note in table.notes)
    rows = list(csv.DictReader(io.StringIO(render.to_csv(table))))
    of_mean = [row for row in rows if row["column"] == "short.mean" and row["captions.set"] == "detailed"]
    assert [float(row["chance"]) for row in of_mean] == pytest.approx([0.01] * 3)
    assert "_1.0_" in render.to_markdown(table)
    assert r"\textit{1.0}" in render.to_latex(table, "tab:main")
    assert r"\rlap{\ensuremath{^{\ddagger}}}" in render.to_latex(table, "tab:main")


def test_tables_of_results_without_chance_say_nothing_of_it() -> None:
    grid = arrange(simulate(prompts=4))
    for table in tables(grid).values():
        assert "chance" not in render.to_markdown(table).lower()
        assert AT_CHANCE not in render.to_markdown(table)
    assert not [line for axes in curves(grid).figure.axes for line in axes.lines if line.get_color() == GRAY]


def test_every_table_with_a_score_of_genevals_marks_it(grid: Grid) -> None:
    built = [ablation_table(grid), pareto_table(committed("demo"))]
    dosed = committed("caption_dose")
    built += [dose_table(dosed), guidance_table(dosed, own=2.0)]
    for table in built:
        assert table is not None
        cells = [cell for row in table.rows for cell in row.cells]
        assert any(AT_CHANCE in cell.mark for cell in cells), table.name
        assert all(not np.isnan(cell.chance) for cell in cells if AT_CHANCE in cell.mark)
        assert any("for the other prompts of their task" in note for note in table.notes), table.name


def test_figures_have_chance_as_a_line(grid: Grid, tmp_path) -> None:  # type: ignore[no-untyped-def]
    for figure in (curves(grid), scales(grid)):
        assert figure is not None
        for axes in figure.axes:
            (line,) = [line for line in axes.lines if line.get_color() == GRAY]
            assert len(line.get_ydata()) > 1
        assert "chance" in {text.get_text() for text in figure.legends[0].get_texts()}
    axes = scales(grid).axes[0]
    (line,) = [line for line in axes.lines if line.get_color() == GRAY]
    of_arms = [100 * grid.chance(grid.scales[0], arm, "geneval", "short").value for arm in grid.arms]
    assert line.get_ydata()[0] == pytest.approx(np.mean(of_arms))
    one = curves(with_chance("alt", steps=(600,)))  # a single step: dots, and a line across
    assert [line.get_xdata().tolist() if hasattr(line.get_xdata(), "tolist") else list(line.get_xdata())
            for line in one.axes[0].lines if line.get_color() == GRAY] == [[0, 1]]  # fmt: skip
    assert "dotted: chance" in one.get_supxlabel()
    assert dose_figure(committed("caption_dose"), tmp_path / "dose")


def test_the_page_says_what_chance_is_and_which_bar_is_not_above(grid: Grid, tmp_path) -> None:  # type: ignore[no-untyped-def]
    page = write_page(grid, {"main": main_table(grid)}, [], [], {}, [], None, tmp_path).read_text()
    bars = page[page.index('<div class="charts">') : page.index('<p class="reading">')]
    assert bars.count("chance 1.0<") == 4, "brief and detailed, in both wordings"
    assert bars.count("not shown to be above") == 2, "alt-text in both"
    assert bars.count('<u style="left:1.00%">') == 4
    assert "a model that does not read its prompt scores that much" in page
    assert "; chance 1.0" in page or '"chance 1.0' in page
