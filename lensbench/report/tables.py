"""The tables of a report: what stands in each cell, how sure it is, and what the reader must be told.

Four tables, one definition each: `main` (GenEval by training captions and prompt form), `differences` (what the
captions change, with intervals and a correction for many comparisons), `scores` (everything else measured) and `data`
(what went into each arm). `lensbench.report.render` writes them to the console, Markdown, CSV and LaTeX.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from math import isnan
from typing import TYPE_CHECKING, Any

from lensbench.captions.policy import set_label
from lensbench.report.grid import GENEVAL, MEAN, SET_NAMES, SIGNIFICANT, Grid, Group, Level, Paired
from lensbench.report.table import DAGGER, DASH, MINUS, Cell, Column, Row, Table, bounds, number, signed

if TYPE_CHECKING:
    import pandas as pd

HEADS = {  # full head, head where room is scarce
    "single_object": ("single", "single"),
    "two_object": ("two", "two"),
    "counting": ("counting", "count"),
    "colors": ("colors", "colors"),
    "position": ("position", "pos."),
    "color_attr": ("color attr.", "attr."),
    MEAN: ("mean", "mean"),
}
NAMES = {  # display name, digits, whether more is better; the first two are on the features of our own judge
    "fid": ("FID", 2, False),
    "fd_shapes": ("FD-shapes", 2, False),
    "shapes_alignment": ("shapes-alignment", 3, True),
    "validation_loss": ("validation loss", 4, False),
}
UNITS = (("EFLOP", 1e18), ("PFLOP", 1e15), ("TFLOP", 1e12), ("GFLOP", 1e9))


def tables(grid: Grid, evaluation: Mapping[str, Any] | None = None) -> dict[str, Table]:
    """The four tables by name. `evaluation` is the recipe's evaluation part (guidance and the like), for the notes."""
    told = _recipe_note(grid, evaluation or {})
    built = (main_table(grid, told), differences_table(grid, told), scores_table(grid), data_table(grid))
    return {table.name: table for table in built}


def main_table(grid: Grid, recipe: str = "") -> Table:
    """Rows: scale x training captions. Columns: prompt form x (GenEval's tasks and their mean), in percent."""
    if not grid.tasks:
        return replace(scores_table(grid), name="main", title="Scores by training captions and prompt form")
    wanted = grid.compared()
    columns = tuple(
        Column(f"{form}.{name}", *_heads(name), group=f"{form} prompts", interval=name == MEAN, key=name == MEAN)
        for form, name, _, _ in wanted
    )
    rows = _rows(grid, [(metric, form, 1, 100.0, True) for _, _, metric, form in wanted])
    notes = (
        f"GenEval's tasks, accuracy in percent; mean: of the {len(grid.tasks)} tasks, unweighted. {seeds_note(grid)}",
        recipe,
        BOLD,
        origin_note(grid),
    )
    return _table(
        grid,
        "main",
        "GenEval accuracy (%) by training captions and prompt form",
        _arm_columns(grid),
        columns,
        rows,
        notes,
    )


