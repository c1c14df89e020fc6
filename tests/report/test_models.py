"""Models side by side, from the folders that they drew."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from lensbench.data.shapes import render, scene_matching
from lensbench.experiment import Evaluation
from lensbench.report.models import models_table, open_drawn
from lensbench.scoring.detectors import ShapesJudge
from lensbench.scoring.geneval_folder import judge_folder, open_prompts
from lensbench.scoring.own_detector import open_own
from lensbench.scoring.picture_folder import PictureFolder
from lensbench.scoring.shapes_prompts import prompt_set
from lensbench.streams import numpy_stream

PROMPTS = prompt_set(Evaluation(prompts_per_task=4, images_per_task=8), 4)
SETTINGS = {"steps": 12, "guidance": 2.0, "height": 32, "width": 32, "samples": 2}


def folder(path: Path, every: int, parameters: dict[str, int], prompts: int = len(PROMPTS)) -> Path:
    """Pictures of which each `every`-th is empty and the others right, judged by the shapes judge."""
    pictures = PictureFolder(path)
    pictures.begin([{**prompt.row, "prompt": prompt.texts["short"]} for prompt in PROMPTS[:prompts]], SETTINGS)
    pictures.note_session({"checkpoint": path.name, "parameters": parameters, "hardware": "a test"})
    pictures.note_cost(0.25, {"process": 3 * 2**30})
    for place, prompt in enumerate(PROMPTS[:prompts]):
        for sample in range(2):
            right = render(scene_matching(prompt.row, numpy_stream(sample, "right", place)), 32)
            pictures.save(place, sample, right if (2 * place + sample) % every else np.zeros((32, 32, 3), np.uint8))
    judge_folder(open_prompts(path), ShapesJudge.load())
    return path


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    base = tmp_path_factory.mktemp("models")
    return [
        folder(base / "half", 2, {"denoiser": 1_200_000}),
        folder(base / "most", 8, {"unet": 2_600_000_000, "vae": 80_000_000}),
    ]


def test_size_cost_and_score_of_each_and_the_paired_difference(folders: list[Path]) -> None:
    table = models_table(open_drawn(folders))
    rows = [{column.name: cell for column, cell in zip(table.columns, row.cells, strict=True)} for row in table.rows]
    assert [row["model"].text for row in rows] == ["half", "most"]
    assert [row["parameters"].text for row in rows] == ["1.2 M", "2.60 B"]
    assert [row["all_parameters"].text for row in rows] == ["1.2 M", "2.68 B"]
    assert [row["seconds"].text for row in rows] == ["0.25", "0.25"]
    assert [row["memory"].text for row in rows] == ["3.0", "3.0"]
    half, most = rows
    assert half["score"].value == pytest.approx(0.5)
    assert half["difference"].text == ""
    assert most["difference"].value == pytest.approx(float(most["score"].value or 0) - 0.5)
    assert most["difference"].mark == "*"
    assert most["difference"].low > 0
    assert most["score"].chance_shown
    assert most["score"].mark == "", "right pictures are above chance"
    assert any(note.startswith("Chance: what the same images score") for note in table.notes)


def test_other_prompts_do_not_compare(folders: list[Path], tmp_path: Path) -> None:
    other = folder(tmp_path / "other", 2, {}, prompts=len(PROMPTS) - 1)
    with pytest.raises(ValueError, match="drawn from different prompts"):
        open_drawn([folders[0], other])


def test_what_is_not_judged_or_not_whole_is_said(folders: list[Path], tmp_path: Path) -> None:
    bare = tmp_path / "bare"
    PictureFolder(bare).begin([{**PROMPTS[0].row, "prompt": "x"}], SETTINGS)
    with pytest.raises(ValueError, match="run lensbench geneval"):
        open_drawn([folders[0], bare])
    lacking = folder(tmp_path / "lacking", 3, {})
    (lacking / "00001" / "samples" / "0001.png").unlink()
    with pytest.raises(ValueError, match="lack images"):
        open_drawn([folders[0], lacking])


def test_of_several_judges_one_is_chosen(folders: list[Path], tmp_path: Path) -> None:
    path = folder(tmp_path / "twice", 2, {})
    code = "def detect(image):\n    return {}\ndef color(image, name, box):\n    return 'red'\n"
    (tmp_path / "own.py").write_text(code)
    own = open_own(tmp_path / "own.py")
    judge_folder(open_prompts(path), own)
    with pytest.raises(ValueError, match="choose one with --judge"):
        open_drawn([path])
    (blind,) = open_drawn([path], own.digest[:6])
    assert not any(row["value"] for row in blind.rows)
    # the one that judged both needs no name
    assert open_drawn([path, folders[0]])[1].judge.startswith("shapes judge")
