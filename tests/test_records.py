"""The schema of records and outcomes: what is read is what was written, and what cannot be used is one line."""

from __future__ import annotations

import contextlib
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lensbench import records as schema
from lensbench.records import (
    OUTCOMES,
    RECORDS,
    Schema,
    empty,
    has_judged,
    judged_otherwise,
    mixed,
    read,
    record_names,
    write,
)

TASKS = ("colors", "position")


def record(metric: str, value: float, n: int, **further: object) -> dict:
    numbers = {column.name: 0 for column in RECORDS.columns if column.needed != "no" and column.content != "text"}
    texts = {column.name: "x" for column in RECORDS.columns if column.needed != "no" and column.content == "text"}
    return numbers | texts | {"metric": metric, "prompt_form": "short", "value": value, "n": n} | further


def images(metric: str, values: dict[str, list[float]], **further: object) -> list[dict]:
    place = {"cell": "x", "step": 0, "metric": metric, "prompt_form": "short", "sample": 0, "prompt": "p", "reason": ""}
    return [
        place | {"task": task, "prompt_index": i, "value": value} | further
        for task, of_task in values.items()
        for i, value in enumerate(of_task)
    ]


def judged() -> tuple[pd.DataFrame, pd.DataFrame]:
    """A cell with every kind of score of single images; the tasks have different numbers of them."""
    verdicts = {"colors": [1.0, 0.0], "position": [1.0, 1.0, 1.0, 0.0]}
    told = [
        record("geneval.colors", 0.5, 2),
        record("geneval.position", 0.75, 4),
        record("geneval", 0.625, 6),
        record("geneval_guided.4", 0.25, 2),
        record("shapes_alignment", 0.2, 2),
        record("validation_loss", 0.3, 2),
        record("validation_loss", 0.9, 2, step=1),  # training was watched: no image of it is kept
        record("fid", 12.0, 100),
    ]
    found = images("geneval", verdicts) + images("shapes_alignment", {"scenes": [0.1, 0.3]})
    found += images("validation_loss", {"scenes": [0.2, 0.4]})
    guided = images("geneval_guided", {"colors": [0.0], "position": [0.5]}, guidance=4.0)
    return pd.DataFrame(told), pd.DataFrame(found + guided)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("written")
    for of, frame in zip((RECORDS, OUTCOMES), judged(), strict=True):
        write(frame, folder / of.file, of)
    return folder


