"""Tuning for real, on models that train in a second: the same budget for every arm, whatever happens to the workers."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from lensbench.commands.sweeps import on_corpus, prepared
from lensbench.experiment import Experiment
from lensbench.records import RECORDS
from lensbench.report.tuning import tuning_figure, tuning_table
from lensbench.sweep.cellfiles import write_cell
from lensbench.sweep.collecting import collect
from lensbench.sweep.progress import Progress
from lensbench.sweep.storage import address
from lensbench.sweep.sweep import cells, load
from lensbench.sweep.tuned import read_tuned, trial_experiment, units, write_tuned
from lensbench.sweep.tuning import Tuner
from tests.rows import blank
from tests.scoring.conftest import save_pictures

LENSBENCH = str(Path(sys.executable).with_name("lensbench"))
TEXT = """
from lensbench.experiment import Experiment
from lensbench.sweep.sweep import Range, Sweep, Tuning

base = Experiment().replace(
    {
        "corpus.size_px": 16, "images": 16, "text_encoder.layers": (0,), "model.depth": 1, "training.steps": 16,
        "training.batch": 4, "evaluation.prompts_per_task": 1, "evaluation.images_per_task": 1,
        "evaluation.scene_images": 8, "evaluation.validation_images": 8, "evaluation.sampling_steps": 1,
        "training.watch_images": 0,
    }
)
sweep = Sweep(
    name="tiny",
    base=base,
    factors={"captions.set": ("alt", "detailed"), "seed": (0, 1)},
    reference={"captions.set": "alt"},
    tuning=Tuning(
        search={"training.learning_rate": Range(low=1e-3, high=0.1, log=True), "training.clip": (0.3, 1.0)},
        trials=3,
        images=8,
        CHANGES
    ),
)
"""


def write(folder: Path, changes: str = "", trials: int = 3) -> Path:
    path = folder / "tiny.py"
    path.write_text(TEXT.replace("CHANGES", changes).replace("trials=3", f"trials={trials}"))
    return path


def lensbench(*words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"COLUMNS": "80", "OMP_NUM_THREADS": "1"}
    return subprocess.run([LENSBENCH, *words], cwd=cwd, env=environment, capture_output=True, text=True, timeout=250)


def tuner(folder: Path, changes: str = "", trials: int = 3) -> Tuner:
    path = write(folder, changes, trials)
    runs = folder / "runs"
    runs.mkdir(exist_ok=True)
    return Tuner(load(path), runs, address(None, runs), print)


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder whose tuning one worker has done, with nothing in its way."""
    folder = tmp_path_factory.mktemp("tuned")
    write(folder)
    refused = lensbench("run", "tiny.py", "--workers", "1", cwd=folder)
    assert refused.returncode == 2
    assert refused.stderr == "lensbench: tiny.tuned.json: not there: the sweep is tuned first, with lensbench tune\n"
    assert not (folder / "runs").exists()
    tuned = lensbench("tune", "tiny.py", "--workers", "1", cwd=folder)
    assert (tuned.returncode, tuned.stderr) == (0, "")
    return folder


def test_every_arm_gets_its_trials_and_its_cells_the_best_values(done: Path) -> None:
    sweep = prepared(done / "tiny.py", None)
    told = read_tuned(load(done / "tiny.py"), done / "tiny.tuned.json")
    assert [len(entry["trials"]) for entry in told["units"]] == [3, 3]
    assert {trial["steps"] for entry in told["units"] for trial in entry["trials"]} == {16}
    first = [[trial["values"] for trial in entry["trials"][:2]] for entry in told["units"]]
    assert first[0] == first[1], "before anything is learned every arm tries the same"
    assert first[0][0] == {"training.learning_rate": 6e-3, "training.clip": 0.3}, "the base's own values first"
    assert len({str(trial["values"]) for trial in told["units"][0]["trials"]}) == 3
    for cell in cells(sweep):
        entry = next(e for e in told["units"] if e["levels"]["captions.set"] == cell.levels["captions.set"])
        best = min(entry["trials"], key=lambda trial: trial["objective"])
        assert entry["objective"] == best["objective"]
        assert cell.experiment.training.learning_rate == best["values"]["training.learning_rate"]
        assert cell.experiment.training.clip == best["values"]["training.clip"]
        assert cell.id == cell.experiment.cell_id()
    assert len({cell.id for cell in cells(sweep)}) == 4
    assert sweep.tuned["digest"] == told["digest"]


