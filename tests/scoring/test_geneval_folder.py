"""GenEval on a folder: what is judged stays judged, in whatever parts, and scores need every picture."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lensbench.commands.geneval import table
from lensbench.data.shapes import render, scene_matching
from lensbench.experiment import Evaluation
from lensbench.report.table import AT_CHANCE
from lensbench.scoring.detectors import ShapesJudge
from lensbench.scoring.geneval import TASKS, official_prompts, summary
from lensbench.scoring.geneval_folder import (
    FIELDS,
    Seen,
    judge_folder,
    judged,
    open_prompts,
    outcomes,
    write_results,
)
from lensbench.scoring.own_detector import open_own
from lensbench.scoring.picture_folder import PictureFolder
from lensbench.scoring.shapes_prompts import prompt_set
from lensbench.streams import numpy_stream

PROMPTS = prompt_set(Evaluation(prompts_per_task=2, images_per_task=4), 4)
OWN = """
def detect(image):
    return {"circle": [(0, 0, 4, 4, float(image.mean()) / 255)]}
def color(image, name, box):
    return "red"
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures that show what their prompt asks for (sample 0) and empty ones (sample 1)."""
    path = tmp_path_factory.mktemp("geneval") / "pictures"
    folder = PictureFolder(path)
    folder.begin([{**prompt.row, "prompt": prompt.texts["short"]} for prompt in PROMPTS], {"seed": 0})
    for place, prompt in enumerate(PROMPTS):
        right = render(scene_matching(prompt.row, numpy_stream(0, "right", place)), 32)
        folder.save(place, 0, right)
        folder.save(place, 1, np.zeros((32, 32, 3), np.uint8))
    return path


@pytest.fixture
def pictures(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "pictures"))


class Counting(ShapesJudge):
    """The shapes judge, counting the pictures that it looks at; it can be made to stop."""

    looked = 0
    most = 10**6

    def look(self, images: Sequence[np.ndarray]) -> list[Seen]:  # type: ignore[override]
        if self.looked + len(images) > self.most:
            raise KeyboardInterrupt
        self.looked += len(images)
        return list(super().look(images))


def test_right_pictures_are_right_and_empty_ones_wrong(pictures: Path) -> None:
    prompts, judge = open_prompts(pictures), ShapesJudge.load()
    judge_folder(prompts, judge, batch=5)
    rows = outcomes(prompts, judged(prompts, judge))
    assert [row["value"] for row in rows] == [1.0, 0.0] * len(PROMPTS)
    assert all(row["reason"] for row in rows if not row["value"])
    found = summary(rows, prompts.plan())
    assert set(found.tasks.values()) == {0.5}
    assert found.prompts_any_correct == 1.0
    assert not prompts.official
    lines = [json.loads(line) for line in write_results(prompts, judged(prompts, judge)).read_text().splitlines()]
    assert [tuple(line) for line in lines] == [FIELDS] * len(rows)
    assert [line["filename"] for line in lines] == sorted(line["filename"] for line in lines)
    assert json.loads(lines[0]["metadata"])["prompt"] == lines[0]["prompt"]
    boxes = json.loads(lines[0]["details"])
    assert all(len(box) == 5 for group in boxes.values() for box in group)


def test_chance_is_what_a_picture_shows_of_the_other_prompts(pictures: Path) -> None:
    prompts, judge = open_prompts(pictures), ShapesJudge.load()
    judge_folder(prompts, judge)
    rows = outcomes(prompts, judged(prompts, judge))
    assert [row["chance"] for row in rows if not row["value"]] == [0.0] * len(PROMPTS)  # an empty picture shows nothing
    by_task = {task: [row["chance"] for row in rows if row["task"] == task] for task in TASKS}
    shown = table(prompts, judge, rows, summary(rows, prompts.plan()), None)
    place = [column.name for column in shown.columns].index("chance")
    for row, chances in zip(shown.rows, by_task.values(), strict=False):
        assert row.cells[place].value == pytest.approx(np.mean(chances))
        assert row.cells[place].text == f"{100 * np.mean(chances):.1f}"
    assert any("Chance: what the same images score for the other prompts" in note for note in shown.notes)
    (path,) = (pictures / "judged").glob("*.jsonl")
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    for line in lines:  # as an earlier version kept it
        del line["chance"], line["chance_of"]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    rows = outcomes(prompts, judged(prompts, judge))
    assert np.isnan([row["chance"] for row in rows]).all()
    shown = table(prompts, judge, rows, summary(rows, prompts.plan()), None)
    assert {row.cells[place].text for row in shown.rows} == {"\N{EN DASH}"}
    assert not any("chance" in note for note in shown.notes)


def test_the_chance_of_other_prompts_is_not_taken_for_todays(pictures: Path) -> None:
    prompts, judge = open_prompts(pictures), ShapesJudge.load()
    judge_folder(prompts, judge)
    row = json.loads((pictures / "00001" / "metadata.jsonl").read_text())
    (pictures / "00001" / "metadata.jsonl").write_text(json.dumps(row | {"prompt": "another"}))
    changed = open_prompts(pictures)
    rows = outcomes(changed, judged(changed, judge))
    assert {row["task"] for row in rows if np.isnan(row["chance"])} == {row["tag"]}


def test_a_picture_that_shows_what_is_asked_is_above_chance(pictures: Path) -> None:
    for place, _ in enumerate(PROMPTS):
        shutil.copy(pictures / f"{place:05d}/samples/0000.png", pictures / f"{place:05d}/samples/0001.png")
    prompts, judge = open_prompts(pictures), ShapesJudge.load()
    judge_folder(prompts, judge)
    rows = outcomes(prompts, judged(prompts, judge))
    mine = table(prompts, judge, rows, summary(rows, prompts.plan()), None)
    assert mine.rows[-1].cells[1].mark == ""
    names = sorted(path for path in pictures.iterdir() if path.name.isdecimal())  # two prompts a task
    for first, second in zip(names[::2], names[1::2], strict=True):
        (first / "samples").rename(pictures / "moved")
        (second / "samples").rename(first / "samples")
        (pictures / "moved").rename(second / "samples")
    prompts = open_prompts(pictures)
    judge_folder(prompts, judge)
    rows = outcomes(prompts, judged(prompts, judge))
    other = table(prompts, judge, rows, summary(rows, prompts.plan()), None)
    assert other.rows[-1].cells[1].mark == AT_CHANCE
    assert f"{AT_CHANCE}: not shown to be above chance" in " ".join(other.notes)


def test_a_stop_costs_what_was_under_way_and_no_more(pictures: Path) -> None:
    prompts, judge = open_prompts(pictures), Counting.load()
    total = len(prompts.pictures)
    judge.most = total // 2
    with pytest.raises(KeyboardInterrupt):
        judge_folder(prompts, judge, batch=3)
    done = judge.looked
    assert 0 < done < total
    (path,) = (pictures / "judged").glob("*.jsonl")
    whole = path.read_bytes()
    path.write_bytes(whole[:-20])  # the last line cut short
    judge.most, judge.looked = 10**6, 0
    judge_folder(prompts, judge, batch=3)
    assert judge.looked == total - done + 1
    judge.looked = 0
    judge_folder(prompts, judge)
    assert judge.looked == 0
    assert len(judged(prompts, judge)) == total


def test_a_picture_drawn_anew_or_a_new_row_is_judged_anew(pictures: Path) -> None:
    prompts, judge = open_prompts(pictures), Counting.load()
    judge_folder(prompts, judge)
    shutil.copy(prompts.pictures[0].path, prompts.pictures[1].path)
    judge.looked = 0
    judge_folder(prompts, judge)
    assert judge.looked == 1
    assert outcomes(prompts, judged(prompts, judge))[1]["value"] == 1.0
    row = json.loads((pictures / "00000" / "metadata.jsonl").read_text())
    (pictures / "00000" / "metadata.jsonl").write_text(json.dumps(row | {"prompt": "another"}))
    judge.looked = 0
    judge_folder(open_prompts(pictures), judge)
    assert judge.looked == 2


def test_shards_make_up_the_whole(pictures: Path, made: Path, tmp_path: Path) -> None:
    prompts, judge = open_prompts(pictures), ShapesJudge.load()
    for shard in range(3):
        judge_folder(prompts, judge, shard=shard, shards=3)
    other = open_prompts(Path(shutil.copytree(made, tmp_path / "other")))
    judge_folder(other, judge)
    assert outcomes(prompts, judged(prompts, judge)) == outcomes(other, judged(other, judge))


def test_another_judge_judges_for_itself(pictures: Path, tmp_path: Path) -> None:
    prompts, judge = open_prompts(pictures), ShapesJudge.load()
    judge_folder(prompts, judge)
    (tmp_path / "own.py").write_text(OWN)
    own = open_own(tmp_path / "own.py")
    assert judged(prompts, own) == {}
    judge_folder(prompts, own)
    assert {row["judge"] for row in judged(prompts, own).values()} == {"own.py"}
    assert len(judged(prompts, judge)) == len(judged(prompts, own))


def test_a_judge_that_fails_its_self_test_judges_nothing(pictures: Path) -> None:
    judge = ShapesJudge.load()
    for parameter in judge.detector.parameters():
        parameter.zero_()
    with pytest.raises(ValueError, match="did not find the objects of its self-test picture"):
        judge_folder(open_prompts(pictures), judge)
    assert not (pictures / "judged").exists()


def test_missing_pictures_make_no_score(pictures: Path) -> None:
    (pictures / "00003" / "samples" / "0001.png").unlink()
    prompts, judge = open_prompts(pictures), ShapesJudge.load()
    judge_folder(prompts, judge)
    with pytest.raises(ValueError, match=r"1 of 12 prompts lack images .* prompt 3 \(1 of 2 images\)"):
        summary(outcomes(prompts, judged(prompts, judge)), prompts.plan())


def test_a_prompt_whose_folder_is_gone_makes_no_score(pictures: Path) -> None:
    shutil.rmtree(pictures / "00003")
    with pytest.raises(ValueError, match=r"pictures: 1 of 12 prompts are missing \(00003\): .* generate it again"):
        open_prompts(pictures)


def test_the_last_prompt_is_missed_where_it_is_known_how_many_were_asked_for(pictures: Path) -> None:
    record = json.loads((pictures / "generation.json").read_text())
    record["settings"]["samples"] = [2] * 12
    (pictures / "generation.json").write_text(json.dumps(record))
    assert open_prompts(pictures).missing() == 0
    shutil.rmtree(pictures / "00011")
    with pytest.raises(ValueError, match=r"1 of 12 prompts are missing \(00011\)"):
        open_prompts(pictures)


def test_a_part_of_the_official_prompts_has_no_overall(tmp_path: Path) -> None:
    folder, rows = PictureFolder(tmp_path / "part"), official_prompts()[:3]
    folder.begin(rows, {"seed": 0})
    for place in range(3):
        folder.save(place, 0, np.zeros((32, 32, 3), np.uint8))
    asked, judge = open_prompts(tmp_path / "part"), ShapesJudge.load()
    judge_folder(asked, judge)
    told = outcomes(asked, judged(asked, judge))
    found = table(asked, judge, told, summary(told, asked.plan()), None)
    assert [row.cells[0].text for row in found.rows] == ["single_object"]
    assert "3 of GenEval's 553 prompts: no overall" in " ".join(found.notes)


def run(*words: str) -> subprocess.CompletedProcess[str]:
    command = [str(Path(sys.executable).with_name("lensbench")), "geneval", *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def test_the_command_prints_its_scores_and_who_judged(pictures: Path) -> None:
    done = run(str(pictures), "--detector", "shapes")
    assert done.returncode == 0, done.stderr
    assert "50.0" in done.stdout
    assert "shapes judge" in done.stdout
    assert "other prompts than its 553" in " ".join(done.stdout.split())
    half = run(str(pictures), "--detector", "shapes", "--shard", "0/2")
    assert half.returncode == 0


MISTAKES: list[tuple[Callable[[Path], list[str]], str]] = [
    (lambda path: [str(path / "none"), "--detector", "shapes"], "no such folder"),
    (lambda path: [str(path / "judged_not"), "--detector", "shapes"], "no such folder"),
    (lambda path: [str(path), "--detector", str(path / "x.py")], "no such file"),
    (lambda path: [str(path), "--detector", "shapes", "--shard", "2/2"], "give I/N"),
    (lambda path: [str(path), "--detector", "shapes", "--colors", "x"], "--colors is for Mask2Former"),
    (lambda path: [str(path), "--detector", str(path)], "no config.json"),
    (lambda path: [str(path / "00000"), "--detector", "shapes"], "no prompt's folder"),
]


@pytest.mark.slow
@pytest.mark.parametrize(("words", "said"), MISTAKES)
def test_mistakes_are_one_line(words: Callable[[Path], list[str]], said: str, made: Path) -> None:
    done = run(*words(made))
    assert done.returncode == 2
    assert said in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("x = 1", "defines no function detect"),
        ("1 / 0", "ZeroDivisionError"),
        ("def detect(image): return [1]", "must give boxes by class"),
        ("def detect(image): return {'circle': [(1, 2, 3)]}", r"is not \(x1, y1, x2, y2, score\)"),
        ("def detect(image): return {c: [(0, 0, 9, 9, 1)] * 4 for c in ('circle', 'square', 'ring')}", "has no color"),
    ],
)
def test_an_own_detector_that_is_none_is_one_line(code: str, said: str, pictures: Path, tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(code)
    with pytest.raises(ValueError, match=said):
        judge_folder(open_prompts(pictures), open_own(tmp_path / "own.py"))


@pytest.mark.parametrize(
    ("content", "said"),
    [("[]", "no JSON object"), ("{", "no JSON object"), ('{"tag": "x", "prompt": "y"}', "lacks include")],
)
def test_a_row_that_is_none_is_named(content: str, said: str, pictures: Path) -> None:
    (pictures / "00002" / "metadata.jsonl").write_text(content)
    with pytest.raises(ValueError, match=f"00002/metadata.jsonl.*{said}"):
        open_prompts(pictures)


def test_a_broken_picture_ends_it_and_is_named(pictures: Path) -> None:
    (pictures / "00002" / "samples" / "0000.png").write_bytes(b"no picture")
    with pytest.raises(ValueError, match=r"00002/samples/0000\.png: cannot be read"):
        judge_folder(open_prompts(pictures), ShapesJudge.load())


def test_interrupted_it_says_how_to_go_on(pictures: Path, tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text("import time\ndef detect(image):\n    time.sleep(0.5)\n    return {}\n")
    command = [str(Path(sys.executable).with_name("lensbench")), "geneval", str(pictures), "--batch", "1"]
    child = subprocess.Popen(
        [*command, "--detector", str(tmp_path / "own.py")], stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    while not list((pictures / "judged").glob("*.jsonl")):
        assert child.poll() is None
    child.send_signal(signal.SIGINT)
    _, told = child.communicate(timeout=60)
    assert child.returncode == 130
    assert "continue with: " in told
    assert f"geneval {pictures} --batch 1" in told


def test_pictures_of_any_sizes_are_judged_together() -> None:
    scene = scene_matching(PROMPTS[0].row, numpy_stream(0, "sizes"))
    seen = ShapesJudge.load().look([render(scene, size) for size in (24, 32, 24, 48)])
    assert len({tuple(sorted(one.detections)) for one in seen}) == 1


def test_an_image_of_another_mode_is_read_as_rgb(pictures: Path) -> None:
    path = pictures / "00000" / "samples" / "0000.png"
    Image.open(path).convert("RGBA").save(path)
    prompts, judge = open_prompts(pictures), ShapesJudge.load()
    judge_folder(prompts, judge)
    assert outcomes(prompts, judged(prompts, judge))[0]["value"] == 1.0
