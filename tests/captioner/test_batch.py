"""Batch mode over real HTTP: whatever becomes of a batch, every image is submitted and paid for once."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from fault_server import Reply, completion, error, shuffled_and_repeated

from lensbench.captioner import batch, packing
from lensbench.captioner.client import StoppedError
from lensbench.captioner.ledger import Ledger


class Killed(BaseException):
    """The process ends here."""


def test_output_in_any_order_and_with_lines_twice_is_one_row_each(
    in_batches: Any, rows: Any, server: Any, pictures: Any
) -> None:
    server.end = shuffled_and_repeated
    images = pictures(25)
    assert in_batches(images).complete
    assert set(rows()) == set(images.keys)
    for key, row in rows().items():
        assert row["text"] == f"caption of {key[:8]}", "an answer went to another image"
        assert row["cost_usd"] == pytest.approx((700 * 2e-6 + 100 * 8e-6) / 2), "a batch costs half"
    assert set(server.times().values()) == {1}
    assert len(server.made) == 3
    assert not [name for name in server.files.values() if name["purpose"] == "batch"], "input files are not left there"


def test_every_batch_is_submitted_without_waiting_for_another(
    in_batches: Any, server: Any, pictures: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch, "MOST_BYTES", 4_000)  # so that each leaves over what did not fit
    there: list[int] = []

    def end(made: Any, lines: list[Any]) -> tuple[str, list[Any], list[Any]]:
        there.append(len(server.made))
        return "completed", lines, []

    server.end, server.looks = end, 20
    assert in_batches(pictures(12)).complete
    assert len(server.made) > 4
    assert there[0] == len(server.made), "the first batch had ended before the last was submitted"


def test_an_expired_batch_keeps_what_it_answered_and_the_rest_is_submitted_again(
    in_batches: Any, rows: Any, server: Any, pictures: Any, display: Any
) -> None:
    def end(made: Any, lines: list[Any]) -> tuple[str, list[Any], list[Any]]:
        if made["id"] != "batch_0":
            return "completed", lines, []
        expired = {"response": None, "error": {"code": "batch_expired"}}
        late = [{"custom_id": line["custom_id"], **expired} for line in lines]
        return "expired", lines[:4], late[4:7]  # three lines come nowhere

    server.end = end
    images = pictures(10)
    assert in_batches(images).complete
    assert set(rows()) == set(images.keys)
    assert sorted(server.times().values()) == [1] * 4 + [2] * 6
    assert any("expired, 6 of 10 images unanswered" in line for line in display.said)


@pytest.mark.parametrize("status", ["cancelled", "completed", "failed"])
def test_a_batch_that_ends_in_part_is_completed_by_another(
    in_batches: Any, rows: Any, server: Any, pictures: Any, status: str
) -> None:
    def end(made: Any, lines: list[Any]) -> tuple[str, list[Any], list[Any]]:
        return (status, lines[5:], []) if made["id"] == "batch_0" else ("completed", lines, [])

    server.end = end
    assert in_batches(pictures(10)).complete
    assert sorted(server.times().values()) == [1] * 5 + [2] * 5
    assert len(rows()) == 10


def test_images_that_no_batch_answers_are_left_after_a_few(
    in_batches: Any, rows: Any, server: Any, pictures: Any
) -> None:
    server.end = lambda made, lines: ("completed", lines[1:], [])
    images = pictures(4)
    outcome = in_batches(images)
    assert not outcome.complete
    assert sum(outcome.tally.left.values()) == 1
    assert max(server.times().values()) == batch.SUBMISSIONS
    assert len(rows()) == 3


def failing(code: str, times: int) -> Callable[[Any, list[Any]], tuple[str, list[Any], list[Any]]]:
    """The first batches fail their validation."""
    left = [times]

    def end(made: Any, lines: list[Any]) -> tuple[str, list[Any], list[Any]]:
        if left[0]:
            left[0] -= 1
            made["errors"] = {"object": "list", "data": [{"code": code, "message": f"{code} it is"}]}
            return "failed", [], []
        return "completed", lines, []

    return end


def test_a_full_queue_is_waited_for_and_nothing_is_uploaded_twice(
    in_batches: Any, rows: Any, server: Any, pictures: Any
) -> None:
    server.end = failing("token_limit_exceeded", 3)
    images = pictures(25)
    assert in_batches(images).complete
    assert len(rows()) == 25
    assert server.calls["POST /files"] == 3
    assert server.calls["POST /batches"] == 6


def test_a_batch_that_fails_its_validation_stops_and_frees_its_images(
    in_batches: Any, rows: Any, server: Any, pictures: Any
) -> None:
    server.end = failing("model_not_found", 1)
    with pytest.raises(StoppedError, match="batch batch_0 failed: model_not_found"):
        in_batches(pictures(10))
    assert in_batches(pictures(10)).complete
    assert len(rows()) == 10


def test_requests_that_are_all_refused_stop(in_batches: Any, rows: Any, server: Any, pictures: Any) -> None:
    server.answer = lambda key, nth, body: error(400, "unsupported_value", "no such temperature")
    with pytest.raises(StoppedError, match="no such temperature"):
        in_batches(pictures(10))
    assert rows() == {}


@pytest.mark.parametrize("call", ["POST /files", "POST /batches"])
@pytest.mark.parametrize("fault", [Reply(fault="disconnect"), Reply(500), error(429, retry_after="0.05")])
def test_a_call_that_fails_is_made_again(
    in_batches: Any, rows: Any, server: Any, pictures: Any, call: str, fault: Reply
) -> None:
    def before(method: str, path: str) -> Reply | None:
        return fault if f"{method} {path}" == call and server.calls[call] <= 2 else None

    server.before = before
    assert in_batches(pictures(10)).complete
    assert (len(server.made), set(server.times().values())) == (1, {1})


@pytest.mark.parametrize("call", ["POST /files", "POST /batches"])
def test_a_call_whose_answer_is_lost_is_not_made_twice(
    in_batches: Any, rows: Any, server: Any, pictures: Any, call: str
) -> None:
    def after(method: str, path: str) -> Reply | None:
        return Reply(fault="disconnect") if f"{method} {path}" == call and server.calls[call] == 1 else None

    server.after = after
    assert in_batches(pictures(10)).complete
    assert server.calls[call] == 1
    assert set(server.times().values()) == {1}
    assert len(rows()) == 10


def test_killed_before_or_after_any_call_it_goes_on_and_submits_nothing_twice(
    in_batches: Any, rows: Any, server: Any, pictures: Any, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every place where the process can die between two calls, one after the other; the same place only once."""
    images = pictures(25)
    server.end = shuffled_and_repeated
    whole = batch.Batches._call
    places, killed = 0, []

    for place in range(1000):
        reached = [0]

        def call(self: Any, what: Any, in_doubt: Any = None, reached: list[int] = reached, place: int = place) -> Any:
            for done in (False, True):
                if reached[0] == place:
                    reached[0] += 1
                    raise Killed
                reached[0] += 1
                if not done:
                    answer = whole(self, what, in_doubt)
            return answer

        monkeypatch.setattr(batch.Batches, "_call", call)
        for path in (tmp_path / "set").glob("*"):
            path.unlink()
        server.asked.clear()
        server.made.clear()
        server.files.clear()
        try:
            in_batches(images, poll=0.05)
        except Killed:
            killed.append(place)
            monkeypatch.setattr(batch.Batches, "_call", whole)
            assert in_batches(images, poll=0.05).complete
        else:
            places = place
        assert set(rows()) == set(images.keys), f"killed at {place}"
        assert set(server.times().values()) == {1}, f"killed at {place}"
        assert not list((tmp_path / "set").glob("lensbench-*")), "files of batches are left"
        if places:
            break
    assert killed == list(range(places))
    assert places >= 20


