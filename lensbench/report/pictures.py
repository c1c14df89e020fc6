"""Sheets of generated pictures: a row a prompt, a column an arm, the same noise across a row, and the judge's verdict.

The prompts are the first of each task and never chosen by what came out.
"""

from __future__ import annotations

import functools
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from lensbench.metrics import GENEVAL
from lensbench.report.grid import Grid
from lensbench.report.levels import Level
from lensbench.sampling.image_sets import read_images
from lensbench.sweep.cellfiles import image_folder

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.ImageDraw import ImageDraw
    from PIL.ImageFont import FreeTypeFont

PROMPTS_A_TASK = 2
PICTURE = 96  # the least side of a picture on the sheet, in pixels; enlarged by whole numbers only
TEXT = 230
GAP = 10
BADGE = 17  # the verdict stands beside its picture, not on it
HEAD = 62  # above the first row, where the names of the arms take one line
HEAD_FONT, HEAD_LINE = 12, 14
RIGHT, WRONG = "#1a7f37", "#c62828"
INK, PALE = "#222222", "#777777"


def sheets(grid: Grid, runs: Path, folder: Path) -> list[Path]:
    """Draw one sheet a scale into `folder` from the pictures in `runs`; none where no cell left pictures.

    Raises ValueError when a cell's pictures are not those that were judged.
    """
    drawn = {}
    for scale in grid.scales:
        sheet = _sheet(grid, scale, runs)
        if sheet is not None:
            slug = re.sub(r"[^a-z0-9.]+", "-", scale.label.lower()).strip("-")
            drawn[folder / f"sheet{f'-{slug}' if slug else ''}.png"] = sheet
    if drawn:  # without the runs an earlier report's sheets are all there is, and stay
        folder.mkdir(parents=True, exist_ok=True)
        for stale in folder.glob("sheet*.png"):
            stale.unlink()
    for path, sheet in drawn.items():
        sheet.save(path, optimize=True)
    return list(drawn)


