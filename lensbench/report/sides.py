"""What `lensbench compare` compares: a frozen sweep, a cell or one of its checkpoints, or a folder of judged pictures,
each read into the same shape."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from lensbench import records as schema
from lensbench.experiment import Experiment
from lensbench.metrics import GENEVAL, metric
from lensbench.report.chance import chances_of_all
from lensbench.report.freeze import EXPERIMENTS, PROVENANCE, open_frozen
from lensbench.report.levels import factor_label
from lensbench.report.pictures import images_of, judged_images
from lensbench.report.placing import IMAGE
from lensbench.sweep.cellfiles import read_cell

CHECKPOINT = re.compile(r"step-(\d+)$")
OUTCOMES = ["part", "cell", "metric", "prompt_form", *IMAGE, "prompt", "value", "reason", "chance"]
SETS = ["part", "metric", "prompt_form", "seed", "value"]
Drawn = Callable[[dict[str, Any]], np.ndarray | None]


@dataclass(frozen=True)
class Side:
    """One of two sides. `part` is the arm and scale of a sweep in words, and "" for anything else."""

    name: str
    outcomes: pd.DataFrame  # OUTCOMES: one row a judged image of the last step, its metric as records name it
    sets: pd.DataFrame  # SETS: scores of whole sets of images
    scored: dict[str, Any]  # what must be the same on both sides, as far as it is known
    picture: Drawn  # the picture of a row of outcomes, uint8 (H, W, 3); None where it is not kept
    notes: tuple[str, ...] = ()

    def parts(self) -> set[str]:
        """The arms and scales that there are numbers for."""
        return {*self.outcomes["part"], *self.sets["part"]}


def open_sides(first: Path, second: Path, runs: Path, judge: str | None = None) -> tuple[Side, Side]:
    """Both sides. Raises ValueError, one line, for what is neither of the three, or not the same of the three."""
    kinds = [_kind(path) for path in (first, second)]
    if kinds[0] != kinds[1]:
        raise ValueError(f"{first} is {_ARTICLES[kinds[0]]} and {second} {_ARTICLES[kinds[1]]}: compare like with like")
    if kinds[0] == "folder":
        return _open_folders(first, second, judge)
    sides = [_open_sweep(path, runs) if kinds[0] == "sweep" else _open_cell(path) for path in (first, second)]
    return sides[0], sides[1]


_ARTICLES = {"sweep": "a frozen sweep", "cell": "a cell", "folder": "a folder of pictures"}


def _kind(path: Path) -> str:
    if not path.is_dir():
        raise ValueError(f"{path}: no such folder; give results/<sweep>, runs/<cell> or a folder of judged pictures")
    if (path / PROVENANCE).is_file():
        return "sweep"
    if (path / "experiment.json").is_file() or CHECKPOINT.search(path.name):
        return "cell"
    return "folder"


def _open_sweep(folder: Path, runs: Path) -> Side:
    frozen = open_frozen(folder)
    results, told = frozen.results, frozen.provenance
    factors = [name for name in results.factors if name != "seed"]
    records, outcomes = (_last(frame) for frame in (results.records, results.outcomes))
    names = {
        cell: ", ".join(filter(None, (factor_label(name, row[name]) for name in factors)))
        for cell, row in results.records.drop_duplicates("cell").set_index("cell")[factors].to_dict("index").items()
    }
    records, outcomes = (
        frame.assign(part=frame["cell"].map(names), **({} if "seed" in frame else {"seed": 0}))
        for frame in (records, outcomes)
    )
    scored = {name.removesuffix("_digest"): told.get(name) for name in ("judge_digest", "prompts_digest")}
    scored |= _plan(told.get("evaluation", {}))
    note = f"{folder}: {len(results.missing)} cells are missing." if results.missing else ""
    if not (folder / EXPERIMENTS).is_file():
        note += f" {folder} has no {EXPERIMENTS}: frozen by an earlier version."
    notes = (note.strip(),) if note else ()
    return Side(str(folder), *_numbers(outcomes, records), _known(scored), _from_runs(runs, outcomes), notes)


def _open_cell(path: Path) -> Side:
    step, directory = None, path
    if found := CHECKPOINT.search(path.name):
        step, directory = int(found.group(1)), path.parent.parent
    for name in ("experiment.json", schema.RECORDS.file):
        if not (directory / name).is_file():
            raise ValueError(f"{directory}: no {name}; give the directory of a cell that is complete")
    experiment = Experiment.stored((directory / "experiment.json").read_text())
    told = experiment.model_dump(mode="json")
    try:
        records, outcomes = read_cell(directory, experiment)
    except ValueError as error:
        raise ValueError(f"{directory}: {error}; give the directory of a cell that is complete") from None
    last = step is None or step == records["step"].max()
    if step is not None:
        records, outcomes = (frame[frame["step"] == step] for frame in (records, outcomes))
        if not records["metric"].eq(GENEVAL).any() and records.empty:
            raise ValueError(f"{path}: nothing was scored at step {step}")
    # Two models may have other training seeds: they are compared prompt by prompt all the same.
    records, outcomes = (_last(frame).assign(part="", seed=0) for frame in (records, outcomes))
    scored = {
        name.removesuffix("_digest"): sorted({str(v) for v in records[name].dropna()} - {""})
        for name in ("judge_digest", "prompts_digest")
    }
    scored |= _plan(told.get("evaluation", {}))
    picture = _from_runs(directory.parent, outcomes) if last else _no_picture
    return Side(str(path), *_numbers(outcomes, records), _known(scored), picture)


def _open_folders(first: Path, second: Path, judge: str | None) -> tuple[Side, Side]:
    from lensbench.report.models import open_drawn

    sides = []
    for one in open_drawn([first, second], judge):
        rows = pd.DataFrame(one.rows)
        rows = rows.assign(part="", cell="", metric=GENEVAL, seed=0, prompt_form="")
        prompts = {i: str(row.get("prompt", "")) for i, row in one.prompts.rows.items()}
        rows["prompt"] = rows["prompt_index"].map(prompts)
        rows["reason"] = rows.get("reason", "")
        settings = one.record.get("settings", {})
        scored = {"judge": one.judge, "guidance": settings.get("guidance")}
        paths = {(picture.prompt, picture.sample): picture.path for picture in one.prompts.pictures}
        sides.append(
            Side(str(one.folder), rows[OUTCOMES], pd.DataFrame(columns=SETS), _known(scored), _from_files(paths))
        )
    return sides[0], sides[1]


def _plan(evaluation: dict[str, Any]) -> dict[str, Any]:
    return {name.replace("_", " "): evaluation.get(name) for name in ("forms", "guidance", "sampling_steps")}


def _known(scored: dict[str, Any]) -> dict[str, Any]:
    return {name: said for name, said in scored.items() if said not in (None, [], "")}


def _last(frame: pd.DataFrame) -> pd.DataFrame:
    """The rows of each cell's last step of each number."""
    if frame.empty:
        return frame
    key = ["cell", "metric", "prompt_form"]
    keyed = frame.assign(prompt_form=frame["prompt_form"].fillna(""))
    return keyed[keyed["step"] == keyed.groupby(key)["step"].transform("max")]


