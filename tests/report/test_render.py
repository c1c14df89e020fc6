"""The four renderings: the same numbers, nothing lost, nothing broken by odd characters."""

# ruff: noqa: RUF001  (the tables show real minus signs and dashes)
from __future__ import annotations

import io
import re

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from lensbench.report.grid import arrange
from lensbench.report.render import escape, to_console, to_csv, to_latex, to_markdown
from lensbench.report.table import Cell, Column, Row, Table
from lensbench.report.tables import tables

GONE = ({"captions.set": "brief", "model.depth": 8, "seed": 1},)


@pytest.fixture(scope="module")
def built(simulated):
    factors = {"captions.set": ["alt", "brief", "detailed"], "model.depth": [4, 8], "seed": [0, 1]}
    return tables(arrange(simulated(factors, missing=GONE)), {"guidance": 4.0})


def plain_latex(text: str) -> str:
    return (
        text.replace(r"\ensuremath{-}", "−").replace(r"\ensuremath{^{\dagger}}", "†").replace(r"\ensuremath{^{*}}", "*")
    )


@pytest.mark.parametrize("name", ["main", "differences", "scores", "data"])
def test_the_same_numbers_in_all_four(built, name):
    table = built[name]
    numbers = [i for i, column in enumerate(table.columns) if not column.label]
    shown = sorted(row.cells[i].text for row in table.rows for i in numbers)
    assert sorted(pd.read_csv(io.StringIO(to_csv(table)), dtype=str)["shown"]) == shown
    for text in (to_markdown(table), plain_latex(to_latex(table, "x")), to_console(table, 120).plain):
        for words in shown:
            assert words in text
    intervals = [row.cells[i].interval for row in table.rows for i in numbers if table.columns[i].interval]
    for text in (to_markdown(table), plain_latex(to_latex(table, "x"))):  # the console may lack the room for them
        assert [interval for interval in intervals if interval not in text] == []


@pytest.mark.parametrize("name", ["main", "differences", "scores", "data"])
def test_rows_are_rows(built, name):
    table = built[name]
    numbers = sum(not column.label for column in table.columns)
    assert len(to_csv(table).splitlines()) == 1 + numbers * len(table.rows)
    assert to_latex(table, "x").count(r" \\" + "\n") == len(table.rows) + 1 + any(c.group for c in table.columns)
    widths = {line.replace("\\|", "").count("|") for line in to_markdown(table).splitlines() if line.startswith("|")}
    assert len(widths) == 1


def test_only_the_best_cells_are_bold_on_a_terminal(built):
    table = built["main"]
    out = io.StringIO()
    Console(file=out, force_terminal=True, width=120, color_system="standard").print(to_console(table, 120))
    best = [cell.text + cell.mark for row in table.rows for cell in row.cells if cell.emphasis == "best"]
    rows = "\n".join(line for line in out.getvalue().splitlines() if re.search(r"\d\.\d", line))
    bold = [text.split()[0] for text in re.findall(r"\x1b\[1m([^\x1b]+)\x1b\[0m", rows)]
    assert best
    assert sorted(bold) == sorted(best)
    assert len(best) < sum(len(row.cells) for row in table.rows)


@pytest.mark.parametrize("name", ["main", "differences", "scores", "data"])
def test_csv_has_every_number_unrounded(built, name):
    table = built[name]
    labels = sum(column.label for column in table.columns)
    frame = pd.read_csv(io.StringIO(to_csv(table)), float_precision="round_trip")
    cells = [cell for row in table.rows for cell in row.cells[labels:]]
    for column, values in (
        ("value", [c.value for c in cells]),
        ("low", [c.low for c in cells]),
        ("p_holm", [c.p_holm for c in cells]),
    ):
        wanted = pd.Series([float("nan") if value is None else value for value in values], dtype=float)
        pd.testing.assert_series_equal(frame[column].astype(float), wanted, check_names=False, check_exact=True)
    assert frame["seeds"].tolist() == [c.seeds for c in cells]


@pytest.mark.parametrize("width", [100, 110, 120, 200])
@pytest.mark.parametrize("name", ["main", "differences", "scores", "data"])
def test_a_table_fits_the_terminal_and_never_more_than_120_columns(built, name, width):
    lines = to_console(built[name], width).plain.splitlines()
    assert max(map(len, lines)) <= min(width, 120)


def test_missing_runs_are_visible_in_every_rendering(built):
    table = built["main"]
    for text in (to_markdown(table), plain_latex(to_latex(table, "x")), to_console(table, 120).plain):
        assert "brief (1/2)" in text
        assert "†" in text
    assert "1,2," in to_csv(table)