def test_a_batch_killed_while_it_was_packed_leaves_nothing_behind(
    in_batches: Any, rows: Any, server: Any, pictures: Any, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def add(self: Ledger, *of: Any) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(Ledger, "add", add)
        with pytest.raises(Killed):
            in_batches(pictures(10))
    assert list((tmp_path / "set").glob("lensbench-*.jsonl"))
    assert in_batches(pictures(10)).complete
    assert not list((tmp_path / "set").glob("lensbench-*"))
    assert len(server.made) == 1


def test_live_does_not_ask_about_what_is_in_a_batch(
    in_batches: Any, write: Any, rows: Any, server: Any, pictures: Any, display: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = pictures(15)
    server.looks = 10**6  # nothing ends
    with monkeypatch.context() as patch:
        patch.setattr(batch.Batches, "_sleep", lambda self, under_way: (_ for _ in ()).throw(KeyboardInterrupt()))
        from lensbench.captioner.writing import WritingStoppedError

        with pytest.raises(WritingStoppedError, match="10 are in 1 batch, which goes on at the server"):
            in_batches(images, limit=10)
    outcome = write(images)
    assert not outcome.complete
    assert len(rows()) == 5
    assert any("10 are in batches at the server" in line for line in display.said)
    server.looks = 0
    assert in_batches(images).complete
    assert set(server.times().values()) == {1}


def test_a_batch_of_another_server_is_named_and_given_up_without_forgetting_the_others(
    in_batches: Any, rows: Any, server: Any, pictures: Any, display: Any
) -> None:
    images = pictures(6)
    server.looks = 10**6
    server.before = lambda method, path: error(401) if path.startswith("/batches/") and len(server.made) == 2 else None
    with pytest.raises(StoppedError, match="401"):
        in_batches(images, batch_requests=3)
    server.before = lambda method, path: None
    gone = server.made.pop("batch_0")
    server.looks = 0
    with pytest.raises(StoppedError, match=r"batch batch_0 is not known there.*--forget-batch batch_0"):
        in_batches(images, batch_requests=3)
    assert len(rows()) == 3, "the other batch is collected"
    with pytest.raises(ValueError, match="--forget-batch batch_9: this set has the batches batch_0"):
        in_batches(images, forget="batch_9")
    outcome = in_batches(images, forget="batch_0")
    assert outcome.complete
    assert set(rows()) == set(images.keys)
    assert outcome.uncertain_usd > 0, "the batch that is given up may have been paid for"
    assert any("batch_0 is given up: 3 of its images" in line for line in display.said)
    lost = [json.loads(line)["custom_id"] for line in server.contents[gone["input_file_id"]].splitlines()]
    assert {key for key, n in server.times().items() if n == 2} == set(lost)


@pytest.mark.parametrize("budget", [0.0, 0.02, 0.06])
def test_batches_in_flight_count_with_their_worst_case(
    in_batches: Any, rows: Any, server: Any, pictures: Any, budget: float
) -> None:
    billed: list[float] = []

    def answer(key: str, nth: int, body: Any) -> Reply:
        billed.append((700 * 2e-6 + 590 * 8e-6) / 2)
        return Reply(200, completion(tokens=(700, 590, 0)))

    server.answer = answer
    server.looks = 6  # many could be submitted before the first has ended
    outcome = in_batches(pictures(80), budget=budget)
    assert outcome.tally.stop == "budget"
    assert sum(billed) <= budget
    assert sum(billed) >= 0.7 * budget
    assert sum(row["cost_usd"] for row in rows().values()) == pytest.approx(sum(billed))


def test_a_file_keeps_to_the_limits_of_requests_and_bytes(
    in_batches: Any, server: Any, pictures: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch, "MOST_BYTES", 20_000)
    assert in_batches(pictures(60), batch_requests=50_000).complete
    files = [body for file_id, body in server.contents.items() if b"image_url" in body]
    assert len(files) > 2
    assert all(len(body) <= 20_000 for body in files)
    assert sum(len(body.splitlines()) for body in files) == 60
    assert set(server.times().values()) == {1}
    assert (packing.MOST_REQUESTS, packing.MOST_BYTES) == (50_000, 200_000_000)


def test_llmock_takes_the_batches(
    in_batches: Any, rows: Any, llmock: Any, server: Any, pictures: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An independent implementation. It answers in plain text, whatever the schema: none of that is a caption."""
    from llmock.routers import batch as theirs

    monkeypatch.setattr(theirs, "_BATCH_DELAY", 0.1)
    server.url = llmock.base_url("openai")
    images = pictures(15)  # fewer than end a run whose answers are of no use
    assert in_batches(images).complete
    assert set(rows()) == set(images.keys)
    assert {row["state"] for row in rows().values()} == {"failed"}
    assert all(row["input_tokens"] for row in rows().values())


def test_a_line_of_a_batch_is_the_request_that_is_asked_live(
    in_batches: Any, server: Any, pictures: Any, asking: Any
) -> None:
    images = pictures(1)
    in_batches(images)
    assert json.dumps(server.bodies[0]) == json.dumps(asking.about_image(images.read(images.keys[0])))