def differences_table(grid: Grid, recipe: str = "") -> Table:
    """Every arm minus the reference, and of few arms each minus each, by scale, prompt form and task."""
    wanted = grid.compared()
    forms = [form for form in dict.fromkeys(form for form, _, _, _ in wanted) if form]
    if forms:
        names = dict.fromkeys(name for _, name, _, _ in wanted)
        columns = tuple(Column(name, *_heads(name), interval=True, key=name == MEAN) for name in names)
        units = {name: (1, 100.0, True) for _, name, _, _ in wanted}
    else:
        columns = _score_columns(grid)
        units = {name: _unit(metric) for _, name, metric, _ in wanted}
    blocks: dict[tuple[Level, str, Level, Level], list[Cell]] = {}
    for row in grid.comparisons():
        place = (row.scale, row.form, row.arm, row.other)
        blocks.setdefault(place, []).append(_difference_cell(row.difference, *units[row.column]))
    rows, above = [], None
    for (scale, form, arm, other), cells in blocks.items():
        name = f"{arm.label} {MINUS} {other.label}"
        labels = [*_labels(scale), *([Cell(form, form)] if form else []), Cell(name, name, mark=_seeds_mark(cells))]
        rows.append(Row((*labels, *cells), opens=above != (scale, form)))
        above = (scale, form)
    prompts = [Column("prompts", "prompts", "prompts", label=True)] if forms else []
    heads = (*_scale_columns(grid), *prompts, Column("difference", "difference", "difference", label=True))
    cells = [cell for row in rows for cell in row.cells]
    several = " and training seeds" if len(grid.seeds) > 1 else ""
    what = "Differences of GenEval accuracy in points" if forms else "Differences, averaged over seeds"
    notes = (
        f"{what}; [low, high]: 95 % interval of a paired bootstrap over prompts{several}. {seeds_note(grid)}",
        _correction_note(grid),
        SEEDS if any(cell.kind == "seeds" for cell in cells) else "",
        recipe,
        SHARED if any(cell.incomplete for cell in cells) else "",
    )
    title = "What the training captions change" + (" (GenEval, points)" if forms else "")
    return _table(grid, "differences", title, heads, columns, rows, notes if rows else (NOTHING,))


def scores_table(grid: Grid) -> Table:
    """Every score beside GenEval at the last step, by scale and training captions."""
    rows = _rows(grid, [(metric, form, *_unit(metric)) for metric, form in grid.scores()])
    kinds = {cell.kind for row in rows for cell in row.cells}
    metrics = {metric for metric, _ in grid.scores()}
    notes = (
        seeds_note(grid),
        _distance_note(grid, metrics),
        "shapes-alignment: the judge's image-text cosine." if "shapes_alignment" in metrics else "",
        "[low, high]: 95 % interval." if "95%" in kinds else "",
        SEEDS if "seeds" in kinds else "",
        BOLD if any(cell.emphasis == "best" for row in rows for cell in row.cells) else "",
        origin_note(grid),
    )
    title = "Other scores by training captions and prompt form"
    return _table(grid, "scores", title, _arm_columns(grid), _score_columns(grid), rows, notes)


def _distance_note(grid: Grid, metrics: set[str]) -> str:
    """What the distances are on, and from how few images."""
    if "fd_shapes" not in metrics:
        return ""
    counts = grid.results.records.query("metric == 'fd_shapes'")["n"]
    note = f"FD-shapes: Frechet distance on 64 features of this project's judge, from {_range(counts)} images a side"
    return note + ("; with fewer images than features it is biased up." if counts.min() <= 64 else ".")


def _range(counts: pd.Series) -> str:
    low, high = int(counts.min()), int(counts.max())
    return str(low) if low == high else f"{low} to {high}"


def data_table(grid: Grid) -> Table:
    """What went into each arm: images, captions lost or cut, time and compute of one run."""
    records = grid.results.records
    most = float(records["train_flops"].max()) if len(records) else 0.0
    unit, size = next((pair for pair in UNITS if most >= pair[1]), UNITS[-1])
    columns = [
        Column("training_images", "images", "images"),
        Column("samples_seen", "images seen", "seen"),
        Column("dropped_images", "dropped", "dropped"),
        Column("set_aside_images", "unreadable", "unread."),
        Column("caption_tokens", "tokens a caption", "tokens"),
        Column("truncated_captions", "captions cut", "cut"),
        Column("train_seconds", "train seconds", "seconds"),
        Column("train_flops", f"train {unit}", unit),
    ]
    built = {
        (scale, arm): [_data_cell(grid, scale, arm, column.name, size) for column in columns]
        for scale in grid.scales
        for arm in grid.arms
    }
    rows = [
        Row((*_labels(scale), *_arm_labels(arm, cells), *cells), opens=arm is grid.arms[0])
        for (scale, arm), cells in built.items()
    ]
    hardware = sorted({str(name) for name in records["hardware"].dropna()}) if "hardware" in records else []
    notes = (
        "One run each; where seeds differ, the smallest and largest (seconds: mean). dropped: images left out of every "
        "arm because a caption set lacks them. captions cut: longer than the text encoder's window.",
        f"Hardware: {'; '.join(hardware)}." if hardware else "",
    )
    return _table(grid, "data", "Data and compute of one run", _arm_columns(grid), tuple(columns), rows, notes)


