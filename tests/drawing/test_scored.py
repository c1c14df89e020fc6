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
        (("geneval", pictures, "--prompts", "geneval"), "no prompt's folder"),
        (("score", pictures, "--step", "2", "--against", pictures), "--form and --step are for those"),
        (("geneval", own, "--step", "3"), "checkpoints at 2, 10"),
    ):
        code, _, err = run(*words)
        assert (code, err.count("\n")) == (2, 1), err
        assert said in err


GENEVAL_ROW = '{"tag": "single_object", "include": [{"class": "circle", "count": 1}], "prompt": "a photo of a circle"}'


def test_generate_score_and_geneval_take_one_file_of_prompts(
    own: Path, tmp_path: Path, run: Callable[..., tuple]
) -> None:
    clip_model(tmp_path / "clip")
    weights = ("--weights", f"clip-b32={tmp_path / 'clip'}", "--device", "cpu")
    file, out = tmp_path / "prompts.jsonl", tmp_path / "images"
    file.write_text(GENEVAL_ROW + "\n" + GENEVAL_ROW.replace("circle", "square") + "\n")
    assert run("generate", own, out, "--prompts", file, "--samples", "3")[0] == 0
    found = tmp_path / "scores.json"
    code, told, err = run("score", out, "--prompts", file, *weights, "--out", found)
    assert (code, err) == (0, "")
    assert "warning" not in told
    (cosine, *_) = json.loads(found.read_text())["scores"]
    assert (cosine["images"], cosine["details"]["prompts"]) == (6, 2)
    texts = [f"a photo of a {word}" for word in ("circle", "square") for _ in range(3)]
    assert [row["text"] for row in cosine["details"]["outcomes"]] == texts
    assert run("geneval", out, "--prompts", file, "--detector", "shapes")[0] == 0
    file.write_text(GENEVAL_ROW + "\n" + GENEVAL_ROW.replace("circle", "ring") + "\n")
    code, _, err = run("geneval", out, "--prompts", file, "--detector", "shapes")
    assert (code, err.count("\n")) == (2, 1)
    assert "prompt 1 is 'a photo of a ring'" in err
    code, told, _ = run("score", out, "--prompts", file, *weights)
    assert code == 0
    assert "3 of 6 images are scored against other prompts than" in told.replace("\n", " ")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("score", "--against", "real", "--metrics", "fid"), "FID needs the Inception weights"),
        (("score", "--against", "real", "--metrics", "clip_score"), "clip"),
        (("score", "--against", "nowhere", "--metrics", "fd:shapes"), "no folder nowhere"),
        (("score", "--against", "ten", "--metrics", "fd:shapes"), "10 reference pictures for 64 features"),
        (("score", "--against", "real", "--metrics", "kd:shapes", "--prompts", "two.txt"), "8 drawn pictures"),
        (("score", "--form", "short", "--metrics", "fd:shapes"), "compares two sets"),
        (("score", "--against", "real", "--metrics", "fd:shapse"), "no extractor 'shapse'"),
        (("score", "--against", "real", "--metrics", "fd:shapes", "--prompts", "none.txt"), "none.txt"),
        (("geneval", "--prompts", "two.txt"), "prompt 0 lacks tag, include"),
        (("geneval", "--detector", "nowhere.py"), "nowhere.py"),
    ],
)
def test_what_a_command_will_miss_is_found_before_anything_is_drawn(
    own: Path,
    tmp_path: Path,
    run: Callable[..., tuple],
    monkeypatch: pytest.MonkeyPatch,
    words: tuple[str, ...],
    said: str,
) -> None:
    save_pictures(tmp_path / "real", 30, seed=2)
    save_pictures(tmp_path / "ten", 10, seed=3)
    (tmp_path / "two.txt").write_text("a circle\na square\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LENSBENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    code, _, err = run(words[0], own, *words[1:])
    assert (code, err.count("\n")) == (2, 1), err
    assert said in err
    assert not list(tmp_path.rglob("drawn/*")), "nothing was drawn"
