"""`Table`: a table as a value, before it is Markdown, CSV, LaTeX or words on a screen."""

from __future__ import annotations

from dataclasses import dataclass
from math import isnan

NAN = float("nan")
SMALLEST_P = 0.001  # that is told as a number
DAGGER = "†"
AT_CHANCE = "‡"
MINUS = "\N{MINUS SIGN}"
DASH = "\N{EN DASH}"
TOGETHER = "95% together"  # the kind of an interval that holds with the others of its family


@dataclass(frozen=True)
class Cell:
    """One cell: its words, and the numbers behind them unrounded (accuracies as fractions)."""

    text: str
    value: float | str | None = None
    low: float = NAN
    high: float = NAN
    interval: str = ""  # as shown
    kind: str = ""  # what the interval is: "95%", TOGETHER, or "seeds" for the smallest and largest seed
    mark: str = ""
    emphasis: str = ""  # best, better, worse, unclear, missing, chance
    p: float = NAN
    p_holm: float = NAN
    chance: float = NAN  # what the same images give by chance, in the unit of `value`
    chance_shown: str = ""
    role: str = ""  # what the sweep asks of a difference
    plain: tuple[float, float] = (NAN, NAN)  # the 95 % interval of a difference by itself
    seeds: int = 0
    expected: int = 0

    @property
    def incomplete(self) -> bool:
        """Whether fewer seeds stand behind the number than the sweep has."""
        return self.seeds < self.expected


@dataclass(frozen=True)
class Column:
    """A column: a label of its row, or numbers under a head and perhaps a group's head."""

    name: str
    head: str
    short: str  # the head where room is scarce
    group: str = ""
    label: bool = False
    interval: bool = False  # whether intervals are shown; the CSV has them all
    key: bool = False  # the column whose intervals are the last to go where room is scarce


@dataclass(frozen=True)
class Row:
    cells: tuple[Cell, ...]
    opens: bool = False  # the first row of a block: a rule stands above it


@dataclass(frozen=True)
class Table:
    name: str
    title: str
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    notes: tuple[str, ...]
    filed: bool = True  # whether it is written to files too, under its name

    @property
    def incomplete(self) -> bool:
        """Whether any number has fewer seeds than planned."""
        return any(cell.incomplete for row in self.rows for cell in row.cells)


def number(value: float, digits: int = 1) -> str:
    """3.1 or −3.1, with a real minus sign, and no minus before zero."""
    return f"{round(value, digits) + 0.0:.{digits}f}".replace("-", MINUS)


def signed(value: float, digits: int = 1) -> str:
    """+3.1 or −3.1, with a real minus sign."""
    return f"{round(value, digits) + 0.0:+.{digits}f}".replace("-", MINUS)


def p_words(p: float) -> str:
    """0.032 or < 0.001; a dash for none."""
    return DASH if isnan(p) else f"< {SMALLEST_P}" if p < SMALLEST_P else f"{p:.3f}"


def bounds(low: float, high: float, digits: int = 1) -> str:
    """[27.4, 35.1]; empty when there is no interval."""
    return "" if isnan(low) or isnan(high) else f"[{number(low, digits)}, {number(high, digits)}]"