def _numbers(outcomes: pd.DataFrame, records: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The judged images, their metrics as records name them, and the scores that no image has of its own.

    A score of single images whose images are not kept is told as a score of sets.
    """
    chances = chances_of_all(outcomes, ["part", "cell"])
    named = outcomes.assign(metric=schema.record_names(outcomes), chance=chances)[OUTCOMES]
    judged = {*named["metric"]}
    of_sets = [
        name
        for name in dict.fromkeys(records["metric"].astype(str))
        if metric(name).is_score and name not in judged and metric(name).variant_of not in judged
    ]
    return named, records.loc[records["metric"].isin(of_sets), SETS]


def _from_runs(runs: Path, outcomes: pd.DataFrame) -> Drawn:
    """Pictures of cells: of each form one file, in the order of its judged images."""
    opened: dict[Path, np.ndarray | None] = {}
    judged = outcomes[outcomes["metric"] == GENEVAL].sort_values(["prompt_index", "sample"], kind="stable")
    groups = dict(iter(judged.groupby(["part", "seed", "prompt_form"])))

    def picture(row: dict[str, Any]) -> np.ndarray | None:
        rows = groups[row["part"], row["seed"], row["prompt_form"]]
        path = judged_images(runs, rows.iloc[0], str(row["prompt_form"]))
        if path is None:
            return None
        if path not in opened:
            opened[path] = images_of(path)
        images = opened[path]
        if images is None or len(images) != len(rows):
            return None
        here = (rows["prompt_index"] == row["prompt_index"]) & (rows["sample"] == row["sample"])
        return np.asarray(images[int(np.flatnonzero(here)[0])])

    return picture


def _from_files(paths: dict[tuple[int, int], Path]) -> Drawn:
    def picture(row: dict[str, Any]) -> np.ndarray | None:
        from PIL import Image

        with Image.open(paths[row["prompt_index"], row["sample"]]) as image:
            return np.asarray(image.convert("RGB"))

    return picture


def _no_picture(row: dict[str, Any]) -> np.ndarray | None:
    return None
