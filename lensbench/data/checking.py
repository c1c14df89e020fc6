"""What an imported corpus holds, as counts, and whether its bytes are still those that came."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from lensbench.captions.store import caption_sets
from lensbench.data.imported import open_images, rows_here
from lensbench.data.pictures import RULES
from lensbench.data.shards import SET_ASIDE, Shard, read_manifest, streamed

EXAMPLES = 2  # of each reason


class Sides(NamedTuple):
    """The smallest, the median and the largest of a side, in pixels."""

    smallest: int
    median: int
    largest: int


class Aside(NamedTuple):
    """What was set aside for one reason: images, or captions."""

    what: str
    reason: str
    times: int
    examples: list[str]


class Coverage(NamedTuple):
    """A caption set: what made it, the rows of the corpus's images in each state, and how many rows are of others."""

    name: str
    made_by: str
    states: dict[str, int]
    foreign: int


class Contents(NamedTuple):
    """What a corpus holds. `manifest` is `corpus.json`; `formats` and `rules` count images."""

    manifest: dict[str, Any]
    formats: dict[str, int]
    rules: dict[str, int]
    shorter: Sides
    longer: Sides
    set_aside: list[Aside]
    captions: list[Coverage]
    broken: list[str]  # why a caption set cannot be read


def contents(corpus: Path) -> Contents:
    """Count what a corpus holds; the images themselves are not read.

    Raises ValueError when it is no imported corpus, or a shard is missing or damaged.
    """
    import numpy as np

    manifest = read_manifest(corpus)
    formats: Counter[str] = Counter()
    rules: Counter[str] = Counter()
    sides = []
    for shard in manifest["shards"]:
        for batch in streamed(corpus, shard, ["format", "width", "height", "rules"]):
            formats.update(batch.column("format").to_pylist())
            rules.update(batch.column("rules").flatten().to_pylist())
            sides.append(np.stack([batch.column("width").to_numpy(), batch.column("height").to_numpy()], axis=1))
    every = np.concatenate(sides)
    images = open_images(corpus)
    broken: list[ValueError] = []
    sets = [
        Coverage(s.name, _made_by(*s.maker[:2]), *rows_here(images, s)) for s in caption_sets(corpus, broken.append)
    ]
    return Contents(
        manifest,
        dict(formats.most_common()),
        {name: rules[name] for name in RULES if rules[name]},
        _sides(every.min(axis=1)),
        _sides(every.max(axis=1)),
        set_aside(corpus),
        sets,
        [str(error) for error in broken],
    )


def damage(corpus: Path, report: Callable[[int], None]) -> Iterator[str]:
    """What is wrong with the bytes of a corpus, a line each; `report` is given the images read since its last call.

    Raises ValueError when it is no imported corpus.
    """
    manifest = read_manifest(corpus)
    keys = []
    whole = True
    for shard in manifest["shards"]:
        found, wrong = _shard_damage(corpus, shard, report)
        keys.append(found)
        whole = whole and not wrong
        yield from wrong
    if not whole:
        return
    every = sorted(key for found in keys for key in found)
    if hashlib.sha256("\n".join(map(bytes.hex, every)).encode()).hexdigest() != manifest["digest"]:
        yield f"{corpus}: the shards are whole, but not those that corpus.json was written for"


def _shard_damage(corpus: Path, shard: Shard, report: Callable[[int], None]) -> tuple[list[bytes], list[str]]:
    keys: list[bytes] = []
    other = []
    try:
        for batch in streamed(corpus, shard, ["key", "image"]):
            images = batch.column("image")
            for i, key in enumerate(batch.column("key").to_pylist()):
                digest = hashlib.sha256(memoryview(images[i].as_buffer())).digest()
                if digest.hex() != key:
                    other.append(key)
                keys.append(digest)
            report(len(batch))
    except ValueError as error:
        return keys, [str(error)]
    except Exception as error:  # damage can make the reader raise anything
        return keys, [f"shard {corpus / shard.file} is damaged: {type(error).__name__}: {error}"]
    wrong = []
    if other:
        wrong.append(
            f"shard {corpus / shard.file} is damaged: the bytes of {len(other):,} of its {len(keys):,} images are not "
            f"those of their keys, the first of key {str(other[0])[:12]}"
        )
    if len(keys) != shard.images:
        wrong.append(f"shard {corpus / shard.file} is damaged: it has {len(keys):,} images, not {shard.images:,}")
    return keys, wrong


def _sides(pixels: Any) -> Sides:
    ordered = sorted(pixels.tolist())
    return Sides(ordered[0], ordered[len(ordered) // 2], ordered[-1])


def set_aside(corpus: Path) -> list[Aside]:
    """By reason, the most frequent first; reasons that differ in their numbers or names alone are one."""
    import pyarrow.parquet as pq

    counts: Counter[tuple[str, str]] = Counter()
    examples: dict[tuple[str, str], list[str]] = {}
    with pq.ParquetFile(corpus / SET_ASIDE) as file:
        for batch in file.iter_batches(columns=["what", "set", "reason", "source"]):
            for what, name, why, source in zip(*(column.to_pylist() for column in batch.columns), strict=True):
                kind = (f"caption in {name}" if what == "caption" else what, _kind(why))
                counts[kind] += 1
                shown = examples.setdefault(kind, [])
                if len(shown) < EXAMPLES:
                    shown.append(source)
    return [Aside(*kind, count, examples[kind]) for kind, count in counts.most_common()]


def _kind(reason: str) -> str:
    """A reason without what differs from file to file: counts, places in the file, and paths."""
    if "is not there: " in reason:
        reason = reason.partition(": ")[0]
    return re.sub(r"\d[\d,]* (?=frames|bytes|samples)", "", re.sub(r" \(byte 0x.*?\)", "", reason))


def _made_by(captioner: str, prompt_version: str) -> str:
    return f"{captioner}, {prompt_version}" if prompt_version else captioner
