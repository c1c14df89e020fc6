"""The registry: what is known of every number, and that nothing is guessed of one that is not there."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from lensbench import registry
from lensbench.metrics import (
    CHOOSING,
    FAMILIES,
    GUIDED,
    MEASURES,
    REGISTRY,
    Measure,
    Metric,
    leading,
    metric,
    of_kind,
    ordered,
    register,
)
from lensbench.scoring.geneval import TASKS
from lensbench.scoring.metrics import metric_of, resolve

RESULTS = Path(__file__).parents[1] / "results"
FURTHER = ("mine", "1.5", "dinov2_vitl14", "vit_b_32")  # what can follow the beginning of a family's names


def every() -> list[Metric]:
    of_scales = (f"{GUIDED}.", f"{CHOOSING}.")
    ends = {begins: ("1.5",) if begins in of_scales else FURTHER for begins in FAMILIES}
    made = [metric(begins + end) for begins in FAMILIES for end in ends[begins]]
    return [*REGISTRY.values(), *made]


@pytest.mark.parametrize("one", every(), ids=lambda one: one.name)
def test_every_metric_says_what_the_reports_ask_of_it(one: Metric) -> None:
    assert metric(one.name) == one
    assert all(one.heads)
    assert one.label in one.mean
    assert (one.arrow != "") == one.is_score == (one.kind in ("score", "distance", "loss"))
    if one.kind in ("distance", "loss"):
        assert not one.more
    if one.is_score and one.has_error:
        assert one.error(one.error(0.25)) == 0.25
        better, worse = (0.3, 0.2) if one.more else (0.2, 0.3)
        assert one.error(better) < one.error(worse)
    if one.outcome:
        assert one.clusters == "prompt"
    if one.variant_of:
        assert metric(one.variant_of).direction == one.direction


def test_every_number_of_the_frozen_results_is_registered() -> None:
    files = sorted(RESULTS.glob("*/records.parquet"))
    assert files
    for path in files:
        for name in pd.read_parquet(path, columns=["metric"])["metric"].unique():
            assert metric(str(name)).name == name


@pytest.mark.parametrize("measure", MEASURES.values(), ids=lambda measure: measure.name)
def test_every_measure_names_its_numbers_and_what_computes_them(measure: Measure) -> None:
    assert callable(resolve(measure.opens or measure.by))
    assert not measure.check or callable(resolve(measure.check))
    for part in measure.numbers:
        for extractor in ("inception", "inception_77371f20", "dinov2_vitl14", "clip_vit_l14_336", "shapes"):
            found = metric_of(measure.name, extractor, part)
            assert found.per == measure.per
            assert (found.direction == "less") == (found.kind == "distance")


def test_every_task_of_geneval_is_registered() -> None:
    for task in TASKS:
        assert metric(f"geneval.{task}").only == ("task", task)


def test_less_of_a_distance_is_better_on_any_extractor() -> None:
    for name in ("fd_dinov2_24x2", "fd_infinity_mine", "kd_mine", "mmd_mine", "fid", "kid", "cmmd"):
        assert metric(name).direction == "less", name
    assert metric("fd_infinity_mine").label == "FD-infinity mine"  # the longest beginning that fits


@pytest.mark.parametrize(
    "name", ["beauty", "fidd", "", "geneval.", "fd_", "alignment", "geneval_guided", "geneval_guided.high", "FID"]
)
def test_a_name_that_is_not_there_is_an_error_in_one_line(name: str) -> None:
    with pytest.raises(ValueError, match=r"registry, lensbench/metrics\.py|ends in a number") as raised:
        metric(name)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"direction": None}, "a score has a direction"),
        ({"kind": "fact"}, "a fact has no direction"),
        ({"name": "no name"}, "no name of a metric"),
        ({"per": "set", "outcome": "mine"}, "outcomes are of single images"),
    ],
)
def test_an_entry_that_says_too_little_is_refused(changes: dict, said: str) -> None:
    entry = {"name": "mine", "label": "mine", "kind": "score", "per": "image", "direction": "more"}
    with pytest.raises(ValueError, match=said):
        Metric(**(entry | changes))


def test_a_metric_is_registered_once_and_goes_before_the_family_it_would_be_of(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("REGISTRY", "_PLACES", "_FOUND"):
        monkeypatch.setattr(registry, name, dict(getattr(registry, name)))
    assert metric("fd_mine").label == "FD mine"
    mine = register(Metric(name="fd_mine", label="Mine", kind="distance", per="set", direction="less"))
    assert metric("fd_mine") is mine
    with pytest.raises(ValueError, match="registered already"):
        register(mine)


def test_scores_are_ordered_and_the_one_that_tells_a_study_comes_first() -> None:
    names = ["validation_loss", "train_seconds", "shapes_alignment", "fd_shapes", "fid", "geneval.colors", "geneval"]
    assert ordered(names) == [
        *("geneval", "geneval.colors", "fid", "fd_shapes", "shapes_alignment", "validation_loss", "train_seconds")
    ]
    assert leading(names) == ["geneval", "validation_loss", "fid", "fd_shapes", "shapes_alignment"]
    assert leading(["fid", "validation_loss", "clip_score_100_vit_b_32"])[0] == "clip_score_100_vit_b_32"
    assert [one.name for one in of_kind("cost")][:2] == ["train_seconds", "cell_seconds"]


def test_the_registry_needs_nothing_else() -> None:
    code = "import sys, lensbench.metrics; print(sorted(m for m in sys.modules if m.startswith('lensbench.')))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "['lensbench.metrics', 'lensbench.registry']"
