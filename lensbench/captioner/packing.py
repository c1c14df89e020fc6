"""A batch's file: one request a line, within the API's limits, written to disk as it grows."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal, NamedTuple

from lensbench.captioner.answers import Trouble
from lensbench.captioner.live import Job
from lensbench.captioner.requests import NotAPictureError
from lensbench.publishing import publish

MOST_REQUESTS = 50_000
MOST_BYTES = 200_000_000
ENDPOINT: Literal["/v1/chat/completions"] = "/v1/chat/completions"


class Packed(NamedTuple):
    """A file that was written: the keys in it, in order."""

    path: Path
    keys: list[str]


def pack(
    jobs: Iterator[Job],
    path: Path,
    *,
    most_requests: int,
    most_bytes: int,
    room: int,
    refuse: Callable[[str, Trouble], None],
) -> tuple[Packed | None, Job | None]:
    """Write requests to `path` until a limit is met or `room` requests are in it; it appears whole or not at all.

    `refuse` is told of images that cannot be decoded. Returns what was packed, None where there was nothing to, and the
    job that did not fit any more.
    """
    keys: list[str] = []
    size = 0
    waiting: Job | None = None
    partial = path.with_suffix(".partial")
    with partial.open("wb") as file:
        while len(keys) < min(most_requests, room):
            if (job := next(jobs, None)) is None:
                break
            try:
                body = job.build()
            except NotAPictureError as error:
                refuse(job.key, Trouble("failed", f"not a picture: {error}"))
                continue
            line = json.dumps({"custom_id": job.key, "method": "POST", "url": ENDPOINT, "body": body}).encode() + b"\n"
            if keys and size + len(line) > most_bytes:
                waiting = job
                break
            file.write(line)
            keys.append(job.key)
            size += len(line)
    if not keys:
        partial.unlink()
        return None, waiting
    publish(partial, path)
    return Packed(path, keys), waiting
