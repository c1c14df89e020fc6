"""Training and evaluation are two values: what is trained once is scored as often as one likes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from lensbench import cli
from lensbench.experiment import Experiment
from lensbench.sampling import image_sets
from lensbench.scoring import evaluate
from lensbench.sweep import cell_records, cell_training, provenance
from lensbench.sweep.cell import checkpoints_lacking, run_cell
from lensbench.sweep.cellfiles import evaluation_folder, is_complete, is_evaluated, read_cell, read_records
from lensbench.sweep.progress import Progress
from lensbench.sweep.sweep import Cell, Sweep, cells, collect
from tests.scoring.conftest import clip_model, save_pictures

BASE = Experiment().replace(
    {
        "corpus.size_px": 16,
        "corpus.max_objects": 2,
        "images": 24,
        "text_encoder.layers": (0,),
        "model.depth": 1,
        "training.steps": 4,
        "training.batch": 8,
        "training.warmup_steps": 1,
        "evaluation.at": (0.5, 1.0),
        "evaluation.prompts_per_task": 2,
        "evaluation.images_per_task": 2,
        "evaluation.scene_images": 40,
        "evaluation.validation_images": 8,
        "evaluation.sampling_steps": 2,
    }
)


def run(experiment: Experiment, directory: Path, cache: Path, **how: Any) -> None:
    run_cell(experiment, directory, cache=cache, report=lambda progress: None, **how)


@pytest.fixture(scope="module")
def once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cell trained and scored as BASE says, and the cache beside it."""
    folder = tmp_path_factory.mktemp("once")
    run(BASE, folder / "cell", folder / "cache")
    return folder


@pytest.fixture
def cell(once: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(once / "cell", tmp_path / "cell"))


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """How many trainings there were, and how many images were sampled."""
    found = {"trainings": 0, "images": 0}
    train, sample = cell_training.train, evaluate.sample_images

    def training(*args: Any, **named: Any) -> None:
        found["trainings"] += 1
        train(*args, **named)

    def sampling(*args: Any, **named: Any) -> np.ndarray:
        images = sample(*args, **named)
        found["images"] += len(images)
        return images

    monkeypatch.setattr(cell_training, "train", training)
    monkeypatch.setattr(evaluate, "sample_images", sampling)
    return found


def numbers(records: pd.DataFrame) -> dict[tuple[str, str, int], float]:
    """The scores of a cell, without what a clock gave."""
    scores = records[records["metric"].str.match("geneval|fd_|kd_|clip_|shapes_|validation|precision")]
    return {(r.metric, r.prompt_form, r.step): r.value for r in scores.itertuples()}


def test_an_evaluation_is_no_part_of_the_training() -> None:
    other = BASE.replace({"evaluation.guidance": 7.0, "evaluation.metrics": ("geneval",)})
    assert (other.hash(), other.cell_id()) == (BASE.hash(), BASE.cell_id())
    assert other.evaluation_hash() != BASE.evaluation_hash()
    assert BASE.replace({"training.steps": 5}).evaluation_hash() == BASE.evaluation_hash()


def test_more_metrics_guidance_and_prompts_train_nothing(cell: Path, once: Path, counted: dict[str, int]) -> None:
    more = BASE.replace(
        {
            "evaluation.metrics": ("geneval", "shapes_alignment", "fd:shapes", "kd:shapes"),
            "evaluation.guidances": (1.5,),
        }
    )
    assert not checkpoints_lacking(cell, [more])
    run(BASE, cell, once / "cache", evaluations=[BASE.evaluation, more.evaluation])
    assert counted == {"trainings": 0, "images": 2 * 12}, "only the further guidance is sampled; the rest is there"
    before, after = (numbers(read_records(cell, one)) for one in (BASE, more))
    assert before.items() <= after.items(), "what is measured twice is the same to the bit"
    assert {"kd_shapes", "geneval_guided.1.5"} == {name for name, _, _ in after.keys() - before.keys()}
    prompts = BASE.replace({"evaluation.prompts_per_task": 3, "evaluation.images_per_task": 3})
    run(BASE, cell, once / "cache", evaluations=[prompts.evaluation])
    assert counted["trainings"] == 0
    assert len(read_cell(cell, prompts)[1]) > len(read_cell(cell, BASE)[1])


