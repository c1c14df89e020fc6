"""A folder of pictures in GenEval's layout, judged picture by picture by any protocol and kept as they come.

    00000/metadata.jsonl             the prompt's row
    00000/samples/0000.png           its pictures
    judged/<judge>-<shard>.jsonl     every judged picture, with the sha256 of the picture

A stop costs the pictures that were under way. Several processes can share the work, each with its shard.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lensbench.locks import file_lock
from lensbench.scoring.geneval import Row, official_prompts
from lensbench.scoring.picture_folder import RECORD

METADATA = "metadata.jsonl"
SAMPLES = "samples"
_SHARD = re.compile(r"-\d+-of-\d+$")


class Picture(NamedTuple):
    """One picture of a prompt."""

    prompt: int
    sample: int
    path: Path


class Read(NamedTuple):
    """A picture uint8 (H, W, 3), and the sha256 of its file."""

    image: np.ndarray
    digest: str


@dataclass(frozen=True)
class Judging:
    """A protocol with its judge: `folder` is the protocol's, and `setting` names the judge and what else decides an
    outcome: files begin with it.

    `judged` gives what is kept of each picture; "filename", "metadata" and "picture" are added to it.
    """

    folder: str
    setting: str
    self_test: Callable[[], None]
    judged: Callable[[Sequence[Row], Sequence[np.ndarray]], Iterator[dict[str, Any]]]


@dataclass(frozen=True)
class Prompts:
    """The prompts of a folder by number, and their pictures in order."""

    folder: Path
    rows: dict[int, Row]
    pictures: list[Picture]

    @property
    def official(self) -> bool:
        """Whether these are GenEval's own 553."""
        return [self.rows[i] for i in sorted(self.rows)] == official_prompts()

    @property
    def part_of_official(self) -> int:
        """How many prompts GenEval has, where these are some of its 553 and not all; else 0."""
        every = official_prompts()
        part = len(self.rows) < len(every) and all(i < len(every) and every[i] == row for i, row in self.rows.items())
        return len(every) if part else 0

    def plan(self) -> dict[tuple[str, int], int]:
        """How many pictures each (task, prompt) should have: what was asked for where `lensbench generate` drew them,
        else as many as the prompt that has most."""
        asked = self._asked()
        if asked is None:
            counts = dict.fromkeys(self.rows, 0)
            for picture in self.pictures:
                counts[picture.prompt] += 1
            asked = max(counts.values())
        many = asked if isinstance(asked, list) else [asked] * (max(self.rows) + 1)
        return {(str(row.get("tag", "")), i): many[i] for i, row in self.rows.items()}

    def lost(self) -> list[int]:
        """The numbers of prompts whose folders are not there: below the last, and up to what was asked for."""
        asked = self._settings().get("samples")
        count = max(max(self.rows) + 1, len(asked) if isinstance(asked, list) else 0)
        return [index for index in range(count) if index not in self.rows]

    def missing(self) -> int:
        """How many pictures of the plan are not there."""
        return max(0, sum(self.plan().values()) - len(self.pictures))

    def name(self, picture: Picture) -> str:
        """A picture's file name within the folder."""
        return picture.path.relative_to(self.folder).as_posix()

    def _asked(self) -> int | list[int] | None:
        samples = self._settings().get("samples")
        whole = isinstance(samples, list) and len(samples) > max(self.rows)
        return samples if isinstance(samples, int) or whole else None

    def _settings(self) -> dict[str, Any]:
        """What `lensbench generate` was asked for; nothing where it did not draw the pictures."""
        try:
            return dict(json.loads((self.folder / RECORD).read_text())["settings"])
        except (OSError, ValueError, KeyError, TypeError):
            return {}


def open_folder(folder: Path, wanted: Mapping[str, type], protocol: str) -> Prompts:
    """A folder in GenEval's layout whose rows have the fields `wanted`.

    Raises ValueError, one line, when it is none or a row is none of the `protocol`'s.
    """
    if not folder.is_dir():
        raise ValueError(f"{folder}: no such folder")
    rows: dict[int, Row] = {}
    pictures = []
    for entry in sorted(folder.iterdir()):
        if not (entry.is_dir() and entry.name.isdecimal()):
            continue
        index = int(entry.name)
        rows[index] = _row(entry / METADATA, wanted, protocol)
        samples = (entry / SAMPLES).glob("*.png") if (entry / SAMPLES).is_dir() else ()
        pictures += [Picture(index, int(path.stem), path) for path in sorted(samples) if path.stem.isdecimal()]
    if not rows:
        raise ValueError(
            f"{folder}: no prompt's folder (00000/{METADATA} beside 00000/{SAMPLES}/0000.png); `lensbench generate` "
            "writes them"
        )
    if not pictures:
        raise ValueError(f"{folder}: {len(rows)} prompts but no picture in their {SAMPLES}/")
    found = Prompts(folder, rows, pictures)
    if lost := found.lost():
        shown = ", ".join(f"{index:05d}" for index in lost[:4]) + (f" and {len(lost) - 4} more" if lost[4:] else "")
        raise ValueError(
            f"{folder}: {len(lost)} of {len(lost) + len(rows)} prompts are missing ({shown}): a score over the others "
            "is another score; put back what is missing, or generate it again"
        )
    return found


