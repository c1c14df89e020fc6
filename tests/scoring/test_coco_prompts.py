"""GenEval's own prompts within a sweep on photographs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lensbench.experiment import Evaluation, Experiment, FolderCorpus
from lensbench.scoring.coco_prompts import coco_prompts, detailed_digest
from lensbench.scoring.geneval import TASKS, official_prompts


def reworded(path: Path, leave_out: int = 0) -> Path:
    rows = official_prompts()[leave_out:]
    lines = [json.dumps({**row, "detailed": f"a picture of {row['prompt']}, in detail"}) for row in rows]
    path.write_text("\n".join(lines))
    return path


def test_all_of_them_are_the_553() -> None:
    found = coco_prompts(Evaluation(forms=("short",), prompts_per_task=100, images_per_task=400))
    texts = [prompt.texts["short"] for prompt in found]
    assert sorted(texts) == sorted(row["prompt"] for row in official_prompts())
    assert {prompt.samples for prompt in found} == {4, 5}, "400 a task: 80 to 100 prompts"


def test_a_smaller_set_is_the_beginning_of_a_larger_one() -> None:
    few, more = (coco_prompts(Evaluation(forms=("short",), prompts_per_task=n, images_per_task=n)) for n in (3, 9))
    for task in TASKS:
        texts = [[p.texts["short"] for p in found if p.task == task] for found in (few, more)]
        assert texts[1][:3] == texts[0]
    other = coco_prompts(Evaluation(forms=("short",), prompts_per_task=3, images_per_task=3, prompt_seed=2))
    assert [p.texts for p in other] != [p.texts for p in few]


def test_the_detailed_wording_is_that_of_the_file(tmp_path: Path) -> None:
    path = reworded(tmp_path / "detailed.jsonl")
    said = {"detailed_prompts": path, "detailed_prompts_digest": detailed_digest(path)}
    found = coco_prompts(
        Evaluation(forms=("short", "repeated", "detailed"), prompts_per_task=2, images_per_task=2, **said)
    )
    for prompt in found:
        assert prompt.texts["detailed"] == f"a picture of {prompt.texts['short']}, in detail"
        assert prompt.texts["repeated"].startswith(prompt.texts["short"])


def test_a_rewording_with_other_line_breaks_is_read_whole(tmp_path: Path) -> None:
    """`lensbench captions rewrite` writes texts as they are, so that a U+2028 stands in its file unescaped."""
    rows = [{**row, "detailed": f"{row['prompt']}\u2028and\u0085more"} for row in official_prompts()]
    path = tmp_path / "detailed.jsonl"
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    said = {"detailed_prompts": path, "detailed_prompts_digest": detailed_digest(path)}
    found = coco_prompts(Evaluation(forms=("detailed",), prompts_per_task=2, images_per_task=2, **said))
    assert all(prompt.texts["detailed"].endswith("\u2028and\u0085more") for prompt in found)


def test_a_wording_that_is_not_the_experiments_is_one_line(tmp_path: Path) -> None:
    path = reworded(tmp_path / "detailed.jsonl", leave_out=300)
    (tmp_path / "bad.jsonl").write_text('{"prompt": "a"}')
    short_of = {"detailed_prompts": path, "detailed_prompts_digest": detailed_digest(path)}
    for said, words in (
        ({}, "captions rewrite"),
        ({"detailed_prompts": path}, "detailed_prompts_digest='"),
        ({"detailed_prompts": path, "detailed_prompts_digest": "0" * 64}, "detailed_prompts_digest='"),
        ({"detailed_prompts": tmp_path / "none.jsonl"}, "no file of reworded prompts"),
        ({"detailed_prompts": tmp_path / "bad.jsonl"}, 'must be an object with "prompt" and "detailed"'),
        (short_of, "no detailed wording of"),
    ):
        with pytest.raises(ValueError, match=words) as caught:
            coco_prompts(Evaluation(**said))
        assert "\n" not in str(caught.value)


def test_who_judges_is_said_where_it_must_be() -> None:
    with pytest.raises(ValueError, match="is for photographs"):
        Experiment(evaluation=Evaluation(detector="mask2former"))
    with pytest.raises(ValueError, match=r"detector_model=FILE\.py"):
        Experiment(corpus=FolderCorpus(), captions={"set": "alt"}, evaluation=Evaluation(detector="own"))
