"""The rules of the shapes world reword its prompts exactly as its own evaluation words them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lensbench.captioner.rewriting import digest, publish, ruled_rows
from lensbench.experiment import Evaluation
from lensbench.scoring.shapes_prompts import prompt_set, reworded


@pytest.mark.parametrize("prompt_seed", [1, 5])
def test_rules_give_what_a_cell_is_scored_on(prompt_seed: int) -> None:
    prompts = prompt_set(Evaluation(forms=("short", "detailed"), prompt_seed=prompt_seed, prompts_per_task=12))
    short = [prompt.texts["short"] for prompt in prompts]
    assert reworded(short, prompt_seed) == [prompt.texts["detailed"] for prompt in prompts]
    assert reworded(short, prompt_seed + 1) != reworded(short, prompt_seed)


def test_rules_know_the_shapes_world_alone() -> None:
    with pytest.raises(ValueError, match="no prompt 'a photo of a bench'"):
        reworded(["a photo of a circle", "a photo of a bench"], 1)


def test_a_published_file_never_changes(tmp_path: Path) -> None:
    out = tmp_path / "both.jsonl"
    rows = [{"prompt": "a photo of a circle", "tag": "single_object"}]
    lines = ruled_rows(rows, ["a red circle"], 1)
    assert publish(lines, out)
    assert not publish(lines, out)
    was = out.read_bytes()
    others = ruled_rows(rows, ["a blue circle"], 1)
    assert digest(others) != digest(lines)
    with pytest.raises(ValueError, match="says otherwise"):
        publish(others, out)
    assert out.read_bytes() == was
    (line,) = map(json.loads, was.splitlines())
    assert line["detailed"] == "a red circle"
    assert line["tag"] == "single_object"
    assert (line["captioner"], line["parameters"]) == ("rules", {"prompt_seed": 1})
