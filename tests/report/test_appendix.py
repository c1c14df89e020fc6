"""The reproducibility appendix tells the recipe of every run, and of a further sweep what is not the first one's."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path

from lensbench.report.appendix import appendix, further_appendix
from lensbench.report.freeze import Frozen, open_frozen
from lensbench.report.grid import arrange

FROZEN = Path(__file__).parent / "frozen"


def with_steps(frozen: Frozen, *steps: int) -> Frozen:
    """The frozen result with these steps in turn, as a tuning or equal FLOPs set them."""
    sciences = copy.deepcopy(frozen.sciences)
    for number, science in enumerate(sciences.values()):
        science["training"]["steps"] = steps[number % len(steps)]
    return replace(frozen, sciences=sciences)


def rows(text: str) -> dict[str, str]:
    """field -> what is said of it."""
    lines = [line for line in text.splitlines() if line.startswith(r"\texttt{") and line.count("&") == 1]
    return {name.strip(): said.removesuffix(r"\\").strip() for name, said in (line.split("&") for line in lines)}


def test_a_field_that_is_not_the_same_in_every_run_is_not_told_as_one_number() -> None:
    frozen = open_frozen(FROZEN)
    grid = arrange(frozen.results)
    steps = r"\texttt{training.steps}"
    assert rows(appendix(grid, frozen))[steps] == "600"
    assert rows(appendix(grid, with_steps(frozen, 600, 900)))[steps] == r"set by the factors: 600,\allowbreak  900"


def test_a_further_sweep_tells_its_factors_and_what_differs_alone() -> None:
    frozen = open_frozen(FROZEN)
    grid = arrange(frozen.results)
    same = rows(further_appendix(grid, frozen, frozen))
    assert same.keys() == {rf"\texttt{{{name}}}" for name in ("captions.set", "model.depth", "seed")}
    text = further_appendix(grid, with_steps(frozen, 900), frozen)
    assert rows(text).keys() - same.keys() == {r"\texttt{training.steps}"}
    assert "All that went in went into the first sweep too." in text
    assert "Checklist" not in text
    other = replace(frozen, provenance=frozen.provenance | {"corpus_digest": ["f" * 64]})
    assert "f" * 64 in further_appendix(grid, other, frozen)