def test_an_image_text_score_has_an_outcome_for_each_image(
    cell: Path, once: Path, tmp_path: Path, counted: dict[str, int]
) -> None:
    clip_model(tmp_path / "clip")
    weights = {"clip-b32": str(tmp_path / "clip")}
    scored = BASE.replace({"evaluation.metrics": ("clip_score",), "evaluation.weights": weights})
    run(BASE, cell, once / "cache", evaluations=[scored.evaluation])
    assert counted == {"trainings": 0, "images": 0}, "the images of held-out captions are there"
    records, outcomes = read_cell(cell, scored)
    (cosine,) = (name for name in set(records["metric"]) if name.startswith("clip_cosine"))
    for form in ("short", "detailed"):
        of_images = outcomes[(outcomes["metric"] == cosine) & (outcomes["prompt_form"] == form)]
        (row,) = records[(records["metric"] == cosine) & (records["prompt_form"] == form)].itertuples()
        assert len(of_images) == row.n == 40
        assert row.value == pytest.approx(of_images["value"].mean())
        assert row.low < row.value < row.high
    assert records.loc[records["metric"] == cosine, "protocol"].str.contains('"window"').all()


def test_a_distance_has_its_floor_and_all_that_made_it(once: Path) -> None:
    records = read_records(once / "cell", BASE)
    for row in records[records["metric"] == "fd_shapes"].itertuples():
        assert row.floor > 0
        for words in (
            '"reference": "held-out images"',
            '"reference_images": 40',
            '"guidance": 3.0',
            '"prompt_seed": 1',
        ):
            assert words in row.protocol


