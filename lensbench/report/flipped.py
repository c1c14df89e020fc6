"""Flipped pictures side by side: a row a prompt, the first side left, the second right, each with its verdict."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from lensbench.report.compare import flips
from lensbench.report.pictures import BADGE, GAP, INK, PALE, TEXT, picture, typeface, words_beside
from lensbench.report.sides import Side

MOST = 12  # of each direction
SIDE = 112  # the longer side of a picture on the sheet
Pair = tuple[dict[str, Any], tuple[np.ndarray | None, np.ndarray | None]]


def flipped_sheet(a: Side, b: Side, both: pd.DataFrame, path: Path) -> Path | None:
    """Draw the first flips of each task and direction, at most `MOST` of either; None where no picture is kept."""
    from PIL import Image, ImageDraw

    halves = [(f"right in {word} alone", _chosen(a, b, both, gained)) for gained, word in ((True, "B"), (False, "A"))]
    halves = [(head, rows) for head, rows in halves if rows]
    if not halves:
        return None
    step, height = SIDE + BADGE + GAP, SIDE + GAP + 8
    half = TEXT + 2 * step + 2 * GAP
    size = (GAP + len(halves) * half, 70 + height * max(len(rows) for _, rows in halves) + 40)
    sheet = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(sheet)
    for j, (head, rows) in enumerate(halves):
        left = GAP + j * half
        draw.text((left, 10), head, fill=INK, font=typeface(17, bold=True))
        for k, name in enumerate(("A", "B")):
            draw.text((left + TEXT + k * step + SIDE // 2, 58), name, fill=INK, font=typeface(14), anchor="ms")
        for i, (row, pair) in enumerate(rows):
            top = 70 + i * height
            told = ", ".join(filter(None, [row["part"], row["prompt_form"], str(row["task"])]))
            words_beside(draw, left, top, told, str(row["prompt"]), SIDE)
            for k, (image, value) in enumerate(zip(pair, (row["value_a"], row["value_b"]), strict=True)):
                shown = None if image is None else pd.Series({"picture": image, "value": value})
                picture(sheet, draw, (left + TEXT + k * step, top), SIDE, shown)
    for i, line in enumerate((f"A: {a.name}", f"B: {b.name}")):
        draw.text((GAP, size[1] - 34 + 15 * i), line, fill=PALE, font=typeface(11))
    sheet.save(path, optimize=True)
    return path


def _chosen(a: Side, b: Side, both: pd.DataFrame, gained: bool) -> list[Pair]:
    """The first flips in one direction with their two pictures: one of each task before a second of any."""
    changed = flips(both)
    changed = changed[changed["gained"] == gained]
    changed = changed.assign(turn=changed.groupby(["part", "prompt_form", "task"]).cumcount())
    rows: Any = changed.sort_values("turn", kind="stable").head(MOST).to_dict("records")
    pairs = [(row, (a.picture(row), b.picture(row))) for row in rows]
    return [(row, pair) for row, pair in pairs if any(image is not None for image in pair)]
