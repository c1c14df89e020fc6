"""What a run tells of itself as it goes: lines of JSON at the end of `spool.jsonl`, in the run's directory.

Whoever wants to show a run (lensbench.tracking) reads the file from where it stopped; the run never waits for a reader,
and what nobody has read stays there. A line has "t", its time in milliseconds since 1970, and one of

    "begin"     host, pid, and when that process started: an attempt at the run
    "identity"  what must stay the same for the attempts to be one run, as one digest, where it is new
    "origin"    digests of the data and the judge, commit, hardware
    "step"      a training step, and its numbers in "train" or, by prompt form, held-out losses in "held_out"
    "sample"    the number of a sample of the machine, and its numbers in "system"; also the sign of life
    "end"       how the attempt ended, as MLflow calls it: FINISHED, FAILED or KILLED

Appending is not synced to the disk: a machine that loses power loses the last seconds, and the run tells them again.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

NAME = "spool.jsonl"
POINTS = 2500  # of a curve, at most: as many as MLflow reads for a chart of several runs; train.csv has every step
# The columns of train.csv that are told.
CURVES = ("loss", "learning_rate", "gradient_norm", "loss_t1", "loss_t2", "loss_t3", "loss_t4", "seconds")

Line = Mapping[str, Any]


def now() -> int:
    """Milliseconds since 1970."""
    return int(time.time() * 1000)


def append(directory: Path, lines: Iterable[Line]) -> bool:
    """Add lines to a run's spool; returns whether that went well. A disk that is full stops no run here."""
    text = "".join(json.dumps({"t": now()} | dict(line), separators=(",", ":")) + "\n" for line in lines).encode()
    if not text:
        return True
    try:
        descriptor = os.open(directory / NAME, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            size = os.fstat(descriptor).st_size
            if size and os.pread(descriptor, 1, size - 1) != b"\n":  # a line that a kill or a full disk cut short
                text = b"\n" + text
            return os.write(descriptor, text) == len(text)
        finally:
            os.close(descriptor)
    except OSError:
        return False


def read(directory: Path, start: int = 0) -> tuple[list[dict[str, Any]], int]:
    """The whole lines from byte `start` on, and the byte to go on from; a line that was cut short is left out."""
    try:
        with (directory / NAME).open("rb") as file:
            file.seek(start)
            data = file.read()
    except FileNotFoundError:
        return [], start
    whole = data[: data.rfind(b"\n") + 1]
    lines = []
    for raw in whole.split(b"\n"):
        try:
            line = json.loads(raw)
        except ValueError:
            continue
        if isinstance(line, dict) and "t" in line:
            lines.append(line)
    return lines, start + len(whole)


def identify(directory: Path, digest: str) -> None:
    """Say what the run is, unless that was the last that was said. Steps before another identity are another run's."""
    lines, _ = read(directory)
    told = [line["identity"] for line in lines if "identity" in line]
    if told[-1:] != [digest]:
        append(directory, [{"identity": digest}])


def of_this_run(lines: Sequence[dict[str, Any]]) -> Sequence[dict[str, Any]]:
    """The lines after the last identity that differs from the one before."""
    named = [place for place, line in enumerate(lines) if "identity" in line]
    return lines[named[-1] :] if len(named) > 1 else lines


def is_told(step: int, steps: int) -> bool:
    """Whether a step of a training of `steps` steps is told: every one, but in a long training."""
    return step % math.ceil(steps / POINTS) == 0 or step in (1, steps)
