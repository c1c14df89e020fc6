"""The schema of records and outcomes: which columns they have, and how they are read, written and checked.

A record is one number with its provenance, an outcome one judged image. A cell's files have every column that is
`needed` in a cell; frozen results of earlier versions have at least those that are needed everywhere. Columns that the
schema does not name (the factors of a sweep) stay as they are.

A file carries the sha256 of its own bytes in its footer, under `sha256`, taken with 64 zeros in its place: a file that
has changed by a bit is refused. Files of earlier versions carry none.
"""

from __future__ import annotations

import hashlib
import io
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from lensbench.metrics import Metric, is_known, metric
from lensbench.publishing import partial_of, publish

if TYPE_CHECKING:
    import pandas as pd

Content = Literal["text", "whole", "number"]
Needed = Literal["always", "in a cell", "no"]
BLANK = "0" * 64  # stands for the digest while it is taken
MARK = re.compile(rb"sha256-of-file:([0-9a-f]{64})")
STEERING = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")  # ESC and its kin
DTYPES: dict[Content, str] = {"text": "object", "whole": "int64", "number": "float64"}


@dataclass(frozen=True)
class Column:
    """One column: what it holds, where it must be, and what that says."""

    name: str
    content: Content
    needed: Needed
    about: str


@dataclass(frozen=True)
class Schema:
    """The columns of one kind of file."""

    file: str
    columns: tuple[Column, ...]

    def names(self, *needed: Needed) -> tuple[str, ...]:
        """The names of the columns, all or those that are needed so."""
        return tuple(column.name for column in self.columns if not needed or column.needed in needed)

    @property
    def in_cell(self) -> tuple[str, ...]:
        """The columns that a cell's file must have."""
        return self.names("always", "in a cell")


RECORDS = Schema(
    "records.parquet",
    (
        Column("cell", "text", "always", "the cell's id"),
        Column("experiment_hash", "text", "always", "the hash of what was trained"),
        Column("prompt_form", "text", "always", "the wording of the prompts; empty where none are asked"),
        Column("metric", "text", "always", "a name of lensbench.metrics"),
        Column("value", "number", "always", "the number"),
        Column("low", "number", "in a cell", "its 95 % interval over prompts; NaN where there is none"),
        Column("high", "number", "in a cell", "the other end"),
        Column("n", "whole", "always", "how many images, or what else the number is of"),
        Column("step", "whole", "always", "the training step of the checkpoint"),
        Column("samples_seen", "whole", "in a cell", "training images seen until then"),
        Column("train_flops", "number", "in a cell", "training FLOPs until then"),
        Column("corpus_digest", "text", "in a cell", "sha256 of the corpus"),
        Column("captions_digest", "text", "in a cell", "sha256 of the training captions"),
        Column("prompts_digest", "text", "in a cell", "sha256 of the evaluation prompts"),
        Column("judge_digest", "text", "in a cell", "sha256 of the judge's weights"),
        Column("extractor", "text", "in a cell", "what the features are of, or what a cost is counted by"),
        Column("commit", "text", "in a cell", "of this project"),
        Column("hardware", "text", "in a cell", "what it ran on"),
        Column("text_encoder_digest", "text", "no", "sha256 of the text encoder"),
        Column("autoencoder_digest", "text", "no", "sha256 of the autoencoder"),
        Column("weights_digest", "text", "no", "sha256 of the checkpoint's weights"),
        Column("resumed", "text", "no", "where a training was begun that went on elsewhere: not promised to the bit"),
        Column("evaluation_hash", "text", "in a cell", "of the evaluation that it is of; empty for a training"),
        Column("held_out_digest", "text", "in a cell", "sha256 of what the held-out loss is taken on"),
        Column("floor", "number", "no", "the same distance between real and real images"),
        Column("chance", "number", "no", "what the images give for the other prompts of their tasks; NaN if unknown"),
        Column("protocol", "text", "no", "JSON: how the number was taken"),
    ),
)
OUTCOMES = Schema(
    "outcomes.parquet",
    (
        Column("cell", "text", "always", "the cell's id"),
        Column("step", "whole", "always", "the training step of the checkpoint"),
        Column("metric", "text", "always", "what judged the image: Metric.outcome"),
        Column("prompt_form", "text", "always", "the wording of the prompt"),
        Column("task", "text", "always", "the task of the prompt: a stratum"),
        Column("prompt_index", "whole", "always", "the place of the prompt: a cluster"),
        Column("sample", "whole", "always", "which image of the prompt"),
        Column("prompt", "text", "in a cell", "the prompt"),
        Column("value", "number", "always", "the image's value"),
        Column("reason", "text", "in a cell", "why the verdict is what it is"),
        Column("boxes", "text", "no", "JSON: what the judge saw"),
        Column("chance", "number", "no", "the share of the other prompts of its task that the image answers"),
        Column("guidance", "number", "no", "the guidance scale, where it is not the evaluation's own"),
        Column("evaluation_hash", "text", "no", "the hash of the evaluation that the image is of"),
    ),
)
# What makes an outcome one of its kind, and the order in which outcomes are frozen.
OUTCOME_KEY = ("cell", "metric", "prompt_form", "step", "task", "prompt_index", "sample")
OLD_OUTCOMES = {"alignment": "shapes_alignment"}  # what outcomes of earlier versions call a metric


