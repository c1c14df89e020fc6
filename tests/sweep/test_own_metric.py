"""A score of single images and a distance that this file alone knows: one entry and one function each."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from rich.console import Console

from lensbench import registry
from lensbench.metrics import Measure, Metric, register_measure
from lensbench.report.build import build
from lensbench.report.freeze import load
from lensbench.report.grid import arrange
from lensbench.report.tables import tables
from lensbench.scoring.distances import Value
from lensbench.scoring.feature_pass import Sample
from lensbench.scoring.folder_scores import Asked, made_ready, score_folder
from lensbench.scoring.metrics import parse
from lensbench.sweep.cell import run_cell
from lensbench.sweep.cellfiles import evaluation_folder, read_cell
from lensbench.sweep.planning import drawn_images
from lensbench.sweep.sweep import Question, Sweep, cells, collect
from lensbench.tracking import contents
from tests.scoring.conftest import save_pictures
from tests.sweep.test_train_once import BASE


def contrast(images: np.ndarray, texts: Sequence[str]) -> np.ndarray:
    return images.std((1, 2, 3)) / 128


def shift(sampled: Sample, real: Sample, seed: int) -> list[Value]:
    return [Value(float(np.abs(sampled.mean - real.mean).sum()))]


CONTRAST = Measure(
    name="contrast",
    label="contrast",
    per="image",
    by=contrast,
    fewest=2,
    numbers={
        "contrast": Metric(
            name="contrast",
            label="Contrast",
            kind="score",
            per="image",
            direction="more",
            digits=3,
            outcome="contrast",
            clusters="prompt",
            bounded=True,
        )
    },
)
SHIFT = Measure(
    name="shift",
    label="a shift of means",
    per="set",
    by=shift,
    fewest=9,
    on=("",),
    rows=(False, False),
    numbers={
        "shift": lambda of: Metric(
            name=f"shift_{of}", label=f"Shift {of}", kind="distance", per="set", direction="less", digits=2
        )
    },
)


@pytest.fixture(scope="module", autouse=True)
def entries() -> Iterator[None]:
    """They are registered while this module is tested."""
    kept = [getattr(registry, name) for name in ("REGISTRY", "FAMILIES", "MEASURES", "_PLACES", "_FOUND")]
    before = [dict(entries) for entries in kept]
    register_measure(CONTRAST)
    register_measure(SHIFT)
    yield
    for entries, there in zip(kept, before, strict=True):
        entries.clear()
        entries.update(there)


@pytest.fixture(scope="module")
def sweep(entries: None) -> Sweep:
    changes = {
        "training.steps": 2,
        "evaluation.at": (1.0,),
        "evaluation.forms": ("short",),
        "evaluation.metrics": ("contrast", "shift:shapes"),
        "evaluation.metric_images": {"contrast": 12},
    }
    factors = {"captions.set": ("alt", "detailed"), "seed": (0, 1)}
    reference = {"captions.set": "alt"}
    asked = {"arm": {"captions.set": "detailed"}, "against": {"captions.set": "alt"}}
    questions = tuple(Question(metric=metric, **asked) for metric in ("contrast", "shift_shapes"))
    return Sweep(name="own", base=BASE.replace(changes), factors=factors, reference=reference, questions=questions)


@pytest.fixture(scope="module")
def runs(sweep: Sweep, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("own") / "runs"
    for cell in cells(sweep):
        run_cell(cell.experiment, folder / cell.id, cache=folder / "cache", report=lambda progress: None)
    return folder


def test_both_end_in_records_and_the_score_in_outcomes(sweep: Sweep, runs: Path) -> None:
    for cell in cells(sweep):
        assert drawn_images(cell.experiment) == 40, "as many as the distance takes"
        records, outcomes = read_cell(runs / cell.id, cell.experiment)
        (score,) = records[records["metric"] == "contrast"].itertuples()
        (distance,) = records[records["metric"] == "shift_shapes"].itertuples()
        values = outcomes.loc[outcomes["metric"] == "contrast", "value"]
        assert (score.n, distance.n, len(values)) == (12, 40, 12)
        assert score.value == pytest.approx(values.mean())
        assert score.low < score.value < score.high
        assert distance.floor > 0
        assert '"guidance": 3.0' in score.protocol
        assert '"reference": "held-out images"' in distance.protocol
        points, _ = contents.records(runs / cell.id, evaluation_folder(runs / cell.id, cell.experiment).name)
        sent = {point.name: point.value for point in points}
        assert (sent["contrast/short"], sent["shift_shapes/short"]) == (score.value, distance.value)


def test_both_end_in_tables_differences_page_and_macros(sweep: Sweep, runs: Path, tmp_path: Path) -> None:
    found = collect(sweep, runs)
    grid = arrange(found)
    told = tables(grid)
    for metric, label in (("contrast", "Contrast"), ("shift_shapes", "Shift shapes")):
        assert any(column.name == f"{metric}.short" for column in told["scores"].columns)
        assert any(row.metric == metric and row.asked for row in (*grid.comparisons(), *grid.comparisons_beside()))
        assert any(str(note).startswith(f"{label}: ") for note in told["scores"].notes), "its protocol line"
    build(found, tmp_path / "own", runs, Console(file=io.StringIO()), cells=cells(sweep))
    page, macros = ((tmp_path / "own" / name).read_text() for name in ("index.html", "macros.tex"))
    for label in ("Contrast", "Shift shapes"):
        assert label in page
    value = found.records.query("metric == 'contrast'").groupby("captions.set")["value"].mean()
    assert f"{{{value['alt']:.3f}}}" in macros
    again = load(tmp_path / "own").records
    pd.testing.assert_series_equal(
        again.query("metric == 'shift_shapes'")["value"].sort_values(ignore_index=True),
        found.records.query("metric == 'shift_shapes'")["value"].sort_values(ignore_index=True),
    )


def test_both_are_asked_of_a_folder(tmp_path: Path) -> None:
    images, real = (save_pictures(tmp_path / name, 20, seed=seed, side=16) for seed, name in enumerate(("a", "b")))
    asked = Asked(images, parse("contrast,shift:shapes"), against=real)
    score, distance = score_folder(asked, ready=made_ready(asked, 20)).rows[::-1]
    assert (score.metric, distance.metric) == ("contrast", "shift_shapes")
    assert score.low < score.value < score.high
    assert score.images == 20
    assert {"image", "value"} <= score.details["outcomes"][0].keys()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"evaluation.metrics": ("contrast:shapes",)}, "no metric 'contrast:shapes'"),
        ({"evaluation.metrics": ("shift",)}, "no metric 'shift'; there are .*contrast.* of .*shift"),
        ({"evaluation.metrics": ("shift:shapes",), "evaluation.scene_images": 8}, "shift:shapes: 8 .*at least 9"),
    ],
)
def test_a_word_that_does_not_fit_the_entry_is_one_line(tmp_path: Path, changes: dict[str, object], said: str) -> None:
    with pytest.raises(ValueError, match=said) as caught:
        run_cell(BASE.replace(changes), tmp_path / "cell", cache=tmp_path / "c", report=lambda progress: None)
    assert "\n" not in str(caught.value)


def test_a_function_that_gives_no_number_an_image_is_named() -> None:
    from lensbench.scoring.image_scores import Plain, scored

    number = CONTRAST.numbers["contrast"]
    assert isinstance(number, Metric)
    with pytest.raises(ValueError, match=r"contrast: 3 images gave values of shape \(\)"):
        scored(Plain(number, lambda images, texts: images.mean()), np.zeros((3, 4, 4, 3), np.uint8), ["a"] * 3)
