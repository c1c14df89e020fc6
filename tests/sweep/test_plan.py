"""What `lensbench plan` says before anything runs: amounts that come true, for many cells fast, at eighty columns."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from PIL import Image

from lensbench.commands.sweeps import prepared
from lensbench.data.corpus import open_corpus
from lensbench.experiment import Experiment
from lensbench.sweep.amounts import flops_per_image
from lensbench.sweep.planning import drawn_images, encoding, planned, seconds_a_weight
from lensbench.sweep.sweep import Sweep, cells

LENSBENCH = str(Path(sys.executable).with_name("lensbench"))
PROJECT = Path(__file__).parents[2]
TEXT = """
from lensbench.experiment import Experiment
from lensbench.sweep.sweep import Question, Sweep

base = Experiment().replace(
    {
        "corpus.size_px": 16, "images": 24, "text_encoder.layers": (0,), "model.depth": 1, "training.steps": 60,
        "training.batch": 8, "evaluation.prompts_per_task": 2, "evaluation.images_per_task": 2,
        "evaluation.scene_images": 8, "evaluation.validation_images": 8, "evaluation.sampling_steps": 2,
    }
)
sweep = Sweep(
    name="small",
    base=base,
    factors={"captions.set": ("alt", "detailed"), "seed": (0, 1)},
    reference={"captions.set": "alt"},
    CHANGES
)
"""


def plan(folder: Path, *words: str, changes: str = "", columns: int = 80) -> str:
    (folder / "small.py").write_text(TEXT.replace("CHANGES", changes))
    environment = os.environ | {"COLUMNS": str(columns), "OMP_NUM_THREADS": "1"}
    command = [LENSBENCH, "plan", "small.py", *words]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=200)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    assert max(map(len, done.stdout.splitlines())) <= columns
    return " ".join(done.stdout.split())


def test_the_summary_stands_before_the_cells_and_nothing_is_written(tmp_path: Path) -> None:
    asked = 'match="flops", questions=(Question(arm={"captions.set": "detailed"}),), paired=("captions.set",),'
    out = plan(tmp_path, "--variances", str(PROJECT / "results" / "demo"), changes=asked)
    for words in (
        "small: 4 cells, none is done",
        "2 captions.set x 2 seed; every seed is shared by all levels",
        "training.steps are derived",
        "FLOPs of the reference arm",
        "secondary geneval: set=detailed against set=alt each at every scale",
        "2 in all, tested together with Holm's correction",
        "left out fd:shapes: evaluation.scene_images are too few for it",
        "time not known: --pilot measures it",
        "--usd-per-hour",
        "after correction over 2 comparisons) on detailed prompts, with 2 seeds",
        "24 images",
    ):
        assert words in out
    assert out.count("not run") == 1
    assert out.index("compute") < out.index("not run") < out.index("detailed 0 34 272")
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("columns", "numbers", "left_out"),
    [(120, {"parameters": "0.41 M", "FLOPs": "316 GFLOP"}, ""), (65, {}, "FLOPs, parameters")],
)
def test_a_column_without_room_is_left_out_and_none_is_cut(
    columns: int, numbers: dict[str, str], left_out: str
) -> None:
    command = [LENSBENCH, "plan", "sweeps/caption_quality.py", "--cells"]
    environment = os.environ | {"COLUMNS": str(columns)}
    out = subprocess.run(command, cwd=PROJECT, env=environment, capture_output=True, text=True).stdout
    rows = [" ".join(line.split()) for line in out.splitlines()]
    assert " ".join(("cell set shuffled images depth seed", *numbers)) in rows
    assert " ".join(("3d5c7a8687a2 alt False 256 2 0", *numbers.values())) in rows
    assert (f"no room for {left_out}:" in out) if left_out else ("no room" not in out)


def test_a_design_without_intervals_sees_nothing(tmp_path: Path) -> None:
    text = TEXT.replace('"evaluation.prompts_per_task": 2', '"evaluation.prompts_per_task": 1')
    (tmp_path / "small.py").write_text(text.replace("CHANGES", ""))
    words = [LENSBENCH, "plan", "small.py", "--variances", str(PROJECT / "results" / "demo")]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True)
    assert "nothing: 6 prompts for 6 tasks" in done.stdout


@pytest.mark.slow  # it imports all of training, in a process of its own
def test_the_pilot_measures_here_and_leaves_nothing(tmp_path: Path) -> None:
    out = plan(tmp_path, "--pilot", "--usd-per-hour", "3.6", "--workers", "1")
    assert "with 1 worker" in out
    assert "by a pilot of a few steps" in out
    assert "at $3.6 each" in out
    assert sorted(path.name for path in tmp_path.iterdir()) == ["small.py"]


def test_ten_thousand_cells_take_no_time(tmp_path: Path) -> None:
    sweep_of = {
        "captions.set": ("alt", "brief", "detailed", "0.5*alt+0.5*brief"),
        "model.depth": (1, 2, 3, 4, 5),
        "images": tuple(range(100, 1100, 100)),
        "seed": tuple(range(50)),
    }
    began = time.process_time()
    sweep = Sweep(name="big", base=Experiment(), factors=sweep_of, reference={"captions.set": "alt"})
    every = cells(sweep)
    found = planned(every, tmp_path)
    encoding(every)
    took = time.process_time() - began
    assert len(found) == 10_000
    assert took < 4, f"{took:.1f} s"  # two on an idle machine; a test must not fail for its neighbors
    assert found[0].flops == every[0].experiment.training.steps * 32 * found[0].flops / found[0].samples


def test_the_images_of_a_folder_are_those_that_there_are(tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    for i in range(20):
        Image.new("RGB", (16, 16), (12 * i, 9, 9)).save(photos / f"p{i}.png")
        for name in ("alt", "detailed"):
            (photos / f"p{i}.{name}.txt").write_text(f"{name} of {i}")
    out = plan(tmp_path, "--corpus", "photos", changes="")
    sweep = prepared(tmp_path / "small.py", photos)
    there = len(open_corpus(sweep.base.corpus, 24).train_keys)
    assert there < 20
    assert f"{there} images" in out
    assert "24 images" not in out


def test_many_cells_are_folded_over_their_seeds(tmp_path: Path) -> None:
    text = TEXT.replace("(0, 1)", "tuple(range(60))").replace("CHANGES", "")
    path = tmp_path / "small.py"
    path.write_text(text)
    done = subprocess.run([LENSBENCH, "plan", "small.py"], cwd=tmp_path, capture_output=True, text=True)
    assert "seeds 60 to run" in done.stdout
    assert [line.split()[0] for line in done.stdout.splitlines() if "GFLOP" in line][-2:] == ["alt", "detailed"]
    assert "--cells lists all 120 cells" in done.stdout


@pytest.mark.parametrize("at", [(1.0,), (0.5, 1.0)])
def test_drawn_images_are_at_least_those_that_are_drawn(at: tuple[float, ...]) -> None:
    from lensbench.scoring.evaluation_plan import plan as plan_of

    experiment = Experiment().replace({"evaluation.at": at, "evaluation.guidances": (1.0, 5.0)})
    what = plan_of(experiment, open_corpus(experiment.corpus, 10))
    drawn = sum(what.images(final=share == 1.0) for share in at)
    assert drawn <= drawn_images(experiment) <= 1.6 * drawn + 100


def test_flops_are_those_of_cells() -> None:
    from lensbench.sweep import cell_training

    assert cell_training.flops_per_image is flops_per_image
    assert seconds_a_weight([], {}, Path()) is None


def test_a_sweep_is_planned_without_torch_and_pandas(tmp_path: Path) -> None:
    """Loading either takes longer than the plan."""
    recipe = tmp_path / "s.py"
    recipe.write_text(
        "from lensbench.experiment import Experiment\n"
        "from lensbench.sweep.sweep import Sweep\n"
        "factors = {'captions.set': ('alt', 'detailed')}\n"
        "base = Experiment().replace({'images': 16})\n"
        "sweep = Sweep(name='s', base=base, factors=factors, reference={'captions.set': 'alt'})\n"
    )
    code = (
        f"import sys; sys.argv = ['lensbench', 'plan', {str(recipe)!r}, '--runs', {str(tmp_path / 'runs')!r}]\n"
        "from lensbench import cli\n"
        "try: cli.main()\n"
        "except SystemExit as ended: assert not ended.code\n"
        "print({'torch', 'pandas', 'transformers', 'lightning'} & sys.modules.keys())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "set()"
