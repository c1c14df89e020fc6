"""Rows: numbers of images, each with its floor or interval and all that made it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lensbench.metrics import MEASURES
from lensbench.scoring.distances import NAN, Value
from lensbench.scoring.extractors import Extractor
from lensbench.scoring.feature_pass import Sample, SetFeatures, in_two
from lensbench.scoring.image_scores import Scorer
from lensbench.scoring.metrics import Wanted, check, metric_of, resolve
from lensbench.scoring.reference import about_extractor


@dataclass(frozen=True)
class Row:
    """One number with its provenance. `floor` is NaN where there is none and `floor_of` says what it is of, or why."""

    metric: str
    shown: str
    value: float
    low: float
    high: float
    spread: float
    spread_of: str
    images: int
    reference_images: int | None
    floor: float
    floor_of: str
    extractor: str
    weights: str
    resize: str
    dimensions: int | None
    details: Mapping[str, Any]


def halves(found: SetFeatures) -> tuple[Sample, Sample] | None:
    return (found.half(0), found.half(1)) if min(half.count for half in found.halves) > 1 else None


def halves_of_rows(rows: np.ndarray | None, seed: int) -> tuple[Sample, Sample] | None:
    if rows is None or len(rows) < 4:
        return None
    second = in_two(len(rows), seed)
    return Sample.of_rows(rows[~second]), Sample.of_rows(rows[second])


def distance_rows(
    metric: Wanted,
    extractor: Extractor,
    drawn: Sample,
    real: Sample,
    in_halves: tuple[Sample, Sample] | None,
    other: Sample | None,
    seed: int,
) -> list[Row]:
    """A metric's numbers, each with its floor."""
    pair = (other, real) if other is not None else in_halves
    floors, floor_of = _floor(metric, pair, seed, other is None)
    about = about_extractor(extractor)
    return [
        Row(
            metric=of.name,
            shown=of.label,
            value=value.value,
            low=NAN,
            high=NAN,
            spread=value.spread,
            spread_of=value.spread_of,
            images=drawn.count or 0,
            reference_images=real.count,
            floor=floors.get(value.part, NAN),
            floor_of=floor_of,
            extractor=about["extractor"],
            weights=about["weights"],
            resize=about["resize"],
            dimensions=extractor.dimensions,
            details=value.details,
        )
        for value in computed(metric, drawn, real, seed)
        for of in [metric_of(metric.measure, extractor.name, value.part)]
    ]


def computed(metric: Wanted, sampled: Sample, real: Sample, seed: int) -> list[Value]:
    """What a measure of two sets gives."""
    found: list[Value] = resolve(MEASURES[metric.measure].by)(sampled, real, seed)
    return found


def _floor(metric: Wanted, pair: tuple[Sample, Sample] | None, seed: int, halved: bool) -> tuple[dict[str, float], str]:
    """The measure between real pictures and real ones by its parts, and what it is of, or why there is none."""
    if pair is None:
        return {}, "no floor: the reference's own pictures are not known; give real ones with --floor FOLDER"
    first, second = pair
    counts = [f"{side.count:,}" if side.count is not None else "?" for side in pair]
    what = (
        f"{'halves of the reference' if halved else '--floor against the reference'}, {' and '.join(counts)} pictures"
    )
    measure = MEASURES[metric.measure]
    try:
        check(measure, first.count, second.count, first.dimensions)
    except ValueError as error:
        return {}, f"no floor from {what}: {error}"
    if halved and measure.biased:
        what += ", and higher than with more"
    return {value.part: value.value for value in computed(metric, first, second, seed)}, what


def image_rows(scorer: Scorer, found: np.ndarray, texts: Sequence[str], prompts: Sequence[object]) -> list[Row]:
    """The mean of the values (N,) of images and their texts, as each metric of the scorer has it.

    Intervals are over prompts: images with equal `prompts` share one.
    """
    details = scorer.details(texts) | {"prompts": len(set(prompts))}
    return [
        Row(
            metric=number.metric.name,
            shown=number.metric.label,
            value=number.mean.estimate,
            low=number.mean.low,
            high=number.mean.high,
            spread=NAN,
            spread_of="95 % over prompts",
            images=len(found),
            reference_images=None,
            floor=NAN,
            floor_of="",
            extractor=scorer.name,
            weights=scorer.digest,
            resize=scorer.resize,
            dimensions=None,
            details=details,
        )
        for number in scorer.numbers(found, prompts)
    ]
