"""The tables: known effects are found, absent ones are not, and nothing missing is averaged away."""

# ruff: noqa: RUF001  (the tables show real minus signs and dashes)
from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from lensbench.report.grid import arrange
from lensbench.report.headline import headline
from lensbench.report.table import Cell, Table, bounds, number, signed
from lensbench.report.tables import tables

NONE = {form: {"alt": 0.0, "brief": 0.0, "detailed": 0.0} for form in ("short", "detailed")}
TWO_SCALES = {"captions.set": ["alt", "brief", "detailed"], "model.depth": [4, 8], "seed": [0, 1]}


def cell(table: Table, column: str, **labels: object) -> Cell:
    """The one cell of a column in the row with these labels (`depth` for model.depth and so on)."""
    names = {c.name.rpartition(".")[2] if c.label else c.name: i for i, c in enumerate(table.columns)}
    rows = [row for row in table.rows if all(row.cells[names[key]].value == value for key, value in labels.items())]
    assert len(rows) == 1, (labels, names)
    return rows[0].cells[names[column]]


ASKED = [
    {"arm": {"captions.set": arm}, "other": {"captions.set": "alt"}, "scale": {}, "metric": "geneval", "form": form}
    | {"role": role}
    for arm, form, role in (("detailed", "detailed", "primary"), ("brief", "short", "secondary"))
]


@pytest.fixture(scope="module")
def complete(simulated):
    return arrange(replace(simulated(), questions=ASKED))


def test_main_shows_the_mean_over_seeds_of_the_records(complete):
    table = tables(complete)["main"]
    records = complete.results.records
    chosen = (records["captions.set"] == "brief") & (records["prompt_form"] == "detailed") & (records["step"] == 600)
    wanted = records[chosen & (records["metric"] == "geneval.colors")]["value"]
    found = cell(table, "detailed.colors", depth=4, set="brief")
    assert found.value == pytest.approx(wanted.mean(), abs=1e-15)
    assert found.text == f"{100 * wanted.mean():.1f}"
    assert (found.seeds, found.expected) == (3, 3)


def test_every_prompt_form_task_and_arm_is_printed(complete):
    table = tables(complete)["main"]
    assert [column.group for column in table.columns if not column.label] == ["short prompts"] * 7 + [
        "detailed prompts"
    ] * 7
    assert [row.cells[1].text for row in table.rows] == ["alt-text", "brief", "detailed"]


def test_a_known_effect_is_found_and_marked(complete):
    found = cell(tables(complete)["differences"], "mean", depth=4, prompts="detailed", difference="detailed − alt-text")
    assert found.low < 0.37 < found.high
    assert found.emphasis == "better"
    assert found.mark == "*"
    assert found.p == found.p_holm < 0.05
    beside = cell(tables(complete)["differences"], "colors", depth=4, prompts="detailed", difference="brief − alt-text")
    assert (beside.role, beside.mark) == ("descriptive", "")


def test_an_arm_that_beats_another_arm_is_in_the_table(complete):
    found = cell(tables(complete)["differences"], "mean", depth=4, prompts="short", difference="detailed − brief")
    assert found.low < -0.08 < found.high
    assert found.value < 0


def test_differences_of_means_are_differences_of_the_main_table(complete):
    built = tables(complete)
    found = cell(built["differences"], "position", depth=4, prompts="short", difference="brief − alt-text")
    brief, alt = (cell(built["main"], "short.position", depth=4, set=arm) for arm in ("brief", "alt"))
    assert found.value == pytest.approx(brief.value - alt.value, abs=1e-12)


def test_no_effect_is_neither_marked_nor_bold_nor_claimed(simulated):
    grid = arrange(replace(simulated(effect=NONE), questions=ASKED))
    built = tables(grid)
    assert not any("*" in cell.mark for row in built["differences"].rows for cell in row.cells)
    means = [i for i, column in enumerate(built["main"].columns) if column.name.endswith("mean")]
    assert not any(row.cells[i].emphasis == "best" for row in built["main"].rows for i in means)
    assert headline(grid)[0].endswith(": not significant.")


def test_bold_needs_an_interval_clear_of_zero_against_the_second_best(complete):
    table, best = tables(complete)["main"], []
    for form in ("short", "detailed"):
        order = sorted(complete.arms, key=lambda arm: -complete.number(complete.scales[0], arm, "geneval", form).value)
        gap = complete.paired(complete.scales[0], order[0], order[1], "geneval", form)
        for arm in complete.arms:
            bold = cell(table, f"{form}.mean", depth=4, set=dict(arm.settings)["captions.set"]).emphasis == "best"
            assert bold == (arm is order[0] and gap.interval[0] > 0)
            best.append(bold)
    assert any(best)


