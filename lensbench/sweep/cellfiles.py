"""A cell's directory: what training and each evaluation leave there, read and checked, and why it is not complete.

    runs/<cell id>/records.parquet                        the facts of the training; written last, atomically
    runs/<cell id>/evaluations/<id>/records.parquet       the scores of one evaluation; written last, atomically
    runs/<cell id>/evaluations/<id>/outcomes.parquet      the judged images that the scores were counted from

A cell is trained when the first file exists, and complete when each evaluation that is asked for has its own. Nothing
else (no database, no tracker) decides it.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

from lensbench.experiment import DIRECTORY_DIGITS
from lensbench.metrics import metric, of_kind
from lensbench.records import OUTCOMES, RECORDS, empty, has_judged, judged_otherwise, read, write
from lensbench.sampling.image_sets import IMAGES

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd

    from lensbench.experiment import Experiment
    from lensbench.sweep.design import Cell

EVALUATIONS = "evaluations"
TRAINED = "trained, not scored"  # why a cell is not complete
# What the training and each evaluation spent; train_seconds is the training's alone, and a part of cell_seconds.
SPENT = tuple(cost.name for cost in of_kind("cost") if cost.name != "train_seconds")


def evaluation_folder(directory: Path, experiment: Experiment) -> Path:
    """The folder of the experiment's evaluation in the cell's directory."""
    return directory / EVALUATIONS / experiment.evaluation_id()


def image_folder(runs: Path, cell: str, evaluation_hash: str, name: str) -> Path:
    """Where a cell keeps the images of a set, such as geneval-short: see lensbench.sampling.image_sets."""
    return runs / cell / EVALUATIONS / evaluation_hash[:DIRECTORY_DIGITS] / IMAGES / name


def is_trained(directory: Path) -> bool:
    """Whether the cell's training is complete."""
    return (directory / RECORDS.file).exists()


def is_evaluated(directory: Path, experiment: Experiment) -> bool:
    """Whether the experiment's evaluation is complete."""
    return (evaluation_folder(directory, experiment) / RECORDS.file).exists()


def is_complete(directory: Path, cell: Cell) -> bool:
    """Whether the cell is trained and every one of its evaluations is complete."""
    return is_trained(directory) and all(is_evaluated(directory, one.experiment) for one in cell.evaluations)


def read_complete(directory: Path, cell: Cell) -> list[tuple[Cell, pd.DataFrame, pd.DataFrame]]:
    """Each evaluation of a complete cell, with its records and judged images. ValueError, as `read_cell`, of others."""
    found = []
    for place in cell.evaluations:
        records, outcomes = read_cell(directory, place.experiment, first=place is cell.evaluations[0])
        found.append((place, records, outcomes))
    return found


def read_cell(directory: Path, experiment: Experiment, *, first: bool = True) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The records and the judged images of a cell's evaluation, with the facts of its training.

    `first` says whether this is the first of the cell's evaluations: what the training spent is counted there alone.
    ValueError, saying what is wrong, of a cell that is not complete.
    """
    records = read_records(directory, experiment, first=first)
    outcomes = read_outcomes(directory, experiment, records)
    if judged_otherwise(records, outcomes):
        raise ValueError("outcomes.parquet does not hold the judged images that records.parquet was counted from")
    return records, outcomes


def read_records(directory: Path, experiment: Experiment, *, first: bool = True) -> pd.DataFrame:
    """The records of a cell's training and evaluation. ValueError, saying what is wrong, as `read_cell`.

    Losses that training was watched by stay where they are of the same held-out texts and noise as the evaluation's.
    """
    import pandas as pd

    trained, scored = read_trained(directory, experiment), read_evaluated(directory, experiment)
    losses = trained["metric"].map(lambda name: metric(str(name)).kind == "loss")
    same = scored["held_out_digest"].iloc[0] == trained["held_out_digest"].iloc[0]
    measured = set(scored.loc[scored["metric"] == "validation_loss", "step"])
    trained = trained[~losses | (~trained["step"].isin(measured) & same)]
    if not first:
        trained = trained[~trained["metric"].isin(SPENT)]
    together = pd.concat([scored, trained], ignore_index=True)
    spent = together["metric"].isin(SPENT)
    if not spent.any():
        return together
    sums = together[spent].groupby("metric")["value"].sum()
    together.loc[spent, "value"] = together.loc[spent, "metric"].map(sums)
    return together[~(spent & together.duplicated("metric"))].reset_index(drop=True)


def read_trained(directory: Path, experiment: Experiment) -> pd.DataFrame:
    """The records of a cell's training. ValueError, saying what is wrong, when they are not there or of another."""
    return _of_experiment(directory / RECORDS.file, experiment)