def _sheet(grid: Grid, scale: Level, runs: Path) -> Image | None:
    from PIL import Image, ImageDraw

    forms = grid.forms(GENEVAL)
    seed = _seed(grid, scale, forms)
    columns = {(form, arm): _judged(grid, scale, arm, form, seed, runs) for form in forms for arm in grid.arms}
    found = [rows for rows in columns.values() if rows is not None]
    if not found:
        return None
    prompts = _chosen(found, grid.tasks)
    side = max(len(rows["picture"].iloc[0]) for rows in found)
    cell = side * max(1, -(-PICTURE // side))
    step = cell + BADGE + GAP
    half = TEXT + len(grid.arms) * step
    row_height = cell + GAP + 10
    heads = [wrapped(arm.label, typeface(HEAD_FONT), step - 6) for arm in grid.arms]
    head = HEAD + HEAD_LINE * (max(map(len, heads)) - 1)
    size = (GAP + len(forms) * (half + 2 * GAP), head + len(prompts) * row_height + 30)
    sheet = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(sheet)
    for j, form in enumerate(forms):
        left = GAP + j * (half + 2 * GAP)
        draw.text((left, 10), f"{form} prompts", fill=INK, font=typeface(17, bold=True))
        for k in range(len(grid.arms)):
            middle = left + TEXT + k * step + cell // 2
            for n, line in enumerate(reversed(heads[k])):
                draw.text((middle, head - 10 - n * HEAD_LINE), line, fill=INK, font=typeface(HEAD_FONT), anchor="ms")
    above = ""
    for i, (task, index) in enumerate(prompts):
        top = head + i * row_height
        if task != above and i:
            draw.line((GAP, top - 10, size[0] - GAP, top - 10), fill="#dddddd")
        for j, form in enumerate(forms):
            left = GAP + j * (half + 2 * GAP)
            prompt = _prompt(columns, form, grid, index)
            words_beside(draw, left, top, task if task != above else "", prompt, cell)
            for k, arm in enumerate(grid.arms):
                place = (left + TEXT + k * step, top)
                rows = columns[form, arm]
                row = None if rows is None else rows[(rows["prompt_index"] == index) & (rows["sample"] == 0)]
                picture(sheet, draw, place, cell, None if row is None or row.empty else row.iloc[0])
        above = task
    title = ", ".join(part for part in (scale.label, f"training seed {seed}" if len(grid.seeds) > 1 else "") if part)
    told = "the first prompts of each task, first sample; one row has one noise; green and red: the judge's verdict"
    foot = ": ".join(part for part in (title, told) if part)
    draw.text((GAP, size[1] - 22), foot, fill=PALE, font=typeface(11))
    return sheet


def _seed(grid: Grid, scale: Level, forms: tuple[str, ...]) -> Any:
    """The first training seed that most arms have."""
    there = [set(grid.images(scale, arm, GENEVAL, form)["seed"]) for arm in grid.arms for form in forms]
    return max(grid.seeds, key=lambda seed: sum(seed in seeds for seeds in there))


def _judged(grid: Grid, scale: Level, arm: Level, form: str, seed: Any, runs: Path) -> pd.DataFrame | None:
    """The judged rows of one seed's cell with their pictures; None where the cell or its file is missing."""
    rows = grid.images(scale, arm, GENEVAL, form)
    rows = rows[rows["seed"] == seed]
    if rows.empty:
        return None
    path = judged_images(runs, rows.iloc[0], form)
    images = None if path is None else images_of(path)
    if images is None:
        return None
    if len(images) != len(rows):
        raise ValueError(f"{path}: {len(images)} images for {len(rows)} judged images; run the cell again")
    return rows.sort_values(["prompt_index", "sample"], kind="stable").assign(picture=list(images))


def images_of(path: Path) -> np.ndarray | None:
    """The images of a set's folder, uint8 (N, S, S, 3); None where there are none.

    None too, and a line on the standard error, where some are missing or damaged: a report does without them.
    """
    try:
        return read_images(path)
    except ValueError as error:
        _say_once(f"lensbench: {error}; the report does without them")
        return None


@functools.cache
def _say_once(line: str) -> None:
    print(line, file=sys.stderr)


def judged_images(runs: Path, row: pd.Series, form: str, images: str = GENEVAL) -> Path | None:
    """The folder of the images that a row of a cell's outcomes is one of; None where nothing says which evaluation.

    `images` names the set: those that GenEval judged, or those of held-out captions.
    """
    evaluation = row.get("evaluation_hash")
    if not isinstance(evaluation, str) or not evaluation:
        return None
    return image_folder(runs, str(row["cell"]), evaluation, f"{images}-{form}")


def _chosen(found: list[pd.DataFrame], tasks: tuple[str, ...]) -> list[tuple[str, int]]:
    """(task, prompt index) of the first prompts of each task."""
    rows = pd.concat([rows[["task", "prompt_index"]] for rows in found]).drop_duplicates().sort_values("prompt_index")
    return [(task, int(i)) for task in tasks for i in rows[rows["task"] == task]["prompt_index"].head(PROMPTS_A_TASK)]


def _prompt(columns: dict[tuple[str, Level], pd.DataFrame | None], form: str, grid: Grid, index: int) -> str:
    for arm in grid.arms:
        rows = columns[form, arm]
        if rows is not None and len(words := rows[rows["prompt_index"] == index]["prompt"]):
            return str(words.iloc[0])
    return ""


def picture(sheet: Image, draw: ImageDraw, place: tuple[int, int], cell: int, row: pd.Series | None) -> None:
    """A picture in a frame of its verdict's color, with a tick or a cross for those who do not see the colors."""
    from PIL import Image

    x, y = place
    if row is None:
        draw.rectangle((x, y, x + cell - 1, y + cell - 1), fill="#f4f4f4", outline="#cccccc")
        draw.text((x + cell // 2, y + cell // 2), "missing", fill=PALE, font=typeface(11), anchor="mm")
        return
    sheet.paste(Image.fromarray(row["picture"]).resize((cell, cell), Image.Resampling.NEAREST), place)
    right = row["value"] > 0.5
    color = RIGHT if right else WRONG
    draw.rectangle((x - 2, y - 2, x + cell + 1, y + cell + 1), outline=color, width=2)
    draw.rectangle((x + cell + 2, y - 2, x + cell + BADGE + 1, y + BADGE - 3), fill=color)
    a, b = x + cell + 5, y + 1
    strokes = [(0, 5, 4, 9), (4, 9, 10, 0)] if right else [(0, 0, 9, 9), (0, 9, 9, 0)]
    for x0, y0, x1, y1 in strokes:
        draw.line((a + x0, b + y0, a + x1, b + y1), fill="white", width=2)


def words_beside(draw: ImageDraw, left: int, top: int, task: str, prompt: str, height: int) -> None:
    """The task once, then the prompt in as many lines as fit; what does not fit ends in an ellipsis."""
    font, y = typeface(12), top
    if task:
        draw.text((left, y), task.replace("_", " "), fill=PALE, font=typeface(11, bold=True))
    y += 16
    lines = wrapped(prompt, font, TEXT - 2 * GAP)
    room = (height - 16) // 15
    if len(lines) > room:
        lines = [*lines[: room - 1], lines[room - 1].rstrip(".,") + " ..."]
    for line in lines:
        draw.text((left, y), line, fill=INK, font=font)
        y += 15


def wrapped(text: str, font: FreeTypeFont, width: int) -> list[str]:
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if font.getlength(longer) <= width:
            lines[-1] = longer
        else:
            lines.append(word)
    return [line for line in lines if line]


def typeface(size: int, bold: bool = False) -> FreeTypeFont:
    """DejaVu Sans as it comes with matplotlib, so that a sheet does not depend on the system's fonts."""
    import matplotlib
    from PIL import ImageFont

    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    path = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / name
    return ImageFont.truetype(str(path), size, layout_engine=ImageFont.Layout.BASIC)
