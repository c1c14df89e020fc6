"""The measures of two sets of images: numbers from the features that one extractor made of both.

Each is a function of (sampled, real, seed), named by its entry in lensbench.metrics. What `seed` decides are subsets.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lensbench.scoring.feature_pass import Sample

NAN = float("nan")


@dataclass(frozen=True)
class Value:
    """One number, `part` of what a measure gives: "" where that is one number.

    `spread` is what `spread_of` says, NaN where there is none.
    """

    value: float
    spread: float = NAN
    spread_of: str = ""
    details: Mapping[str, Any] = field(default_factory=dict)
    part: str = ""


def frechet(drawn: Sample, real: Sample, seed: int) -> list[Value]:
    """FD: the Frechet distance of two normal distributions with the sets' means and covariances."""
    from lensbench.scoring.frechet import frechet_distance

    return [Value(frechet_distance(drawn.mean, drawn.covariance, real.mean, real.covariance))]


def frechet_of_infinitely_many(drawn: Sample, real: Sample, seed: int) -> list[Value]:
    """FD as the number of sampled images grows: see lensbench.scoring.extrapolation."""
    from lensbench.scoring.extrapolation import frechet_infinity

    assert drawn.rows is not None
    found = frechet_infinity(drawn.rows, real.mean, real.covariance, seed=seed)
    details = {"fit": found._asdict() | {"points": len(found.sizes)}}
    return [Value(found.value, found.error, f"fit's SE; residual {found.residual:.3g}", details)]


def kernel(drawn: Sample, real: Sample, seed: int) -> list[Value]:
    """KD: the mean over subsets of the squared MMD with the cubic polynomial kernel."""
    from lensbench.scoring.kernel_distance import kernel_distance

    assert drawn.rows is not None
    assert real.rows is not None
    found = kernel_distance(drawn.rows, real.rows, seed=seed)
    spread_of = f"SD of {found.subsets} subsets of {found.subset_size:,}" if found.subsets > 1 else ""
    return [Value(found.value, found.spread, spread_of, found._asdict())]


def mmd(drawn: Sample, real: Sample, seed: int) -> list[Value]:
    """MMD with a Gaussian kernel, as CMMD has it."""
    from lensbench.scoring.kernel_distance import CMMD_SCALE, CMMD_SIGMA, cmmd

    assert drawn.rows is not None
    assert real.rows is not None
    return [Value(cmmd(drawn.rows, real.rows), details={"sigma": CMMD_SIGMA, "scale": CMMD_SCALE})]


def neighborhoods(drawn: Sample, real: Sample, seed: int) -> list[Value]:
    """Precision, recall, density and coverage."""
    from lensbench.scoring.neighbors import DENSITY_K, PRECISION_K
    from lensbench.scoring.neighbors import neighborhoods as found_of

    assert drawn.rows is not None
    assert real.rows is not None
    found = found_of(drawn.rows, real.rows)
    neighbors = {"precision": PRECISION_K, "recall": PRECISION_K, "density": DENSITY_K, "coverage": DENSITY_K}
    return [Value(value, part=part, details={"neighbors": neighbors[part]}) for part, value in found._asdict().items()]


def enough_for_covariance(drawn: int | None, real: int | None, dimensions: int) -> list[str]:
    """Refuse or doubt a covariance of fewer images than dimensions."""
    said = []
    for count, what in ((drawn, "drawn"), (real, "reference")):
        if count is not None and count <= dimensions // 4:
            raise ValueError(
                f"{count:,} {what} pictures for {dimensions:,} features: a Frechet distance would mean nothing; take "
                f"more than {dimensions:,}, or ask for kid or cmmd, which need fewer"
            )
        if count is not None and count <= dimensions:
            said.append(
                f"{count:,} {what} pictures for {dimensions:,} features: the covariance is singular and the distance "
                f"much too large; take more than {dimensions:,}, and compare at this number only"
            )
    return said


def enough_to_extrapolate(drawn: int | None, real: int | None, dimensions: int) -> list[str]:
    """Refuse too few images to fit a line through."""
    from lensbench.scoring.extrapolation import fewest_images

    if drawn is not None and drawn < fewest_images(dimensions):
        raise ValueError(
            f"{drawn:,} drawn pictures for {dimensions:,} features: too few to extrapolate; draw at least "
            f"{fewest_images(dimensions):,}"
        )
    return enough_for_covariance(None, real, dimensions)