def test_an_evaluation_that_was_stopped_samples_only_what_is_missing(
    cell: Path, once: Path, counted: dict[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    other = BASE.replace({"evaluation.guidance": 2.0})
    monkeypatch.setattr(image_sets, "MOST_IMAGES", 5)
    sample, calls = evaluate.sample_images, 0

    def stopped(*args: Any, **named: Any) -> np.ndarray:
        nonlocal calls
        calls += 1
        if calls == 4:
            raise KeyboardInterrupt
        return sample(*args, **named)

    with monkeypatch.context() as patched:
        patched.setattr(evaluate, "sample_images", stopped)
        with pytest.raises(KeyboardInterrupt):
            run(BASE, cell, once / "cache", evaluations=[other.evaluation])
    kept = counted["images"]
    assert kept > 0
    run(BASE, cell, once / "cache", evaluations=[other.evaluation])
    whole = 2 * (2 * 12 + 40)
    assert counted == {"trainings": 0, "images": whole}
    again = Path(shutil.copytree(once / "cell", cell.with_name("again")))
    run(BASE, again, once / "cache", evaluations=[other.evaluation])
    assert numbers(read_records(again, other)) == numbers(read_records(cell, other))


def test_images_that_were_damaged_are_sampled_again(cell: Path, once: Path, counted: dict[str, int]) -> None:
    folder = evaluation_folder(cell, BASE)
    before = numbers(read_records(cell, BASE))
    (folder / "records.parquet").unlink()
    (path,) = (folder / "images" / "scenes-short").glob("*.npz")
    path.write_bytes(path.read_bytes()[:-200] + bytes(200))
    shutil.rmtree(folder / "images" / "scenes-short" / "features")
    run(BASE, cell, once / "cache")
    assert counted == {"trainings": 0, "images": 40}
    assert numbers(read_records(cell, BASE)) == before


def flip(path: Path, place: int) -> None:
    """Turn one bit of a file over; `place` counts bytes, from the end where it is negative."""
    found = bytearray(path.read_bytes())
    found[place] ^= 4
    path.write_bytes(found)


def test_a_cached_feature_that_has_changed_by_a_bit_is_named_and_computed_again(once: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    run(BASE, tmp_path / "first", cache)
    damaged = sorted((cache / "text").rglob("*.rows"))
    for shard in damaged:
        flip(shard, -200)
    said: list[Progress] = []
    run_cell(BASE, tmp_path / "cell", cache=cache, report=said.append)
    assert numbers(read_records(tmp_path / "cell", BASE)) == numbers(read_records(once / "cell", BASE))
    news = [progress.note for progress in said if progress.lasting]
    assert sorted(news) == [f"{path} was damaged: what it held is computed again" for path in damaged]


def test_features_of_images_that_have_changed_by_a_bit_are_extracted_again(
    cell: Path, once: Path, tmp_path: Path
) -> None:
    before = numbers(read_records(cell, BASE))
    (evaluation_folder(cell, BASE) / "records.parquet").unlink()
    cache = Path(shutil.copytree(once / "cache", tmp_path / "cache"))
    for path in (*cell.rglob("features/*.npy"), *(cache / "references").rglob("*.npy")):
        flip(path, -2000)
    run(BASE, cell, cache)
    assert numbers(read_records(cell, BASE)) == before


def test_a_checkpoint_that_has_changed_by_a_bit_is_not_scored_but_trained_again(
    cell: Path, once: Path, counted: dict[str, int]
) -> None:
    before = numbers(read_records(cell, BASE))
    (weights,) = (cell / "checkpoints" / "step-000004").glob("*.safetensors")
    flip(weights, -50)
    (evaluation_folder(cell, BASE) / "records.parquet").unlink()
    said: list[Progress] = []
    run_cell(BASE, cell, cache=once / "cache", report=said.append)
    news = [progress.note for progress in said if progress.lasting]
    assert news == ["checkpoints/step-000004 is missing or damaged: the cell is trained again"]
    assert counted["trainings"] == 1
    assert numbers(read_records(cell, BASE)) == before


def test_amounts_that_have_changed_by_a_bit_are_counted_again(cell: Path, once: Path, counted: dict[str, int]) -> None:
    before = read_records(cell, BASE)["train_flops"].max()
    flip(cell / "amounts.json", -10)
    (evaluation_folder(cell, BASE) / "records.parquet").unlink()
    run(BASE, cell, once / "cache")
    assert read_records(cell, BASE)["train_flops"].max() == before
    assert counted["images"] == 0


def test_a_training_that_went_on_elsewhere_says_so_in_its_records(
    once: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow = BASE.replace({"training.resume_seconds": 1e-6})
    sweep = Sweep(name="s", base=slow, factors={"captions.set": ("detailed",)}, reference={"captions.set": "detailed"})
    (one,) = cells(sweep)

    def stop(progress: Progress) -> None:
        if progress.stage == "training" and progress.done == 4:
            raise RuntimeError("stopped")

    with pytest.raises(RuntimeError, match="stopped"):
        run_cell(one.experiment, tmp_path / one.id, cache=once / "cache", report=stop)
    monkeypatch.setattr(cell_records, "hardware", lambda: "another CPU, 7 threads")
    run(one.experiment, tmp_path / one.id, once / "cache")
    found = collect(sweep, tmp_path)
    trained = found.records[found.records["metric"] == "train_seconds"].iloc[0]
    assert trained["hardware"] == "another CPU, 7 threads"
    assert trained["resumed"] == f"until step 3: commit {provenance.commit()}, {provenance.hardware()}"
    assert [note for note in found.notes if "1 cell(s) went on with another commit or on other hardware" in note]


def test_a_checkpoint_that_was_not_kept_is_trained_for_again(cell: Path, once: Path, counted: dict[str, int]) -> None:
    other = BASE.replace({"evaluation.at": (0.25, 1.0)})
    assert checkpoints_lacking(cell, [other]) == [1]
    (weights,) = (cell / "checkpoints" / "step-000004").glob("*.safetensors")
    before = weights.read_bytes()
    run(BASE, cell, once / "cache", evaluations=[other.evaluation])
    assert counted["trainings"] == 1
    assert weights.read_bytes() == before
    assert [path.name for path in sorted((cell / "checkpoints").iterdir())] == [f"step-00000{n}" for n in (1, 2, 4)]


def test_a_training_that_gives_other_weights_removes_what_was_scored_of_the_old_ones(
    cell: Path, once: Path, counted: dict[str, int]
) -> None:
    other = BASE.replace({"evaluation.guidance": 2.0})
    run(BASE, cell, once / "cache", evaluations=[other.evaluation])
    scored_again, lost = (evaluation_folder(cell, one) for one in (BASE, other))
    about = lost / "images" / "scenes-short" / "set.json"  # as if another machine's training had given these images
    told = json.loads(about.read_text())
    told["made_by"]["weights"] = "0" * 64
    about.write_text(json.dumps(told))
    (cell / "records.parquet").unlink()
    shutil.rmtree(cell / "checkpoints")
    (scored_again / "records.parquet").unlink()
    said: list[Progress] = []
    run_cell(BASE, cell, cache=once / "cache", report=said.append)
    assert counted["trainings"] == 1
    assert is_evaluated(cell, BASE)
    assert not is_evaluated(cell, other)
    assert [progress.note for progress in said if progress.lasting and "these weights" in progress.note] == [
        f"evaluations/{lost.name} was not of these weights: it is made again when it is asked for"
    ]


def test_a_damaged_evaluation_does_not_stop_another(cell: Path, once: Path) -> None:
    other = BASE.replace({"evaluation.guidance": 2.0})
    (evaluation_folder(cell, BASE) / "records.parquet").write_bytes(b"PAR1 cut off")
    run(BASE, cell, once / "cache", evaluations=[other.evaluation])
    assert read_records(cell, other)["value"].notna().any()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"evaluation.metrics": ("fid",)}, "fid: 40 .* for 2,048 features.*evaluation.metric_images say how many"),
        ({"evaluation.metrics": ("beauty",)}, "no metric 'beauty'"),
        ({"evaluation.metrics": ("fd:shapes",), "evaluation.scene_images": 12}, "12 .* for 64 features"),
        ({"evaluation.metrics": ("kid",), "evaluation.weights": {"inception": "/nowhere.pt"}}, "at /nowhere.pt"),
        ({"evaluation.metrics": ("fd:shapes",), "evaluation.weights_digests": {"shapes": "0" * 64}}, "must be 000000"),
        ({"evaluation.metrics": ("kd:shapes",), "evaluation.reference": Path("gone"),
          "evaluation.reference_digest": "0" * 64}, "gone"),
    ],
)  # fmt: skip
def test_what_cannot_be_measured_is_one_line_before_anything_trains(
    tmp_path: Path, counted: dict[str, int], changes: dict[str, Any], words: str
) -> None:
    with pytest.raises(ValueError, match=words) as caught:
        run(BASE.replace(changes), tmp_path / "cell", tmp_path / "cache")
    assert "\n" not in str(caught.value)
    assert counted["trainings"] == 0