def test_trials_see_nothing_that_is_reported(done: Path) -> None:
    sweep = load(done / "tiny.py")
    reported = [cell.experiment for cell in cells(prepared(done / "tiny.py", None))]
    (unit, *_) = units(sweep).values()
    trial = trial_experiment(sweep, unit, {}, 1000)
    seen = max(max(e.evaluation.validation_images, e.evaluation.scene_images) for e in reported)
    assert trial.evaluation.validation_skip == seen
    assert trial.seed not in {experiment.seed for experiment in reported}
    assert trial.evaluation.prompt_seed not in {experiment.evaluation.prompt_seed for experiment in reported}
    folders = [json.loads(path.read_text()) for path in done.glob("runs/tuning/*/*/experiment.json")]
    assert len(folders) == 6
    assert {told["evaluation"]["validation_skip"] for told in folders} == {seen}
    assert not list(done.glob("runs/*/records.parquet")), "trials are no cells of the sweep"


def test_the_plan_and_the_tables_tell_the_budget(done: Path, tmp_path: Path) -> None:
    plan = lensbench("plan", "tiny.py", cwd=done).stdout
    assert "3 trials of 16 steps for each of 2 arms and sizes; complete" in " ".join(plan.split())
    table = tuning_table(read_tuned(load(done / "tiny.py"), done / "tiny.tuned.json"))
    assert [row.cells[0].text for row in table.rows] == ["alt-text", "detailed"]
    assert [row.cells[1].value for row in table.rows] == [3, 3]
    assert [row.cells[3].value for row in table.rows] == [48, 48]
    drawn = tuning_figure(read_tuned(load(done / "tiny.py"), done / "tiny.tuned.json"), tmp_path / "tuning")
    assert all(path.stat().st_size > 1000 for path in drawn)


def test_a_changed_sweep_is_tuned_again(done: Path, tmp_path: Path) -> None:
    path = write(tmp_path)
    text = (done / "tiny.tuned.json").read_text()
    (tmp_path / "tiny.tuned.json").write_text(text)
    assert cells(prepared(path, None))
    path.write_text(path.read_text().replace('"images": 16', '"images": 20'))
    with pytest.raises(ValueError, match="of another tuning"):
        prepared(path, None)
    (tmp_path / "tiny.tuned.json").write_text(text[:-40])
    with pytest.raises(ValueError, match="not what lensbench tune writes"):
        prepared(write(tmp_path), None)


OTHER = """
from sweeps.tiny import base
from lensbench.sweep.sweep import Sweep

sweep = Sweep(
    name="other",
    base=base,
    factors={"captions.set": ARMS, "model.depth": (1, 2), "seed": (0,)},
    reference={"captions.set": "alt"},
    tuned_by="tiny",
)
"""


@pytest.fixture
def project(done: Path, tmp_path: Path) -> Path:
    """sweeps/tiny.py with what its tuning found, and room for another sweep."""
    folder = tmp_path / "sweeps"
    folder.mkdir()
    write(folder)
    (folder / "tiny.tuned.json").write_text((done / "tiny.tuned.json").read_text())
    return folder


def other(project: Path, arms: str = '("alt", "detailed")') -> Path:
    path = project / "other.py"
    path.write_text(OTHER.replace("ARMS", arms))
    return path


def by_itself(path: Path) -> Path:
    """The sweep with the base written out in place of its import."""
    path.write_text(path.read_text().replace("from sweeps.tiny import base", TEXT[: TEXT.index("sweep = ")]))
    return path


def test_another_sweep_takes_what_was_found_for_its_arms(project: Path) -> None:
    found = {entry["levels"]["captions.set"]: entry["values"] for entry in
             json.loads((project / "tiny.tuned.json").read_text())["units"]}  # fmt: skip
    sweep = prepared(other(project), None)
    for cell in cells(sweep):
        recipe = cell.experiment.training
        assert {"training.learning_rate": recipe.learning_rate, "training.clip": recipe.clip} == found[
            cell.levels["captions.set"]
        ], "at both depths, though one was tuned at"
    assert len(cells(sweep)) == 4
    shallow = {cell.id for cell in cells(sweep) if cell.levels["model.depth"] == 1}
    assert shallow < {cell.id for cell in cells(prepared(project / "tiny.py", None))}, "trained once for both sweeps"
    assert any("as tuned for each arm of tiny" in note for note in collect(sweep, project / "runs").notes)
    plan = lensbench("plan", "sweeps/other.py", cwd=project.parent)
    assert "tuning as tiny" in " ".join(plan.stdout.split()), plan.stderr


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda folder: (folder / "tiny.tuned.json").unlink(), "the sweep is tuned first, with lensbench tune"),
        (lambda folder: (folder / "tiny.py").unlink(), "no such sweep file"),
        (lambda folder: write(folder, trials=4), "of another tuning"),
        (
            lambda folder: by_itself(other(folder, '("alt", "brief")')),
            r"the captions of \[set=brief depth=1 seed=0\] were not tuned there",
        ),
    ],
)
def test_what_was_not_found_is_said_in_one_line(project: Path, spoil: Any, words: str) -> None:
    path = by_itself(other(project))
    spoil(project)
    with pytest.raises(ValueError, match=words) as caught:
        prepared(path, None)
    assert "\n" not in str(caught.value)


