"""Tables of what went in and what it cost: `data` (a run's images, captions and compute), `sizes` (the models beside
their speed and scores) and `costs` (captions and training, over all runs)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from lensbench import mixture
from lensbench.metrics import GENEVAL
from lensbench.metrics import metric as named
from lensbench.report.chance import chance_note
from lensbench.report.grid import Grid, column_of
from lensbench.report.levels import Level
from lensbench.report.notes import BOLD, origin_note, seeds_note
from lensbench.report.rows import absent, arm_columns, arm_labels, complete_table, labels_of, score_rows
from lensbench.report.table import DAGGER, DASH, Cell, Column, Row, Table

UNITS = (("EFLOP", 1e18), ("PFLOP", 1e15), ("TFLOP", 1e12), ("GFLOP", 1e9), ("MFLOP", 1e6))
SPEED = {"images_per_second": (",.1f", 1.0), "peak_memory_bytes": (",.2f", 2.0**30)}  # format, unit
ENERGY = ("energy_kwh", "energy_kwh_estimated")
BySeed = Mapping[Any, float]


def data_table(grid: Grid) -> Table:
    """What went into each arm: images, captions lost or cut, time and compute of one run."""
    name, size = flops_unit(max((max(found.train_flops.values()) for found in grid.amounts.values()), default=0.0))
    columns = {
        Column("training_images", "images", "images"): ",.0f",
        Column("samples_seen", "images seen", "seen"): ",.0f",
        Column("dropped_images", "dropped", "dropped"): ",.0f",
        Column("set_aside_images", "unreadable", "unread."): ",.0f",
        Column("caption_tokens", "tokens a caption", "tokens"): ",.1f",
        Column("truncated_captions", "captions cut", "cut"): ",.0f",
        Column("train_seconds", "train seconds", "seconds"): ",.0f",
        Column("train_flops", f"train {name}", name): ".3g",
    }

    def cells(scale: Level, arm: Level) -> list[Cell]:
        return [
            _bookkeeping(
                _taken(grid, scale, arm, column.name),
                grid.expected((scale, arm)),
                words,
                size if column.name == "train_flops" else 1.0,
                ranged=column.name != "train_seconds",
            )
            for column, words in columns.items()
        ]

    notes = (
        "One run each; where seeds differ, the smallest and largest (seconds: mean). dropped: images left out of every "
        "arm because a caption set lacks them. captions cut: longer than the text encoder's window.",
        _hardware_note(grid),
    )
    rows = _rows(grid, cells)
    return complete_table(grid, "data", "Data and compute of one run", arm_columns(grid), tuple(columns), rows, notes)


def sizes_table(grid: Grid, parameters: Mapping[str, int]) -> Table | None:
    """Each model beside its size, speed and main scores; None without sizes. `parameters` are of each cell."""
    counted = _by_place(grid, parameters)
    scores = [(GENEVAL, form) for form in grid.forms(GENEVAL)] or grid.scores()[:4]
    if not counted or not scores:
        return None
    a_image = {
        place: {seed: found.train_flops[seed] / seen for seed, seen in found.samples_seen.items() if seen}
        for place, found in grid.amounts.items()
    }
    name, size = flops_unit(max((value for found in a_image.values() for value in found.values()), default=0.0))
    measured = [name for name in ("images_per_second", "peak_memory_bytes") if name in grid.measured]
    scored = score_rows(grid, scores)
    columns = [
        Column("parameters", "parameters (M)", "M par."),
        Column("flops_an_image", f"{name} an image", f"{name}/im."),
    ]
    heads = {"images_per_second": ("images/s", "images/s"), "peak_memory_bytes": ("memory (GiB)", "GiB")}
    columns += [Column(name, *heads[name]) for name in measured]
    columns += [
        Column(column_of(metric, form), form or "all", form or "all", named(metric).label, interval=True, key=True)
        for metric, form in scores
    ]
    rows = []
    places = [(scale, arm) for scale in grid.scales for arm in grid.arms]
    for (scale, arm), row in zip(places, scored, strict=True):
        place, expected = (scale.index, arm.index), grid.expected((scale, arm))
        cells = [
            _bookkeeping(counted.get(place, {}), expected, ",.2f", 1e6),
            _bookkeeping(a_image.get(place, {}), expected, ".3g", size),
            *(_bookkeeping(_taken(grid, scale, arm, name), expected, *SPEED[name], ranged=False) for name in measured),
            *row.cells[-len(scores) :],
        ]
        rows.append(Row((*labels_of(scale), *arm_labels(arm, cells), *cells), opens=row.opens))
    percent = " GenEval: mean of its tasks in percent." if scores[0][0] == GENEVAL else ""
    notes = (
        "Parameters of the denoiser; FLOPs of its matrix products, forward and backward, an image trained with its "
        f"caption; images/s and memory as measured in training, mean over seeds.{percent} {seeds_note(grid)}",
        chance_note(cell for row in rows for cell in row.cells),
        BOLD if any(cell.emphasis == "best" for row in rows for cell in row.cells) else "",
        _hardware_note(grid),
        origin_note(grid),
    )
    return complete_table(grid, "sizes", "Model sizes", arm_columns(grid), tuple(columns), rows, notes)


def costs_table(grid: Grid, captioners: Sequence[Mapping[str, Any]] = ()) -> Table:
    """What the captions and all runs of a scale and arm cost. `captioners` are those of the provenance."""
    flops = {place: sum(found.train_flops.values()) for place, found in grid.amounts.items()}
    name, size = flops_unit(max(flops.values(), default=0.0))
    longest = max(
        (sum(_taken(grid, s, a, "train_seconds").values()) for s in grid.scales for a in grid.arms), default=0
    )
    span, seconds = ("hours", 3600.0) if longest >= 7200 else ("minutes", 60.0)
    energy = next((metric for metric in ENERGY if metric in grid.measured), "")
    paid = {str(one["set"]): one for one in captioners if one.get("cost_usd")}
    columns = [
        Column("caption_tokens", "tokens a caption", "tokens", "captions"),
        Column("caption_usd", "$ in all", "$", "captions"),
        Column("runs", "runs", "runs", "training, all runs"),
        Column("train_flops", name, name, "training, all runs"),
        Column("train_seconds", span, span[:5], "training, all runs"),
        Column("cell_seconds", "with scoring", "scored", "training, all runs"),
        Column("device_hours", "device-hours", "dev.-h", "training, all runs"),
        Column("cost_usd", "$", "$", "training, all runs"),
        Column(energy or ENERGY[0], "kWh" if energy != ENERGY[1] else "kWh (est.)", "kWh", "training, all runs"),
    ]
    measured = {"runs", "train_flops"} | grid.measured.keys() | ({"caption_usd"} if paid else set())
    columns = [column for column in columns if column.name in measured]
    totals: dict[str, tuple[str, float]] = {
        "train_flops": (".3g", size),
        "train_seconds": (",.1f", seconds),
        "cell_seconds": (",.1f", seconds),
        "device_hours": (",.2f", 1),
        "cost_usd": (",.2f", 1),
        ENERGY[0]: (",.3f", 1),
        ENERGY[1]: (",.3f", 1),
    }

    def cell(scale: Level, arm: Level, column: str) -> Cell:
        if column == "caption_usd":
            return _paid(arm, grid, paid)
        if column == "runs":
            n = len(grid.amounts[scale.index, arm.index].train_flops) if (scale.index, arm.index) in grid.amounts else 0
            return Cell(str(n), float(n))
        by_seed, expected = _taken(grid, scale, arm, column), grid.expected((scale, arm))
        if column == "caption_tokens" or not by_seed:
            return _bookkeeping(by_seed, expected, ",.1f")
        words, divisor = totals[column]
        total = sum(by_seed.values()) / divisor
        mark = DAGGER if len(by_seed) < expected else ""
        return Cell(format(total, words), total, mark=mark, seeds=len(by_seed), expected=expected)

    rows = _rows(grid, lambda scale, arm: [cell(scale, arm, column.name) for column in columns])
    notes = (
        f"Training: sums over the runs that are there. {span}: training alone; with scoring: from the first text to "
        "the last score.",
        "captions, $: what the sets that the arm reads cost in all, whoever else reads them." if paid else "",
        "kWh (est.): estimated, not metered." if energy == ENERGY[1] else "",
        "No dollars of training: no price of an hour was given." if "cost_usd" not in grid.measured else "",
        _hardware_note(grid),
    )
    title = "Cost of captions and training"
    return complete_table(grid, "costs", title, arm_columns(grid), tuple(columns), rows, notes)


def _rows(grid: Grid, cells: Callable[[Level, Level], list[Cell]]) -> list[Row]:
    rows = []
    for scale in grid.scales:
        for arm in grid.arms:
            found = cells(scale, arm)
            rows.append(Row((*labels_of(scale), *arm_labels(arm, found), *found), opens=arm is grid.arms[0]))
    return rows


def _taken(grid: Grid, scale: Level, arm: Level, name: str) -> BySeed:
    """Bookkeeping by seed: a metric of its own, or a column that every record of a cell repeats."""
    if name in ("samples_seen", "train_flops"):
        found = grid.amounts.get((scale.index, arm.index))
        return getattr(found, name) if found is not None else {}
    return grid.number(scale, arm, name, "").by_seed


def _bookkeeping(by_seed: BySeed, expected: int, words: str, divisor: float = 1.0, *, ranged: bool = True) -> Cell:
    """The number of one run; where seeds differ their range or, if not `ranged`, their mean."""
    if not by_seed:
        return absent(expected)
    mean, low, high = sum(by_seed.values()) / len(by_seed), min(by_seed.values()), max(by_seed.values())
    first, last = (format(value / divisor, words) for value in (low, high))
    text = f"{first}{DASH}{last}" if ranged and first != last else format(mean / divisor, words)
    mark = DAGGER if len(by_seed) < expected else ""
    return Cell(text, mean, low, high, kind="seeds", mark=mark, seeds=len(by_seed), expected=expected)


def _by_place(grid: Grid, parameters: Mapping[str, int]) -> dict[tuple[int, int], dict[Any, float]]:
    """Parameters by (scale, arm) and seed."""
    found: dict[tuple[int, int], dict[Any, float]] = {}
    metric = "train_seconds" if "train_seconds" in grid.measured else next(iter(grid.measured), "")
    for form in grid.forms(metric):
        for scale in grid.scales:
            for arm in grid.arms:
                place = (scale.index, arm.index, metric, form)
                cells, seeds = (grid.numbers.column(place, name).tolist() for name in ("cell", "seed"))
                for cell, seed in zip(cells, seeds, strict=True):
                    if str(cell) in parameters:
                        found.setdefault(place[:2], {})[seed] = float(parameters[str(cell)])
    return found


def _paid(arm: Level, grid: Grid, paid: Mapping[str, Mapping[str, Any]]) -> Cell:
    """What the caption sets of an arm cost."""
    given = dict(arm.settings).get("captions.set", "")
    shares = mixture.shares(str(given)) if given else {}
    found = [float(paid[name]["cost_usd"]) for name in shares if name in paid]
    return Cell(f"{sum(found):,.2f}", sum(found)) if found else Cell(DASH)


def in_flops(flops: float) -> str:
    """FLOPs in words: 22.0 TFLOP."""
    name, size = flops_unit(flops)
    return f"{flops / size:.3g} {name}"


def flops_unit(most: float) -> tuple[str, float]:
    """The name and the size of the unit in which the largest number of FLOPs is at least one."""
    return next((pair for pair in UNITS if most >= pair[1]), UNITS[-1])


def _hardware_note(grid: Grid) -> str:
    records = grid.results.records
    found = sorted({str(name) for name in records["hardware"].dropna().unique()}) if "hardware" in records else []
    return f"Hardware: {'; '.join(found)}." if found else ""
