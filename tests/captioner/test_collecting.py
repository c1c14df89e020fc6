"""What ended batches bring: nothing in their files keeps the rest from being read, and nothing is asked for in vain."""

from __future__ import annotations

from typing import Any

import pytest
from fault_server import Reply, completion, error, good

from lensbench.captioner.client import StoppedError


def test_a_text_with_any_break_of_lines_is_one_answer(in_batches: Any, rows: Any, server: Any, pictures: Any) -> None:
    text = "a cat\u2028on\u2029a\x0bmat\u0085here\x1c\x0cand there"
    server.answer = lambda key, nth, body: Reply(200, completion(text=text))
    images = pictures(4)
    assert in_batches(images).complete
    assert {row["text"] for row in rows().values()} == {"a cat on a mat here and there"}
    assert set(server.times().values()) == {1}


STOPS = [
    error(429, "insufficient_quota", "You exceeded your current quota"),
    error(401, "invalid_api_key", "Incorrect API key"),
    error(403, "forbidden", "Not allowed"),
    error(404, "model_not_found", "No such model"),
]


@pytest.mark.parametrize("reply", STOPS, ids=lambda reply: str(reply.status))
def test_a_line_that_would_end_a_live_run_leaves_its_image_to_be_asked_again(
    in_batches: Any, rows: Any, server: Any, pictures: Any, display: Any, reply: Reply
) -> None:
    images = pictures(10)
    bad = set(images.keys[:3])
    server.answer = lambda key, nth, body: reply if key in bad and nth == 1 else good(key, nth, body)
    assert in_batches(images).complete
    assert set(rows()) == set(images.keys)
    assert {key for key, n in server.times().items() if n == 2} == bad
    code = reply.body["error"]["code"]  # type: ignore[index, call-overload]
    assert any("3 of 10 images unanswered" in line and code in line for line in display.said)


@pytest.mark.parametrize("reply", STOPS, ids=lambda reply: str(reply.status))
def test_where_nothing_of_a_batch_is_answered_the_run_ends_once_all_ended_batches_are_collected(
    in_batches: Any, rows: Any, server: Any, pictures: Any, reply: Reply
) -> None:
    images = pictures(20)
    first: list[str] = []

    def end(made: Any, lines: list[Any]) -> tuple[str, list[Any], list[Any]]:
        first.append(made["id"])
        return ("completed", lines, [])

    server.end, server.looks = end, 12
    bad = set(images.keys[:10])
    server.answer = lambda key, nth, body: reply if key in bad else good(key, nth, body)
    with pytest.raises(StoppedError, match=reply.body["error"]["message"]):  # type: ignore[index, call-overload]
        in_batches(images)
    server.answer = good
    outcome = in_batches(images)
    assert outcome.complete, "the same command goes on: no batch stands in its way"
    assert set(rows()) == set(images.keys)
    assert {key: n for key, n in server.times().items() if n != (2 if key in bad else 1)} == {}
    assert first[:2] == ["batch_0", "batch_1"]


def test_lines_that_cannot_be_read_are_asked_again_and_counted_at_their_worst(
    in_batches: Any, rows: Any, server: Any, pictures: Any, display: Any, worst_usd: float
) -> None:
    def end(made: Any, lines: list[Any]) -> tuple[str, list[Any], list[Any]]:
        if made["id"] != "batch_0":
            return "completed", lines, []
        no_completion = lines[2] | {"response": {"status_code": 200, "body": {"choices": []}}}
        odd = [b'{"custom_id": "half', b"[]", b'{"custom_id": ["a"]}', b"\xff\xfe"]
        return "completed", [*odd, no_completion, *lines[3:]], []

    server.end = end
    images = pictures(10)
    outcome = in_batches(images)
    assert outcome.complete
    assert set(rows()) == set(images.keys)
    assert sorted(server.times().values()) == [1] * 7 + [2] * 3
    worst = worst_usd / 2
    assert outcome.uncertain_usd == pytest.approx(3 * worst), "two lines without an image, and an answer that is none"
    assert outcome.spent_usd == pytest.approx(10 * (700 * 2e-6 + 100 * 8e-6) / 2 + 3 * worst)
    assert any("3 of 10 images unanswered" in line and "4 lines of its files" in line for line in display.said)


def test_an_output_file_that_is_gone_is_said_and_its_images_are_asked_again_within_the_budget(
    in_batches: Any, rows: Any, server: Any, pictures: Any, display: Any, worst_usd: float
) -> None:
    images = pictures(10)
    gone: set[str] = set()

    def before(method: str, path: str) -> Reply | None:
        if path.endswith("/content") and (not gone or path in gone):
            gone.add(path)
            return error(404, "not_found", "No such File object")
        return None

    server.before = before
    worst = 10 * worst_usd / 2
    outcome = in_batches(images, budget=1.05 * worst)
    assert outcome.uncertain_usd == pytest.approx(worst)
    assert outcome.tally.stop == "budget", "what is gone may have been paid for"
    assert in_batches(images, budget=3 * worst).complete
    assert set(rows()) == set(images.keys)
    assert any("is gone at the server; 10 answers may have been paid for" in line for line in display.said)


def test_answers_for_other_images_are_not_kept(in_batches: Any, rows: Any, server: Any, pictures: Any) -> None:
    server.end = lambda made, lines: ("completed", [*lines, lines[0] | {"custom_id": "0" * 64}], [])
    images = pictures(5)
    assert in_batches(images).complete
    assert set(rows()) == set(images.keys)


def test_lines_with_errors_are_what_they_are_live(in_batches: Any, rows: Any, server: Any, pictures: Any) -> None:
    images = pictures(8)
    refused, broken, busy, odd = images.keys[:4]

    def answer(key: str, nth: int, body: Any) -> Reply:
        if key == refused:
            return error(400, "content_policy_violation")
        if key == broken:
            return error(400, "invalid_image")
        if key == odd:
            return error(400, "odd")
        return error(500) if key == busy and nth == 1 else good(key, nth, body)

    def end(made: Any, lines: list[Any]) -> tuple[str, list[Any], list[Any]]:
        fine = [line for line in lines if line["response"]["status_code"] == 200]
        return "completed", fine, [line for line in lines if line not in fine]

    server.answer, server.end = answer, end
    assert in_batches(images).complete
    states = {key: row["state"] for key, row in rows().items()}
    assert (states[refused], states[broken], states[odd], states[busy]) == ("refused", "failed", "failed", "done")
    assert server.times()[busy] == 2
    assert sum(server.times().values()) == 9


def test_an_output_file_that_breaks_off_is_read_again(in_batches: Any, rows: Any, server: Any, pictures: Any) -> None:
    def before(method: str, path: str) -> Reply | None:
        if path.endswith("/content") and server.calls[f"{method} {path}"] == 1:
            return Reply(200, server.contents[path.split("/")[2]], fault="cut")
        return None

    server.before = before
    assert in_batches(pictures(10)).complete
    assert len(rows()) == 10