def test_values_are_found_on_a_folder_of_photographs_too(tmp_path: Path) -> None:
    photos = save_pictures(tmp_path / "photos", 12, seed=1, side=32)
    for picture in sorted(photos.glob("*.png")):
        for name in ("alt", "detailed"):
            picture.with_suffix(f".{name}.txt").write_text(f"{name} picture {picture.stem}")
    (tmp_path / "sweeps").mkdir()
    path = write(tmp_path / "sweeps", trials=1)
    tuned = on_corpus(load(path), path, photos)
    found = [{"unit": name, "levels": {}, "values": {"training.clip": 0.25}} for name in units(tuned)]
    write_tuned(tuned, found, path.with_suffix(".tuned.json"))
    sweep = prepared(by_itself(other(tmp_path / "sweeps")), photos)
    assert {cell.experiment.training.clip for cell in cells(sweep)} == {0.25}


@pytest.mark.slow
def test_killed_workers_leave_every_arm_its_budget_and_one_alone_the_same_values(done: Path, tmp_path: Path) -> None:
    write(tmp_path)
    for kill_after in (1, 3):  # trials that are under way or done
        process = subprocess.Popen([LENSBENCH, "tune", "tiny.py", "--workers", "1"], cwd=tmp_path)
        limit = time.monotonic() + 200
        while len(list(tmp_path.glob("runs/tuning/*/*/experiment.json"))) < kill_after:
            assert process.poll() is None
            assert time.monotonic() < limit
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
        process.wait()
    again = lensbench("tune", "tiny.py", "--workers", "1", cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    assert (tmp_path / "tiny.tuned.json").read_bytes() == (done / "tiny.tuned.json").read_bytes()


@pytest.mark.slow
def test_two_workers_share_the_trials(tmp_path: Path) -> None:
    write(tmp_path)
    done = lensbench("tune", "tiny.py", "--workers", "2", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    told = json.loads((tmp_path / "tiny.tuned.json").read_text())
    assert [len(entry["trials"]) for entry in told["units"]] == [3, 3]
    assert lensbench("tune", "tiny.py", cwd=tmp_path).stdout.endswith("of this tuning: nothing to do\n")


class Losses:
    """A cell that trains nothing: its loss depends on the rate, the seed and the step, as it writes them."""

    def __init__(self, bad: float = 0.0, dies: int = 0, best: float = 0.03) -> None:
        self.ran: list[Experiment] = []
        self.bad, self.dies, self.best = bad, dies, best

    def __call__(
        self, experiment: Experiment, directory: Path, *, cache: Path, report: Any, evaluations: Any = ()
    ) -> None:
        self.ran.append(experiment)
        if len(self.ran) <= self.dies:
            raise RuntimeError("the device fell off")
        if experiment.training.learning_rate < self.bad:
            raise ValueError("the loss is nan at step 3 (10 without a number in a row): lower training.learning_rate")
        directory.mkdir(parents=True, exist_ok=True)
        last = experiment.training.steps
        rows = ["step,form,validation_loss"]
        for step in (1, 2, 4, 8, 16):
            rows += [f"{step},{form},{loss}" for form, loss in self.by_form(experiment, step).items()]
            (directory / "watch.csv").write_text("\n".join(rows) + "\n")
            report(Progress("training", step, last))
        found = []
        for form, loss in self.by_form(experiment, last).items():
            row = blank(RECORDS) | {
                "metric": "validation_loss", "prompt_form": form, "value": loss, "step": last,
                "evaluation_hash": experiment.evaluation_hash(), "held_out_digest": "h",
            }  # fmt: skip
            found += [row]
        fact = row | {"metric": "train_seconds", "prompt_form": "", "evaluation_hash": ""}
        write_cell(directory, experiment, pd.DataFrame([*found, fact]), pd.DataFrame())

    def by_form(self, experiment: Experiment, step: int) -> dict[str, float]:
        """Alt-text does well on short prompts, whatever else on detailed ones; far from well on the other wording."""
        own = "short" if experiment.captions.set == "alt" else "detailed"
        loss = self.loss(experiment, step)
        return {form: loss if form in (own, "repeated") else 10 - loss for form in experiment.evaluation.forms}

    def loss(self, experiment: Experiment, step: int) -> float:
        return abs(experiment.training.learning_rate - self.best) + 1 / step + 1e-3 * (experiment.seed % 7)


def test_a_tuning_finds_the_best_rate_with_trials_that_diverge_counted(tmp_path: Path) -> None:
    worker = tuner(tmp_path, "sampler='gp', prompt_seed=7,")
    losses = Losses(bad=7e-3)  # the base's own rate diverges
    worker.work(losses)
    assert worker.progress() == (6, 6)
    for entry in worker.findings():
        states = [trial["state"] for trial in entry["trials"]]
        assert states[0] == "pruned"
        best = [trial["objective"] for trial in entry["trials"] if trial["state"] == "complete"]
        assert entry["objective"] == min(best)


@pytest.mark.parametrize(("form", "arms"), [("best", {"alt", "detailed"}), ("short", {"alt"})])
def test_an_arm_is_tuned_on_the_wording_that_it_does_best_on(tmp_path: Path, form: str, arms: set[str]) -> None:
    """Where the loss is high on the other wording it falls as the rate leaves what is best."""
    tuned = tuner(tmp_path, f'form="{form}"', trials=8)
    tuned.work(Losses())
    for entry in tuned.findings():
        losses = [trial["objective"] for trial in entry["trials"]]
        nearest = min(entry["trials"], key=lambda t: abs(math.log(t["values"]["training.learning_rate"] / 0.03)))
        is_own = entry["levels"]["captions.set"] in arms
        assert (max(losses) < 5) == is_own
        assert (entry["values"] == nearest["values"]) == is_own


def test_asha_stops_trials_and_counts_them_as_finished(tmp_path: Path) -> None:
    worker = tuner(tmp_path, "pruner='asha', sampler_seed=3, steps=16,", trials=8)
    worker.work(Losses())
    trials = [trial for entry in worker.findings() for trial in entry["trials"]]
    assert len(trials) == 16
    pruned = [trial for trial in trials if trial["state"] == "pruned"]
    assert pruned
    assert all(trial["steps"] < 16 for trial in pruned)
    assert all(entry["objective"] is not None for entry in worker.findings())


def test_wilcoxon_compares_seeds(tmp_path: Path) -> None:
    worker = tuner(tmp_path, "pruner='wilcoxon', seeds=tuple(range(1000, 1008)),")
    losses = Losses(best=6e-3)  # the base's own
    worker.work(losses)
    per_trial = [trial["steps"] // 16 for entry in worker.findings() for trial in entry["trials"]]
    assert per_trial[0] == 8, "the first has nothing to be compared with"
    assert len(losses.ran) == sum(per_trial)
    assert min(per_trial) < 8


def test_a_trial_whose_process_died_is_queued_again_and_one_that_fails_is_tried_three_times(tmp_path: Path) -> None:
    import optuna

    worker = tuner(tmp_path)
    orphan = worker.units[0].study.ask(worker.distributions)  # nobody holds its lock
    losses = Losses(dies=2)
    worker.work(losses)
    states = [trial.state for trial in worker.units[0].study.get_trials()]
    assert states[orphan.number] == optuna.trial.TrialState.FAIL
    assert [len(entry["trials"]) for entry in worker.findings()] == [3, 3]
    assert (
        worker.findings()[0]["trials"][0]["values"]["training.learning_rate"] == orphan.params["training.learning_rate"]
    )
    hopeless = tuner(tmp_path, "prompt_seed=9,")
    failing = Losses(dies=10**6)
    hopeless.work(failing)
    assert len(failing.ran) == 3 * 6
    with pytest.raises(ValueError, match=r"came to its end .*the device fell off"):
        hopeless.findings()


def test_a_users_mistake_ends_the_tuning_in_its_own_words(tmp_path: Path) -> None:
    worker = tuner(tmp_path)

    def wrong(experiment: Experiment, directory: Path, **how: Any) -> None:
        raise ValueError("the corpus holds no image")

    with pytest.raises(ValueError, match="the corpus holds no image"):
        worker.work(wrong)
    worker.work(Losses())
    assert worker.progress() == (6, 6)