def read(source: Path | bytes, schema: Schema, *, frozen: bool = False) -> pd.DataFrame:
    """The table of a Parquet file, or of its bytes, with the columns and contents that the schema wants.

    `frozen` asks for what is always needed alone, so that results of earlier versions stay readable. Names of metrics
    that have changed since are today's. Raises ValueError, one line that begins with the file's name, for what cannot
    be read or lacks something.
    """
    import pandas as pd

    name = source.name if isinstance(source, Path) else schema.file
    try:
        data = source.read_bytes() if isinstance(source, Path) else source
    except FileNotFoundError:
        raise ValueError(f"{name} is missing") from None
    except OSError as error:
        raise ValueError(f"{name} cannot be read ({error.strerror})") from error
    if _changed(data):
        raise ValueError(f"{name} is damaged: it is not what was written")
    try:
        table = pd.read_parquet(io.BytesIO(data))
    except Exception as error:  # pyarrow has no one class for a corrupt file
        raise ValueError(f"{name} cannot be read ({str(error).splitlines()[0]})") from error
    _refuse_lacking(table, name, schema.names("always") if frozen else schema.in_cell)
    _refuse_other_content(table, schema, name, ("whole", "number"))  # what is calculated with
    if schema is RECORDS:  # whose words are printed; a prompt among the outcomes is shown as what it is
        _refuse_steering(table, name)
    return _todays(table) if schema is OUTCOMES else table


def _refuse_steering(table: pd.DataFrame, name: str) -> None:
    for column in table.columns:
        if any(isinstance(value, str) and STEERING.search(value) for value in table[column].unique()):
            raise ValueError(f"{name}: {column} holds characters that steer a terminal, which nothing here writes")


def write(frame: pd.DataFrame, path: Path, schema: Schema, publishing: Callable[[Path, Path], None] = publish) -> Path:
    """Write a table, whole or not at all, and say where it is; `publishing` puts the finished file in its place.

    Raises ValueError, before anything is written, for a table that could not be read again: it lacks a column, holds
    text where numbers belong, or names a metric that the registry does not have.
    """
    if len(frame):  # a table without rows has what columns it has
        _refuse_lacking(frame, path.name, schema.names("always"))
        _refuse_other_content(frame, schema, path.name, ("text", "whole", "number"))
    if len(frame) and schema is RECORDS:
        refuse_unknown(frame, path.name)
    partial = partial_of(path)
    try:
        partial.write_bytes(_parquet(frame))
        publishing(partial, path)
    finally:
        partial.unlink(missing_ok=True)
    return path


def empty(schema: Schema, further: Iterable[str] = ()) -> pd.DataFrame:
    """A table without rows: the schema's columns, then `further` ones."""
    import pandas as pd

    told = {column.name: pd.Series([], dtype=DTYPES[column.content]) for column in schema.columns}
    return pd.DataFrame({name: pd.Series([], dtype=object) for name in further} | told)


def refuse_unknown(records: pd.DataFrame, where: str) -> None:
    """Raise ValueError, one line, where records hold a metric that the registry does not have."""
    for name in records["metric"].unique():
        try:
            metric(str(name))
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from None


def record_names(outcomes: pd.DataFrame) -> pd.Series:
    """The metric that each outcome is a value of, as records name it: with its guidance where it has one of its own."""
    names = outcomes["metric"].astype(str)
    if "guidance" not in outcomes:
        return names
    guided = outcomes["guidance"].notna()
    return names.where(~guided, names + "." + outcomes["guidance"].map("{:g}".format))


def has_judged(records: pd.DataFrame) -> bool:
    """Whether records hold scores of single images, which must be in the outcomes."""
    return any(found.kind == "score" for found in _judged(records))


def mixed(records: pd.DataFrame, column: str) -> list[str]:
    """The values of a column, such as the commit, if cells differ in it, sorted; none where they do not.

    Trainings are compared with trainings, and an evaluation with the same one of other cells: training once and
    scoring every cell later mixes nothing.
    """
    if column not in records:
        return []
    told = records[records[column].notna() & (records[column] != "")]
    groups = [told] if "evaluation_hash" not in told else [of for _, of in told.groupby("evaluation_hash")]
    found = [set(group[column].astype(str)) for group in groups]
    return sorted(set().union(*found)) if any(len(values) > 1 for values in found) else []


