"""A cell's directory: what training and each evaluation leave there, read and checked, and why it is not complete.

    runs/<cell id>/records.parquet                        the facts of the training; written last, atomically
    runs/<cell id>/evaluations/<id>/records.parquet       the scores of one evaluation; written last, atomically
    runs/<cell id>/evaluations/<id>/outcomes.parquet      the judged images that the scores were counted from

A cell is trained when the first file exists, and complete when each evaluation that is asked for has its own. Nothing
else (no database, no tracker) decides it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from lensbench.experiment import DIRECTORY_DIGITS
from lensbench.publishing import publish
from lensbench.sampling.image_sets import IMAGES

if TYPE_CHECKING:
    import pandas as pd

    from lensbench.experiment import Experiment
    from lensbench.sweep.design import Cell

RECORDS, OUTCOMES = "records.parquet", "outcomes.parquet"
EVALUATIONS = "evaluations"
COUNTED_ONCE = ("cell_seconds", "device_hours", "cost_usd", "energy_kwh", "energy_kwh_estimated")
RECORD_COLUMNS = (
    *("cell", "experiment_hash", "prompt_form", "metric", "value", "low", "high", "n", "step", "samples_seen"),
    *("train_flops", "corpus_digest", "captions_digest", "prompts_digest", "judge_digest", "extractor"),
    *("commit", "hardware"),
)
JUDGED = ("geneval", "shapes_alignment")  # scores of single judged images
SCORED = ("geneval", "shapes_alignment", "validation_loss", "fid", "fd_", "kid", "cmmd")  # how names of scores begin
OUTCOME_COLUMNS = (
    *("cell", "step", "metric", "prompt_form", "task", "prompt_index", "sample", "prompt", "value", "reason"),
)


def evaluation_folder(directory: Path, experiment: Experiment) -> Path:
    """The folder of the experiment's evaluation in the cell's directory."""
    return directory / EVALUATIONS / experiment.evaluation_id()


def is_trained(directory: Path) -> bool:
    """Whether the cell's training is complete."""
    return (directory / RECORDS).exists()


def is_evaluated(directory: Path, experiment: Experiment) -> bool:
    """Whether the experiment's evaluation is complete."""
    return (evaluation_folder(directory, experiment) / RECORDS).exists()


def is_complete(directory: Path, cell: Cell) -> bool:
    """Whether the cell is trained and every one of its evaluations is complete."""
    return is_trained(directory) and all(is_evaluated(directory, one.experiment) for one in cell.evaluations)


def image_folder(runs: Path, cell: str, evaluation_hash: str, name: str) -> Path:
    """Where a cell keeps the images of a set, such as geneval-short: see lensbench.sampling.image_sets."""
    return runs / cell / EVALUATIONS / evaluation_hash[:DIRECTORY_DIGITS] / IMAGES / name


def read_complete(directory: Path, cell: Cell) -> list[tuple[Cell, pd.DataFrame, pd.DataFrame]]:
    """Each evaluation of a complete cell, with its records and judged images. ValueError, as `read_cell`, of others."""
    found = []
    for place in cell.evaluations:
        records, outcomes = read_cell(directory, place.experiment, first=place is cell.evaluations[0])
        found.append((place, records, outcomes))
    return found


def write_cell(directory: Path, experiment: Experiment, records: pd.DataFrame, outcomes: pd.DataFrame) -> None:
    """Write what a complete cell has of records, as one table and the judged images, the records last.

    Rows without an evaluation are the training's. Tables of before evaluations had hashes of their own are taken too.
    """
    key = {"cell": experiment.cell_id(), "experiment_hash": experiment.hash()}
    records = records.assign(**key)
    if "evaluation_hash" not in records:
        scored = set(records.loc[records["metric"].isin(JUDGED), "step"])
        facts = ~records["metric"].str.startswith(SCORED) | ~records["step"].isin(scored)
        records["evaluation_hash"] = ""
        records.loc[~facts, "evaluation_hash"] = experiment.evaluation_hash()
        records["held_out_digest"] = ""
    of_training = records["evaluation_hash"] == ""
    folder = evaluation_folder(directory, experiment)
    folder.mkdir(parents=True, exist_ok=True)
    if len(outcomes):
        told = outcomes.assign(cell=key["cell"], evaluation_hash=experiment.evaluation_hash())
        write_table(told, folder / OUTCOMES)
    write_table(records[~of_training], folder / RECORDS)
    write_table(records[of_training], directory / RECORDS)


def write_table(frame: pd.DataFrame, path: Path, publishing: Callable[[Path, Path], None] = publish) -> None:
    """Write a table as Parquet, whole or not at all."""
    partial = path.with_suffix(".partial")
    frame.to_parquet(partial, index=False)
    publishing(partial, path)


def remove_damaged(directory: Path, cell: Cell) -> None:
    """Remove records that cannot be used, so that what they were of is made again."""
    try:
        if is_trained(directory):
            read_trained(directory, cell.experiment)
    except ValueError:
        (directory / RECORDS).unlink()
    for place in cell.evaluations:
        records = evaluation_folder(directory, place.experiment) / RECORDS
        try:
            if records.exists():
                table = read_evaluated(directory, place.experiment)
                if judged_otherwise(table, read_outcomes(directory, place.experiment, table)):
                    records.unlink()
        except ValueError:
            records.unlink()