def test_missing_seeds_are_shown_and_never_averaged(simulated):
    full = arrange(simulated(TWO_SCALES))
    gone = {"captions.set": "brief", "model.depth": 8, "seed": 1}
    built = tables(arrange(simulated(TWO_SCALES, missing=(gone,))))
    found = cell(built["main"], "short.mean", depth=8, set="brief")
    records = full.results.records
    there = (records["captions.set"] == "brief") & (records["model.depth"] == 8) & (records["seed"] == 0)
    one = records[there & (records["metric"] == "geneval") & (records["prompt_form"] == "short")]["value"]
    assert found.value == pytest.approx(one.item())
    assert (found.seeds, found.expected, found.mark) == (1, 2, "†")
    assert cell(built["main"], "set", depth=8, set="brief").mark == " (1/2)"
    assert cell(built["main"], "short.mean", depth=4, set="brief").mark == ""
    assert any(note.startswith("†") and "one cell is missing" in note for note in built["main"].notes)


def test_an_arm_with_missing_seeds_is_compared_on_the_seeds_both_have(simulated):
    gone = {"captions.set": "brief", "model.depth": 8, "seed": 1}
    grid = arrange(simulated(TWO_SCALES, missing=(gone,)))
    found = cell(tables(grid)["differences"], "mean", depth=8, prompts="short", difference="brief − alt-text")
    scale = grid.scales[1]
    alt, brief = (grid.number(scale, grid.arms[i], "geneval", "short").by_seed for i in (0, 1))
    assert found.value == pytest.approx(brief[0] - alt[0])
    assert (found.seeds, found.expected) == (1, 2)
    assert "†" in found.mark
    assert any("seeds that both arms have" in note for note in tables(grid)["differences"].notes)


def test_an_arm_without_any_run_is_a_row_of_dashes(simulated):
    grid = arrange(simulated(TWO_SCALES, missing=({"captions.set": "brief", "model.depth": 8},)))
    built = tables(grid)
    found = cell(built["main"], "short.mean", depth=8, set="brief")
    assert (found.text, found.value, found.seeds, found.mark) == ("–", None, 0, "†")
    against = cell(built["differences"], "mean", depth=8, prompts="short", difference="brief − alt-text")
    assert (against.text, against.value) == ("–", None)


def test_a_number_that_could_not_be_computed_counts_as_missing(simulated):
    results = simulated()
    records = results.records
    bad = (records["metric"] == "fd_shapes") & (records["captions.set"] == "alt") & (records["seed"] == 1)
    records.loc[bad, "value"] = np.nan
    found = cell(tables(arrange(results))["scores"], "fd_shapes.short", depth=4, set="alt")
    assert (found.seeds, found.expected, found.mark) == (2, 3, "†")
    assert found.value == pytest.approx(records[(records["metric"] == "fd_shapes") & (records["captions.set"] == "alt")
                                                & (records["prompt_form"] == "short")]["value"].mean())  # fmt: skip


def test_one_seed_says_sampling_only(simulated, complete):
    one = tables(arrange(simulated({"captions.set": ["alt", "detailed"], "model.depth": [4], "seed": [0]})))
    for name in ("main", "differences", "scores"):
        assert any("sampling interval only" in note for note in one[name].notes), name
    assert not any("sampling interval only" in note for note in tables(complete)["main"].notes)


def test_notes_say_how_it_was_measured(complete):
    notes = " ".join(tables(complete, {"guidance": 4.0, "sampling_steps": 16})["main"].notes)
    for words in (
        "32 images a task",
        "16 prompts",
        "guidance 4",
        "16 Euler steps",
        "judge 0123456789;",
        "abc1234def56",
    ):
        assert words in notes