@settings(max_examples=400, deadline=None)
@given(st.data(), st.sampled_from([RECORDS, OUTCOMES]))
def test_no_flipped_bit_changes_what_is_read(written: Path, data: st.DataObject, of: Schema) -> None:
    whole = (written / of.file).read_bytes()
    bit = data.draw(st.integers(0, 8 * len(whole) - 1))
    spoilt = bytearray(whole)
    spoilt[bit // 8] ^= 1 << bit % 8
    at = whole.rindex(b"sha256-of-file:")
    if not at <= bit // 8 < at + 80:
        with pytest.raises(ValueError, match=f"^{of.file} is damaged: it is not what was written$"):
            read(bytes(spoilt), of)
    else:  # the bit was of the digest: it is another one now, or none
        with contextlib.suppress(ValueError):
            pd.testing.assert_frame_equal(read(bytes(spoilt), of), read(whole, of))


def test_a_file_of_before_digests_is_read(written: Path, tmp_path: Path) -> None:
    table = read(written / RECORDS.file, RECORDS)
    table.to_parquet(tmp_path / "records.parquet", index=False)
    pd.testing.assert_frame_equal(read(tmp_path / "records.parquet", RECORDS), table)


def test_scores_that_their_images_give_are_right_and_any_other_is_named() -> None:
    records, outcomes = judged()
    assert has_judged(records)
    assert judged_otherwise(records, outcomes) == []
    for place in range(6):
        changed = records.copy()
        changed.loc[place, "value"] += 0.01
        assert judged_otherwise(changed, outcomes) == ["x"], records.loc[place, "metric"]
    for column, name in (("metric", "geneval"), ("task", "position"), ("metric", "shapes_alignment")):
        assert judged_otherwise(records, outcomes[outcomes[column] != name]) == ["x"]
    without = outcomes.drop(columns="guidance")
    assert judged_otherwise(records, without) == ["x"]  # which guidance they are of is not known


def test_a_chance_that_the_images_do_not_give_is_named() -> None:
    records, outcomes = judged()
    of_task = {"colors": 0.2, "position": 0.1}
    told = {"geneval.colors": 0.2, "geneval.position": 0.1, "geneval": 0.15}
    chances = outcomes["task"].map(of_task).where(outcomes["metric"] == "geneval")
    outcomes, records = outcomes.assign(chance=chances), records.assign(chance=records["metric"].map(told))
    assert judged_otherwise(records, outcomes) == []
    assert judged_otherwise(records.drop(columns="chance"), outcomes) == []  # records of before say nothing
    for place in range(6):
        changed = records.copy()
        changed.loc[place, "chance"] = 0.16 if place != 2 else np.nan
        assert judged_otherwise(changed, outcomes) == ["x"], records.loc[place, "metric"]
    chances = outcomes["chance"].where(outcomes.index != 0)  # one image without: no mean can be had
    assert judged_otherwise(records, outcomes.assign(chance=chances)) == ["x"]
    unknown = records["chance"].where(~records["metric"].isin(("geneval.colors", "geneval")))
    assert judged_otherwise(records.assign(chance=unknown), outcomes.assign(chance=chances)) == []
    assert judged_otherwise(records, outcomes.drop(columns="chance")) == ["x"]


def test_a_loss_alone_needs_no_images() -> None:
    records = pd.DataFrame([record("validation_loss", 0.3, 2), record("fid", 1.0, 2)])
    assert not has_judged(records)
    assert judged_otherwise(records, empty(OUTCOMES)) == []


def test_outcomes_are_named_as_records_name_their_metric() -> None:
    _, outcomes = judged()
    assert set(record_names(outcomes)) == {"geneval", "geneval_guided.4", "shapes_alignment", "validation_loss"}
    assert set(record_names(outcomes.drop(columns="guidance"))) >= {"geneval_guided"}


@pytest.mark.parametrize("kind", [RECORDS, OUTCOMES], ids=lambda kind: kind.file)
def test_what_was_written_is_read_again(kind: Schema, tmp_path: Path) -> None:
    frame = dict(zip((RECORDS, OUTCOMES), judged(), strict=True))[kind]
    path = write(frame.assign(**{"captions.set": "alt"}), tmp_path / kind.file, kind)
    pd.testing.assert_frame_equal(read(path, kind).drop(columns="captions.set"), frame)
    pd.testing.assert_frame_equal(read(path.read_bytes(), kind).drop(columns="captions.set"), frame)
    assert list(tmp_path.iterdir()) == [path]


def test_new_columns_are_optional_and_kept(tmp_path: Path) -> None:
    records, _ = judged()
    new = {"evaluation_hash": "e" * 64, "floor": np.where(records["metric"] == "fid", 3.5, np.nan), "protocol": "{}"}
    found = read(write(records.assign(**new), tmp_path / RECORDS.file, RECORDS), RECORDS)
    assert found.loc[found["metric"] == "fid", "floor"].tolist() == [3.5]
    assert {"floor", "protocol"} <= set(RECORDS.names("no"))


def test_results_of_earlier_versions_stay_readable(tmp_path: Path) -> None:
    records, outcomes = judged()
    old = outcomes.assign(metric=outcomes["metric"].replace("shapes_alignment", "alignment"))
    old[["cell", "step", "metric", "prompt_form", "task", "prompt_index", "sample", "value"]].to_parquet(
        tmp_path / "outcomes.parquet"
    )
    found = read(tmp_path / "outcomes.parquet", OUTCOMES, frozen=True)
    assert set(found["metric"]) == {"geneval", "geneval_guided", "shapes_alignment", "validation_loss"}
    with pytest.raises(ValueError, match=r"outcomes\.parquet lacks the columns prompt, reason"):
        read(tmp_path / "outcomes.parquet", OUTCOMES)
    records[list(RECORDS.names("always"))].to_parquet(tmp_path / "records.parquet")
    assert len(read(tmp_path / "records.parquet", RECORDS, frozen=True)) == len(records)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"value": "high"}, "records.parquet: the column value holds no numbers"),
        ({"step": "last"}, "records.parquet: the column step holds no numbers"),
        ({"cell": 7}, "records.parquet: the column cell holds numbers, not text"),
        ({"metric": "beauty"}, "records.parquet: 'beauty' is no metric of the registry"),
        ({"floor": "none"}, "records.parquet: the column floor holds no numbers"),
    ],
)
def test_a_table_that_nobody_could_read_is_not_written(changes: dict, said: str, tmp_path: Path) -> None:
    records, _ = judged()
    with pytest.raises(ValueError, match=said) as raised:
        write(records.assign(**changes), tmp_path / RECORDS.file, RECORDS)
    assert "\n" not in str(raised.value)
    assert list(tmp_path.iterdir()) == []


def test_a_table_without_rows_has_every_column_with_its_type() -> None:
    found = empty(RECORDS, ("seed", "images"))
    assert not len(found)
    assert {"seed", "images", *RECORDS.names()} == set(found.columns)
    assert found["value"].dtype == float
    assert found["step"].dtype == int
    assert found["metric"].dtype == object


def test_every_column_is_described_once() -> None:
    for kind in (schema.RECORDS, schema.OUTCOMES):
        assert len(set(kind.names())) == len(kind.columns)
        assert all(column.about for column in kind.columns)


def test_cells_that_were_all_scored_later_mix_no_commits() -> None:
    both = pd.DataFrame(
        {"cell": ["a", "a", "b", "b"], "evaluation_hash": ["", "e", "", "e"], "commit": ["1", "2", "1", "2"]}
    )
    assert mixed(both, "commit") == []
    assert mixed(both.assign(commit=["1", "2", "1", "3"]), "commit") == ["1", "2", "3"]
    assert mixed(both.assign(commit=["1", "2", "", "2"]), "commit") == []
    assert mixed(both.drop(columns="evaluation_hash"), "commit") == ["1", "2"]
    assert mixed(both, "hardware") == []
