"""Asking live over real HTTP: whatever the server does, an image ends with one row, or with none and is asked again."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fault_server import Reply, completion, error, good

from lensbench.captioner import keeping, live, usefulness
from lensbench.captioner.client import StoppedError
from lensbench.captioner.pace import FIRST as FIRST_AT_A_TIME
from lensbench.captions import store
from lensbench.captions.store import CaptionSet

SECRET = "sk-proj-not-to-be-seen-0123456789"


def first(*replies: Reply) -> Callable[[str, int, Any], Reply]:
    """The first requests about every image are answered so, later ones well."""
    return lambda key, nth, body: replies[nth - 1] if nth <= len(replies) else good(key, nth, body)


@pytest.mark.parametrize(
    "trouble",
    [
        error(429, "rate_limit_exceeded", retry_after="0.05"),
        error(429, "rate_limit_exceeded"),
        error(500),
        error(503, retry_after="0.05"),
        error(408),
        Reply(fault="disconnect"),
        Reply(200, completion(), fault="cut"),
        Reply(200, b'{"id": "c", "choices": [{"mess'),
        Reply(200, {"error": "none of it"}),
        Reply(502, b"<html>Bad gateway</html>"),
        Reply(fault="stall", delay=2.0),
    ],
    ids=lambda reply: f"{reply.status}{reply.fault}{len(reply.body)}",
)
def test_a_passing_trouble_is_asked_again_until_it_has_passed(
    write: Any, rows: Any, server: Any, pictures: Any, trouble: Reply
) -> None:
    server.answer = first(trouble, trouble)
    images = pictures(4)
    outcome = write(images, timeout=0.5)
    assert outcome.complete
    assert set(rows()) == set(images.keys)
    assert {row["state"] for row in rows().values()} == {"done"}
    assert set(server.times().values()) == {3}


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


USELESS = [
    completion("A cat."),
    completion('{"caption": "a lo', finish="length"),
    completion(""),
    completion(text="I'm sorry, but I can't assist with that."),
]


@pytest.mark.parametrize("said", USELESS, ids=["prose", "cut", "empty", "refusal"])
def test_a_run_whose_first_answers_are_of_no_use_ends_with_what_the_server_says(
    write: Any, rows: Any, server: Any, pictures: Any, said: Any
) -> None:
    server.answer = lambda key, nth, body: Reply(200, said, delay=0.01)
    with pytest.raises(StoppedError, match=r"2\d of the last 2\d answers are no captions \(") as caught:
        write(pictures(537))
    (row, *_) = rows().values()
    assert f"{row['state']}: {row['finish_reason']}" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert usefulness.FIRST <= len(server.asked) < usefulness.FIRST + FIRST_AT_A_TIME
    assert len(rows()) == len(server.asked), "every answer is kept"


def test_a_run_whose_later_answers_are_of_no_use_ends(write: Any, rows: Any, server: Any, pictures: Any) -> None:
    server.answer = lambda key, nth, body: (
        good(key, nth, body) if len(server.asked) <= 100 else Reply(200, completion("A cat."))
    )
    with pytest.raises(StoppedError, match="180 of the last 200 answers are no captions"):
        write(pictures(600), at_a_time=8)
    assert 280 <= len(server.asked) <= 288


def test_a_run_with_some_useless_answers_goes_on(write: Any, rows: Any, server: Any, pictures: Any) -> None:
    server.answer = lambda key, nth, body: (
        good(key, nth, body) if int(key, 16) % 5 == 0 else Reply(200, completion("A cat."))
    )
    assert write(pictures(300)).complete
    assert {row["state"] for row in rows().values()} == {"done", "failed"}


def test_failed_and_cut_answers_are_asked_about_again_in_the_same_set(
    write: Any, rows: Any, server: Any, pictures: Any, tmp_path: Path
) -> None:
    images = pictures(12)
    cut, empty, refused = images.keys[:3]
    bad = {
        cut: completion('{"caption": "a lo', finish="length"),
        empty: completion(""),
        refused: completion(refusal="I cannot."),
    }
    server.answer = lambda key, nth, body: Reply(200, bad[key]) if nth == 1 and key in bad else good(key, nth, body)
    first = write(images)
    assert first.rows == {"done": 9, "refused": 1, "truncated": 1, "failed": 1}
    paid = first.spent_usd
    assert write(images).spent_usd == pytest.approx(paid)
    assert len(server.asked) == 12, "not without being asked for"
    again = write(images, again=frozenset({"failed", "truncated"}))
    assert again.rows == {"done": 11, "refused": 1, "truncated": 0, "failed": 0}
    assert {key for key, n in server.times().items() if n == 2} == {cut, empty}
    assert again.spent_usd == pytest.approx(paid * 14 / 12), "the old answers were paid for as well"
    found = CaptionSet(tmp_path / "set")
    assert {row["key"]: row["state"] for batch in found.history() for row in batch.to_pylist()} == {
        cut: "truncated",
        empty: "failed",
    }
    assert found.texts()[cut] == f"caption of {cut[:8]}"
    short = write(images, again=frozenset({"refused"}), budget=again.spent_usd)
    assert (short.tally.stop, len(server.asked)) == ("budget", 14), "the history is in the budget"


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


def test_answers_without_usage_count_at_their_worst_case(
    write: Any, rows: Any, server: Any, pictures: Any, asking: Any
) -> None:
    from lensbench.captioner.estimate import worst_usd
    from lensbench.captioner.prices import open_prices

    price = open_prices().of("gpt-4.1")
    assert price is not None
    worst = worst_usd(asking, price[0], batch=False)

    def answer(key: str, nth: int, body: Any) -> Reply:
        said = completion()
        if int(key, 16) % 2:
            del said["usage"]
        else:
            said["usage"] = {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}
        return Reply(200, said)

    server.answer = answer
    images = pictures(40)
    outcome = write(images, budget=10.5 * worst)
    assert outcome.tally.stop == "budget"
    assert len(server.asked) == 10
    assert outcome.spent_usd == pytest.approx(10 * worst)
    assert outcome.assumed == (10, pytest.approx(10 * worst))
    assert write(images, budget=10.5 * worst).tally.rows == 0, "the next run knows of it"
    batches = write(images, budget=20.2 * worst, batch=True, batch_requests=7)
    assert sum(server.times().values()) == 30, "half the worst case each"
    assert batches.spent_usd == pytest.approx(20 * worst)


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


def test_a_disk_that_fills_up_keeps_the_answers_under_way_and_ends_the_run(
    write: Any, rows: Any, server: Any, pictures: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk is full for the journal from the 30th answer on until the reserve is gone."""
    real = store._write_whole

    def full(file: int, line: bytes) -> None:
        if (tmp_path / "set" / keeping.RESERVE).exists() and len(rows()) >= 30:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(file, line)

    monkeypatch.setattr(store, "_write_whole", full)
    server.answer = lambda key, nth, body: replace(good(key, nth, body), delay=0.05)
    images = pictures(200)
    with pytest.raises(OSError, match="no space left on the disk; every answer that came is kept: free some") as caught:
        write(images, at_a_time=16)
    assert caught.value.filename == str(tmp_path / "set")
    assert 30 < len(server.asked) < 60
    assert set(rows()) == set(server.times()), "an answer that was paid for is lost"
    assert not (tmp_path / "set" / keeping.RESERVE).exists()
    monkeypatch.setattr(store, "_write_whole", real)
    outcome = write(images)
    assert outcome.complete
    assert set(server.times().values()) == {1}


