"""A/A: an arm against itself on other training seeds; and arms that have more seeds than others by design."""

from __future__ import annotations

import pytest

from lensbench.metrics import GENEVAL
from lensbench.report.grid import arrange
from lensbench.report.null import null_table, nulls
from lensbench.report.table import DASH
from lensbench.report.tables import tables

SEEDS = [0, 1, 2, 3, 4, 5]
MORE_SEEDS_FOR_ALT = tuple({"captions.set": name, "seed": seed} for name in ("brief", "detailed") for seed in (3, 4, 5))


def factors(**more):
    return {"captions.set": ["alt", "brief", "detailed"], **more, "seed": SEEDS}


def test_an_arm_with_fewer_seeds_by_design_lacks_none(simulated):
    grid = arrange(simulated(factors(), excluded=MORE_SEEDS_FOR_ALT))
    assert [grid.number(grid.scales[0], arm, GENEVAL, "short")[-1] for arm in grid.arms] == [6, 3, 3]
    gap = grid.paired(grid.scales[0], grid.arms[1], grid.arms[0], GENEVAL, "short")
    assert (gap.seeds, gap.expected) == (3, 3), "paired on the seeds that both have"
    built = tables(grid)
    assert not any(table.incomplete for table in built.values())
    assert "3 to 6 training seeds" in built["main"].notes[0]


def test_an_arm_that_lost_a_seed_still_says_so(simulated):
    lost = ({"captions.set": "brief", "seed": 1},)
    grid = arrange(simulated(factors(), excluded=MORE_SEEDS_FOR_ALT, missing=lost))
    group = grid.number(grid.scales[0], grid.arms[1], GENEVAL, "short")
    assert (group.seeds, group.expected) == (2, 3)
    assert tables(grid)["main"].incomplete


def test_the_halves_are_the_first_seeds_and_the_others(simulated):
    made = simulated(factors(), excluded=MORE_SEEDS_FOR_ALT)
    grid = arrange(made)
    found = nulls(grid)
    assert [(null.arm.label, null.form, null.pairs) for null in found] == [
        ("alt-text", form, ((0, 3), (1, 4), (2, 5))) for form in ("short", "detailed")
    ]
    for null in found:
        by_seed = grid.number(null.scale, null.arm, GENEVAL, null.form).by_seed
        wanted = sum(by_seed[seed] for seed in (0, 1, 2)) / 3 - sum(by_seed[seed] for seed in (3, 4, 5)) / 3
        assert null.difference.estimate == pytest.approx(wanted)
        assert null.difference.low <= wanted <= null.difference.high
    table = null_table(grid)
    assert table is not None
    assert len(table.rows) == 2
    assert "3 each" in table.notes[0]


def test_an_odd_seed_is_left_out_and_three_are_too_few(simulated):
    five = arrange(simulated({"captions.set": ["alt"], "seed": [0, 1, 2, 3, 4]}, reference={"captions.set": "alt"}))
    assert {null.pairs for null in nulls(five)} == {((0, 2), (1, 3))}
    three = arrange(simulated({"captions.set": ["alt"], "seed": [0, 1, 2]}, reference={"captions.set": "alt"}))
    assert null_table(three) is None


def test_a_lost_seed_leaves_with_its_partner_and_is_told(simulated):
    lost = ({"captions.set": "alt", "seed": 1},)
    grid = arrange(simulated(factors(), excluded=MORE_SEEDS_FOR_ALT, missing=lost))
    assert {null.pairs for null in nulls(grid)} == {((0, 3), (2, 5))}, "the planned halves"
    table = null_table(grid)
    assert table is not None
    assert table.incomplete
    assert "(2/3)" in table.rows[0].cells[0].mark
    assert "nothing stands in for them" in table.notes[-1]


def test_an_arm_that_a_scale_does_not_have_is_not_missing_there(simulated):
    levels = {"captions.set": ["alt", "brief"], "images": [256, 512], "seed": [0, 1]}
    grid = arrange(simulated(levels, excluded=({"captions.set": "brief", "images": 256},)))
    table = tables(grid)["main"]
    cells = [row.cells[-1] for row in table.rows]
    assert [(cell.text == DASH, cell.mark, cell.emphasis == "missing") for cell in cells][1] == (True, "", False)
    assert not table.incomplete


def test_chance_is_called_chance(simulated):
    # 30 scales at which the model is the same: 60 comparisons, of which about three may come out under 0.05
    grid = arrange(simulated({"captions.set": ["alt"], "images": list(range(30)), "seed": SEEDS}, prompts=6,
                             reference={"captions.set": "alt"}))  # fmt: skip
    found = nulls(grid)
    assert len(found) == 60
    assert sum(null.difference.p < 0.05 for null in found) <= 8
    covered = sum(null.difference.low <= 0 <= null.difference.high for null in found)
    assert covered >= 52


def test_doses_are_called_by_their_shares(simulated):
    levels = {"captions.set": ["dose"], "captions.present": [1.0, 0.0], "captions.wrong": [0.0, 0.25], "seed": [0]}
    reference = {"captions.set": "dose", "captions.present": 1.0, "captions.wrong": 0.0}
    effect = {form: {"dose": 0.1} for form in ("short", "detailed")}
    assert [arm.label for arm in arrange(simulated(levels, reference, effect)).arms] == [
        "100 % of attributes",
        "100 % of attributes, 25 % wrong",
        "0 % of attributes",
        "0 % of attributes, 25 % wrong",
    ]


def test_arms_that_nothing_else_names_are_called_by_what_they_share(simulated):
    levels = {"captions.set": ["detailed"], "captions.max_words": ["none", 5], "seed": [0]}
    found = arrange(simulated(levels, {"captions.set": "detailed", "captions.max_words": "none"}))
    assert [arm.label for arm in found.arms] == ["detailed", "detailed, at most 5 words"]
