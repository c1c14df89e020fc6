"""Reading a cell's directory: its records and outcomes, checked, and why it is not complete.

`runs/<cell id>/records.parquet` is written last and atomically; a cell is complete when that file can be read, belongs
to the experiment and was counted from the judged images beside it. Nothing else (no database, no tracker) decides it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import pandas as pd

    from lensbench.experiment import Experiment

RECORD_COLUMNS = (
    *("cell", "experiment_hash", "prompt_form", "metric", "value", "low", "high", "n", "step", "samples_seen"),
    *("train_flops", "corpus_digest", "captions_digest", "prompts_digest", "judge_digest", "extractor"),
    *("commit", "hardware"),
)
OUTCOME_COLUMNS = (
    *("cell", "step", "metric", "prompt_form", "task", "prompt_index", "sample", "prompt", "value", "reason"),
)


def read_cell(directory: Path, experiment: Experiment) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The records and the judged images of a complete cell. ValueError, saying what is wrong, of any other."""
    records = read_records(directory, experiment)
    outcomes = read_outcomes(directory, experiment, records)
    if judged_otherwise(records, outcomes):
        raise ValueError("outcomes.parquet does not hold the judged images that records.parquet was counted from")
    return records, outcomes


def read_records(directory: Path, experiment: Experiment) -> pd.DataFrame:
    """The records of a cell. ValueError, saying what is wrong, when they are corrupt or another experiment's."""
    table = read_table(directory / "records.parquet", RECORD_COLUMNS)
    if table.empty:
        raise ValueError("records.parquet is empty")
    if set(table["experiment_hash"]) != {experiment.hash()}:
        raise ValueError("records.parquet belongs to another experiment")
    return table


def read_outcomes(directory: Path, experiment: Experiment, records: pd.DataFrame) -> pd.DataFrame:
    """The judged images of a cell; none where its records hold no judged score. ValueError as for the records."""
    import pandas as pd

    if not has_judged(records):
        return pd.DataFrame(columns=list(OUTCOME_COLUMNS))
    table = read_table(directory / "outcomes.parquet", OUTCOME_COLUMNS)
    if set(table["cell"]) - {experiment.cell_id()}:
        raise ValueError("outcomes.parquet belongs to another cell")
    return table


def has_judged(records: pd.DataFrame) -> bool:
    """Whether records hold scores of single judged images, which are in the outcomes."""
    return bool(records["metric"].isin(["geneval", "shapes_alignment"]).any())


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
    """Why a cell without records has none: never run, not finished, or the last line of its error."""
    error = directory / "error.txt"
    if error.exists():
        lines = [line.strip() for line in error.read_text(errors="replace").splitlines() if line.strip()]
        return f"failed: {lines[-1] if lines else 'no message'}"
    begun = directory.is_dir() and any(not entry.name.startswith(".") for entry in directory.iterdir())
    return "not finished" if begun else "not run"
