"""Tables with their notes on a terminal, or in a log."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable
from typing import TYPE_CHECKING

from lensbench.report.render import to_console
from lensbench.report.table import Table

if TYPE_CHECKING:
    from rich.console import Console

PIPED_WIDTH = 110  # columns of the tables where there is no terminal to ask


def width_of(console: Console) -> int:
    """The columns to use, at most 120."""
    return min(console.width, 120) if console.is_terminal else PIPED_WIDTH


def say(console: Console, text: str, style: str = "", indent: str = " ") -> None:
    """Print words, wrapped to the width."""
    from rich.text import Text

    hanging = " " * len(indent)
    for line in textwrap.wrap(text, width_of(console), initial_indent=indent, subsequent_indent=hanging):
        console.print(Text(line, style), soft_wrap=True)


def print_tables(console: Console, tables: Iterable[Table]) -> None:
    """Print tables, each with its notes; a note that several share is told once."""
    told: set[str] = set()
    for table in tables:
        console.print()
        console.print(to_console(table, width_of(console)), soft_wrap=True, end="")
        for note in table.notes:
            if note not in told:
                say(console, note, "dim")
        told |= set(table.notes)
