"""Prompts reworded once, into a file that never changes, and that is looked at before anything is paid."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fault_server import Reply, completion, good

from lensbench import cli
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


@pytest.fixture
def rewrite(
    server: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str, str]]:
    """`lensbench captions rewrite` as it is typed: exit code, and what it printed."""
    monkeypatch.setenv("OPENAI_API_KEY", "any")
    monkeypatch.setenv("OPENAI_BASE_URL", server.url)

    def run(*words: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["lensbench", "captions", "rewrite", *map(str, words)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        return (int(ended.value.code or 0), *capsys.readouterr())

    return run


def test_nothing_is_paid_for_a_file_that_can_not_be_written(rewrite: Any, server: Any, tmp_path: Path) -> None:
    short = tmp_path / "short.jsonl"
    short.write_text('{"prompt": "a photo of a bench"}\n')
    there = tmp_path / "there.jsonl"
    there.write_text('{"prompt": "another"}\n')
    (tmp_path / "link.jsonl").symlink_to(short)
    for out, said in (
        (there, "is there and says otherwise"),
        (short, "is the file of the prompts themselves"),
        (tmp_path / "link.jsonl", "is the file of the prompts themselves"),
        (tmp_path, "is a folder"),
        (short / "below.jsonl", "is no folder"),
    ):
        code, _, err = rewrite(short, out)
        assert (code, len(err.splitlines())) == (2, 1)
        assert said in err, err
    assert not server.calls
    assert short.read_text() == '{"prompt": "a photo of a bench"}\n'


def test_a_finished_file_is_not_paid_for_again_with_another_captioner_or_prompt(
    rewrite: Any, server: Any, tmp_path: Path
) -> None:
    (tmp_path / "short.txt").write_text("a photo of a bench\n")
    words = (tmp_path / "short.txt", tmp_path / "both.jsonl")
    assert rewrite(*words)[0] == 0
    was = (tmp_path / "both.jsonl").read_bytes()
    (tmp_path / "short.txt").write_text("a photo of a bench\na photo of a cat\n")
    for more in ((), ("--captioner", "gpt-4.1-mini")):
        code, _, err = rewrite(*words, *more)
        assert code == 2
        assert "is there and says otherwise" in err
    assert len(server.asked) == 1
    assert (tmp_path / "both.jsonl").read_bytes() == was


def test_a_rewording_that_failed_is_asked_for_again(rewrite: Any, server: Any, tmp_path: Path) -> None:
    (tmp_path / "short.txt").write_text("a photo of a bench\n")
    words = (tmp_path / "short.txt", tmp_path / "both.jsonl")
    server.answer = lambda key, nth, body: Reply(200, completion("")) if nth == 1 else good(key, nth, body)
    code, out, _ = rewrite(*words)
    assert code == 1
    assert "--again failed asks about them again" in out
    assert rewrite(*words)[0] == 1
    assert len(server.asked) == 1
    assert rewrite(*words, "--again", "failed,truncated")[0] == 0
    assert json.loads((tmp_path / "both.jsonl").read_text())["detailed"].startswith("caption of")
    code, _, err = rewrite(*words, "--again", "failed")
    assert (code, len(server.asked)) == (2, 2)
    assert "a file of prompts never changes" in err