BOLD = "Bold: best of its scale and prompt form, where the paired 95 % interval to the second best is clear of zero."
SEEDS = "(low to high): smallest and largest seed, not an interval."
SHARED = (
    "Arms with missing seeds are compared on the seeds that both arms have; on one shared seed, sampling interval only."
)
NOTHING = "Nothing to compare: the sweep has one arm, or no cell of it is complete."


def seeds_note(grid: Grid) -> str:
    n = len(grid.seeds)
    return f"{n} training seeds." if n > 1 else "One training seed: sampling interval only."


def origin_note(grid: Grid) -> str:
    """Judge and commits, short."""
    records, parts = grid.results.records, []
    for column, word in (("judge_digest", "judge"), ("commit", "commit")):
        found = sorted({str(value) for value in records[column].dropna()} - {""}) if column in records else []
        if found:
            names = [value if column == "commit" else value[:10] for value in found]
            parts.append(f"{word}{'s' if len(found) > 1 else ''} {', '.join(names)}")
    return f"Scored with {'; '.join(parts)}." if parts else ""


def better(metric: str) -> bool:
    """Whether more of a metric is better."""
    return metric.partition(".")[0] == GENEVAL or NAMES.get(metric, ("", 0, True))[2]


def metric_name(metric: str) -> str:
    """A score's name for people."""
    return "GenEval" if metric == GENEVAL else NAMES.get(metric, (metric.replace("_", " "), 0, True))[0]


def _table(
    grid: Grid,
    name: str,
    title: str,
    labels: tuple[Column, ...],
    columns: tuple[Column, ...],
    rows: list[Row],
    notes: tuple[str, ...],
) -> Table:
    kept = [i for i, column in enumerate(columns) if column.name not in OPTIONAL or _any_at(rows, len(labels) + i)]
    width = len(labels)
    rows = [replace(row, cells=(*row.cells[:width], *(row.cells[width + i] for i in kept))) for row in rows]
    table = Table(
        name, title, (*labels, *(columns[i] for i in kept)), tuple(rows), tuple(note for note in notes if note)
    )
    if not table.incomplete:
        return table
    n = len(grid.results.missing)
    what = {0: "some numbers are missing", 1: "one cell is missing"}.get(n, f"{n} cells are missing")
    note = f"{DAGGER}: fewer seeds than planned, (n/N) beside the row; {what}, and nothing stands in for them."
    return replace(table, notes=(*table.notes, note))


OPTIONAL = ("set_aside_images",)  # shown only where there is something to show


def _any_at(rows: list[Row], place: int) -> bool:
    return any(isinstance(row.cells[place].value, float) and row.cells[place].value for row in rows)


def _rows(grid: Grid, wanted: list[tuple[str, str, int, float, bool]]) -> list[Row]:
    """A row for each scale and arm with a cell for each (metric, form, digits, factor, whether more is better)."""
    rows = []
    for scale in grid.scales:
        groups = {arm: [grid.number(scale, arm, metric, form) for metric, form, *_ in wanted] for arm in grid.arms}
        best = [_best(grid, scale, {arm: groups[arm][i] for arm in grid.arms}, *wanted[i]) for i in range(len(wanted))]
        for arm in grid.arms:
            cells = [
                _score_cell(group, digits, factor, "best" if arm is winner else "")
                for group, (_, _, digits, factor, _), winner in zip(groups[arm], wanted, best, strict=True)
            ]
            rows.append(Row((*_labels(scale), *_arm_labels(arm, cells), *cells), opens=arm is grid.arms[0]))
    return rows


