"""Images that decode and may be damaged all the same: a JPEG that was cut, or has a hole, and whose decoder fills in.

What can be told cheaply, from the pixels and the bytes. A sound image can look so too, one with a white floor for
instance: these are images to look at, not faults.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np

from lensbench.data.pictures import opened, quiet, reason
from lensbench.data.shards import read_manifest, streamed

FEWEST_ROWS = 8  # of one color at the lower end: a row of a JPEG's blocks
HOLE_BYTES = 512  # of zeros in a row, within a JPEG's data
_SCAN, _END = 0xDA, b"\xff\xd9"  # JPEG's markers


class Doubt(NamedTuple):
    """An image to look at: its key, where it came from, and why."""

    key: str
    source: str
    why: str


def doubts(corpus: Path, report: Callable[[int], None]) -> Iterator[Doubt]:
    """The images of a corpus that may be damaged, decoded in full; `report` is given the images done since its last
    call. Raises ValueError when it is no imported corpus, or a shard is missing or damaged."""
    with quiet(), ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        for shard in read_manifest(corpus)["shards"]:
            for batch in streamed(corpus, shard, ["key", "source", "image"]):
                keys, sources, images = (batch.column(name) for name in ("key", "source", "image"))
                found = pool.map(doubt, (image.as_py() for image in images))
                for key, source, why in zip(keys.to_pylist(), sources.to_pylist(), found, strict=True):
                    if why:
                        yield Doubt(key, source, why)
                report(len(batch))


def doubt(data: bytes) -> str:
    """Why an image's bytes may be damaged, "" where nothing says so."""
    try:
        with opened(data) as image:
            image.load()
            is_jpeg = image.format in ("JPEG", "MPO")
            pixels = np.asarray(image.convert("RGB")) if is_jpeg else None
    except Exception as error:  # a broken file can make a decoder raise anything
        return f"cannot be decoded: {reason(error)}"
    if pixels is None:  # the other formats have checksums, or end in an error
        return ""
    if _has_hole(data):
        return f"its data has a hole: {HOLE_BYTES:,} zero bytes in a row, or more"
    flat = _flat_rows(pixels)
    if FEWEST_ROWS <= flat < len(pixels):
        return f"its lowest {flat:,} of {len(pixels):,} rows are one color: it may have been cut"
    return ""


def _flat_rows(pixels: np.ndarray) -> int:
    """Rows at the lower end of (H, W, 3) that are all of the last pixel's color."""
    other = (pixels != pixels[-1, -1]).any(axis=(1, 2))[::-1]
    return int(other.argmax()) if other.any() else len(pixels)


def _has_hole(data: bytes) -> bool:
    """Whether `HOLE_BYTES` zeros lie in a row between a JPEG's first scan and its end."""
    place = 2
    while place + 4 <= len(data) and data[place] == 0xFF and data[place + 1] != _SCAN:
        place += 2 + int.from_bytes(data[place + 2 : place + 4], "big")
    end = data.find(_END, place)
    return data.find(bytes(HOLE_BYTES), place, end if end >= 0 else len(data)) >= 0
