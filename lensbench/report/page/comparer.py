"""What the page's comparer holds: every arm's images from the same noise, with their verdicts or scores.

Which images those are is told in lensbench.report.page.shown: the judged ones or, without them, held-out captions'.

A page stays small enough to open and to send: where a sweep has more pictures than it takes, fewer samples, prompts,
seeds and scales are shown. They are chosen by their numbers, never by what came out.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from lensbench.experiment import DIRECTORY_DIGITS
from lensbench.metrics import metric
from lensbench.report.figures import arm_colors
from lensbench.report.grid import Grid
from lensbench.report.levels import Level
from lensbench.report.page.shown import PLACE, SET_IMAGES, Shown, shown_images
from lensbench.report.pictures import images_of, judged_images
from lensbench.scoring.geneval import COUNTING_THRESHOLD, THRESHOLD

MOST_PICTURES = 20_000  # in a page, of a side of at most SMALL
MOST_LARGE = 5_000  # of larger ones
SMALL = 32  # pixels
LARGEST = 128  # a picture with a longer side is made smaller
PROMPTS_A_TASK = 8  # fewer only where there are fewer: seeds and scales go first
SHEETS = "sheets"  # id of the element that holds the pictures

Key = tuple[str, int, int]  # task, prompt index, sample


class Sheet(NamedTuple):
    """Pictures of one cell and prompt form in one JPEG file, row by row.

    of: a digest of what was asked, in order; side: of each picture, in pixels; drawn: its side before it was made
    smaller, which boxes refer to.
    """

    of: str
    side: int
    drawn: int
    columns: int
    jpeg: str  # base64


@dataclass(frozen=True)
class Choice:
    """Which images a page shows; None means all of them."""

    scales: tuple[Level, ...]
    seeds: tuple[Any, ...]
    prompts: int | None = None
    samples: int | None = None

    def words(self, grid: Grid) -> str:
        """What is shown where it is not everything, for people; else empty."""
        parts = []
        if self.prompts is not None:
            parts.append(f"the first {_count(self.prompts, 'prompt')} of each task")
        if self.samples is not None:
            parts.append("the first picture of each prompt" if self.samples == 1 else f"{self.samples} of each prompt")
        if len(self.scales) < len(grid.scales):
            parts.append(f"the last {_count(len(self.scales), 'scale')} of {len(grid.scales)}")
        if len(self.seeds) < len(grid.seeds):
            parts.append(f"the first {_count(len(self.seeds), 'training seed')} of {len(grid.seeds)}")
        return ", ".join(parts)


@dataclass
class Comparer:
    """The comparer's data (JSON values) and its sheets by cell and form.

    `asked` counts the images that the page tells of, `pictures` those of them that it holds, and `without_caption` the
    images beside those whose caption no outcome tells.
    """

    data: dict[str, Any]
    sheets: dict[str, Sheet] = field(default_factory=dict)
    pictures: int = 0
    asked: int = 0
    without_caption: int = 0
    chosen: str = ""  # in words, where the page does not hold every image
    verdicts: bool = True  # False: of held-out captions, which no detector judged

    @property
    def holds(self) -> bool:
        """Whether there is anything to compare."""
        return bool(self.data["panels"])


class _Words:
    """Texts, each kept once and meant by its number."""

    def __init__(self) -> None:
        self.places: dict[str, int] = {}

    def place(self, text: str) -> int:
        return self.places.setdefault(text, len(self.places))

    def all(self) -> list[str]:
        return list(self.places)


class _AllWords:
    """The texts of a comparer: prompts, reasons, and the classes and colors of boxes."""

    def __init__(self) -> None:
        self.texts, self.reasons, self.classes, self.colors = (_Words() for _ in range(4))


def compare(grid: Grid, runs: Path | None, earlier: Mapping[str, Sheet]) -> Comparer:
    """The comparer of a sweep. Images come from `runs` and, where a cell left none there, from an earlier page.

    Raises ValueError when a cell's images are not those that were judged or scored.
    """
    of = shown_images(grid)
    found = Comparer({"panels": []}, verdicts=of.verdicts)
    first = next((rows for rows in _groups(grid, of) if len(rows)), None)
    if first is None:
        return found
    side = _side(of, first, runs, earlier)
    choice = choose(grid, of.scales, first, len(of.forms), MOST_PICTURES if side <= SMALL else MOST_LARGE)
    words, items = _AllWords(), dict[tuple[Any, ...], int]()
    panels = []
    for scale, seed in product(choice.scales, choice.seeds):
        shown = {}
        for form, arm in product(of.forms, grid.arms):
            rows = of.rows(scale, arm, form, seed)
            if len(rows):
                shown[form, arm] = rows[_kept(rows, choice)]
                found.without_caption += int(rows[SET_IMAGES].iloc[0]) - len(rows)
        wording: dict[Key, dict[str, str]] = {}
        for (form, _), kept in shown.items():
            for key, prompt in zip(_keys(kept), kept["prompt"].astype(str), strict=True):
                wording.setdefault(key, {}).setdefault(form, prompt)
        for (form, arm), kept in shown.items():
            cell = _scored_cell(kept)
            sheet = _sheet_of(of, kept, form, f"{cell}/{form}", runs, earlier)
            if sheet is not None:
                found.sheets[f"{cell}/{form}"] = sheet
                found.pictures += len(kept)
            elif not of.verdicts and not of.scores:
                continue  # captions without images and scores are nothing to compare
            places = []
            for key in _keys(kept):
                told = wording[key]
                item = (*key, *(words.texts.place(told[f]) if f in told else -1 for f in of.forms))
                places.append(items.setdefault(item, len(items)))
            where = {"scale": scale.index, "seed": grid.seeds.index(seed), "form": of.forms.index(form)}
            panels.append(where | {"arm": arm.index, "cell": cell, "items": places} | _told(of, kept, words))
            found.asked += len(kept)
    found.chosen = choice.words(grid)
    by_label = arm_colors(grid)
    found.data = {
        "arms": [{"name": arm.label, "color": by_label[arm.label]} for arm in grid.arms],
        "reference": grid.reference.index if grid.reference else 0,
        "scales": [scale.label for scale in grid.scales],
        "seeds": [str(seed) for seed in grid.seeds],
        "forms": list(of.forms),
        "tasks": list(of.tasks.values()),
        "items": [[list(of.tasks).index(task), *rest] for task, *rest in items],
        "texts": words.texts.all(),
        "reasons": words.reasons.all(),
        "classes": words.classes.all(),
        "colors": words.colors.all(),
        "verdicts": of.verdicts,
        "scores": [{"name": metric(name).label, "digits": metric(name).digits} for name in of.scores],
        "threshold": THRESHOLD,
        "countingThreshold": COUNTING_THRESHOLD,
        "panels": panels,
    }
    return found


def _told(of: Shown, kept: pd.DataFrame, words: _AllWords) -> dict[str, Any]:
    """What is known of each image of a panel: verdict, reason and boxes, or its scores."""
    if not of.verdicts:
        scores = [kept[name].astype(float).round(6).to_numpy() for name in of.scores]
        return {"scores": [[None if math.isnan(value) else float(value) for value in values] for values in scores]}
    told: dict[str, Any] = {
        "right": "".join("1" if value > 0.5 else "0" for value in kept["value"]),
        "reasons": [words.reasons.place(str(reason)) for reason in kept["reason"]],
    }
    if "boxes" in kept and any(boxes := [_boxes(said, words.classes, words.colors) for said in kept["boxes"]]):
        told["boxes"] = boxes
    return told


def choose(grid: Grid, scales: tuple[Level, ...], first: pd.DataFrame, forms: int, most: int) -> Choice:
    """What a page of at most `most` pictures shows of these scales, when every cell was judged on what `first` was,
    `forms` times."""
    prompts = first.drop_duplicates(["task", "prompt_index"])
    a_task = int(prompts.groupby("task").size().max())
    arms, tasks = len(grid.arms) * forms, first["task"].nunique()
    seeds = grid.seeds
    if arms * len(scales) * len(seeds) * len(first) <= most:
        return Choice(scales, seeds)
    samples = most // (arms * len(scales) * len(seeds) * len(prompts))
    if samples:
        return Choice(scales, seeds, samples=samples)
    few = min(a_task, PROMPTS_A_TASK)
    if arms * len(scales) * len(seeds) * tasks * few > most:
        seeds = seeds[:1]
        fit = max(1, most // (arms * tasks * few))
        scales = scales[-fit:]
    wanted = max(1, most // (arms * len(scales) * len(seeds) * tasks))
    return Choice(scales, seeds, prompts=wanted if wanted < a_task else None, samples=1)


def sheets_json(sheets: Mapping[str, Sheet]) -> str:
    """The sheets as the page keeps them, and as `earlier_sheets` reads them."""
    return script_json({name: sheet._asdict() for name, sheet in sorted(sheets.items())})


def earlier_sheets(page: Path) -> dict[str, Sheet]:
    """The sheets of a page that was written before; none where there is no page, or one of another version."""
    try:
        text = page.read_text(encoding="utf-8")
        _, _, rest = text.partition(f'id="{SHEETS}">')
        told = json.loads(rest.partition("</script>")[0] or "{}")
        return {name: Sheet(**sheet) for name, sheet in told.items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}


def script_json(value: Any) -> str:
    """JSON that may stand in a script element: nothing in it can end the element."""
    text = json.dumps(value, ensure_ascii=True, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _count(n: int, word: str) -> str:
    return f"{n} {word}{'s' if n > 1 else ''}"


def _groups(grid: Grid, of: Shown) -> Iterator[pd.DataFrame]:
    for form, scale, arm, seed in product(of.forms, reversed(grid.scales), grid.arms, grid.seeds):
        yield of.rows(scale, arm, form, seed)


def _kept(rows: pd.DataFrame, choice: Choice) -> np.ndarray:
    keep = np.ones(len(rows), dtype=bool)
    if choice.samples is not None:
        order = rows.groupby(["task", "prompt_index"])["sample"].rank(method="dense")
        keep &= (order <= choice.samples).to_numpy()
    if choice.prompts is not None:
        keep &= (rows.groupby("task")["prompt_index"].rank(method="dense") <= choice.prompts).to_numpy()
    return keep


def _keys(rows: pd.DataFrame) -> Iterator[Key]:
    columns = (rows["task"].astype(str), rows["prompt_index"].astype(int), rows["sample"].astype(int))
    return zip(*(column.tolist() for column in columns), strict=True)


def _digest(asked: list[tuple[Key, str]]) -> str:
    return hashlib.sha256(json.dumps(asked).encode()).hexdigest()[:16]


def _side(of: Shown, first: pd.DataFrame, runs: Path | None, earlier: Mapping[str, Sheet]) -> int:
    """The side of the sweep's images, by the first that is found."""
    if earlier:
        return next(iter(earlier.values())).drawn
    path = _pictures(of, runs, first, str(first["prompt_form"].iloc[0]))
    images = None if path is None else images_of(path)
    return SMALL if images is None else int(images.shape[1])


