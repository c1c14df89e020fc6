"""A disk that fills up: the answers under way have been paid for."""

from __future__ import annotations

import errno
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fault_server import good

from lensbench.captioner import keeping
from lensbench.captions import store


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
    with pytest.raises(OSError, match=r"no space left on the disk; \d answers are lost that may have been paid for"):
        write(pictures(50), at_a_time=4)
    assert len(server.asked) <= 8
    monkeypatch.undo()