def judge_pictures(
    prompts: Prompts,
    judging: Judging,
    *,
    shard: int = 0,
    shards: int = 1,
    batch: int = 8,
    report: Callable[[int, int], None] = lambda done, total: None,
) -> None:
    """Judge the pictures of a shard that are not judged yet, after the judge's self-test.

    `report(done, total)` counts the shard's pictures. Raises ValueError for a judge that fails its self-test, a picture
    that cannot be read, and a shard that another process is at.
    """
    mine = prompts.pictures[shard::shards]
    known = judged_by(prompts.folder, judging.folder).get(judging.setting, {})
    todo = [picture for picture in mine if not _is_known(picture, known, prompts)]
    report(len(mine) - len(todo), len(mine))
    if not todo:
        return
    judging.self_test()
    folder = prompts.folder / judging.folder
    folder.mkdir(exist_ok=True)
    path = folder / f"{judging.setting}-{shard:03d}-of-{shards:03d}.jsonl"
    with file_lock(path.with_suffix(".lock"), wait=False) as taken:
        if not taken:
            raise ValueError(f"{path}: another process judges this shard; give each its own, as in --shard 1/4")
        _drop_torn(path)
        with path.open("a") as file:
            for start in range(0, len(todo), batch):
                chosen = todo[start : start + batch]
                rows, read = [prompts.rows[picture.prompt] for picture in chosen], [_read(p.path) for p in chosen]
                outcomes = judging.judged(rows, [one.image for one in read])
                for picture, row, (_, digest), outcome in zip(chosen, rows, read, outcomes, strict=True):
                    about = {"filename": prompts.name(picture), "metadata": json.dumps(row), "picture": digest}
                    file.write(json.dumps(about | outcome) + "\n")
                    file.flush()
                report(len(mine) - len(todo) + start + len(chosen), len(mine))


def judged_by(folder: Path, protocol: str = "judged") -> dict[str, dict[str, dict[str, Any]]]:
    """Every picture of a folder that was judged by a protocol (GenEval), by its judge's setting and its file name."""
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for path in sorted((folder / protocol).glob("*.jsonl")):
        of_judge = found.setdefault(_SHARD.sub("", path.stem), {})
        for line in path.read_text(encoding="utf-8").split("\n"):
            try:
                row = json.loads(line)
            except ValueError:  # cut short by a stop; the picture is judged again
                continue
            of_judge[row["filename"]] = row
    return found


def _read(path: Path) -> Read:
    from PIL import Image

    data = path.read_bytes()
    try:
        with Image.open(path) as image:
            return Read(np.array(image.convert("RGB")), hashlib.sha256(data).hexdigest())
    except Exception as error:  # a broken file can make a decoder raise anything
        raise ValueError(f"{path}: cannot be read ({error}); draw it again, for a score leaves nothing out") from None


def lacking(row: Row, wanted: Mapping[str, type]) -> list[str]:
    """The fields that a row lacks or that hold something else."""
    return [name for name, kind in wanted.items() if not isinstance(row.get(name), kind)]


def _row(path: Path, wanted: Mapping[str, type], protocol: str) -> Row:
    try:
        row = json.loads(path.read_text())
        wrong = lacking(row, wanted)
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror or error}") from None
    except (ValueError, AttributeError) as error:
        raise ValueError(f"{path}: no JSON object ({error})") from None
    if wrong:
        raise ValueError(f"{path}: lacks {', '.join(wrong)}, so it is no row of {protocol}'s")
    assert isinstance(row, dict)
    return row


def _is_known(picture: Picture, known: Mapping[str, Mapping[str, Any]], prompts: Prompts) -> bool:
    row = known.get(prompts.name(picture))
    if row is None or row["metadata"] != json.dumps(prompts.rows[picture.prompt]):
        return False
    return bool(row["picture"] == hashlib.sha256(picture.path.read_bytes()).hexdigest())


def _drop_torn(path: Path) -> None:
    """Cut off a last line that a stop left unfinished."""
    if path.exists() and (data := path.read_bytes()) and not data.endswith(b"\n"):
        path.write_bytes(data[: data.rfind(b"\n") + 1])
