"""GenEval on a folder of pictures in its layout: judged picture by picture, kept as they come, summed up when whole.

    00000/metadata.jsonl             the prompt's row
    00000/samples/0000.png           its pictures
    judged/<judge>-<shard>.jsonl     every judged picture: the reference's fields, and the sha256 of the picture
    results.jsonl                    all of them in order, once all are there: what the reference's own scripts read

A stop costs the pictures that were under way. Several processes can share the work, each with its shard.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from lensbench.locks import file_lock
from lensbench.publishing import publish
from lensbench.scoring.geneval import Detection, Row, official_prompts, verdict
from lensbench.scoring.picture_folder import RECORD

METADATA = "metadata.jsonl"
SAMPLES = "samples"
JUDGED = "judged"
RESULTS = "results.jsonl"
_SHARD = re.compile(r"-\d+-of-\d+$")
FIELDS = ("filename", "tag", "prompt", "correct", "reason", "metadata", "details")  # of the reference's results


class Seen(Protocol):
    """What a judge found in one picture: boxes (x1, y1, x2, y2, score) by class, and the color of each."""

    @property
    def detections(self) -> Mapping[str, Sequence[Detection]]:
        """Of any score, in any order."""
        ...

    def color(self, name: str, index: int) -> str:
        """The color of detection `index` of a class."""
        ...


class Judge(Protocol):
    """A detector with its colors. `name` and `digest` (sha256) go into every record."""

    @property
    def name(self) -> str: ...

    @property
    def digest(self) -> str: ...

    def look(self, images: Sequence[np.ndarray]) -> Sequence[Seen]:
        """What is in each picture, uint8 (H, W, 3)."""
        ...

    def self_test(self) -> None:
        """Raise ValueError unless the objects of a known picture are found."""
        ...


class Picture(NamedTuple):
    """One picture of a prompt."""

    prompt: int
    sample: int
    path: Path


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
        return {(row["tag"], i): many[i] for i, row in self.rows.items()}

    def _asked(self) -> int | list[int] | None:
        try:
            samples = json.loads((self.folder / RECORD).read_text())["settings"]["samples"]
        except (OSError, ValueError, KeyError, TypeError):
            return None
        whole = isinstance(samples, list) and len(samples) > max(self.rows)
        return samples if isinstance(samples, int) or whole else None


def open_prompts(folder: Path) -> Prompts:
    """A folder in GenEval's layout. Raises ValueError, one line, when it is none or a row is no prompt of GenEval's."""
    if not folder.is_dir():
        raise ValueError(f"{folder}: no such folder")
    rows: dict[int, Row] = {}
    pictures = []
    for entry in sorted(folder.iterdir()):
        if not (entry.is_dir() and entry.name.isdecimal()):
            continue
        index = int(entry.name)
        rows[index] = _row(entry / METADATA)
        samples = (entry / SAMPLES).glob("*.png") if (entry / SAMPLES).is_dir() else ()
        pictures += [Picture(index, int(path.stem), path) for path in sorted(samples) if path.stem.isdecimal()]
    if not rows:
        raise ValueError(
            f"{folder}: no prompt's folder (00000/{METADATA} beside 00000/{SAMPLES}/0000.png); `lensbench generate` "
            "writes them"
        )
    if not pictures:
        raise ValueError(f"{folder}: {len(rows)} prompts but no picture in their {SAMPLES}/")
    return Prompts(folder, rows, pictures)


def judge_folder(
    prompts: Prompts,
    judge: Judge,
    *,
    shard: int = 0,
    shards: int = 1,
    batch: int = 8,
    threshold: float | None = None,
    report: Callable[[int, int], None] = lambda done, total: None,
) -> None:
    """Judge the pictures of a shard that are not judged yet, after the judge's self-test.

    `report(done, total)` counts the shard's pictures. Raises ValueError for a judge that fails its self-test, a picture
    that cannot be read, and a shard that another process is at.
    """
    mine = prompts.pictures[shard::shards]
    known = judged(prompts, judge, threshold)
    todo = [picture for picture in mine if not _is_known(picture, known, prompts)]
    report(len(mine) - len(todo), len(mine))
    if not todo:
        return
    judge.self_test()
    folder = prompts.folder / JUDGED
    folder.mkdir(exist_ok=True)
    path = folder / f"{_setting(judge, threshold)}-{shard:03d}-of-{shards:03d}.jsonl"
    with file_lock(path.with_suffix(".lock"), wait=False) as taken:
        if not taken:
            raise ValueError(f"{path}: another process judges this shard; give each its own, as in --shard 1/4")
        _drop_torn(path)
        with path.open("a") as file:
            for start in range(0, len(todo), batch):
                chosen = todo[start : start + batch]
                for line in _judged(prompts, judge, chosen, threshold):
                    file.write(json.dumps(line) + "\n")
                file.flush()
                report(len(mine) - len(todo) + start + len(chosen), len(mine))


def judged(prompts: Prompts, judge: Judge, threshold: float | None = None) -> dict[str, dict[str, Any]]:
    """Every judged picture of this judge by its file name, from all shards."""
    return judged_by(prompts.folder).get(_setting(judge, threshold), {})


def judged_by(folder: Path) -> dict[str, dict[str, dict[str, Any]]]:
    """Every judged picture of a folder, by its judge (the beginning of a digest) and its file name."""
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for path in sorted((folder / JUDGED).glob("*.jsonl")):
        of_judge = found.setdefault(_SHARD.sub("", path.stem), {})
        for line in path.read_text().splitlines():
            try:
                row = json.loads(line)
            except ValueError:  # cut short by a stop; the picture is judged again
                continue
            of_judge[row["filename"]] = row
    return found


def outcomes(prompts: Prompts, known: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The judged pictures as `geneval.summary` and the tables take them."""
    rows = []
    for picture in prompts.pictures:
        if (row := known.get(_name(picture, prompts.folder))) is not None:
            about = {"task": row["tag"], "prompt_index": picture.prompt, "sample": picture.sample}
            rows.append(about | {"prompt": row["prompt"], "value": float(row["correct"]), "reason": row["reason"]})
    return rows


