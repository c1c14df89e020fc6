"""A run that pays for answers without a caption ends early, and says what the server answers."""

from __future__ import annotations

from typing import Any

import pytest
from fault_server import Reply, completion, good

from lensbench.captioner import usefulness
from lensbench.captioner.client import StoppedError
from lensbench.captioner.pace import FIRST as FIRST_AT_A_TIME

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


def test_no_batch_more_is_submitted_once_the_answers_are_of_no_use(
    in_batches: Any, rows: Any, server: Any, pictures: Any, display: Any, worst_usd: float
) -> None:
    images = pictures(60)
    server.answer = lambda key, nth, body: Reply(200, completion("What a lovely day!"))
    with pytest.raises(StoppedError, match=r"20 of 20 answers are no captions .*What a lovely day!"):
        in_batches(images, batch_requests=20, budget=20.5 * worst_usd / 2)
    assert len(server.made) == 1
    assert len(rows()) == 20, "what was paid for is kept"
    assert any("this set has no caption yet: --pilot 20" in line for line in display.said)


def test_useless_answers_at_the_head_of_a_file_say_nothing_of_the_rest(
    in_batches: Any, rows: Any, server: Any, pictures: Any
) -> None:
    images = pictures(80)
    bad = set(images.keys[:60])
    server.answer = lambda key, nth, body: Reply(200, completion("")) if key in bad else good(key, nth, body)
    assert in_batches(images, batch_requests=80).complete
    assert sum(row["state"] == "done" for row in rows().values()) == 20
