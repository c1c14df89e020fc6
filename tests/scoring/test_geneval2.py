"""GenEval 2: what is asked, what counts as the answer, and what is made of the probabilities."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lensbench.captioner.questions import ServerVlm
from lensbench.scoring.geneval2 import (
    SELF_TEST_ASKS,
    accepted,
    geometric_mean,
    judge_folder,
    judged,
    open_prompts,
    self_test,
    summary,
    write_results,
)
from lensbench.scoring.picture_folder import PictureFolder

# In the format of the published prompts, and none of them.
ROWS = [
    {
        "prompt": "two red kites above a wooden cart",
        "atom_count": 5,
        "vqa_list": [
            ["How many kites are in the image?", "two"],
            ["Are the kites red?", "Yes"],
            ["Are there any kites in the image?", "Yes"],
            ["Are the kites above the cart?", "Yes"],
            ["Is the cart wooden?", "Yes"],
            ["How many carts are in the image?", "one"],
        ],
        "skills": ["count", "attribute", "object", "position", "attribute", "count"],
    },
    {
        "prompt": "a green kite",
        "atom_count": 3,
        "vqa_list": [["How many kites are in the image?", "one"], ["Is the kite green?", "Yes"]],
        "skills": ["count", "attribute"],
    },
    {
        "prompt": "three blue carts",
        "atom_count": 3,
        "vqa_list": [["How many carts are in the image?", "three"], ["Are the carts blue?", "Yes"]],
        "skills": ["count", "attribute"],
    },
]


class Believer:
    """Says yes with the brightness of the picture as its probability, and knows its self-test."""

    name, digest = "believer", "b" * 64
    looked = 0
    right = True

    def answer(
        self, image: np.ndarray, questions: Sequence[str], accepted: Sequence[Sequence[str]]
    ) -> list[tuple[str, float]]:
        known = {f"{question} Answer in one word.": right for question, _, right in SELF_TEST_ASKS}
        if questions[0] in known:
            return [("x", 0.9 if known[question] == self.right else 0.1) for question in questions]
        self.looked += 1
        assert all(question.endswith(" Answer in one word.") for question in questions)
        p = float(image[0, 0, 0]) / 255
        return [("x", p if "Yes" in spelled else 0.5) for spelled in accepted]


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    path = tmp_path / "pictures"
    folder = PictureFolder(path)
    folder.begin(ROWS, {"samples": 1})
    for i in range(len(ROWS)):
        folder.save(i, 0, np.full((8, 8, 3), 51 * (i + 1), np.uint8))
    return path


def test_counts_may_be_words_or_digits_and_all_else_is_yes() -> None:
    assert accepted("How many cows are in the image?", "four") == ("four", "Four", " four", " Four", "4", " 4")
    assert accepted("Are the cows plastic?", "Yes") == ("Yes", "yes", " yes", " Yes")


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_the_geometric_mean_is_never_above_the_arithmetic_one(scores: list[float]) -> None:
    found = geometric_mean(scores)
    assert 0 <= found <= sum(scores) / len(scores) + 1e-12
    assert (found == 0) == (min(scores) == 0) or min(scores) < 1e-300
    assert math.isclose(geometric_mean([scores[0]] * 5), scores[0], rel_tol=1e-9, abs_tol=1e-300)


def test_means_by_hand(pictures: Path) -> None:
    prompts, vlm = open_prompts(pictures), Believer()
    judge_folder(prompts, vlm)
    means = {name: mean.estimate for name, mean in summary(prompts, judged(prompts, vlm)).items()}
    # yes is believed with 0.2, 0.4 and 0.6, a count always with 0.5
    am = [(2 * 0.5 + 4 * 0.2) / 6, (0.5 + 0.4) / 2, (0.5 + 0.6) / 2]
    gm = [(0.5**2 * 0.2**4) ** (1 / 6), (0.5 * 0.4) ** 0.5, (0.5 * 0.6) ** 0.5]
    expected = {
        "soft_tifa_am": sum(am) / 3,
        "soft_tifa_gm": sum(gm) / 3,
        "skill.object": 0.2,
        "skill.attribute": (0.2 + 0.2 + 0.4 + 0.6) / 4,
        "skill.count": 0.5,
        "skill.position": 0.2,
        "atoms.3": (gm[1] + gm[2]) / 2,
        "atoms.5": gm[0],
    }
    assert means == pytest.approx(expected)
    _, lists = write_results(prompts, judged(prompts, vlm))
    assert [len(scores) for scores in json.loads(lists.read_text())] == [6, 2, 2]


def test_what_was_asked_is_not_asked_again_and_a_missing_picture_has_no_score(pictures: Path) -> None:
    prompts, vlm = open_prompts(pictures), Believer()
    judge_folder(prompts, vlm, shard=0, shards=2)
    assert vlm.looked == 2
    judge_folder(prompts, vlm)
    assert vlm.looked == 3
    (pictures / "00001" / "samples" / "0000.png").unlink()
    with pytest.raises(ValueError, match="1 pictures are missing"):
        summary(open_prompts(pictures), judged(prompts, vlm))


def test_a_judge_that_does_not_know_a_cat_scores_nothing(pictures: Path) -> None:
    vlm = Believer()
    vlm.right = False
    with pytest.raises(ValueError, match="self-test picture"):
        judge_folder(open_prompts(pictures), vlm)
    assert not vlm.looked


@pytest.mark.parametrize(
    "change",
    [{"vqa_list": [["only a question"]]}, {"skills": ["count"]}, {"vqa_list": []}, {"atom_count": "three"}],
)
def test_a_row_that_is_no_prompt_of_geneval2_is_one_line(pictures: Path, change: dict[str, Any]) -> None:
    (pictures / "00001" / "metadata.jsonl").write_text(json.dumps(ROWS[1] | change))
    with pytest.raises(ValueError, match="00001"):
        open_prompts(pictures)


class _Server(BaseHTTPRequestHandler):
    """A server of one model: it knows the self-test, else says yes with 0.7 and "Two" and "2" with 0.3 and 0.2."""

    logprobs = True
    asked: list[dict[str, Any]]

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        type(self).asked.append(body)
        picture, text = body["messages"][0]["content"]
        assert picture["image_url"]["url"].startswith("data:image/png;base64,")
        known = {f"{question} Answer in one word.": right for question, _, right in SELF_TEST_ASKS}
        yes = 0.95 if known.get(text["text"], False) else 0.02 if text["text"] in known else 0.7
        tops = {"Yes": yes - 0.01, " yes": 0.01, "No": 1 - yes}
        if text["text"].startswith("How many"):
            tops = {"Two": 0.3, "2": 0.2, "Three": 0.5}
        words = [{"token": word, "logprob": math.log(p), "bytes": None} for word, p in tops.items()]
        told = {"content": [words[0] | {"top_logprobs": words}]} if self.logprobs else None
        message = {"role": "assistant", "content": words[0]["token"], "refusal": None}
        choice = {"index": 0, "finish_reason": "length", "message": message, "logprobs": told}
        said = {"id": "c", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice]}
        data = json.dumps(said).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *words: object) -> None:
        """Nothing."""


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    _Server.asked, _Server.logprobs = [], True
    served = ThreadingHTTPServer(("127.0.0.1", 0), _Server)
    threading.Thread(target=served.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{served.server_port}/v1"
    served.shutdown()
    served.server_close()


def test_a_served_model_is_asked_for_probabilities(server: str) -> None:
    vlm = ServerVlm("qwen", server)
    self_test(vlm)
    image = np.zeros((4, 4, 3), np.uint8)
    questions = ["Is it? Answer in one word.", "How many? Answer in one word."]
    said = vlm.answer(image, questions, [accepted("Is it?", "Yes"), accepted("How many?", "two")])
    assert [word for word, _ in said] == ["Yes", "Two"]
    assert [p for _, p in said] == pytest.approx([0.7, 0.5])
    body = _Server.asked[-1]
    assert (body["max_completion_tokens"], body["temperature"], body["logprobs"]) == (1, 0, True)


def test_a_server_without_probabilities_is_refused(server: str) -> None:
    _Server.logprobs = False
    with pytest.raises(ValueError, match="logprobs"):
        ServerVlm("qwen", server).answer(np.zeros((4, 4, 3), np.uint8), ["Is it?"], [("Yes",)])


def test_the_command_prints_its_scores_and_who_judged(server: str, pictures: Path) -> None:
    def run(*words: str) -> subprocess.CompletedProcess[str]:
        command = [Path(sys.executable).with_name("lensbench"), "geneval2", str(pictures), *words]
        return subprocess.run(command, capture_output=True, text=True, env=os.environ | {"COLUMNS": "80"})

    done = run("--server", "qwen", "--base-url", server)
    assert done.returncode == 0, done.stderr
    for words in ("prompts (Soft-TIFA GM)", "atoms: count", "prompts of 3 atoms", "3 prompts, not its 800", "qwen at"):
        assert words in " ".join(done.stdout.split()), done.stdout
    asked = len(_Server.asked)
    assert run("--server", "qwen", "--base-url", server).returncode == 0
    assert len(_Server.asked) == asked, "nothing is asked twice"
    wrong = run("--server", "qwen", "--judge", "x")
    assert (wrong.returncode, wrong.stderr.count("\n")) == (2, 1)
    assert "sk-secret" not in done.stdout + done.stderr
    assert not [path for path in pictures.rglob("*") if path.is_file() and b"sk-secret" in path.read_bytes()]