def write_results(prompts: Prompts, known: Mapping[str, Mapping[str, Any]]) -> Path:
    """Write results.jsonl with the reference's fields, in the order of the pictures."""
    path = prompts.folder / RESULTS
    partial = path.with_suffix(".partial")
    with partial.open("w") as file:
        for picture in prompts.pictures:
            row = known[_name(picture, prompts.folder)]
            file.write(json.dumps({name: row[name] for name in FIELDS}) + "\n")
    publish(partial, path)
    return path


def _judged(
    prompts: Prompts, judge: Judge, pictures: Sequence[Picture], threshold: float | None
) -> Iterator[dict[str, Any]]:
    read = [_read(picture.path) for picture in pictures]
    for picture, (_, digest), seen in zip(pictures, read, judge.look([image for image, _ in read]), strict=True):
        row = prompts.rows[picture.prompt]
        said = verdict(row, seen.detections, seen.color, threshold=threshold)
        details = {name: [[float(x) for x in box] for box in boxes] for name, boxes in seen.detections.items()}
        yield {
            "filename": _name(picture, prompts.folder),
            "tag": row["tag"],
            "prompt": row["prompt"],
            "correct": said.correct,
            "reason": said.reason,
            "metadata": json.dumps(row),
            "details": json.dumps(details),
            "picture": digest,
            "judge": judge.name,
            "judge_digest": judge.digest,
        }


def _read(path: Path) -> tuple[np.ndarray, str]:
    from PIL import Image

    data = path.read_bytes()
    try:
        with Image.open(path) as image:
            return np.array(image.convert("RGB")), hashlib.sha256(data).hexdigest()
    except Exception as error:  # a broken file can make a decoder raise anything
        raise ValueError(f"{path}: cannot be read ({error}); draw it again, for a score leaves nothing out") from None


def _row(path: Path) -> Row:
    try:
        row = json.loads(path.read_text())
        wanted = {"tag": str, "include": list, "prompt": str}
        wrong = [name for name, kind in wanted.items() if not isinstance(row.get(name), kind)]
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror or error}") from None
    except (ValueError, AttributeError) as error:
        raise ValueError(f"{path}: no JSON object ({error})") from None
    if wrong:
        raise ValueError(f"{path}: lacks {', '.join(wrong)}, so it is no row of GenEval's")
    assert isinstance(row, dict)
    return row


def _setting(judge: Judge, threshold: float | None) -> str:
    return judge.digest[:16] + ("" if threshold is None else f"-above-{threshold:g}")


def _name(picture: Picture, folder: Path) -> str:
    return picture.path.relative_to(folder).as_posix()


def _is_known(picture: Picture, known: Mapping[str, Mapping[str, Any]], prompts: Prompts) -> bool:
    row = known.get(_name(picture, prompts.folder))
    if row is None or row["metadata"] != json.dumps(prompts.rows[picture.prompt]):
        return False
    return bool(row["picture"] == hashlib.sha256(picture.path.read_bytes()).hexdigest())


def _drop_torn(path: Path) -> None:
    """Cut off a last line that a stop left unfinished."""
    if path.exists() and (data := path.read_bytes()) and not data.endswith(b"\n"):
        path.write_bytes(data[: data.rfind(b"\n") + 1])