def test_real_images_that_are_not_said_which_are_refused_by_their_digest(tmp_path: Path) -> None:
    save_pictures(tmp_path / "real", 40, seed=1)
    told = {"evaluation.metrics": ("kd:shapes",), "evaluation.reference": tmp_path / "real"}
    with pytest.raises(ValueError, match=r"give evaluation\.reference_digest='[0-9a-f]{64}'") as caught:
        run(BASE.replace(told), tmp_path / "cell", tmp_path / "cache")
    digest = str(caught.value).partition("'")[2][:64]
    experiment = BASE.replace(told | {"evaluation.reference_digest": digest})
    run(experiment, tmp_path / "cell", tmp_path / "cache")
    (protocol, *_) = read_records(tmp_path / "cell", experiment).query("metric == 'kd_shapes'")["protocol"]
    assert (json.loads(protocol)["reference"], json.loads(protocol)["reference_images"]) == ("real", 40)


def test_a_cell_is_scored_by_the_command_with_what_made_each_number(
    cell: Path, counted: dict[str, int], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["lensbench", "score", str(cell), "--metrics", "kd:shapes"])
    with pytest.raises(SystemExit) as left:
        cli.main()
    out = " ".join(capsys.readouterr().out.split())
    assert not left.value.code
    assert counted == {"trainings": 0, "images": 0}
    more = BASE.replace({"evaluation.metrics": ("geneval", "shapes_alignment", "fd:shapes", "kd:shapes")})
    for row in read_records(cell, more).query("metric == 'kd_shapes'").itertuples():
        assert f"{row.value:.4f}" in out
    assert "KD shapes: shapes (weights 88bea177e0cd" in out
    assert "40 images against 40 held-out images" in out
    assert "Chance: what the same images score for the other prompts of their task." in out


