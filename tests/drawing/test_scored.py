"""`lensbench geneval` and `score` on a cell: its pictures are drawn for the occasion, and no others."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from lensbench import cli
from lensbench.experiment import Experiment, FolderCorpus
from tests.scoring.conftest import clip_model, save_pictures


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    def command(*words: object) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["lensbench", *map(str, words)])
        with pytest.raises(SystemExit) as left:
            cli.main()
        out, err = capsys.readouterr()
        return int(left.value.code or 0), out, err

    return command


@pytest.fixture
def own(cell: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(cell, tmp_path / "cell"))


def test_a_cell_of_the_shapes_world_is_judged_by_the_shapes_judge(own: Path, run: Callable[..., tuple]) -> None:
    code, out, err = run("geneval", own, "--form", "detailed")
    assert code == 0, err
    assert "shapes judge" in out
    (folder,) = (own / "drawn").iterdir()
    assert folder.name.startswith("10-"), "of the last checkpoint"
    rows = [json.loads(line) for line in (folder / "results.jsonl").read_text().splitlines()]
    assert len(rows) == 24
    assert all(row["prompt"] == json.loads(row["metadata"])["prompt"] for row in rows)
    stamps = {path: path.stat().st_mtime_ns for path in folder.glob("*/samples/*.png")}
    assert run("geneval", own, "--form", "detailed")[0] == 0
    assert {path: path.stat().st_mtime_ns for path in stamps} == stamps, "drawn once"
    assert run("geneval", own, "--form", "detailed", "--step", 2)[0] == 0
    assert run("geneval", own)[0] == 0
    assert len(list((own / "drawn").iterdir())) == 3, "another checkpoint or wording is another folder"


def test_a_cell_of_photographs_draws_its_held_out_captions(
    own: Path, tmp_path: Path, run: Callable[..., tuple], experiment: Experiment
) -> None:
    photos = save_pictures(tmp_path / "photos", 80, seed=1, side=32)
    for picture in sorted(photos.glob("*.png")):
        picture.with_suffix(".alt.txt").write_text(f"picture {picture.stem}")
        picture.with_suffix(".detailed.txt").write_text(f"a smooth picture called {picture.stem}, of no thing at all")
    corpus = FolderCorpus(path=photos, size_px=16)
    own_experiment = Experiment.model_validate(experiment.model_dump() | {"corpus": corpus})
    (own / "experiment.json").write_text(own_experiment.model_dump_json())
    clip_model(tmp_path / "clip")
    weights = ("--weights", f"clip-b32={tmp_path / 'clip'}", "--device", "cpu")
    scores = tmp_path / "scores.json"
    code, _, err = run("score", own, "--form", "detailed", *weights, "--out", scores)
    assert code == 0, err
    (folder,) = (own / "drawn").iterdir()
    prompts = [json.loads(path.read_text())["prompt"] for path in sorted(folder.glob("*/metadata.jsonl"))]
    assert all(prompt.startswith("a smooth picture") for prompt in prompts)
    assert 8 <= len(prompts) <= 24, "a fifth of the photographs is held out"
    told = json.loads(scores.read_text())["scores"]
    assert told
    assert all(row["images"] == len(prompts) for row in told)


def test_options_of_models_are_refused_for_folders(own: Path, tmp_path: Path, run: Callable[..., tuple]) -> None:
    pictures = save_pictures(tmp_path / "pictures", 4, seed=1)
    for words, said in (
        (("geneval", pictures, "--form", "short"), "--form and --step are for those"),
        (("geneval", pictures, "--prompts", "geneval"), "drawn already"),
        (("score", pictures, "--step", "2", "--against", pictures), "--form and --step are for those"),
        (("geneval", own, "--step", "3"), "checkpoints at 2, 10"),
    ):
        code, _, err = run(*words)
        assert (code, err.count("\n")) == (2, 1), err
        assert said in err
