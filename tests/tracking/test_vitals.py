"""An attempt tells that it begins, that it lives and how it ends."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lensbench import spool
from lensbench.sweep import vitals
from lensbench.sweep.vitals import alive, started, telling
from lensbench.tracking import contents
from lensbench.tracking.contents import Reading


def samples(directory: Path) -> list[dict[str, object]]:
    return [line for line in spool.read(directory)[0] if "sample" in line]


def test_samples_of_the_machine_are_told_and_numbered_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vitals, "SECONDS", 0.02)
    for attempt in (1, 2):
        with telling(tmp_path):
            until = time.monotonic() + 20
            while len(samples(tmp_path)) < 3 * attempt and time.monotonic() < until:
                time.sleep(0.01)
    found = samples(tmp_path)
    assert [line["sample"] for line in found] == list(range(len(found)))
    numbers = found[-1]["system"]
    assert isinstance(numbers, dict)
    assert 20 < numbers["process_memory_usage_megabytes"] < numbers["system_memory_usage_megabytes"]
    assert 0 < numbers["system_memory_usage_percentage"] < 100
    assert numbers["process_cpu_percentage"] >= 0


@pytest.mark.parametrize(
    ("raised", "end"),
    [(None, "FINISHED"), (KeyboardInterrupt(), "KILLED"), (SystemExit(1), "KILLED"), (ValueError(), "FAILED")],
)
def test_how_an_attempt_ends(tmp_path: Path, raised: BaseException | None, end: str) -> None:
    def attempt() -> None:
        with telling(tmp_path):
            if raised is not None:
                raise raised

    if raised is None:
        attempt()
    else:
        with pytest.raises(type(raised)):
            attempt()
    assert spool.read(tmp_path)[0][-1]["end"] == end


def test_a_process_is_told_from_a_later_one_with_its_number() -> None:
    host, pid = socket.gethostname(), os.getpid()
    assert alive(host, pid, started(pid)) is True
    assert alive(host, pid, "1") is False
    assert alive("elsewhere", pid, started(pid)) is None
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        at = started(process.pid)
        assert alive(host, process.pid, at) is True
        process.kill()
        while alive(host, process.pid, at):  # a zombie is no process
            time.sleep(0.01)


def test_a_run_on_another_machine_is_dead_when_it_has_been_silent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool.append(tmp_path, [{"begin": {"host": "elsewhere", "pid": 1, "started": "1"}}])
    reading = Reading(tmp_path)
    reading.advance()
    assert reading.status() == "RUNNING"
    monkeypatch.setattr(contents, "SILENCE_SECONDS", 0.05)
    time.sleep(0.1)
    reading.advance()
    assert reading.status() == "KILLED"
    spool.append(tmp_path, [{"sample": 0, "system": {}}])
    reading.advance()
    assert reading.status() == "RUNNING"
    late = Reading(tmp_path)
    time.sleep(0.1)
    late.advance()  # what was said before this process looked is as old as it says
    assert late.status() == "KILLED"
