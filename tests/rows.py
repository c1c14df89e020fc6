"""Rows of records and outcomes that say nothing yet, for tests that make cells up."""

from __future__ import annotations

from typing import Any

from lensbench.records import Schema

OF_WHICH = ("evaluation_hash", "held_out_digest")  # lensbench.sweep.cellfiles.write_cell tells these


def blank(schema: Schema) -> dict[str, Any]:
    """A row with every column of a cell's file: no text, and zeros."""
    columns = [column for column in schema.columns if column.name in schema.in_cell and column.name not in OF_WHICH]
    return {column.name: "" if column.content == "text" else 0 for column in columns}