def test_a_disk_without_any_room_says_how_many_answers_are_lost(
    write: Any, rows: Any, server: Any, pictures: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(file: int, line: bytes) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(store, "_write_whole", full)
    with pytest.raises(OSError, match=r"no space left on the disk; \d answers that may have been paid for are lost"):
        write(pictures(50), at_a_time=4)
    assert len(server.asked) <= 8
    monkeypatch.undo()


def test_cached_input_tokens_cost_their_own_price(write: Any, rows: Any, server: Any, pictures: Any) -> None:
    server.answer = lambda key, nth, body: Reply(200, completion(tokens=(700, 100, 512)))
    write(pictures(1))
    (row,) = rows().values()
    assert row["cost_usd"] == pytest.approx(188 * 2e-6 + 512 * 0.5e-6 + 100 * 8e-6)


def test_what_is_no_picture_is_failed_without_being_sent(write: Any, rows: Any, server: Any, pictures: Any) -> None:
    images = pictures(2, (b"no picture", b""))
    write(images)
    states = [rows()[key]["state"] for key in images.keys]
    assert states == ["done", "done", "failed", "failed"]
    assert len(server.asked) == 2
    assert "not a picture" in rows()[images.keys[2]]["finish_reason"]


def test_an_image_whose_server_keeps_failing_has_no_row_and_is_asked_by_the_next_run(
    write: Any, rows: Any, server: Any, pictures: Any
) -> None:
    images = pictures(12)
    bad = set(images.keys[:2])
    server.answer = lambda key, nth, body: error(500) if key in bad else good(key, nth, body)
    outcome = write(images)
    assert not outcome.complete
    assert sum(outcome.tally.left.values()) == 2
    assert set(rows()) == set(images.keys) - bad
    assert {server.times()[key] for key in bad} == {live.TRIES}
    server.answer = good
    assert write(images).complete
    assert set(rows()) == set(images.keys)
    assert {server.times()[key] for key in set(images.keys) - bad} == {1}


def test_a_server_that_answers_nothing_ends_the_run(write: Any, server: Any, pictures: Any) -> None:
    server.answer = lambda key, nth, body: error(503)
    with pytest.raises(StoppedError, match="answered none of the last"):
        write(pictures(500))
    assert len(server.asked) < 500


@pytest.mark.parametrize(
    ("reply", "said"),
    [
        (error(401, "invalid_api_key", "Incorrect API key provided"), "401 invalid_api_key"),
        (error(403, "unsupported_country"), "403"),
        (error(404, "model_not_found", "The model does not exist"), "model does not exist"),
        (error(429, "insufficient_quota", "You exceeded your current quota"), "insufficient_quota"),
        (error(400, "unsupported_value", "temperature must be 1"), "temperature must be 1"),
    ],
)
def test_what_no_image_is_to_blame_for_stops_at_once_and_marks_none(
    write: Any, rows: Any, server: Any, pictures: Any, reply: Reply, said: str
) -> None:
    server.answer = lambda key, nth, body: reply
    with pytest.raises(StoppedError, match=said):
        write(pictures(300))
    assert rows() == {}
    assert len(server.asked) < 40


def test_a_request_refused_for_an_unknown_reason_is_failed_where_others_of_its_form_are_answered(
    write: Any, rows: Any, server: Any, pictures: Any
) -> None:
    images = pictures(20)
    bad = set(images.keys[10:])
    server.answer = lambda key, nth, body: error(400, "odd") if key in bad else good(key, nth, body)
    write(images, at_a_time=1)
    assert {key for key, row in rows().items() if row["state"] == "failed"} == bad


def test_retry_after_is_waited_for_by_every_request(write: Any, server: Any, pictures: Any) -> None:
    limited_at: list[float] = []

    def answer(key: str, nth: int, body: Any) -> Reply:
        if not limited_at and len(server.asked) > 5:
            limited_at.append(time.time())
            return error(429, "rate_limit_exceeded", retry_after="3")
        return good(key, nth, body)

    server.answer = answer
    write(pictures(60))
    after = [when for when, _ in server.asked if when > limited_at[0] + 1]  # the others were under way
    assert len(after) > 30
    assert min(after) > limited_at[0] + 2.9


def test_the_number_at_a_time_follows_the_server(write: Any, server: Any, pictures: Any) -> None:
    """A server that takes eight at a time and says so by 429 alone, without a header, is not asked 256 at a time."""
    most_at_a_time = 8

    def answer(key: str, nth: int, body: Any) -> Reply:
        if server.at_a_time > most_at_a_time:
            return error(429, "rate_limit_exceeded")
        return replace(good(key, nth, body), delay=0.02)

    server.answer = answer
    outcome = write(pictures(300))
    assert outcome.complete
    assert server.most_at_a_time <= 4 * most_at_a_time
    assert outcome.tally.limits < 150


def test_no_more_are_asked_at_a_time_than_the_user_says(write: Any, server: Any, pictures: Any) -> None:
    server.answer = lambda key, nth, body: replace(good(key, nth, body), delay=0.02)
    write(pictures(40), at_a_time=3)
    assert server.most_at_a_time == 3


@pytest.mark.parametrize("budget", [0.0, 0.01, 0.05])
def test_the_budget_is_never_passed_whatever_the_answers_cost(
    write: Any, server: Any, pictures: Any, budget: float
) -> None:
    billed: list[float] = []

    def answer(key: str, nth: int, body: Any) -> Reply:
        tokens = (500 + 10 * (len(billed) % 20), 600 - 25 * (len(billed) % 20), 0)
        billed.append(tokens[0] * 2e-6 + tokens[1] * 8e-6)
        reply = Reply(200, completion(tokens=tokens), delay=0.01)
        # every fourth answer is lost, and has been paid for
        return replace(reply, fault="disconnect") if len(billed) % 4 == 0 else reply

    server.answer = answer
    outcome = write(pictures(60), budget=budget)
    assert outcome.tally.stop == "budget"
    assert sum(billed) <= budget
    again = write(pictures(60), budget=budget)
    assert again.tally.stop == "budget"
    assert sum(billed) <= budget, "a second run does not know what the first one lost"
    if budget:
        assert sum(billed) > 0.4 * budget, "the budget is of use"


def test_a_budget_needs_a_price(write: Any, server: Any, pictures: Any, asking: Any, tmp_path: Path) -> None:
    from lensbench.captioner import writing
    from lensbench.captioner.client import Server

    run = writing.Run(Server(server.url), budget=1.0)
    with pytest.raises(ValueError, match="price of my-model is not known"):
        writing.write(pictures(1), tmp_path / "s", replace(asking, model="my-model"), None, run, None)  # type: ignore[arg-type]
    assert not server.asked


def test_other_settings_or_words_are_another_set(write: Any, server: Any, pictures: Any, asking: Any) -> None:
    write(pictures(2))
    changed = replace(asking.prompt, user=asking.prompt.user + " Be brief.")
    for other in (replace(asking, temperature=0.7), replace(asking, seed=1), replace(asking, prompt=changed)):
        with pytest.raises(ValueError, match="was made with"):
            write(pictures(3), asking=other)
    assert len(server.asked) == 2


def test_a_request_is_what_the_api_asks_for(write: Any, server: Any, pictures: Any, asking: Any) -> None:
    write(pictures(1), asking=replace(asking, seed=7, detail="low"))
    (body,) = server.bodies
    assert body["model"] == "gpt-4.1"
    assert body["response_format"]["json_schema"]["strict"] is True
    assert (body["temperature"], body["seed"], body["max_completion_tokens"]) == (0.0, 7, 600)
    assert body["store"] is False
    image = body["messages"][1]["content"][1]["image_url"]
    assert image["detail"] == "low"
    assert image["url"].startswith("data:image/png;base64,")


def test_llmock_with_a_quota_is_served_without_a_fault(
    write: Any, rows: Any, llmock: Any, server: Any, pictures: Any
) -> None:
    """An independent implementation of the API: quotas with headers, an outage, a refusal of form."""
    server.url = llmock.base_url("openai")
    llmock.limits(rpm=3000).fail(503, times=2).rate_limit(times=2, retry_after=0.1)
    images = pictures(120)
    outcome = write(images)
    assert outcome.complete
    assert {row["state"] for row in rows().values()} == {"done"}
    assert len(rows()) == 120
    llmock.assert_resilient()
