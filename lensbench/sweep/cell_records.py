"""What a cell's records have beside their numbers: where they come from, how far the training was, what it cost."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from lensbench.experiment import Experiment
from lensbench.publishing import publish_once
from lensbench.records import RECORDS, read, write
from lensbench.sweep.cell_parts import Parts
from lensbench.sweep.cellfiles import EVALUATIONS
from lensbench.sweep.cost import rate_given, spent
from lensbench.sweep.looking import Amount
from lensbench.sweep.provenance import commit, hardware

ENERGY = "energy_kwh"  # how the names of both of its records begin


def origin_of(parts: Parts, judge_digest: str) -> dict[str, str]:
    """Digests of what a cell is made of, and by which code on which machine."""
    return {
        "corpus_digest": parts.corpus.digest,
        "captions_digest": "",
        "prompts_digest": "",
        "judge_digest": judge_digest,
        "text_encoder_digest": parts.encoder.digest,
        "autoencoder_digest": parts.autoencoder.digest,
        "commit": commit(),
        "hardware": hardware(),
    }


def recorded_costs(directory: Path) -> list[tuple[str, float, str]]:
    """What the cell has cost that none of its records counts yet: (metric, value, where it comes from).

    So that each attempt, killed ones too, is counted once, in the training's records or in those of one evaluation.
    """
    total = spent([directory])
    if total is None:
        return []
    counted: dict[str, float] = {}
    for path in (directory / RECORDS.file, *directory.glob(f"{EVALUATIONS}/*/{RECORDS.file}")):
        if path.exists():
            try:
                table = read(path, RECORDS)
            except ValueError:  # damaged, or older than these columns: it is made again when it is asked for
                continue
            for metric, value in zip(table["metric"], table["value"], strict=True):
                name = ENERGY if str(metric).startswith(ENERGY) else str(metric)
                counted[name] = counted.get(name, 0.0) + float(value)
    return [
        (metric, max(0.0, value - counted.get(ENERGY if metric.startswith(ENERGY) else metric, 0.0)), source)
        for metric, value, source in total.records(rate_given())
    ]


def write_records(
    folder: Path,
    experiment: Experiment,
    rows: Iterable[tuple[int, Mapping[str, Any]]],
    amounts: Mapping[int, Amount],
    origin: Mapping[str, str],
    held_out_digest: str,
    *,
    evaluation_hash: str,
) -> None:
    """Write records, each with its step, as the last file of a training or an evaluation: once, whole or not at all."""
    key = {"cell": experiment.cell_id(), "experiment_hash": experiment.hash(), "evaluation_hash": evaluation_hash}
    told = [
        key | dict(row) | amounts[step]._asdict() | dict(origin) | {"held_out_digest": held_out_digest}
        for step, row in rows
    ]
    write(pd.DataFrame(told), folder / RECORDS.file, RECORDS, publish_once)
