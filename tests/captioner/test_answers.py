"""What an answer becomes: its state, its text as it came, its cost; and a key that is never seen."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fault_server import Reply, completion, error

from lensbench.captioner.client import StoppedError
from lensbench.captioner.questions import ServerVlm
from lensbench.captions.store import CaptionSet

SECRET = "sk-proj-not-to-be-seen-0123456789"


@pytest.mark.parametrize(
    ("reply", "state", "reason", "text"),
    [
        (Reply(200, completion(text="a  cat\non a mat ")), "done", "stop", "a cat on a mat"),
        (Reply(200, completion(refusal="I cannot.")), "refused", "refusal", "I cannot."),
        (Reply(200, completion("", finish="content_filter")), "refused", "content_filter", ""),
        (error(400, "content_policy_violation"), "refused", "content_policy_violation", ""),
        (Reply(200, completion('{"caption": "a lo', finish="length")), "truncated", "length", '{"caption": "a lo'),
        (Reply(200, completion('{"caption": "whole"}', finish="length")), "truncated", "length", "whole"),
        (Reply(200, completion("")), "failed", "stop: empty", ""),
        (Reply(200, completion('{"caption": "  "}')), "failed", "stop: empty", ""),
        (Reply(200, completion("a caption as plain text")), "failed", "not the JSON", "a caption as plain text"),
        (Reply(200, completion('{"title": "x"}')), "failed", "not the JSON", "title"),
        (Reply(200, completion('{"caption": "a cat \\ud83d"}')), "failed", "half of a character", "a cat ?"),
        (Reply(200, completion('{"caption": "a cat \\ud83d\\udc08"}')), "done", "stop", "a cat \U0001f408"),
        (error(400, "invalid_image_format"), "failed", "invalid_image_format", ""),
        (error(413), "failed", "413", ""),
    ],
)
def test_every_answer_has_its_own_state_and_only_done_ones_are_texts(
    write: Any, rows: Any, server: Any, pictures: Any, tmp_path: Path, reply: Reply, state: str, reason: str, text: str
) -> None:
    server.answer = lambda key, nth, body: reply
    images = pictures(1)
    write(images)
    (row,) = rows().values()
    assert row["state"] == state
    assert reason in row["finish_reason"]
    assert text in row["text"]
    assert list(CaptionSet(tmp_path / "set").texts().values()) == ([text] if state == "done" else [])
    if reply.status == 200:
        assert (row["input_tokens"], row["output_tokens"]) == (700, 100)
        assert row["cost_usd"] == pytest.approx(700 * 2e-6 + 100 * 8e-6)
    write(images)
    assert len(server.asked) == 1, "paid twice"


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ('```json\n{"caption": "a cat"}\n```', "a cat"),
        ('```\n{"caption": "a {red} cat"}\n```\n', "a {red} cat"),
        ('Here is the JSON: {"caption": "a cat", "note": {"caption": "no"}} as asked.', "a cat"),
        ('<think>{"a": 1} {</think>{"caption": "a cat"}', "a cat"),
        ('{"caption": "a cat"}\n{"caption": "a cat"}', "a cat"),
        ('{"caption": "a cat"}\n{"caption": "a dog"}', None),
        ('```json\n{"caption": "a c', None),
        ('["a cat"]', None),
        ('"a cat"', None),
        ("{" * 5000, None),
        ("[" * 100_000, None),
        ("A cat on a mat.", None),
    ],
)
def test_a_wrapped_answer_is_read_where_one_text_alone_is_in_it(
    write: Any, rows: Any, server: Any, pictures: Any, content: str, text: str | None
) -> None:
    server.answer = lambda key, nth, body: Reply(200, completion(content))
    write(pictures(1))
    (row,) = rows().values()
    assert (row["state"], row["text"]) == (("failed", content) if text is None else ("done", text))


def test_content_in_parts_is_a_text(write: Any, rows: Any, server: Any, pictures: Any) -> None:
    said = completion()
    said["choices"][0]["message"]["content"] = [
        {"type": "text", "text": '{"caption": '},
        {"type": "text", "text": '"a"}'},
    ]
    server.answer = lambda key, nth, body: Reply(200, said)
    write(pictures(1))
    assert [row["text"] for row in rows().values()] == ["a"]


def test_a_key_is_cut_out_of_no_caption(
    write: Any, rows: Any, server: Any, pictures: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = pictures(3)
    texts = dict(zip(images.keys, ["a boxer in a box", "x", f"a sign that says {SECRET}!"], strict=True))
    server.answer = lambda key, nth, body: Reply(200, completion(text=texts[key]))
    write(images)
    first, second, third = (rows()[key] for key in images.keys)
    assert [row["text"] for row in (first, second, third)] == ["a boxer in a box", "x", ""]
    assert (third["state"], third["cost_usd"] > 0) == ("failed", True)
    assert "has the API key in it" in third["finish_reason"]
    more = pictures(6)
    server.answer = lambda key, nth, body: Reply(200, completion(text="a boxer in box x"))
    write(more, key="x")
    assert {rows()[key]["text"] for key in more.keys[3:]} == {"a boxer in box x"}


@pytest.mark.parametrize("key", ["sk-proj-0123456789\nabcdefghij", "sk-proj-\r\n0123456789abc", "sk-ключ-0123456789"])
def test_a_key_that_no_request_can_carry_is_refused_unseen(
    write: Any, server: Any, pictures: Any, tmp_path: Path, key: str
) -> None:
    with pytest.raises(ValueError, match="OPENAI_API_KEY has a line break or another character") as caught:
        write(pictures(2), key=key)
    assert not any(part in str(caught.value) for part in key.split())
    assert not server.calls
    assert not (tmp_path / "set").exists()


@pytest.mark.parametrize("batch", [False, True])
@pytest.mark.parametrize("name", ["OPENAI_ORG_ID", "OPENAI_PROJECT_ID"])
def test_a_header_that_cannot_be_sent_is_no_trouble_of_the_servers_and_costs_nothing(
    write: Any, server: Any, pictures: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, batch: bool, name: str
) -> None:
    monkeypatch.setenv(name, "org-123\norg-secret")
    with pytest.raises(StoppedError, match="a request cannot be sent and nothing was") as caught:
        write(pictures(5), batch=batch, budget=1.0)
    assert "org-secret" not in str(caught.value)
    assert not server.asked
    monkeypatch.delenv(name)
    outcome = write(pictures(5), batch=batch)
    assert (outcome.complete, outcome.uncertain_usd) == (True, 0.0)


def test_a_question_with_a_header_that_cannot_be_sent_is_one_line_without_it(
    server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", SECRET)
    monkeypatch.setenv("OPENAI_ORG_ID", "org-123\norg-secret")
    judge = ServerVlm("m", server.url)
    with pytest.raises(ValueError, match="a request cannot be sent and nothing was") as caught:
        judge.answer(np.zeros((4, 4, 3), np.uint8), ["?"], [["yes"]])
    assert not any(part in str(caught.value) for part in ("org-secret", SECRET, "\n"))


def test_answers_without_usage_count_at_their_worst_case(
    write: Any, rows: Any, server: Any, pictures: Any, worst_usd: float
) -> None:
    def answer(key: str, nth: int, body: Any) -> Reply:
        said = completion()
        if int(key, 16) % 2:
            del said["usage"]
        else:
            said["usage"] = {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}
        return Reply(200, said)

    server.answer = answer
    images = pictures(40)
    outcome = write(images, budget=10.5 * worst_usd)
    assert outcome.tally.stop == "budget"
    assert len(server.asked) == 10
    assert outcome.spent_usd == pytest.approx(10 * worst_usd)
    assert outcome.assumed == (10, pytest.approx(10 * worst_usd))
    assert write(images, budget=10.5 * worst_usd).tally.rows == 0, "the next run knows of it"
    batches = write(images, budget=20.2 * worst_usd, batch=True, batch_requests=7)
    assert sum(server.times().values()) == 30, "half the worst case each"
    assert batches.spent_usd == pytest.approx(20 * worst_usd)


@pytest.mark.parametrize(
    ("text", "refused"),
    [
        ("I'm sorry, but I can't assist with that request.", True),
        ("I\u2019m  sorry, but I cannot describe people.", True),
        ('  "I am unable to provide a caption for this image."', True),
        ("Sorry, I can't help with identifying people.", True),
        ("As an AI, I do not see images.", True),
        ("As an airplane takes off, a crowd waves.", False),
        ("A card that reads 'I'm sorry, but I can't'.", False),
        ("Sorry! is a board game of four colors.", False),
        ("I'm a sign in front of a shop.", False),
        ("Iceberg, blue.", False),
    ],
)
@pytest.mark.parametrize("prose", [False, True])
def test_a_refusal_in_words_is_refused_by_its_opening(
    write: Any, rows: Any, server: Any, pictures: Any, text: str, refused: bool, prose: bool
) -> None:
    server.answer = lambda key, nth, body: Reply(200, completion(text) if prose else completion(text=text))
    write(pictures(1))
    (row,) = rows().values()
    assert row["state"] == ("refused" if refused else "failed" if prose else "done")
    assert " ".join(row["text"].split()) == " ".join(text.split()), "what was said is kept"


def test_cached_input_tokens_cost_their_own_price(write: Any, rows: Any, server: Any, pictures: Any) -> None:
    server.answer = lambda key, nth, body: Reply(200, completion(tokens=(700, 100, 512)))
    write(pictures(1))
    (row,) = rows().values()
    assert row["cost_usd"] == pytest.approx(188 * 2e-6 + 512 * 0.5e-6 + 100 * 8e-6)