def judged_otherwise(records: pd.DataFrame, outcomes: pd.DataFrame) -> list[str]:
    """The cells with a score of single images that is not the mean and the count of those in the outcomes, or whose
    chance is not the mean of theirs.

    A mean is that of the tasks' means. A loss is looked at where its images are kept: training is also watched by it.
    """
    import numpy as np

    said = _judged(records)
    if not said:
        return []
    both = "evaluation_hash" in records and "evaluation_hash" in outcomes
    place = ["cell", "prompt_form", "step", *(["evaluation_hash"] if both else [])]
    columns = [*place, "metric", "task", *(["guidance"] if "guidance" in outcomes else [])]
    # One image without a chance leaves the mean without one: as infinity, which a mean does not skip.
    chances = outcomes["chance"].astype(float).fillna(np.inf) if "chance" in outcomes else np.inf
    of_task = (
        outcomes.assign(value=outcomes["value"].astype(float), by_chance=chances)
        .groupby(columns, as_index=False, dropna=False, observed=True)
        .agg(mean=("value", "mean"), images=("value", "size"), by_chance=("by_chance", "mean"))
    )
    with_chance = ["chance"] if "chance" in records else []
    wrong: set[str] = set()
    for one in said:
        mine = of_task[of_task["metric"] == one.outcome]
        if one.only is not None:
            column, value = one.only
            mine = mine[mine[column] == value] if column in mine else mine.head(0)
        judged = mine.groupby(place, as_index=False).agg(
            mean=("mean", "mean"), images=("images", "sum"), by_chance=("by_chance", "mean")
        )
        judged["mean"] = judged["mean"].clip(lower=one.least)
        judged["by_chance"] = judged["by_chance"].replace(np.inf, np.nan)
        rows = records.loc[records["metric"] == one.name, [*place, "value", "n", *with_chance]]
        found = rows.merge(judged, how="inner" if one.kind == "loss" else "left", on=place)
        same = np.isclose(found["value"].astype(float), found["mean"].astype(float), atol=1e-9, equal_nan=True)
        if with_chance:
            said_chance, by_chance = found[["chance", "by_chance"]].to_numpy(float).T
            same &= np.isclose(said_chance, by_chance, atol=1e-9, equal_nan=True)
        wrong |= set(found["cell"][~(same & (found["n"] == found["images"]))].astype(str))
    return sorted(wrong)


def _judged(records: pd.DataFrame) -> list[Metric]:
    """The metrics in records that outcomes keep the single images of."""
    names = [str(name) for name in records["metric"].unique() if is_known(str(name))]
    return [found for name in names if (found := metric(name)).outcome]


def _parquet(frame: pd.DataFrame) -> bytes:
    """A table as a Parquet file that carries its own digest."""
    import pyarrow
    import pyarrow.parquet

    table = pyarrow.Table.from_pandas(frame, preserve_index=False)
    buffer = io.BytesIO()
    with pyarrow.parquet.ParquetWriter(buffer, table.schema) as writer:
        writer.write_table(table)
        writer.add_key_value_metadata({"sha256": f"sha256-of-file:{BLANK}"})
    data = buffer.getvalue()
    digest = hashlib.sha256(data).hexdigest()
    before, blank, after = data.rpartition(f"sha256-of-file:{BLANK}".encode())
    return before + blank.replace(BLANK.encode(), digest.encode()) + after


def _changed(data: bytes) -> bool:
    """Whether a file that carries its digest is not as it was written."""
    *_, mark = [None, *MARK.finditer(data)]
    if mark is None:
        return False
    blank = data[: mark.start(1)] + BLANK.encode() + data[mark.end(1) :]
    return hashlib.sha256(blank).hexdigest() != mark[1].decode()


def _refuse_lacking(table: pd.DataFrame, name: str, needed: tuple[str, ...]) -> None:
    if lacking := [column for column in needed if column not in table.columns]:
        raise ValueError(f"{name} lacks the columns {', '.join(lacking)}")


def _refuse_other_content(table: pd.DataFrame, schema: Schema, name: str, contents: tuple[Content, ...]) -> None:
    """ValueError where a column of one of these contents holds something else; without a value it holds anything."""
    for column in schema.columns:
        if column.content not in contents or column.name not in table or table[column.name].isna().all():
            continue
        numbers = table[column.name].dtype.kind in "fiub"
        if numbers and column.content == "text":
            raise ValueError(f"{name}: the column {column.name} holds numbers, not text")
        if not numbers and column.content != "text":
            raise ValueError(f"{name}: the column {column.name} holds no numbers")


def _todays(outcomes: pd.DataFrame) -> pd.DataFrame:
    """Outcomes with the names that metrics have today."""
    old = outcomes["metric"].isin(OLD_OUTCOMES)
    return outcomes.assign(metric=outcomes["metric"].replace(OLD_OUTCOMES)) if old.any() else outcomes
