"""What the directory of a cell has to show: parameters, points of curves, files, and whether the cell is running."""

from __future__ import annotations

import csv
import hashlib
import json
import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from lensbench import spool
from lensbench.metrics import metric
from lensbench.records import RECORDS as SCHEMA
from lensbench.records import read
from lensbench.sampling.image_sets import IMAGES
from lensbench.sweep.cellfiles import EVALUATIONS
from lensbench.sweep.vitals import alive
from lensbench.training import files

RECORDS = SCHEMA.file
TRAINING = "training"  # whose records are no evaluation's
SILENCE_SECONDS = 60.0  # of a run on another machine, after which it is taken for dead
ORIGIN = ("corpus_digest", "captions_digest", "prompts_digest", "commit", "hardware")


class Point(NamedTuple):
    """A value of a metric. There is one value for a name and a step."""

    name: str
    step: int
    value: float
    t: int  # milliseconds since 1970
    checkpoint: int | None = None  # the step of the checkpoint that it is a score of


class Reading:
    """A cell's spool, as far as it has been read."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.at = 0  # the byte to go on from
        self.identity: str | None = None
        self.origin: dict[str, str] = {}
        self.began = self.attempted = self.last = 0  # the time of this run's first attempt, the last one, the last line
        self.attempt: dict[str, Any] | None = None  # the last one
        self.end: str | None = None  # how it ended
        self.points: list[Point] = []  # that nobody has taken yet
        self.heard = -math.inf  # when the spool last grew, on this machine's monotonic clock

    def advance(self) -> None:
        """Read what is new."""
        first = self.at == 0
        lines, self.at = spool.read(self.directory, self.at)
        for line in lines:
            self._take(line)
        if lines:
            self.heard = time.monotonic() - (max(0.0, time.time() - self.last / 1000) if first else 0.0)

    def status(self) -> str:
        """RUNNING, FAILED or KILLED: of a cell without records."""
        if (self.directory / "error.txt").exists():
            return "FAILED"
        if self.attempt is None:
            return "KILLED"
        if self.end:
            return "KILLED" if self.end == "FINISHED" else self.end  # its records have been taken away
        lives = alive(self.attempt["host"], self.attempt["pid"], self.attempt["started"])
        if lives is None:
            lives = time.monotonic() - self.heard < SILENCE_SECONDS
        return "RUNNING" if lives else "KILLED"

    def _take(self, line: dict[str, Any]) -> None:
        self.last = line["t"]
        if "begin" in line:
            self.attempt, self.attempted, self.end = line["begin"], line["t"], None
            self.began = self.began or line["t"]
        elif "end" in line:
            self.end = line["end"]
        elif "origin" in line:
            self.origin = line["origin"]
        elif "identity" in line:
            if self.identity is not None:
                self.points.clear()  # of other code or other data
                self.began = self.attempted
            self.identity = line["identity"]
        else:
            self.points += _points(line)


def _points(line: dict[str, Any]) -> Iterator[Point]:
    for kind, prefix, place in (
        ("train", "train", "step"),
        ("held_out", "validation_loss", "step"),
        ("system", "system", "sample"),
    ):
        for name, value in line.get(kind, {}).items():
            if not math.isnan(value):
                yield Point(f"{prefix}/{name}", line[place], value, line["t"])


def curves(directory: Path) -> list[Point]:
    """The steps of train.csv that are told, for what the spool lacks of them."""
    path = directory / files.LOSSES
    if not path.exists():
        return []
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    if not rows:
        return []
    steps, end = int(rows[-1]["step"]), _modified(path)
    seconds = float(rows[-1].get("seconds") or 0)
    out = []
    for row in rows:
        if not spool.is_told(int(row["step"]), steps):
            continue
        t = end - int(1000 * (seconds - float(row.get("seconds") or 0)))
        values = {name: float(row[name]) for name in spool.CURVES if row.get(name)}
        out += [Point(f"train/{name}", int(row["step"]), v, t) for name, v in values.items() if not math.isnan(v)]
    return out


def records(directory: Path, own: str) -> tuple[list[Point], dict[str, str]]:
    """The facts and scores of a trained cell, by step, and where they come from (ORIGIN and the experiment's hash).

    Scores and costs of other evaluations than `own` have its id at the end of their names; the costs of `own` are added
    to the training's.
    """
    found: dict[tuple[str, int], Point] = {}
    origin: dict[str, str] = {}
    for evaluation, path in _records_files(directory).items():
        rows = read(path, SCHEMA).to_dict("records")
        t = _modified(path)
        for row in sorted(rows, key=lambda row: int(row["step"])):
            if not math.isnan(row["value"]):
                # MLflow's names allow no "@"; a form reads like a folder of its metric
                parts = (row["metric"], row["prompt_form"], evaluation if evaluation not in (TRAINING, own) else "")
                point = Point("/".join(filter(None, parts)), int(row["step"]), float(row["value"]), t, int(row["step"]))
                key = (point.name, point.step)
                if key in found and metric(row["metric"]).kind == "cost":
                    found[key] = point._replace(value=found[key].value + point.value)
                else:
                    found.setdefault(key, point)
        if rows and evaluation in (TRAINING, own):
            origin |= {name: str(rows[0][name]) for name in (*ORIGIN, "experiment_hash")}
    return list(found.values()), origin


def records_digests(directory: Path) -> dict[str, str]:
    """What a cell's records are: the sha256 of the training's (TRAINING) and of each evaluation's, by its id."""
    return {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in _records_files(directory).items()}


def _records_files(directory: Path) -> dict[str, Path]:
    """The files of records by evaluation; those of an evaluation whose training is not complete do not count."""
    if not (directory / RECORDS).exists():
        return {}
    scored = {path.parent.name: path for path in sorted(directory.glob(f"{EVALUATIONS}/*/{RECORDS}"))}
    return {TRAINING: directory / RECORDS} | scored


def parameters(directory: Path) -> dict[str, str]:
    """The experiment's dotted fields and their values; none where it is not written yet."""
    try:
        return _flat(json.loads((directory / "experiment.json").read_text()))
    except FileNotFoundError:
        return {}


def pictures(directory: Path, own: str) -> list[tuple[Path, str]]:
    """The sheets along training and the images of the last checkpoint, each with the folder that it is shown in.

    Images of other evaluations than `own` are in folders with their ids.
    """
    found = [(path, files.SAMPLES) for path in sorted((directory / files.SAMPLES).glob("*.png"))]
    for path in sorted(directory.glob(f"{EVALUATIONS}/*/{IMAGES}/*.png")):
        evaluation = path.parent.parent.name
        if "-step-" not in path.name:
            found.append((path, IMAGES if evaluation == own else f"{IMAGES}-{evaluation}"))
    return found


def checkpoints(directory: Path) -> dict[int, Path]:
    """The folders of the checkpoints, by their step; one that is being written is left out."""
    out = {}
    for folder in sorted((directory / files.CHECKPOINTS).glob("step-*")):
        names = {path.name for path in folder.iterdir()}
        if any(name.endswith(".safetensors") for name in names) and not any(".partial" in name for name in names):
            out[int(folder.name.removeprefix("step-"))] = folder
    return out


def weights(folder: Path) -> dict[str, str]:
    """The sha256 of each file of weights of a checkpoint, as `sha256sum` prints it."""
    out = {}
    for path in sorted(folder.glob("*.safetensors")):
        with path.open("rb") as file:
            out[path.name] = hashlib.file_digest(file, "sha256").hexdigest()
    return out


def _modified(path: Path) -> int:
    return int(path.stat().st_mtime * 1000)


def _flat(tree: dict[str, Any], prefix: str = "") -> dict[str, str]:
    out: dict[str, str] = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            out |= _flat(value, f"{prefix}{key}.")
        else:
            out[prefix + key] = str(value)
    return out
