"""Numbers from the features of two sets of images, each with its floor and all that made it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lensbench.metrics import Metric
from lensbench.metrics import metric as named
from lensbench.scoring.clip_score import ClipScorer, scales
from lensbench.scoring.extractors import Extractor
from lensbench.scoring.feature_pass import Sample, SetFeatures, in_two
from lensbench.scoring.metrics import MEASURES, NAN, Measure, Value, Wanted, metric_of
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
    measure = MEASURES[metric.measure]

    def name(part: str) -> Metric:
        return metric_of(part, extractor.name)

    pair = (other, real) if other is not None else in_halves
    floors, floor_of = _floor(measure, pair, name, seed, other is None)
    about = about_extractor(extractor)
    return [
        Row(
            metric=value.metric.name,
            shown=value.metric.label,
            value=value.value,
            low=NAN,
            high=NAN,
            spread=value.spread,
            spread_of=value.spread_of,
            images=drawn.count or 0,
            reference_images=real.count,
            floor=floors.get(value.metric.name, NAN),
            floor_of=floor_of,
            extractor=about["extractor"],
            weights=about["weights"],
            resize=about["resize"],
            dimensions=extractor.dimensions,
            details=value.details,
        )
        for value in measure.compute(drawn, real, name, seed)
    ]


def _floor(
    measure: Measure,
    pair: tuple[Sample, Sample] | None,
    name: Callable[[str], Metric],
    seed: int,
    halved: bool,
) -> tuple[dict[str, float], str]:
    """The measure between real pictures and real ones by record name, and what it is of, or why there is none."""
    if pair is None:
        return {}, "no floor: the reference's own pictures are not known; give real ones with --floor FOLDER"
    first, second = pair
    counts = [f"{side.count:,}" if side.count is not None else "?" for side in pair]
    what = (
        f"{'halves of the reference' if halved else '--floor against the reference'}, {' and '.join(counts)} pictures"
    )
    try:
        measure.check(first.count, second.count, first.dimensions)
    except ValueError as error:
        return {}, f"no floor from {what}: {error}"
    values: list[Value] = measure.compute(first, second, name, seed)
    if halved and measure is MEASURES["fd"]:
        what += ", and higher than with more"  # its bias is about 1 / N
    return {value.metric.name: value.value for value in values}, what


def image_text_rows(scorer: ClipScorer, found: np.ndarray, cut: np.ndarray, clusters: Sequence[str]) -> list[Row]:
    """The mean cosine of images and their texts, and both published scales of it, with intervals over prompts.

    `found` (N,) are the cosines, `cut` (N,) says which texts were cut, and images of one cluster share a prompt.
    """
    details = {"prefix": scorer.prefix, "window": scorer.window, "cut": int(cut.sum()), "prompts": len(set(clusters))}
    rows = []
    for scale, interval in scales(found, clusters).items():
        begins = "clip_cosine" if scale == "cosine" else f"clip_score_{scale}"
        of = named(f"{begins}_{scorer.name.removeprefix('clip_')}")
        rows.append(
            Row(
                metric=of.name,
                shown=of.label,
                value=interval.estimate,
                low=interval.low,
                high=interval.high,
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
        )
    return rows
