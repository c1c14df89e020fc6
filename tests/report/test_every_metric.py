"""One metric of each kind, and one that a test registers, in every place that shows scores."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from lensbench import registry
from lensbench.ladder import card as ladder
from lensbench.ladder.against import multipliers
from lensbench.ladder.page import other_scores
from lensbench.metrics import Metric, metric, register
from lensbench.records import RECORDS, write
from lensbench.report.asked import asked_beside
from lensbench.report.dose import dose_figure, dose_table
from lensbench.report.figures import titled
from lensbench.report.freeze import Frozen
from lensbench.report.grid import arrange
from lensbench.report.headline import headline
from lensbench.report.macros import macros
from lensbench.report.multiplier import multiplier_sentences, multiplier_table
from lensbench.report.page.write import write_page
from lensbench.report.pareto import pareto_figure, pareto_table
from lensbench.report.power import power_table
from lensbench.report.scaling import worths
from lensbench.report.table import MINUS, Cell, Table
from lensbench.report.tables import tables
from lensbench.sweep.sweep import Results
from lensbench.tracking import contents
from tests.report.conftest import ORIGIN

IMAGES, SEEDS, PROMPTS = (256, 512, 1024, 2048), (0, 1, 2), 24
# A score, a distance and a loss; of single images and of sets. The value that a model has at each quality of 0 to 1.
WALK: dict[str, Callable[[float], float]] = {
    "clip_score_2.5_vit_b_32": lambda quality: 0.6 + 0.2 * quality,
    "precision_inception": lambda quality: 0.2 + 0.6 * quality,
    "fid": lambda quality: 80 - 60 * quality,
    "fd_mine": lambda quality: 8 - 6 * quality,
    "validation_loss": lambda quality: 0.9 - 0.3 * quality,
}
TOY = "sharpness"
PAIR = f"detailed {MINUS} alt-text"


def study(name: str, value: Callable[[float], float], beside: Results | None = None) -> Results:
    """A sweep in which `detailed` is better than `alt` by as much as four times the images are; scored by one metric.

    `beside` are results with GenEval that it is added to.
    """
    factors = {"captions.set": ["alt", "detailed"], "images": [*IMAGES], "seed": [*SEEDS]}
    records, outcomes, of = [], [], metric(name)
    rows = [
        {
            "sweep": "walk",
            "captions.set": arm,
            "images": n,
            "seed": seed,
            "cell": f"{a}{i}{seed}",
            "experiment_hash": "e",
        }
        for a, arm in enumerate(factors["captions.set"])
        for i, n in enumerate(IMAGES)
        for seed in SEEDS
    ]
    if beside is not None:
        factors = beside.factors
        rows = beside.records.drop_duplicates("cell")[["sweep", *factors, "cell", "experiment_hash"]].to_dict("records")
    for row in rows:
        worth = row.get("images", 1024) * (4 if row["captions.set"] == "detailed" else 1)
        for place, step in enumerate((300, 600)):
            quality = 1 - 4 * (worth * (1 + place)) ** -0.5
            rng = np.random.default_rng([row["seed"], worth, step])
            at = {"prompt_form": "short", "metric": name, "step": step}
            values = np.full(1, value(quality) * rng.normal(1, 0.002))
            if of.per == "image":
                noise = np.random.default_rng(3).normal(0, 0.05, PROMPTS)
                values = value(quality) * (1 + noise + rng.normal(0, 0.002, PROMPTS))
                image = {"task": "scenes", "sample": 0, "reason": ""}
                outcomes += [
                    row | at | image | {"metric": of.outcome, "prompt_index": i, "prompt": f"scene {i}", "value": v}
                    for i, v in enumerate(values.tolist())
                ]
            spent = {"samples_seen": 64 * step, "train_flops": 1e9 * step * worth}
            told = {"value": float(values.mean()), "low": np.nan, "high": np.nan, "n": PROMPTS}
            records.append(row | at | spent | told | ORIGIN)
    frames = [pd.DataFrame(records), pd.DataFrame(outcomes)]
    if beside is not None:
        kept = [frame[frame["metric"] != name] for frame in (beside.records, beside.outcomes)]
        frames = [pd.concat(both, ignore_index=True) for both in zip(kept, frames, strict=True)]
        return replace(beside, records=frames[0], outcomes=frames[1])
    if not outcomes:
        frames[1] = pd.DataFrame(columns=["cell", "metric", "value"])
    return Results("walk", factors, {"captions.set": "alt"}, *frames, [], [], [question(name)])


def question(name: str) -> dict[str, object]:
    arms = {"arm": {"captions.set": "detailed"}, "other": {"captions.set": "alt"}}
    return arms | {"scale": {"images": IMAGES[0]}, "metric": name, "form": "short", "role": "primary"}


def frozen(results: Results) -> Frozen:
    return Frozen(results, {"cells": []}, {}, {}, None)


def cell(table: Table, column: str, **labels: object) -> Cell:
    names = [one.name for one in table.columns]
    (row,) = (row for row in table.rows if all(row.cells[names.index(n)].value == value for n, value in labels.items()))
    return row.cells[names.index(column)]


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch) -> Metric:
    """A metric of this test's own: one entry in the registry, and nothing anywhere else."""
    for name in ("REGISTRY", "_PLACES", "_FOUND"):
        monkeypatch.setattr(registry, name, dict(getattr(registry, name)))
    return register(
        Metric(
            name=TOY,
            label="Sharpness",
            kind="score",
            per="image",
            direction="more",
            digits=2,
            unit="%",
            factor=100.0,
            outcome=TOY,
            clusters="prompt",
            bounded=True,
        )
    )