def test_digits_of_a_column_stay_below_one_another_when_marks_hang():
    cells = [Cell("12.3", 12.3, mark="†"), Cell("4.5", 4.5), Cell("−6.7", -6.7, mark="*†")]
    rows = tuple(Row((Cell(name, name), cell)) for name, cell in zip("abc", cells, strict=True))
    table = Table("t", "t", (Column("l", "l", "l", label=True), Column("n", "n", "n")), rows, ())
    lines = to_console(table, 80).plain.splitlines()[-3:]
    assert len({line.index(".") for line in lines}) == 1


def test_repeated_labels_are_left_blank_only_below_themselves(built):
    lines = [line for line in to_console(built["differences"], 120).plain.splitlines() if "−" in line]
    rows = [line for line in lines if "alt-text" in line or "detailed − brief" in line]
    assert [line[1] for line in rows].count("4") == 1
    assert [line[1] for line in rows].count("8") == 1


def test_latex_uses_nothing_but_booktabs_and_graphicx(built):
    for table in built.values():
        text = to_latex(table, "x")
        assert not re.search(r"\\(multirow|SI|num|qty|tablenum|adjustbox|makecell)\b", text)
        for name in re.findall(r"\\begin\{(\w+)\}", text):
            assert text.count(rf"\begin{{{name}}}") == text.count(rf"\end{{{name}}}")
        assert text.count("{") == text.count("}")
        assert text.isascii()


def test_escapes():
    assert escape(r"50% of a_b & c#1 $x {y} ~ ^ \z") == (
        r"50\% of a\_b \& c\#1 \$x \{y\} \textasciitilde{} \textasciicircum{} \textbackslash{}z"
    )


@given(st.text(alphabet=st.characters(min_codepoint=32, max_codepoint=126), max_size=30))
def test_no_special_character_survives_escaping(text):
    bare = re.sub(
        r"\\(textbackslash|textasciitilde|textasciicircum|textless|textgreater|ensuremath)\b(\{\^\{\*\}\}|\{\})",
        "",
        escape(text),
    )
    assert not re.search(r"(?<!\\)[%&#$_{}~^]", bare)


@given(
    st.text(
        alphabet=st.characters(min_codepoint=33, max_codepoint=0x2FFF, exclude_categories=("Cc", "Cs", "Z")),
        min_size=1,
        max_size=20,
    )
)
def test_odd_labels_keep_markdown_and_csv_whole(label):
    columns = (Column("l", "l", "l", label=True), Column("n", "n", "n"))
    table = Table("t", "t", columns, (Row((Cell(label, label), Cell("1.0", 1.0))),), ())
    frame = pd.read_csv(io.StringIO(to_csv(table)), dtype=str, keep_default_na=False)
    assert frame["l"].tolist() == [label]
    row = next(line for line in to_markdown(table).splitlines() if "1.0" in line)
    assert len(re.findall(r"(?<!\\)\|", row)) == 3


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=200))
def test_a_long_table_is_broken_into_tables_that_pages_hold(rows):
    """Every row once and in order, its labels told anew on each page; whole blocks where they fit."""
    made = tuple(
        Row(
            (Cell("same", "same"), Cell(f"row {n}", n), Cell("1.0", 1.0, interval="[0, 2]" if two else "")), opens=opens
        )
        for n, (opens, two) in enumerate(rows)
    )
    columns = (Column("a", "a", "a", label=True), Column("b", "b", "b", label=True))
    table = Table("long", "Long", (*columns, Column("c", "c", "c", interval=True)), made, ("the note",))
    text = to_latex(table, "tab:long")
    pages = text.split(r"\begin{table}")[1:]
    found = [[int(n) for n in re.findall(r"row (\d+)", page)] for page in pages]
    assert [n for page in found for n in page] == list(range(len(rows)))
    assert all(11 * len(page) + 9 * sum(rows[n][1] for n in page) <= 560 for page in found), "a page has 700 points"
    assert all("same" in page for page in pages)
    assert text.count("the note") == 1
    assert "the note" in pages[-1]
    assert text.count(r"\label{tab:long}") == 1
    if len(pages) > 1:
        assert [f"({n + 1} of {len(pages)})" in page for n, page in enumerate(pages)] == [True] * len(pages)


def test_blocks_of_rows_stay_together():
    made = tuple(Row((Cell(f"row {n}", n), Cell("1.0", 1.0)), opens=n % 20 == 0) for n in range(100))
    table = Table("long", "Long", (Column("a", "a", "a", label=True), Column("c", "c", "c")), made, ())
    firsts = [re.search(r"row (\d+)", page) for page in to_latex(table, "x").split(r"\begin{table}")[1:]]
    assert [first and int(first[1]) for first in firsts] == [0, 40, 80]