def _best(
    grid: Grid,
    scale: Level,
    groups: dict[Level, Group],
    metric: str,
    form: str,
    digits: int,
    factor: float,
    more: bool,
) -> Level | None:
    """The arm that is best beyond doubt: its paired interval to the second best is clear of zero."""
    ranked = sorted((arm for arm in groups if groups[arm].seeds), key=lambda arm: groups[arm].value, reverse=more)
    if len(ranked) < 2:
        return None
    gap = grid.paired(scale, ranked[0], ranked[1], metric, form)
    return ranked[0] if gap.clear and (gap.estimate > 0) == more else None


def _score_cell(group: Group, digits: int, factor: float, emphasis: str) -> Cell:
    if not group.seeds:
        return Cell(DASH, emphasis="missing", mark=DAGGER, expected=group.expected)
    low, high, kind = group.low, group.high, "" if isnan(group.low) else "95%"
    shown = bounds(low * factor, high * factor, digits)
    if not kind and group.seeds > 1:
        low, high, kind = min(group.by_seed.values()), max(group.by_seed.values()), "seeds"
        shown = f"({number(low * factor, digits)} to {number(high * factor, digits)})"
    mark = DAGGER if group.seeds < group.expected else ""
    text = number(group.value * factor, digits)
    return Cell(text, group.value, low, high, shown, kind, mark, emphasis, seeds=group.seeds, expected=group.expected)


def _difference_cell(found: Paired, digits: int, factor: float, more: bool) -> Cell:
    if not found.seeds:
        return Cell(DASH, emphasis="missing", mark=DAGGER, expected=found.expected)
    low, high = found.low * factor, found.high * factor
    shown = bounds(low, high, digits)
    if found.kind == "seeds":
        shown = f"({signed(low, digits)} to {signed(high, digits)})"
    if found.significant:
        emphasis = "better" if (found.estimate > 0) == more else "worse"
    else:  # an interval may be clear of zero by itself and not after Holm's correction
        emphasis = "" if found.low > 0 or found.high < 0 else "unclear"
    return Cell(
        text=signed(found.estimate * factor, digits),
        value=found.estimate,
        low=found.low,
        high=found.high,
        interval=shown,
        kind=found.kind,
        mark=("*" if found.significant else "") + (DAGGER if found.seeds < found.expected else ""),
        emphasis=emphasis,
        p=found.p,
        p_holm=found.p_holm,
        seeds=found.seeds,
        expected=found.expected,
    )


def _data_cell(grid: Grid, scale: Level, arm: Level, name: str, flops: float) -> Cell:
    """Bookkeeping: a metric of its own, or a column that every record of a cell repeats."""
    by_seed: dict[Any, float] = {}
    if name in ("samples_seen", "train_flops"):
        for place, rows in grid.numbers.items():
            if place[:2] == (scale.index, arm.index):
                for seed, value in zip(rows["seed"], rows[name].astype(float), strict=True):
                    by_seed[seed] = max(by_seed.get(seed, 0.0), value)
    else:
        by_seed = grid.number(scale, arm, name, "").by_seed
    if not by_seed:
        return Cell(DASH, emphasis="missing", mark=DAGGER, expected=len(grid.seeds))
    mean, low, high = sum(by_seed.values()) / len(by_seed), min(by_seed.values()), max(by_seed.values())

    def words(value: float) -> str:
        if name == "train_flops":
            return f"{value / flops:.3g}"
        return f"{value:,.1f}" if name == "caption_tokens" else f"{value:,.0f}"

    same = words(low) == words(high) or name == "train_seconds"
    text = words(mean) if same else f"{words(low)}{DASH}{words(high)}"
    mark = DAGGER if len(by_seed) < len(grid.seeds) else ""
    return Cell(text, mean, low, high, kind="seeds", mark=mark, seeds=len(by_seed), expected=len(grid.seeds))