def read_cell(directory: Path, experiment: Experiment, *, first: bool = True) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The records and the judged images of a cell's evaluation, with the facts of its training.

    `first` says whether this is the first of the cell's evaluations: what the training cost is counted there alone.
    ValueError, saying what is wrong, of a cell that is not complete.
    """
    records = read_records(directory, experiment, first=first)
    outcomes = read_outcomes(directory, experiment, records)
    if judged_otherwise(records, outcomes):
        raise ValueError("outcomes.parquet does not hold the judged images that records.parquet was counted from")
    return records, outcomes


def read_records(directory: Path, experiment: Experiment, *, first: bool = True) -> pd.DataFrame:
    """The records of a cell's training and evaluation. ValueError, saying what is wrong, as `read_cell`."""
    import pandas as pd

    trained, scored = read_trained(directory, experiment), read_evaluated(directory, experiment)
    steps = set(scored["step"])  # the held-out loss where the model was watched and not scored
    losses = trained["metric"] == "validation_loss"
    same = scored["held_out_digest"].iloc[0] == trained["held_out_digest"].iloc[0]
    trained = trained[~losses | (~trained["step"].isin(steps) & same)]
    costs = trained["metric"].isin(COUNTED_ONCE)
    if not first:
        trained = trained[~costs]
    together = pd.concat([scored, trained], ignore_index=True)
    spent = together["metric"].isin(COUNTED_ONCE)
    if not spent.any():
        return together
    summed = together[spent].groupby("metric", sort=False)["value"].transform("sum")
    together.loc[spent, "value"] = summed
    return together[~(spent & together.duplicated(["metric"]))].reset_index(drop=True)


def read_trained(directory: Path, experiment: Experiment) -> pd.DataFrame:
    """The records of a cell's training. ValueError, saying what is wrong, when they are not there or of another."""
    return _read_records(directory / RECORDS, experiment)


def read_evaluated(directory: Path, experiment: Experiment) -> pd.DataFrame:
    """The records of a cell's evaluation. ValueError, saying what is wrong, when they are not there or of another."""
    table = _read_records(evaluation_folder(directory, experiment) / RECORDS, experiment)
    if set(table["evaluation_hash"]) != {experiment.evaluation_hash()}:
        raise ValueError("records.parquet belongs to another evaluation")
    return table


def _read_records(path: Path, experiment: Experiment) -> pd.DataFrame:
    table = read_table(path, (*RECORD_COLUMNS, "evaluation_hash"))
    if table.empty:
        raise ValueError("records.parquet is empty")
    if set(table["experiment_hash"]) != {experiment.hash()}:
        raise ValueError("records.parquet belongs to another experiment")
    return table


def read_outcomes(directory: Path, experiment: Experiment, records: pd.DataFrame) -> pd.DataFrame:
    """The judged images of a cell's evaluation; none where its records hold no judged score. ValueError as above."""
    import pandas as pd

    if not has_judged(records):
        return pd.DataFrame(columns=list(OUTCOME_COLUMNS))
    table = read_table(evaluation_folder(directory, experiment) / OUTCOMES, OUTCOME_COLUMNS)
    if set(table["cell"]) - {experiment.cell_id()}:
        raise ValueError("outcomes.parquet belongs to another cell")
    return table


def has_judged(records: pd.DataFrame) -> bool:
    """Whether records hold scores of single judged images, which are in the outcomes."""
    return bool(records["metric"].isin(JUDGED).any())


def judged_otherwise(records: pd.DataFrame, outcomes: pd.DataFrame) -> list[str]:
    """The cells whose accuracies of GenEval's tasks, or alignments, are not the means and counts of their images."""
    place = ["cell", "prompt_form", "step", "metric"]
    names = records["metric"].astype(str)
    said = records[names.str.startswith("geneval.") | (names == "shapes_alignment")]
    if said.empty:
        return []
    images = outcomes[outcomes["metric"].isin(["geneval", "alignment"])]
    of_task = "geneval." + images["task"].astype(str)
    images = images.assign(
        value=images["value"].astype(float), metric=of_task.where(images["metric"] == "geneval", "shapes_alignment")
    )
    judged = images.groupby(place, as_index=False).agg(mean=("value", "mean"), images=("value", "size"))
    found = said[[*place, "value", "n"]].merge(judged, how="left", on=place)
    right = np.isclose(found["value"], found["mean"], atol=1e-9) & (found["n"] == found["images"])
    return sorted({str(cell) for cell in found["cell"][~right]})


def read_table(path: Path, columns: Iterable[str]) -> pd.DataFrame:
    """A Parquet file that must have these columns. ValueError, saying what is wrong with it by its name."""
    import pandas as pd

    try:
        table = pd.read_parquet(path)
    except FileNotFoundError:
        raise ValueError(f"{path.name} is missing") from None
    except Exception as error:  # pyarrow has no one class for a corrupt file
        raise ValueError(f"{path.name} cannot be read ({str(error).splitlines()[0]})") from error
    if lacking := [column for column in columns if column not in table.columns]:
        raise ValueError(f"{path.name} lacks the columns {', '.join(lacking)}")
    if len(table) and table["value"].dtype.kind not in "fiub":
        raise ValueError(f"{path.name}: its values are no numbers")
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
    """Why a cell is not complete: never run, not finished, trained and not scored, or the last line of its error."""
    error = directory / "error.txt"
    if error.exists():
        lines = [line.strip() for line in error.read_text(errors="replace").splitlines() if line.strip()]
        return f"failed: {lines[-1] if lines else 'no message'}"
    if is_trained(directory):
        return "trained, not scored"
    begun = directory.is_dir() and any(not entry.name.startswith(".") for entry in directory.iterdir())
    return "not finished" if begun else "not run"