def read_evaluated(directory: Path, experiment: Experiment) -> pd.DataFrame:
    """The records of a cell's evaluation. ValueError, saying what is wrong, when they are not there or of another."""
    table = _of_experiment(evaluation_folder(directory, experiment) / RECORDS.file, experiment)
    if set(table["evaluation_hash"]) != {experiment.evaluation_hash()}:
        raise ValueError("records.parquet belongs to another evaluation")
    return table


def _of_experiment(path: Path, experiment: Experiment) -> pd.DataFrame:
    table = read(path, RECORDS)
    if table.empty:
        raise ValueError("records.parquet is empty")
    if set(table["experiment_hash"]) != {experiment.hash()}:
        raise ValueError("records.parquet belongs to another experiment")
    return table


def read_outcomes(directory: Path, experiment: Experiment, records: pd.DataFrame) -> pd.DataFrame:
    """The judged images of a cell's evaluation; none where its records hold no judged score. ValueError as above."""
    path = evaluation_folder(directory, experiment) / OUTCOMES.file
    if not has_judged(records) and not path.exists():
        return empty(OUTCOMES)
    table = read(path, OUTCOMES)
    if set(table["cell"]) - {experiment.cell_id()}:
        raise ValueError("outcomes.parquet belongs to another cell")
    return table


def write_cell(directory: Path, experiment: Experiment, records: pd.DataFrame, outcomes: pd.DataFrame) -> None:
    """Write what a complete cell has of records, as one table and the judged images: the training's records last.

    Rows without an evaluation are the training's. Tables of before evaluations had hashes of their own are taken too.
    Raises ValueError, before anything is written, for records of the training or of the evaluation alone.
    """
    records = records.assign(cell=experiment.cell_id(), experiment_hash=experiment.hash())
    if "evaluation_hash" not in records:
        records = records.assign(evaluation_hash=_told_apart(records, experiment), held_out_digest="")
    of_training = records["evaluation_hash"] == ""
    if of_training.all() or not of_training.any():
        raise ValueError(f"{directory}: its records are not those of a training and of an evaluation of it")
    folder = evaluation_folder(directory, experiment)
    folder.mkdir(parents=True, exist_ok=True)
    if len(outcomes):
        told = outcomes.assign(cell=experiment.cell_id(), evaluation_hash=experiment.evaluation_hash())
        write(told, folder / OUTCOMES.file, OUTCOMES)
    write(records[~of_training], folder / RECORDS.file, RECORDS)
    write(records[of_training], directory / RECORDS.file, RECORDS)


def _told_apart(records: pd.DataFrame, experiment: Experiment) -> pd.Series:
    """The evaluation's hash beside what it measured, "" beside facts and the losses that training was watched by."""
    kinds = records["metric"].map(lambda name: metric(str(name)).kind)
    scored = set(records.loc[kinds.isin(("score", "distance")), "step"]) or {records["step"].max()}
    measured = ~kinds.isin(("fact", "cost")) & records["step"].isin(scored)
    return measured.map({True: experiment.evaluation_hash(), False: ""})


def remove_damaged(directory: Path, wanted: Sequence[Experiment]) -> list[str]:
    """Remove records that cannot be used, so that what they were of is made again; a line for each, saying why.

    `wanted` are evaluations of one training.
    """
    said = []
    try:
        if is_trained(directory):
            read_trained(directory, wanted[0])
    except ValueError as error:
        (directory / RECORDS.file).unlink()
        said.append(f"{error}: the training's facts are taken again")
    for experiment in wanted:
        folder = evaluation_folder(directory, experiment)
        try:
            if not (folder / RECORDS.file).exists():
                continue
            table = read_evaluated(directory, experiment)
            if not judged_otherwise(table, read_outcomes(directory, experiment, table)):
                continue
            why = "outcomes.parquet does not hold the judged images that records.parquet was counted from"
        except ValueError as error:
            why = str(error)
        (folder / RECORDS.file).unlink()
        said.append(f"{EVALUATIONS}/{folder.name}: {why}: it is scored again")
    return said


def main_score(records: pd.DataFrame) -> tuple[str, float]:
    """The one number a cell is told apart by, and its name: GenEval over the forms, else the validation loss.

    At the last scored step; NaN when there is neither.
    """
    for name in ("geneval", "validation_loss"):
        rows = records[records["metric"] == name]
        if len(rows):
            return name, float(rows[rows["step"] == rows["step"].max()]["value"].mean())
    return "no score", math.nan


def why_unfinished(directory: Path) -> str:
    """Why a cell is not complete: never run, not finished, trained and not scored, or the last line of its error."""
    error = directory / "error.txt"
    if error.exists():
        lines = [line.strip() for line in error.read_text(errors="replace").splitlines() if line.strip()]
        return f"failed: {lines[-1] if lines else 'no message'}"
    if is_trained(directory):
        return TRAINED
    begun = directory.is_dir() and any(not entry.name.startswith(".") for entry in directory.iterdir())
    return "not finished" if begun else "not run"