def _scored_cell(rows: pd.DataFrame) -> str:
    """The cell of judged rows and, where it is known, its evaluation."""
    evaluation = rows["evaluation_hash"].iloc[0] if "evaluation_hash" in rows else ""
    return str(rows["cell"].iloc[0]) + (f"/{evaluation[:DIRECTORY_DIGITS]}" if isinstance(evaluation, str) else "")


def _pictures(of: Shown, runs: Path | None, rows: pd.DataFrame, form: str) -> Path | None:
    """The folder of a cell's images, if it is there."""
    path = None if runs is None else judged_images(runs, rows.iloc[0], form, of.images)
    return path if path is not None and path.is_dir() else None


def _sheet_of(
    of: Shown, kept: pd.DataFrame, form: str, name: str, runs: Path | None, earlier: Mapping[str, Sheet]
) -> Sheet | None:
    """The sheet of a cell's kept rows: from its folder or, without one, of an earlier page where it is of the same."""
    asked = [*zip(_keys(kept), kept["prompt"].astype(str), strict=True)]
    path = _pictures(of, runs, kept, form)
    sheet = None if path is None else _sheet(path, kept, asked)
    sheet = sheet or earlier.get(name)
    return sheet if sheet is not None and sheet.of == _digest(asked) else None


def _sheet(path: Path, kept: pd.DataFrame, asked: list[tuple[Key, str]]) -> Sheet | None:
    """The kept images of a set's folder as one JPEG, without the loss of color that JPEG usually has.

    None where they are damaged.
    """
    from PIL import Image

    images, count = images_of(path), int(kept[SET_IMAGES].iloc[0])
    if images is None:
        return None
    if len(images) != count:
        raise ValueError(f"{path}: {len(images)} images for {count} judged images; run the cell again")
    images, drawn = images[kept[PLACE].to_numpy(int)], int(images.shape[1])
    side = min(drawn, LARGEST)
    if side < drawn:
        resized = (Image.fromarray(image).resize((side, side), Image.Resampling.LANCZOS) for image in images)
        images = np.stack([np.asarray(image) for image in resized])
    columns = math.ceil(math.sqrt(len(images)))
    rows = -(-len(images) // columns)
    tiles = np.zeros((rows * columns, side, side, 3), dtype=np.uint8)
    tiles[: len(images)] = images
    sheet = tiles.reshape(rows, columns, side, side, 3).swapaxes(1, 2).reshape(rows * side, columns * side, 3)
    out = io.BytesIO()
    Image.fromarray(sheet).save(out, "JPEG", quality=94 if side <= SMALL else 85, subsampling=0)
    return Sheet(_digest(asked), side, drawn, columns, base64.b64encode(out.getvalue()).decode())


def _boxes(told: Any, classes: _Words, colors: _Words) -> list[float]:
    """Boxes that the protocol looks at, seven numbers each: class, color, x1, y1, x2, y2, score in percent."""
    flat: list[float] = []
    for name, color, *box, score in json.loads(told) if isinstance(told, str) and told else ():
        if score >= THRESHOLD:
            flat += [classes.place(name), colors.place(color), *(round(at, 1) for at in box), round(100 * score)]
    return flat