def told_everywhere(name: str, results: Results, tmp_path: Path) -> None:
    """Every place shows the metric by its own name, digits and direction; the better arm is better by it."""
    of, grid = metric(name), arrange(results)
    places = tables(grid)
    small, large = grid.scales[0], grid.scales[-1]
    arms = {arm.label: arm for arm in grid.arms}
    alt, detailed = arms["alt-text"], arms["detailed"]
    column = f"{name}.short"

    score = cell(places["scores"], column, **{"captions.set": "detailed", "images": IMAGES[0]})
    assert score.value == pytest.approx(grid.number(small, detailed, name, "short").value)
    assert len(score.text.rpartition(".")[2]) == of.digits
    head = next(one for one in places["scores"].columns if one.name == column)
    assert head.group == f"{of.titled} {of.arrow}"

    gap = grid.paired(small, detailed, alt, name, "short")
    assert (gap.estimate > 0) == of.more
    assert gap.kind == "95%", "of three seeds, whether single images have a value or not"
    shown = cell(places["differences"], column, difference=PAIR, images=IMAGES[0])
    assert shown.value == gap.estimate
    assert shown.emphasis == "better"
    asked = cell(places["answers"], "verdict", where=f"{of.label}, short, {small.label}")
    assert asked.text == "significant"
    assert headline(grid)[0].startswith(f"Primary question ({of.mean}, short prompts, {small.label}): ")

    found = worths(grid)
    assert {one.metric for one in found} == {name}
    data = next(one for one in found if one.axis == "data")
    assert data.draws.prompts == (of.per == "image")
    assert data.direct.multiplier.estimate == pytest.approx(4, rel=0.25)
    table = multiplier_table(grid, found)
    assert table is not None
    assert {row.cells[0].text for row in table.rows} == {of.label}
    assert any(of.label in sentence for sentence in multiplier_sentences(grid, found))

    front = pareto_table(grid, name)
    assert front is not None
    assert front.columns[-3].head == of.titled
    on_front = [row for row in front.rows if row.cells[-2].text == "yes"]
    assert any(
        row.cells[-3].value == pytest.approx(grid.number(large, detailed, name, "short").value) for row in on_front
    )

    page = write_page(grid, places, headline(grid), (), {"sweep": "walk"}, [], None, tmp_path).read_text()
    assert of.label in page
    assert score.text in page

    written = macros(grid, places, frozen(results))
    assert rf"{{{score.text}}}" in written
    assert r"\newcommand{\findingShortBest}{detailed}" in written


