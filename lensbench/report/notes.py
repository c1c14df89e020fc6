"""What the notes below tables say: seeds, corrections, judges, and how the scores were taken."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from lensbench.metrics import GENEVAL, metric, ordered
from lensbench.report.grid import Grid
from lensbench.report.paired import POST_HOC, PRIMARY, SECONDARY, Comparison
from lensbench.scoring.protocol import protocol_line

if TYPE_CHECKING:
    import pandas as pd

BOLD = "Bold: best of its scale and prompt form, where the paired 95 % interval to the second best is clear of zero."
SEEDS = "(low to high): smallest and largest seed, not an interval."
BY_SEEDS = "Intervals of distances: Student's t over training seeds; of single images' scores: over prompts and seeds."
SHARED = (
    "Arms with missing seeds are compared on the seeds that both arms have; on one shared seed, sampling interval only."
)
BESIDE = "The sweep asks nothing of GenEval; what it asks is in the table of the other scores' differences."
NOTHING = "Nothing to compare: the sweep has one arm, or no cell of it is complete."


def number_of_seeds(grid: Grid) -> str:
    """How many training seeds the arms have by design: 3, or 3 to 6."""
    return _span({len(seeds) for seeds in grid.planned.values()} or {len(grid.seeds)})


def seeds_note(grid: Grid) -> str:
    return (
        f"{number_of_seeds(grid)} training seeds."
        if len(grid.seeds) > 1
        else "One training seed: sampling interval only."
    )


def origin_note(grid: Grid) -> str:
    """Judge and commits, short."""
    records, parts = grid.results.records, []
    for column, word in (("judge_digest", "judge"), ("commit", "commit")):
        found = sorted({str(value) for value in records[column].dropna().unique()} - {""}) if column in records else []
        if found:
            names = [value if column == "commit" else value[:10] for value in found]
            parts.append(f"{word}{'s' if len(found) > 1 else ''} {', '.join(names)}")
    return f"Scored with {'; '.join(parts)}." if parts else ""


def protocol_notes(grid: Grid, metrics: Iterable[str]) -> tuple[str, ...]:
    """A line for each metric with everything that must be known to compare it, from its records; none of results of
    before, whose records do not say it. Settings that differ between cells have a line each."""
    records = grid.results.records
    if "protocol" not in records:
        return ()
    lines = []
    for name in ordered(metrics):
        rows = records[(records["metric"] == name) & (records["protocol"].fillna("") != "")]
        rows = rows[rows["step"] == rows.groupby("cell")["step"].transform("max")]
        for told, some in rows.groupby("protocol", sort=True):
            images = sorted({int(n) for n in some["n"]})
            floors = sorted({round(float(floor), 12) for floor in some["floor"].dropna()})
            forms = ", ".join(sorted({str(form) for form in some["prompt_form"]} - {""}))
            lines.append(protocol_line(metric(name), str(told), images, forms, floors))
    return tuple(lines)


def tests_note(grid: Grid, rows: Iterable[Comparison]) -> str:
    """What is tested among the differences of a table, and what is described."""
    found = [row for row in rows if row.difference.seeds]
    tested = [row for row in found if row.difference.tested]
    if not tested:
        return "Described with plain 95 % intervals: the sweep asks nothing of these, so nothing is tested."
    every = [*grid.comparisons(), *grid.comparisons_beside()]
    told = ["the primary question alone at 5 %"] if any(row.difference.role == PRIMARY for row in tested) else []
    for role in (SECONDARY, POST_HOC):
        if any(row.difference.role == role for row in tested):
            family = sum(row.difference.role == role and row.difference.tested for row in every)
            told.append(f"the {role} ones after Holm's correction over {family}")
    rest = " What the sweep does not ask is described with plain 95 % intervals." if len(tested) < len(found) else ""
    return f"*: significant, {' and '.join(told)}; the intervals of these agree with that.{rest}"


def recipe_note(grid: Grid, evaluation: Mapping[str, Any]) -> str:
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


def distance_note(grid: Grid, metrics: set[str]) -> str:
    """What the distances are on, and from how few images."""
    if "fd_shapes" not in metrics:
        return ""
    counts = grid.results.records.query("metric == 'fd_shapes'")["n"]
    note = f"FD-shapes: Frechet distance on 64 features of this project's judge, from {_range(counts)} images a side"
    return note + ("; with fewer images than features it is biased up." if counts.min() <= 64 else ".")


def _range(counts: pd.Series) -> str:
    low, high = int(counts.min()), int(counts.max())
    return str(low) if low == high else f"{low} to {high}"