def test_a_field_of_the_evaluation_is_a_factor_that_multiplies_evaluations(once: Path, tmp_path: Path) -> None:
    sweep = Sweep(
        name="s",
        base=BASE,
        factors={"captions.set": ("detailed",), "evaluation.guidance": (3.0, 1.0)},
        reference={"captions.set": "detailed"},
    )
    (one,) = cells(sweep)
    assert isinstance(one, Cell)
    assert one.id == BASE.cell_id()
    assert [place.levels["evaluation.guidance"] for place in one.evaluations] == [3.0, 1.0]
    shutil.copytree(once / "cell", tmp_path / one.id)
    assert not is_complete(tmp_path / one.id, one)
    assert [row["reason"] for row in collect(sweep, tmp_path).missing] == ["trained, not scored"] * 2
    wanted = [place.experiment.evaluation for place in one.evaluations]
    run(one.experiment, tmp_path / one.id, once / "cache", evaluations=wanted)
    found = collect(sweep, tmp_path)
    assert found.complete
    assert found.factors["evaluation.guidance"] == [3.0, 1.0]
    of_levels = found.records[found.records["metric"] == "fd_shapes"].groupby("evaluation.guidance")["value"].sum()
    assert of_levels[3.0] != of_levels[1.0]
    hours = found.records[found.records["metric"] == "device_hours"].set_index("evaluation.guidance")["value"]
    assert hours[1.0] < hours[3.0], "what training cost is counted once"


def test_a_number_of_images_is_a_metrics_own(once: Path, cell: Path) -> None:
    fewer = BASE.replace({"evaluation.metrics": ("kd:shapes", "fd:shapes"), "evaluation.scene_images": 24,
                          "evaluation.metric_images": {"fd:shapes": 30}})  # fmt: skip
    run(BASE, cell, once / "cache", evaluations=[fewer.evaluation])
    counts = read_records(cell, fewer).groupby("metric")["n"].max()
    assert (counts["kd_shapes"], counts["fd_shapes"]) == (24, 30)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--seed", "1", "--out", "x.json"], "--out, --seed: not for a sweep"),
        (["--metrics", "kd:shapes"], "--metrics: evaluation.metrics is a factor of this sweep"),
    ],
)
def test_an_option_that_a_recipe_decides_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], words: list[str], said: str
) -> None:
    recipe = tmp_path / "s.py"
    recipe.write_text(
        "from lensbench.experiment import Experiment\n"
        "from lensbench.sweep.sweep import Sweep\n"
        "metrics = (('fd:shapes',), ('prdc:shapes',))\n"
        "factors = {'captions.set': ('detailed',), 'evaluation.metrics': metrics}\n"
        "reference = {'captions.set': 'detailed'}\n"
        "sweep = Sweep(name='s', base=Experiment(), factors=factors, reference=reference)\n"
    )
    monkeypatch.setattr("sys.argv", ["lensbench", "score", str(recipe), *words])
    with pytest.raises(SystemExit) as left:
        cli.main()
    assert left.value.code == 2
    assert said in capsys.readouterr().err


def test_a_damaged_evaluation_is_scored_again_by_the_command(
    cell: Path, counted: dict[str, int], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = numbers(read_records(cell, BASE))
    (evaluation_folder(cell, BASE) / "records.parquet").write_bytes(b"PAR1 cut off")
    monkeypatch.chdir(cell)
    monkeypatch.setattr("sys.argv", ["lensbench", "score", "."])
    with pytest.raises(SystemExit) as left:
        cli.main()
    assert not left.value.code
    assert "records.parquet cannot be read" in " ".join(capsys.readouterr().out.split())
    assert counted == {"trainings": 0, "images": 0}
    assert numbers(read_records(cell, BASE)) == before
