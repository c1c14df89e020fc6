"""What scoring a checkpoint gives: records, one row a number, and outcomes, one row a judged image."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from lensbench.scoring import chance as by_chance
from lensbench.scoring.statistics import stratified_mean

SCENES = "scenes"  # the one stratum of images of held-out captions


@dataclass
class Scores:
    """Outcomes and records of one checkpoint, or facts of a training."""

    outcomes: list[dict[str, Any]] = field(default_factory=list)
    records: list[dict[str, Any]] = field(default_factory=list)

    def add_record(
        self,
        metric: str,
        form: str,
        value: float,
        n: int,
        low: float = np.nan,
        high: float = np.nan,
        *,
        extractor: str = "",
        floor: float = np.nan,
        chance: float = np.nan,
        protocol: Mapping[str, Any] | None = None,
    ) -> None:
        """A number; `floor` is the same distance between real images and real ones, `chance` what its images give for
        other prompts, `protocol` all that made it."""
        row = {"metric": metric, "prompt_form": form, "value": value, "low": low, "high": high, "n": n}
        told = json.dumps(dict(protocol), sort_keys=True) if protocol else ""
        self.records.append(row | {"extractor": extractor, "floor": floor, "chance": chance, "protocol": told})

    def add_mean(
        self, metric: str, form: str, rows: Sequence[Mapping[str, Any]], protocol: Mapping[str, Any] | None = None
    ) -> None:
        """The mean over tasks of the rows' values, with its interval over prompts, and of their chances if they have
        any."""
        values = np.array([row["value"] for row in rows])
        clusters = np.array([row["prompt_index"] for row in rows])
        strata = np.array([row["task"] for row in rows])
        mean = stratified_mean(values, clusters, strata)
        chance = by_chance.mean([row.get("chance", np.nan) for row in rows], strata)
        self.add_record(metric, form, mean.estimate, len(rows), mean.low, mean.high, chance=chance, protocol=protocol)

    def add_outcomes(self, metric: str, form: str, texts: Sequence[str], values: np.ndarray) -> list[dict[str, Any]]:
        """One outcome for each held-out text; returns the rows."""
        rows = [
            {"metric": metric, "prompt_form": form, "task": SCENES, "prompt_index": i, "sample": 0}
            | {"prompt": text, "value": float(value), "reason": ""}
            for i, (text, value) in enumerate(zip(texts, values, strict=True))
        ]
        self.outcomes += rows
        return rows
