"""Models side by side: what each is, what its pictures cost, and how GenEval's protocol scores them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lensbench.metrics import GENEVAL, metric
from lensbench.report.chance import chance_note, chance_of, with_chance
from lensbench.report.paired import SECONDARY, corrected, paired_values
from lensbench.report.rows import difference_cell, interval_cell
from lensbench.report.table import Cell, Column, Row, Table, number
from lensbench.scoring.geneval import summary
from lensbench.scoring.geneval_folder import open_prompts, outcomes
from lensbench.scoring.judged_folder import Prompts, judged_by
from lensbench.scoring.picture_folder import RECORD
from lensbench.scoring.statistics import stratified_mean

DENOISERS = ("denoiser", "transformer", "unet")
GIB = 2**30


@dataclass(frozen=True)
class Drawn:
    """A folder of pictures by one model, and its judged pictures in the order of the folder."""

    folder: Path
    record: dict[str, Any]
    prompts: Prompts
    rows: list[dict[str, Any]]
    judge: str

    @property
    def session(self) -> dict[str, Any]:
        """The last session that drew."""
        return dict(self.record["sessions"][-1])

    @property
    def denoiser_parameters(self) -> int:
        """Parameters of the network that is run at every step."""
        found = self.session.get("parameters", {})
        return next((int(found[name]) for name in DENOISERS if name in found), 0)


def open_drawn(folders: Sequence[Path], judge: str | None = None) -> list[Drawn]:
    """Folders that were drawn and judged, by one judge, on the same prompts and samples.

    `judge` is the beginning of a digest, needed where several judged them all. Raises ValueError, one line, where they
    cannot be compared.
    """
    judges = {folder: judged_by(folder) for folder in folders}
    shared = sorted(set.intersection(*(set(found) for found in judges.values())))
    chosen = [setting for setting in shared if setting.startswith(judge or "")]
    if len(chosen) != 1:
        if not shared:
            lacking = next((folder for folder, found in judges.items() if not found), None)
            raise ValueError(
                f"{lacking}: nothing is judged yet; run lensbench geneval {lacking}"
                if lacking is not None
                else "no judge judged every folder: scores of different judges do not compare"
            )
        names = ", ".join(shared)
        raise ValueError(f"several judges judged these folders ({names}): choose one with --judge")
    found = [_open(folder, chosen[0], judges[folder][chosen[0]]) for folder in folders]
    first = found[0]
    for other in found[1:]:
        if other.prompts.rows != first.prompts.rows:
            raise ValueError(
                f"{other.folder} and {first.folder} were drawn from different prompts: they do not compare"
            )
        if [_place(row) for row in other.rows] != [_place(row) for row in first.rows]:
            raise ValueError(f"{other.folder} and {first.folder} hold other samples: they do not compare")
    return found


def models_table(drawn: Sequence[Drawn]) -> Table:
    """One row a model; differences are to the first, paired image by image."""
    first, rest = drawn[0], drawn[1:]
    clusters, strata = (np.array([row[name] for row in first.rows]) for name in ("prompt_index", "task"))
    design = (clusters, strata, None)
    values = [np.array([row["value"] for row in one.rows]) for one in drawn]
    of = metric(GENEVAL)
    gaps = [paired_values(other, values[0], design, 1) for other in values[1:]]
    gaps = corrected([gap._replace(role=SECONDARY) for gap in gaps], [of.widest] * len(rest))
    rows = []
    for place, (one, scores) in enumerate(zip(drawn, values, strict=True)):
        mean = stratified_mean(scores, clusters, strata)
        by_chance = chance_of(scores, np.array([row["chance"] for row in one.rows]), strata, design)
        gap = difference_cell(gaps[place - 1], of) if place else Cell("")
        rows.append(
            Row(
                (
                    Cell(str(one.session.get("checkpoint", one.folder.name))),
                    Cell(_millions(one.denoiser_parameters), one.denoiser_parameters),
                    Cell(_millions(total := sum(one.session.get("parameters", {}).values())), total),
                    Cell(f"{one.record['settings']['steps']}"),
                    Cell(f"{one.record['settings']['guidance']:g}"),
                    Cell(f"{one.record['settings']['width']} x {one.record['settings']['height']}"),
                    _cost(one.session.get("seconds_an_image"), 2),
                    _cost(max(one.session.get("peak_bytes", {}).values(), default=None), 1, GIB),
                    with_chance(interval_cell(mean, of), by_chance, of),
                    gap,
                )
            )
        )
    columns = (
        Column("model", "model", "model", label=True),
        Column("parameters", "denoiser", "denoiser", "parameters"),
        Column("all_parameters", "with the rest", "all", "parameters"),
        Column("steps", "steps", "steps"),
        Column("guidance", "guidance", "guid."),
        Column("size", "size", "size"),
        Column("seconds", "s an image", "s/image"),
        Column("memory", "GiB", "GiB"),
        Column("score", "GenEval" if first.prompts.official else "GenEval's protocol", "GenEval", interval=True),
        Column("difference", "to the first", "to first", interval=True, key=True),
    )
    hardware = "; ".join(dict.fromkeys(str(one.session.get("hardware", "?")) for one in drawn))
    notes = (
        f"Judge: {first.judge}. {len(np.unique(clusters)):,} prompts, {len(first.rows):,} images a model. 95 % "
        "intervals over prompts, differences paired image by image; *: significant after Holm's correction over "
        f"{len(rest)}, and the intervals of the differences agree with it. One training run a model.",
        f"Seconds and memory as measured while drawing, on: {hardware}; where there is no accelerator, the memory is "
        "the whole process's.",
        "" if not rest or first.prompts.official else "The prompts are not GenEval's 553.",
        chance_note(cell for row in rows for cell in row.cells),
    )
    told = tuple(note for note in notes if note)
    return Table("models", "Models side by side", columns, tuple(rows), told, filed=False)


def _open(folder: Path, setting: str, known: dict[str, dict[str, Any]]) -> Drawn:
    prompts = open_prompts(folder)
    try:
        record = json.loads((folder / RECORD).read_text())
    except OSError:
        raise ValueError(f"{folder}: has no {RECORD}, so nobody knows what drew it") from None
    rows = outcomes(prompts, known)
    summary(rows, prompts.plan())  # refuses what is not whole
    name = next(iter(known.values()))["judge"]
    return Drawn(folder, record, prompts, rows, f"{name}, {setting}")


def _place(row: dict[str, Any]) -> tuple[str, int, int]:
    return row["task"], row["prompt_index"], row["sample"]


def _cost(value: float | None, digits: int, unit: float = 1.0) -> Cell:
    return Cell("?") if value is None else Cell(number(value / unit, digits), value)


def _millions(count: int) -> str:
    if not count:
        return "?"
    return f"{count / 1e9:.2f} B" if count >= 1e9 else f"{count / 1e6:.1f} M"
