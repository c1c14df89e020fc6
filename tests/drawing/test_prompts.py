"""Which prompts are drawn: the official ones, a file's, a cell's own."""

from __future__ import annotations

from pathlib import Path

import pytest

from lensbench.drawing.prompts import find_prompts, read_prompt_file
from lensbench.experiment import Experiment, Form
from lensbench.scoring.geneval import official_metadata_jsonl, official_prompts
from lensbench.scoring.shapes_prompts import prompt_set

FORMS: tuple[Form, ...] = ("short", "detailed")


def test_geneval_is_the_553_official_rows_with_four_pictures_each() -> None:
    prompts = find_prompts("geneval", None, None, None)
    assert prompts.rows == official_prompts()
    assert prompts.samples == [4] * 553
    assert find_prompts("geneval", None, None, 1).samples == [1] * 553


@pytest.mark.parametrize("form", FORMS)
def test_a_cell_is_asked_what_it_is_scored_on(form: Form) -> None:
    experiment = Experiment()
    found = find_prompts(None, experiment, form, None)
    expected = prompt_set(experiment.evaluation)
    assert [row["prompt"] for row in found.rows] == [prompt.texts[form] for prompt in expected]
    assert found.samples == [prompt.samples for prompt in expected]
    assert [row["include"] for row in found.rows] == [prompt.row["include"] for prompt in expected]
    assert set(find_prompts(None, experiment, form, 2).samples) == {2}


def test_a_text_file_has_a_prompt_a_line(tmp_path: Path) -> None:
    (tmp_path / "p.txt").write_text("\ufeffa cat\r\n\n  ein Fuß \u2028 dort\n", encoding="utf-8")
    assert read_prompt_file(tmp_path / "p.txt") == [{"prompt": "a cat"}, {"prompt": "ein Fuß \u2028 dort"}]


def test_a_json_lines_file_keeps_its_rows(tmp_path: Path) -> None:
    (tmp_path / "p.jsonl").write_text('{"prompt": "a cat", "tag": "single_object", "include": []}\n\n{"prompt": "b"}\n')
    rows = read_prompt_file(tmp_path / "p.jsonl")
    broken = '{"prompt": "a\u2028b\u0085c"}'
    (tmp_path / "q.jsonl").write_text(broken, encoding="utf-8")
    assert read_prompt_file(tmp_path / "q.jsonl") == [{"prompt": "a\u2028b\u0085c"}]
    assert rows == [{"prompt": "a cat", "tag": "single_object", "include": []}, {"prompt": "b"}]


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("p.csv", b"a", r"p.csv: must be \"geneval\", a .txt"),
        ("p.txt", b"\n \n", "p.txt: holds no prompt"),
        ("p.txt", b"\xff\xfea", "p.txt: not UTF-8 text"),
        ("p.jsonl", b'{"prompt": "a"}\n{"text": "b"}', r"p.jsonl:2: must be an object with a text \"prompt\""),
        ("p.jsonl", b'{"prompt": " "}', "p.jsonl:1: must be"),
        ("p.jsonl", b"[1]", "p.jsonl:1: must be"),
        ("p.jsonl", b"\na cat", "p.jsonl:2: not JSON"),
        ("p.jsonl", b"\n", "p.jsonl: holds no prompt"),
        ("p.jsonl", b'{"prompt": "a \\ud83d"}', "p.jsonl:1: half of a character"),
    ],
)
def test_a_file_that_cannot_be_used_is_one_line(tmp_path: Path, name: str, content: bytes, said: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=said) as raised:
        find_prompts(str(tmp_path / name), None, None, None)
    assert "\n" not in str(raised.value)


def test_what_does_not_go_together_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="say which prompts to draw"):
        find_prompts(None, None, None, None)
    with pytest.raises(ValueError, match="form=short is for the prompts of a cell"):
        find_prompts("geneval", Experiment(), "short", None)
    with pytest.raises(ValueError, match="samples=0"):
        find_prompts("geneval", None, None, 0)


def test_the_digest_is_of_the_rows(tmp_path: Path) -> None:
    (tmp_path / "all.jsonl").write_bytes(official_metadata_jsonl())
    official = find_prompts("geneval", None, None, None)
    assert find_prompts(str(tmp_path / "all.jsonl"), None, None, None).digest == official.digest
    assert len({official.digest, *(find_prompts(None, Experiment(), form, 1).digest for form in FORMS)}) == 3
