"""Reading a cell's directory: its records and outcomes, checked, and why it is not complete.

`runs/<cell id>/records.parquet` is written last and atomically; a cell is complete when that file can be read, belongs
to the experiment and was counted from the judged images beside it. Nothing else (no database, no tracker) decides it.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

from lensbench.records import OUTCOMES, RECORDS, empty, has_judged, judged_otherwise, read

if TYPE_CHECKING:
    import pandas as pd

    from lensbench.experiment import Experiment


def read_cell(directory: Path, experiment: Experiment) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The records and the judged images of a complete cell. ValueError, saying what is wrong, of any other."""
    records = read_records(directory, experiment)
    outcomes = read_outcomes(directory, experiment, records)
    if judged_otherwise(records, outcomes):
        raise ValueError("outcomes.parquet does not hold the judged images that records.parquet was counted from")
    return records, outcomes


def read_records(directory: Path, experiment: Experiment) -> pd.DataFrame:
    """The records of a cell. ValueError, saying what is wrong, when they are corrupt or another experiment's."""
    table = read(directory / RECORDS.file, RECORDS)
    if table.empty:
        raise ValueError("records.parquet is empty")
    if set(table["experiment_hash"]) != {experiment.hash()}:
        raise ValueError("records.parquet belongs to another experiment")
    return table


def read_outcomes(directory: Path, experiment: Experiment, records: pd.DataFrame) -> pd.DataFrame:
    """The judged images of a cell; none where its records hold no judged score. ValueError as for the records."""
    if not has_judged(records) and not (directory / OUTCOMES.file).exists():
        return empty(OUTCOMES)
    table = read(directory / OUTCOMES.file, OUTCOMES)
    if set(table["cell"]) - {experiment.cell_id()}:
        raise ValueError("outcomes.parquet belongs to another cell")
    return table


def main_score(records: pd.DataFrame) -> tuple[str, float]:
    """The one number a cell is told apart by, and its name: GenEval over the forms, else the validation loss.

    At the last scored step; NaN when there is neither.
    """
    for metric in ("geneval", "validation_loss"):
        rows = records[records["metric"] == metric]
        if len(rows):
            return metric, float(rows[rows["step"] == rows["step"].max()]["value"].mean())
    return "no score", math.nan


def why_unfinished(directory: Path) -> str:
    """Why a cell without records has none: never run, not finished, or the last line of its error."""
    error = directory / "error.txt"
    if error.exists():
        lines = [line.strip() for line in error.read_text(errors="replace").splitlines() if line.strip()]
        return f"failed: {lines[-1] if lines else 'no message'}"
    begun = directory.is_dir() and any(not entry.name.startswith(".") for entry in directory.iterdir())
    return "not finished" if begun else "not run"
