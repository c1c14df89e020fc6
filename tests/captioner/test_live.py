"""Asking live over real HTTP: whatever the server does, an image ends with one row, or with none and is asked again."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fault_server import Reply, completion, error, good

from lensbench.captioner import live
from lensbench.captioner.client import StoppedError

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


def test_a_server_that_answers_nothing_ends_the_run(
    write: Any, server: Any, pictures: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live, "DOWN_PAUSE", 0.05)
    server.answer = lambda key, nth, body: error(503)
    with pytest.raises(StoppedError, match="answered none of the last"):
        write(pictures(500))
    assert len(server.asked) < 80, "a server that is down is asked now and then, whatever the number of images"


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