@pytest.mark.parametrize("name", WALK)
def test_a_metric_of_each_kind_is_told_everywhere(name: str, tmp_path: Path) -> None:
    results = study(name, WALK[name])
    told_everywhere(name, results, tmp_path)
    if metric(name).per == "image":
        table = power_table(arrange(results))
        assert table.notes[0].startswith(f"In {metric(name).difference_unit}.")
    else:
        with pytest.raises(ValueError, match="no score of single images"):
            power_table(arrange(results))


def test_a_metric_is_added_by_one_entry(toy: Metric, tmp_path: Path) -> None:
    told_everywhere(TOY, study(TOY, lambda quality: 0.3 + 0.4 * quality), tmp_path)


def test_without_its_entry_it_is_refused_in_one_line() -> None:
    results = study("fid", WALK["fid"])
    with pytest.raises(ValueError, match="walk: 'sharpness' is no metric of the registry") as raised:
        arrange(replace(results, records=results.records.assign(metric=TOY)))
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("name", [*WALK, "fd_shapes"])
def test_beside_geneval_it_has_a_table_of_differences_of_its_own(simulated: Callable[..., Results], name: str) -> None:
    plain = arrange(simulated())
    assert "score_differences" not in tables(plain)  # this project's own scores alone: the table of scores has them
    value = WALK.get(name, WALK["fid"])
    results = study(name, value, simulated())
    asked = [{"arm": {"captions.set": "detailed"}, "other": {"captions.set": "alt"}, "scale": {}, "form": None}]
    if metric(name).own:
        results = replace(results, questions=[one | {"metric": name, "role": "primary"} for one in asked])
    grid = arrange(results)
    found = tables(grid)
    of, row = metric(name), cell(found["score_differences"], f"{name}.short", difference=PAIR)
    assert row.kind == "95%"
    assert not np.isnan(row.value)
    if not metric(name).own:
        before, after = (cell(one, "mean", prompts="short", difference=PAIR)
                         for one in (tables(plain)["differences"], found["differences"]))  # fmt: skip
        assert before == after  # another score changes no correction of GenEval's
        assert (row.role, row.mark) == ("descriptive", "")
        assert "asks nothing of these" in str(found["score_differences"].notes)
    else:
        assert any(of.label in sentence for sentence in headline(grid))


def test_what_is_asked_of_two_scores_is_one_family(simulated: Callable[..., Results]) -> None:
    name = "clip_score_2.5_vit_b_32"
    results = study(name, WALK[name], simulated())
    arms = {"arm": {"captions.set": "detailed"}, "other": {"captions.set": "alt"}, "scale": {}, "form": "short"}
    grid = arrange(replace(results, questions=[arms | {"metric": "geneval"}, arms | {"metric": name}]))
    asked = [row for row in (*grid.comparisons(), *grid.comparisons_beside()) if row.asked]
    assert [row.metric for row in asked] == ["geneval", name]
    smallest = min(row.difference.p for row in asked)
    assert min(row.difference.p_holm for row in asked) == pytest.approx(2 * smallest)
    assert headline(grid)[-1] == "2 of 2 secondary comparisons are significant after Holm's correction."
    assert "the secondary ones after Holm's correction over 2" in str(tables(grid)["score_differences"].notes)


@pytest.mark.parametrize("name", WALK)
def test_a_dose_is_told_by_any_of_them(name: str) -> None:
    shares = {"alt": 0.5, "detailed": 1.0}
    results = study(name, WALK[name])
    frames = [
        frame.assign(**{"captions.present": frame["captions.set"].map(shares) if "captions.set" in frame else []}).drop(
            columns="captions.set", errors="ignore"
        )
        for frame in (results.records, results.outcomes)
    ]
    factors = {"captions.present": [0.5, 1.0], "images": [*IMAGES], "seed": [*SEEDS]}
    grid = arrange(replace(results, factors=factors, reference={"captions.present": 0.5}, records=frames[0],
                           outcomes=frames[1]))  # fmt: skip
    table = dose_table(grid)
    assert table is not None
    assert table.notes[0].startswith(metric(name).label)
    assert table.rows[0].cells[-1].text != "missing"


