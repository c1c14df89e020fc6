"""Every prompt form in tables and page: told in one line, with the arms that are trained on its templates."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from lensbench.forms import neutral
from lensbench.metrics import GENEVAL
from lensbench.report import render
from lensbench.report.grid import Grid, arrange
from lensbench.report.page.write import write_page
from lensbench.report.tables import tables
from lensbench.report.wordings import caption_sets, wordings, wordings_note

FURTHER = {"short": "relational", "detailed": "held_out"}
HELD_OUT = "held_out: what the detailed prompt says in words and an order that no caption uses"


@pytest.fixture(scope="module")
def grid(simulated) -> Grid:
    made = simulated()
    frames = {}
    for name in ("records", "outcomes"):
        frame = getattr(made, name)
        further = frame[frame["prompt_form"].isin([*FURTHER])]
        further = further.assign(prompt_form=further["prompt_form"].map(FURTHER))
        frames[name] = pd.concat([frame, further], ignore_index=True)
    return arrange(replace(made, **frames))


def test_each_form_is_told_in_a_line_with_the_arms_that_are_trained_on_it(grid: Grid) -> None:
    assert grid.forms(GENEVAL) == ("short", "detailed", "relational", "held_out")
    short, detailed, relational, held_out = wordings(grid, GENEVAL)
    assert short == "short: GenEval's own wording (worded like the training captions of: brief)"
    assert detailed.endswith("(worded like the training captions of: detailed)")
    assert relational.endswith("(worded like the training captions of: detailed)")
    assert held_out.startswith(HELD_OUT)
    assert held_out.endswith("(no arm is trained on it)")
    assert neutral(grid.forms(GENEVAL), caption_sets(grid)) == ("held_out",)


def test_arms_that_do_not_differ_in_their_captions_are_not_said_to_be_trained_on_nothing(grid: Grid) -> None:
    factors = {"model.patch_size": grid.results.factors["captions.set"]}
    other = replace(grid, results=replace(grid.results, factors=factors))
    assert all("trained on" not in line for line in wordings(other, GENEVAL))


def test_tables_and_page_tell_every_form(grid: Grid, simulated, tmp_path: Path) -> None:
    built = tables(grid)
    main = built["main"]
    assert HELD_OUT in render.to_markdown(main).replace("\\_", "_")
    assert r"held\_out" in render.to_latex(main, "tab:main")
    assert "held_out.mean" in render.to_csv(main)
    page = write_page(grid, built, [], [], {}, [], None, tmp_path).read_text(encoding="utf-8")
    assert all(line.split("'")[0] in page for line in wordings(grid, GENEVAL))
    assert wordings_note(arrange(simulated()), GENEVAL) == ""
