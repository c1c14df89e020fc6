"""Asking again in the same set: a newer row counts, the older one stays, and both were paid for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from fault_server import Reply, completion, good

from lensbench.captioner import batch
from lensbench.captioner.ledger import Ledger
from lensbench.captions.store import CaptionSet


class Killed(BaseException):
    """The process ends here."""


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


def test_what_was_not_asked_about_again_yet_goes_first(write: Any, server: Any, pictures: Any) -> None:
    server.answer = lambda key, nth, body: Reply(200, completion(""))
    images = pictures(6)
    write(images)
    for _ in range(3):
        assert write(images, again=frozenset({"failed"}), limit=2).tally.rows == 2
    assert set(server.times().values()) == {2}


def test_an_image_that_is_asked_about_again_in_a_batch_has_one_newest_row_wherever_the_process_dies(
    in_batches: Any, rows: Any, server: Any, pictures: Any, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed before or after any call, and collected by a plain run: no answer is dropped, none is kept twice."""
    images = pictures(6)
    bad = set(images.keys[:4])
    whole = batch.Batches._call
    for place in range(1000):
        reached = [0]

        def call(self: Any, what: Any, in_doubt: Any = None, reached: list[int] = reached, place: int = place) -> Any:
            for done in (False, True):
                reached[0] += 1
                if reached[0] == place + 1:
                    raise Killed
                if not done:
                    answer = whole(self, what, in_doubt)
            return answer

        for path in (tmp_path / "set").glob("*"):
            path.unlink()
        server.asked.clear()
        server.answer = lambda key, nth, body: Reply(200, completion("")) if key in bad else good(key, nth, body)
        assert in_batches(images).complete
        server.answer = good
        monkeypatch.setattr(batch.Batches, "_call", call)
        try:
            in_batches(images, again=frozenset({"failed"}), batch_requests=2)
        except Killed:
            monkeypatch.setattr(batch.Batches, "_call", whole)
            in_batches(images)  # as any later run does
            if any(row["state"] == "failed" for row in rows().values()):  # killed before all were submitted
                assert in_batches(images, again=frozenset({"failed"})).complete
        else:
            break
        finally:
            monkeypatch.setattr(batch.Batches, "_call", whole)
        assert {key: row["state"] for key, row in rows().items()} == dict.fromkeys(images.keys, "done")
        assert {key for key, n in server.times().items() if n == 2} == bad
        assert max(server.times().values()) == 2, "submitted twice"
        older = [row for piece in CaptionSet(tmp_path / "set").history() for row in piece.to_pylist()]
        assert sorted(row["key"] for row in older) == sorted(bad)
        assert Ledger(tmp_path / "set").again() == {}
    assert place > 8
