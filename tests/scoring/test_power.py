"""Power: what the formulas promise is what simulated studies find."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lensbench.scoring.power import Components, components, detectable, power, seeds_needed
from lensbench.scoring.statistics import paired_difference
from lensbench.streams import numpy_stream

TASKS = 3


def study(
    rng: np.random.Generator, of: Components, seeds: int, prompts: int, difference: float = 0.0
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Differences of single images of a study with these variances, and their design."""
    of_seed = np.sqrt(of.seeds) * rng.standard_normal(seeds)
    of_prompt = np.sqrt(of.prompts) * rng.standard_normal(prompts)
    values = difference + of_seed[:, None] + of_prompt[None] + np.sqrt(of.rest) * rng.standard_normal((seeds, prompts))
    clusters, strata = np.tile(np.arange(prompts), seeds), np.tile(np.arange(prompts) % TASKS, seeds)
    return values.ravel(), clusters, strata, np.repeat(np.arange(seeds), prompts)


@pytest.mark.parametrize(
    "true",
    [
        Components(0.0, 0.04, 0.2, TASKS, False),
        Components(0.01, 0.04, 0.2, TASKS, False),
        Components(0.02, 0.0, 0.1, TASKS, False),
    ],
)
def test_a_pilot_tells_its_variances(true: Components) -> None:
    rng = numpy_stream(0, "pilot")
    found = []
    for _ in range(40):
        values, *design = study(rng, true, seeds=12, prompts=120)
        found.append(components(values, np.zeros_like(values), *design))
    for name in ("seeds", "prompts", "rest"):
        mean = np.mean([getattr(one, name) for one in found])
        assert mean == pytest.approx(getattr(true, name), rel=0.12, abs=0.004)
    assert found[0].strata == TASKS


@pytest.mark.parametrize(("seeds", "seed_variance"), [(3, 0.002), (5, 0.004), (4, 0.0)])
def test_the_detectable_difference_is_detected_as_often_as_it_says(seeds: int, seed_variance: float) -> None:
    of = Components(seed_variance, 0.05, 0.2, TASKS, False)
    difference = detectable(of, seeds, 90)
    rng = numpy_stream(seeds, "power")
    found = 0
    for _ in range(250):
        values, *design = study(rng, of, seeds, 90, difference)
        result = paired_difference(values, np.zeros_like(values), *design)
        found += result.p < 0.05
    assert 0.72 <= found / 250 <= 0.88  # 0.8, with a standard error of 0.025


positive = st.floats(1e-4, 1.0)
parts = st.builds(Components, positive, positive, positive, st.just(TASKS), st.just(False))


@given(parts, st.integers(2, 10), st.integers(6, 500))
def test_more_of_anything_sees_smaller_differences(of: Components, seeds: int, prompts: int) -> None:
    smallest = detectable(of, seeds, prompts)
    assert power(of, smallest, seeds, prompts) == pytest.approx(0.8, abs=0.01)
    assert 0 < power(of, 0.0, seeds, prompts) < 0.07  # Cochran's mean of two t's is rough with two seeds
    assert power(of, 2 * smallest, seeds, prompts) > 0.8
    assert detectable(of, seeds + 5, 10 * prompts) < smallest
    needed = seeds_needed(of, smallest * 1.001, prompts)
    assert needed is not None
    assert needed <= seeds
    corrected = detectable(of, seeds, prompts, level=1 - 0.05 / 6)
    assert corrected > smallest
    assert power(of, smallest, seeds, prompts, level=1 - 0.05 / 6) < 0.8


def test_no_number_of_seeds_replaces_prompts() -> None:
    of = Components(0.001, 1.0, 0.1, TASKS, False)
    assert seeds_needed(of, 0.05, prompts=30) is None
    assert seeds_needed(of, 0.5, prompts=300) == 2


def test_of_one_seed_it_speaks_of_sampling_alone() -> None:
    values, clusters, strata, _ = study(numpy_stream(0, "one"), Components(0, 0.1, 0.1, TASKS, True), 1, 60)
    found = components(values, np.zeros(60), clusters, strata)
    assert found.one_seed
    assert found.seeds == 0
    assert detectable(found, 1, 120) == pytest.approx(detectable(found, 1, 60) / np.sqrt(2), rel=0.03)


def test_what_cannot_be_computed_is_refused() -> None:
    with pytest.raises(ValueError, match="single prompt"):
        components([1.0, 0.0], [0.0, 0.0], [0, 1], [0, 1])
    of = Components(0.1, 0.1, 0.1, TASKS, False)
    with pytest.raises(ValueError, match="at least two for each of the 3 tasks"):
        power(of, 0.1, 3, 5)
    with pytest.raises(ValueError, match="seeds=0"):
        power(of, 0.1, 0, 60)
