"""GenEval on a folder of pictures in its layout: the verdict on every picture, summed up when all are there.

`results.jsonl` then holds every judged picture in order, as the reference's own scripts read it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from math import isnan
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from lensbench.publishing import publish
from lensbench.scoring import chance
from lensbench.scoring.geneval import Detection, Row, verdict
from lensbench.scoring.judged_folder import Judging, Prompts, judge_pictures, judged_by, open_folder

RESULTS = "results.jsonl"
JUDGED = "judged"
FIELDS_OF_ROW: dict[str, type] = {"tag": str, "include": list, "prompt": str}  # of a prompt, that a verdict needs
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


def open_prompts(folder: Path) -> Prompts:
    """A folder in GenEval's layout. Raises ValueError, one line, when it is none or a row is no prompt of GenEval's."""
    return open_folder(folder, FIELDS_OF_ROW, "GenEval")


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
    """Judge the pictures of a shard that are not judged yet: see `judge_pictures`."""
    asked = chance.by_task(prompts.rows.values())
    digests = _digests(prompts)

    def verdicts(rows: Sequence[Row], images: Sequence[np.ndarray]) -> Iterator[dict[str, Any]]:
        for row, seen in zip(rows, judge.look(images), strict=True):
            said = verdict(row, seen.detections, seen.color, threshold=threshold)
            by_chance = chance.of_image(row, asked[row["tag"]], seen.detections, seen.color, threshold=threshold)
            details = {name: [[float(x) for x in box] for box in boxes] for name, boxes in seen.detections.items()}
            yield {
                "tag": row["tag"],
                "prompt": row["prompt"],
                "correct": said.correct,
                "reason": said.reason,
                "chance": None if isnan(by_chance) else by_chance,
                "chance_of": digests[row["tag"]],
                "details": json.dumps(details),
                "judge": judge.name,
                "judge_digest": judge.digest,
            }

    judging = Judging(JUDGED, _setting(judge, threshold), judge.self_test, verdicts)
    judge_pictures(prompts, judging, shard=shard, shards=shards, batch=batch, report=report)


def judged(prompts: Prompts, judge: Judge, threshold: float | None = None) -> dict[str, dict[str, Any]]:
    """Every judged picture of this judge by its file name, from all shards."""
    return judged_by(prompts.folder, JUDGED).get(_setting(judge, threshold), {})


def outcomes(prompts: Prompts, known: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The judged pictures as `geneval.summary` and the tables take them.

    The chance of a picture is NaN where an earlier version judged it, or where its task had other prompts then.
    """
    rows, digests = [], _digests(prompts)
    for picture in prompts.pictures:
        if (row := known.get(prompts.name(picture))) is not None:
            about = {"task": row["tag"], "prompt_index": picture.prompt, "sample": picture.sample}
            by_chance = row.get("chance") if row.get("chance_of") == digests.get(row["tag"]) else None
            about |= {"chance": float("nan") if by_chance is None else float(by_chance)}
            rows.append(about | {"prompt": row["prompt"], "value": float(row["correct"]), "reason": row["reason"]})
    return rows


def write_results(prompts: Prompts, known: Mapping[str, Mapping[str, Any]]) -> Path:
    """Write results.jsonl with the reference's fields, in the order of the pictures."""
    path = prompts.folder / RESULTS
    partial = path.with_suffix(".partial")
    with partial.open("w") as file:
        for picture in prompts.pictures:
            row = known[prompts.name(picture)]
            file.write(json.dumps({name: row[name] for name in FIELDS}) + "\n")
    publish(partial, path)
    return path


def _digests(prompts: Prompts) -> dict[str, str]:
    """What chance is of: the rows of each task, in short."""
    told = {task: json.dumps(rows, sort_keys=True) for task, rows in chance.by_task(prompts.rows.values()).items()}
    return {task: hashlib.sha256(rows.encode()).hexdigest()[:16] for task, rows in told.items()}


def _setting(judge: Judge, threshold: float | None) -> str:
    return judge.digest[:16] + ("" if threshold is None else f"-above-{threshold:g}")