def test_figures_follow_the_metrics_that_are_asked_about(simulated: Callable[..., Results], tmp_path: Path) -> None:
    name = "clip_score_2.5_vit_b_32"
    factors = {"captions.present": [0.5, 1.0], "images": [256, 512], "seed": [0, 1]}
    plain = simulated({"captions.set": ["alt", "detailed"], "images": [256, 512], "seed": [0, 1]}, steps=(600,))
    shares = {"alt": 0.5, "detailed": 1.0}
    both = study(name, WALK[name], plain)
    frames = [
        frame.assign(**{"captions.present": frame["captions.set"].map(shares)}).drop(columns="captions.set")
        for frame in (both.records, both.outcomes)
    ]
    question = {"arm": {"captions.present": 1.0}, "other": {"captions.present": 0.5}, "scale": {}, "form": None}
    found = replace(both, factors=factors, reference={"captions.present": 0.5}, records=frames[0], outcomes=frames[1])
    grid = arrange(replace(found, questions=[question | {"metric": metric} for metric in ("geneval", name)]))
    assert asked_beside(grid) == [name], "the first figures are of GenEval already"
    written = pareto_figure(grid, tmp_path / f"pareto_{name}", name) + dose_figure(
        grid, tmp_path / f"dose_{name}", name
    )
    assert {path.stem for path in written} == {f"pareto_{name}", f"dose_{name}"}
    assert asked_beside(arrange(found)) == []
    assert titled(f"pareto_{name}", {"pareto": "Quality"}) == f"Quality, by {metric(name).label}"


@pytest.mark.parametrize("name", WALK)
def test_a_card_of_the_ladder_keeps_it(simulated: Callable[..., Results], name: str) -> None:
    factors = {"captions.set": ["alt", "detailed"], "seed": [*SEEDS]}
    results = study(name, WALK[name], simulated(factors, steps=(300, 600)))
    scale = SimpleNamespace(name="tiny", version=1, digest="d")
    cards = []
    for arm in factors["captions.set"]:
        frames = [frame[frame["captions.set"] == arm] for frame in (results.records, results.outcomes)]
        cards.append(ladder.make(scale, arm, {}, *frames, [], {}))
    told = [row for row in cards[1].scores if row["metric"] == name and row["form"] == "short"]
    assert [row["interval"] for row in told] == ["seeds"]
    assert {row["metric"] for row in cards[1].curves} >= {"geneval", name}
    (row,) = (row for row in other_scores(cards).rows if row.cells[1].value == name and row.cells[0].text == "short")
    assert row.cells[1].text == metric(name).titled
    found = {(one["metric"], one["axis"]): one for one in multipliers(cards[1], cards[0])}
    assert {metric_ for metric_, _ in found} >= {"geneval", name}


def test_mlflow_is_told_every_one_of_them(tmp_path: Path) -> None:
    rows = pd.concat([study(name, value).records.query("step == 600").head(1) for name, value in WALK.items()])
    texts = {column.name: "x" for column in RECORDS.columns if column.content == "text" and column.needed != "no"}
    rows = rows.assign(**{name: text for name, text in texts.items() if name not in rows})
    for folder in (tmp_path, tmp_path / "evaluations" / "own"):
        folder.mkdir(parents=True, exist_ok=True)
        write(rows if folder != tmp_path else rows.head(0), folder / RECORDS.file, RECORDS)
    points, _ = contents.records(tmp_path, "own")
    assert {point.name for point in points} == {f"{name}/short" for name in WALK}
    from mlflow.entities import Metric as Sent
    from mlflow.tracking import MlflowClient

    client = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    run = client.create_run(client.create_experiment("walk")).info.run_id
    client.log_batch(run, [Sent(point.name, point.value, point.t, point.step) for point in points])
    assert client.get_run(run).data.metrics == {point.name: point.value for point in points}
