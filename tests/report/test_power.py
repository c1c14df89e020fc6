"""The table of what a study can see."""

from __future__ import annotations

import pytest

from lensbench.report.grid import arrange
from lensbench.report.power import power_table
from lensbench.report.table import DASH, Table


@pytest.fixture(scope="module")
def complete(simulated):
    return simulated()


def numbers(table: Table, name: str) -> list[float]:
    place = [column.name for column in table.columns].index(name)
    return [float(row.cells[place].value or 0) for row in table.rows]


def test_a_row_for_each_arm_and_form_and_more_seeds_see_more(complete) -> None:
    table = power_table(arrange(complete), difference=5.0)
    assert [tuple(cell.text for cell in row.cells[1:3]) for row in table.rows] == [
        ("short", f"brief {DASH} alt-text"),
        ("short", f"detailed {DASH} alt-text"),
        ("detailed", f"brief {DASH} alt-text"),
        ("detailed", f"detailed {DASH} alt-text"),
    ]
    now, five, eight = (numbers(table, f"seeds_{n}_prompts_1x") for n in (3, 5, 8))
    assert all(a > b > c > 0 for a, b, c in zip(now, five, eight, strict=True))
    assert all(a > b for a, b in zip(eight, numbers(table, "seeds_8_prompts_4x"), strict=True))
    needed, fewer = numbers(table, "needed"), numbers(table, "needed_more")
    assert all(a >= b for a, b in zip(needed, fewer, strict=True))
    assert "3 training seeds, 96 prompts a form" in table.notes[0]


def test_what_was_found_clearly_was_large_enough_to_be_seen(complete) -> None:
    grid = arrange(complete)
    table = power_table(grid)
    measured, smallest = numbers(table, "measured"), numbers(table, "seeds_3_prompts_1x")
    assert [round(value, 6) for value in measured] == [
        round(100 * grid.paired(grid.scales[0], arm, grid.arms[0], "geneval", form).estimate, 6)
        for form in ("short", "detailed")
        for arm in grid.arms[1:]
    ]
    assert max(abs(value) for value in measured) > min(smallest)


def test_one_seed_says_what_it_leaves_out(simulated) -> None:
    table = power_table(arrange(simulated(factors={"captions.set": ["alt", "detailed"], "seed": [0]})))
    assert any("one seed" in note for note in table.notes)
    assert [column.name for column in table.columns][3:] == ["measured", "seeds_1_prompts_1x", "seeds_1_prompts_4x"]


def test_a_sweep_without_geneval_speaks_of_the_loss(simulated) -> None:
    table = power_table(arrange(simulated(geneval=False)))
    assert table.notes[0].startswith("In validation loss.")


def test_nothing_to_compare_is_said(simulated) -> None:
    alone = simulated(factors={"captions.set": ["alt"], "seed": [0, 1]})
    with pytest.raises(ValueError, match="no two arms"):
        power_table(arrange(alone))