def _score_columns(grid: Grid) -> tuple[Column, ...]:
    columns = []
    for metric, form in grid.scores():
        arrow = "" if metric not in NAMES else " ↑" if better(metric) else " ↓"
        head = form or "all"
        columns.append(Column(f"{metric}.{form}".rstrip("."), head, head, metric_name(metric) + arrow, interval=True))
    return tuple(columns)


def _unit(metric: str) -> tuple[int, float, bool]:
    """Digits, factor and whether more is better."""
    return NAMES.get(metric, ("", 4, True))[1], 1.0, better(metric)


def _heads(name: str) -> tuple[str, str]:
    return HEADS.get(name, (name, name))


def _scale_columns(grid: Grid) -> tuple[Column, ...]:
    return tuple(_factor_column(name) for name in grid.scale_factors)


def _arm_columns(grid: Grid) -> tuple[Column, ...]:
    """The label columns of a table with a row for each scale and arm."""
    return (*_scale_columns(grid), *(_factor_column(name) for name in grid.arm_factors))


def _factor_column(name: str) -> Column:
    head = "captions" if name == "captions.set" else name.rpartition(".")[2].replace("_", " ")
    return Column(name, head, head, label=True)


def _labels(level: Level) -> list[Cell]:
    return [_label(name, value) for name, value in level.settings]


def _arm_labels(arm: Level, cells: list[Cell]) -> list[Cell]:
    labels = _labels(arm)
    return [*labels[:-1], replace(labels[-1], mark=_seeds_mark(cells))] if labels else []


def _label(factor: str, value: Any) -> Cell:
    if isinstance(value, int) and not isinstance(value, bool):
        return Cell(f"{value:,}", value)
    if isinstance(value, bool):
        return Cell("yes" if value else "no", value)
    of_sets = factor in ("captions.set", "captions.length_matched_to")
    return Cell(set_label(str(value), SET_NAMES) if of_sets else str(value), value)


def _seeds_mark(cells: list[Cell]) -> str:
    """How many seeds a row has, when that is fewer than planned."""
    short = [cell for cell in cells if cell.incomplete]
    return f" ({min(cell.seeds for cell in short)}/{short[0].expected})" if short else ""


def _correction_note(grid: Grid) -> str:
    tested = [row for row in grid.comparisons() if not isnan(row.difference.p)]
    means = sum(row.column == MEAN for row in tested)
    if not tested:
        return ""
    over = f"the {means} means and, apart from them, the {len(tested) - means} tasks" if means else f"all {len(tested)}"
    return f"*: p < {SIGNIFICANT}, sign-flip permutation with Holm's correction over {over}."


def _recipe_note(grid: Grid, evaluation: Mapping[str, Any]) -> str:
    judged = [rows[rows["last"]] for (_, _, metric, _), rows in grid.judged.items() if metric == GENEVAL]
    parts = []
    if judged:
        images = {int(n) for rows in judged for n in rows.groupby(["cell", "task"]).size()}
        prompts = {int(n) for rows in judged for n in rows.groupby(["cell", "task"])["prompt_index"].nunique()}
        parts.append(f"{_span(images)} images a task and prompt form, from {_span(prompts)} prompts")
    if "guidance" in evaluation:
        parts.append(f"guidance {evaluation['guidance']:g}")
    if "sampling_steps" in evaluation:
        parts.append(f"{evaluation['sampling_steps']} Euler steps")
    said = "; ".join(parts)
    return f"{said[:1].upper()}{said[1:]}." if said else ""


def _span(counts: set[int]) -> str:
    return str(min(counts)) if len(counts) == 1 else f"{min(counts)} to {max(counts)}"
