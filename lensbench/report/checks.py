"""What must hold before frozen results become a table: no missing cell, one commit, and records of the experiments
that the recipe still has."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lensbench.records import judged_otherwise, mixed
from lensbench.report.freeze import EXPERIMENTS, Frozen, changes, commits_of, named

if TYPE_CHECKING:
    from lensbench.sweep.sweep import Cell, Results

SHOWN = 4  # cells, commits or fields that an error names


def problems(frozen: Frozen, *, allow_mixed: bool = False, allow_missing: bool = False) -> list[str]:
    """Why a frozen result must not become a table: missing cells, several commits, records of other experiments."""
    results, found = frozen.results, []
    of_cells = results.records.drop_duplicates(["cell", "experiment_hash"])[["cell", "experiment_hash"]]
    hashes = {cell: frozen.hash_of(cell) for cell in frozen.sciences}
    there = {str(cell) for cell in of_cells["cell"]}
    if not hashes:
        found.append(f"no {EXPERIMENTS}: nothing says what the records are of; freeze them again")
    else:
        stale = sorted({str(c) for c, said in of_cells.itertuples(index=False) if hashes.get(str(c)) != said})
        if stale:
            found.append(f"stale: the records of {_some(stale, 'cell')} are of another experiment than the frozen one")
        gone = sorted({*hashes} - there | {str(row["cell"]) for row in results.missing})
        if gone and not allow_missing:
            reasons = {str(row["cell"]): str(row["reason"]) for row in results.missing}
            why = sorted({reasons.get(cell, "no record") for cell in gone})
            found.append(f"{_some(gone, 'cell')} missing ({few(why)}); --allow-missing goes on without")
    if frozen.changed:
        found.append(f"not as frozen: {few([*frozen.changed])}; take the committed files again, or freeze again")
    if torn := judged_otherwise(results.records, results.outcomes):
        found.append(f"the scores of {_some(torn, 'cell')} are not those of the judged images: freeze them again")
    commits = mixed(results.records, "commit")
    if commits and not allow_mixed:
        found.append(f"the cells are of {len(commits)} commits ({few(commits)}); --allow-mixed goes on all the same")
    return found


def refuse(frozen: Frozen, where: str, *, allow_mixed: bool = False, allow_missing: bool = False) -> None:
    """Raise ValueError, one line, where `problems` finds any."""
    if found := problems(frozen, allow_mixed=allow_mixed, allow_missing=allow_missing):
        raise ValueError(f"{where}: {'; '.join(found)}")


def refuse_collected(results: Results, name: str, *, allow_mixed: bool = False, allow_missing: bool = False) -> None:
    """Raise ValueError, one line, for collected results that must not be frozen: missing cells, or several commits."""
    if results.missing and not allow_missing:
        reasons = sorted({f"{row['reason']}" for row in results.missing})
        cells = _some([str(row["cell"]) for row in results.missing], "cell")
        raise ValueError(f"{name}: {cells} missing ({few(reasons)}): nothing is frozen; --allow-missing does without")
    if results.records.empty:
        raise ValueError(f"{name}: no cell is complete: there is nothing to freeze")
    if (commits := mixed(results.records, "commit")) and not allow_mixed:
        raise ValueError(
            f"{name}: the cells are of {len(commits)} commits ({few(commits)}): nothing is frozen; --allow-mixed "
            "freezes them all the same"
        )


def summary_line(frozen: Frozen, folder: Path) -> str:
    """What is frozen, in one line: cells, records, images, commit."""
    results, told = frozen.results, frozen.provenance
    commits = ", ".join(commits_of(results.records)) or "no commit"
    gone = f", {len(results.missing)} missing" if results.missing else ""
    dirty = " (with uncommitted changes)" if told.get("dirty") else ""
    return (
        f"{folder}: {results.records['cell'].nunique():,} cells{gone}, {len(results.records):,} records, "
        f"{len(results.outcomes):,} judged images, commit {commits}{dirty}"
    )


def against_recipe(frozen: Frozen, cells: Iterable[Cell]) -> list[str]:
    """How the frozen experiments differ from a sweep's cells as its file has them now: stale, missing and left over."""
    recipe = {named(cell.experiment, frozen.schema): cell for cell in cells}
    factors = [*frozen.results.factors]
    by_levels = {_levels(cell.levels, factors): cell for cell in recipe.values()}
    records = frozen.results.records.drop_duplicates("cell")
    rows = [*records.to_dict("records"), *frozen.results.missing]
    placed = {str(row["cell"]): _levels(row, factors) for row in rows}
    found, changed = [], {}
    for cell, science in frozen.sciences.items():
        if cell in recipe and science == recipe[cell].experiment.science():
            continue
        now = by_levels.get(placed.get(cell, ()))
        changed[cell] = sorted(changes(science, now.experiment.science())) if now is not None else []
    stale = sorted(cell for cell, fields in changed.items() if fields)
    left = sorted(cell for cell, fields in changed.items() if not fields)
    if other := _other_evaluations(frozen, recipe, {*changed}):
        found.append(f"stale: the evaluations of {_some(other, 'cell')} are not those of the sweep")
    if stale:
        fields = sorted({name for cell in stale for name in changed[cell]})
        found.append(f"stale: the recipe of {_some(stale, 'cell')} has changed since: {few(fields)}")
    if left:
        found.append(f"{_some(left, 'cell')} of the frozen result {'is' if len(left) == 1 else 'are'} not in the sweep")
    stale_places = {placed[cell] for cell in stale}
    new = sorted(c for c, cell in recipe.items() if c not in frozen.sciences and _levels(cell.levels, factors) not in
                 stale_places)  # fmt: skip
    if new:
        found.append(f"{_some(new, 'cell')} of the sweep {'is' if len(new) == 1 else 'are'} not in the frozen result")
    return found


def _other_evaluations(frozen: Frozen, recipe: Mapping[str, Cell], changed: Collection[str]) -> list[str]:
    """The frozen cells that are as in the recipe but for which evaluations they have."""
    records = frozen.results.records
    if "evaluation_hash" not in records:
        return []
    there = records[records["evaluation_hash"] != ""].groupby("cell")["evaluation_hash"].agg(set).to_dict()
    return sorted(
        name
        for name, cell in recipe.items()
        if name in there
        and name not in changed
        and there[name] != {place.experiment.evaluation_hash() for place in cell.evaluations}
    )


def _levels(row: Mapping[str, Any], factors: Iterable[str]) -> tuple[str, ...]:
    return tuple(str(row.get(name)) for name in factors)


def _some(cells: list[str], word: str) -> str:
    return f"{len(cells)} {word}{'' if len(cells) == 1 else 's'} ({few(cells)})"


def few(names: list[str]) -> str:
    """The first names, and how many more there are."""
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more