def test_a_sweep_without_geneval_has_tables_of_its_scores(simulated):
    asked = ASKED[0] | {"metric": "validation_loss"}
    made = simulated({"captions.set": ["alt", "detailed"], "seed": [0, 1, 2]}, geneval=False)
    grid = arrange(replace(made, questions=[asked]))
    built = tables(grid)
    assert {column.group for column in built["main"].columns if not column.label} == {
        "FD-shapes ↓",
        "validation loss ↓",
    }
    loss = cell(built["differences"], "validation_loss.detailed", difference="detailed − alt-text")
    assert loss.kind == "95%"
    assert loss.emphasis == "better"  # lower, and lower is better
    assert headline(grid)[0].startswith("Primary question (validation loss, detailed prompts): detailed ")
    two = tables(arrange(simulated({"captions.set": ["alt", "detailed"], "seed": [0, 1]}, geneval=False)))
    distance = cell(two["differences"], "fd_shapes.detailed", difference="detailed − alt-text")
    assert (distance.kind, distance.mark) == ("seeds", "")  # the spread of seeds is no interval and no test


def test_any_factor_name_works(simulated):
    factors = {"training.steps": [600], "captions.dropout": [0.1, 0.5], "images": [1024, 4096], "seed": [0]}
    effect = {form: {"detailed": 0.1} for form in ("short", "detailed")}
    grid = arrange(simulated(factors, reference={"captions.dropout": 0.1}, effect=effect))
    main = tables(grid)["main"]
    assert [column.head for column in main.columns if column.label] == ["steps", "images", "dropout"]
    assert cell(main, "short.mean", images=4096, dropout=0.5).seeds == 1
    assert [row.difference.seeds for row in grid.comparisons()] == [1] * 28


def test_many_arms_are_compared_with_the_reference_only(simulated):
    factors = {"captions.present": [0.0, 0.2, 0.4, 0.6, 0.8], "seed": [0]}
    effect = {form: {"detailed": 0.1} for form in ("short", "detailed")}
    grid = arrange(simulated(factors, reference={"captions.present": 0.0}, effect=effect))
    assert {other for _, other in grid.pairs()} == {grid.reference}
    assert len(grid.pairs()) == 4


def test_the_data_table_counts_what_went_in(complete):
    table = tables(complete)["data"]
    assert cell(table, "training_images", set="alt").text == "4,096"
    assert cell(table, "truncated_captions", set="detailed").text == "5"
    assert cell(table, "train_flops", set="alt").text == f"{1.3e9 * 600 * 64 / 1e12:.3g}"
    assert "set_aside_images" not in [column.name for column in table.columns]  # none were


def test_other_judges_are_refused(simulated):
    results = simulated()
    results.records.loc[results.records["seed"] == 1, "judge_digest"] = "f" * 64
    with pytest.raises(ValueError, match="judged by 2 judges"):
        arrange(results)


def test_other_prompts_are_refused(simulated):
    results = simulated()
    other = (results.outcomes["captions.set"] == "brief") & (results.outcomes["prompt_index"] == 3)
    results.outcomes.loc[other, "prompt"] = "its own training caption"
    with pytest.raises(ValueError, match=r"alt-text \(short prompts, depth 4\) were judged on different prompts"):
        tables(arrange(results))


def test_two_cells_for_one_place_are_refused(simulated):
    results = simulated()
    again = results.records[results.records["seed"] == 0].assign(cell="another", seed=1)
    import pandas as pd

    with pytest.raises(ValueError, match="recorded twice"):
        arrange(replace(results, records=pd.concat([results.records, again])))


def test_the_order_of_rows_does_not_matter(simulated):
    results = simulated()
    shuffled = replace(results, records=results.records.sample(frac=1, random_state=1),
                       outcomes=results.outcomes.sample(frac=1, random_state=2))  # fmt: skip
    # By their text: a number that is missing is NaN, which equals nothing.
    assert repr(tables(arrange(results))) == repr(tables(arrange(shuffled)))


def test_the_headline_tells_both_scores_the_difference_and_the_verdict(complete):
    first, second = headline(complete)
    found = complete.paired(complete.scales[0], complete.arms[2], complete.arms[0], "geneval", "detailed")
    assert first.startswith("Primary question (GenEval mean, detailed prompts, depth 4): detailed ")
    ends = bounds(100 * found.low, 100 * found.high)
    assert f"The difference is {signed(100 * found.estimate)} points {ends}, p " in first
    assert first.endswith(": significant.")
    assert second == "1 of 1 secondary comparison is significant after Holm's correction."


@pytest.mark.parametrize(("value", "text"), [(-0.04, "0.0"), (-3.14, "−3.1"), (0, "0.0")])
def test_numbers_have_real_minus_signs_and_no_negative_zero(value, text):
    assert number(value) == text
