"""The prompts to draw: GenEval's own, a file's, or those that a cell of the shapes world is scored on."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lensbench.data.corpus import open_corpus
from lensbench.experiment import Experiment, Form
from lensbench.json_lines import json_lines
from lensbench.scoring.evaluation_plan import plan
from lensbench.scoring.geneval import OFFICIAL_SAMPLES, official_prompts
from lensbench.scoring.shapes_prompts import prompt_set

OFFICIAL = "geneval"


@dataclass(frozen=True)
class Prompts:
    """GenEval rows in order, whose "prompt" is the text to draw, and how many pictures each gets.

    A row's place is its prompt index: with the sample it decides the noise.
    """

    name: str  # for people
    rows: list[dict[str, Any]]
    samples: list[int]

    @property
    def digest(self) -> str:
        """sha256, in hexadecimal, over the rows."""
        return hashlib.sha256(json.dumps(self.rows, separators=(",", ":")).encode()).hexdigest()

    def pictures(self) -> list[tuple[int, int]]:
        """Every (prompt index, sample)."""
        return [(index, sample) for index, n in enumerate(self.samples) for sample in range(n)]


def find_prompts(which: str | None, experiment: Experiment | None, form: Form | None, samples: int | None) -> Prompts:
    """The prompts that a user asks for.

    `which` is "geneval" for the 553 official ones, or a file; None is for a cell, whose experiment is given: the
    prompts it is scored on, in one prompt form ("short" when None), each with its own number of samples unless
    `samples` says another. Of photographs those are the captions of the held-out images. Raises ValueError, one line,
    for what does not go together or cannot be read.
    """
    if samples is not None and samples < 1:
        raise ValueError(f"samples={samples}: must be at least 1")
    if which is not None and form is not None:
        raise ValueError(f"form={form} is for the prompts of a cell; prompts={which} have one wording: leave form out")
    if which is None:
        if experiment is None:
            raise ValueError("say which prompts to draw: --prompts geneval, or a .txt or .jsonl file")
        if experiment.corpus.kind != "shapes":
            return _held_out(experiment, form or "short", samples)
        return _cell_prompts(experiment, form or "short", samples)
    rows = prompt_rows(which)
    return Prompts(Path(which).name, rows, [samples or OFFICIAL_SAMPLES] * len(rows))


def prompt_rows(which: str) -> list[dict[str, Any]]:
    """The rows of "geneval", the 553 official prompts, or of a file. Raises as `read_prompt_file` does."""
    return official_prompts() if which == OFFICIAL else read_prompt_file(Path(which))


def _cell_prompts(experiment: Experiment, form: Form, samples: int | None) -> Prompts:
    assert experiment.corpus.kind == "shapes"
    evaluation = experiment.evaluation.model_copy(update={"forms": (form,)})
    prompts = prompt_set(evaluation, experiment.corpus.max_objects)
    return Prompts(
        f"the cell's own, {form}",
        [prompt.row | {"prompt": prompt.texts[form]} for prompt in prompts],
        [samples or prompt.samples for prompt in prompts],
    )


def _held_out(experiment: Experiment, form: Form, samples: int | None) -> Prompts:
    what = plan(experiment.replace({"evaluation.forms": (form,)}), open_corpus(experiment.corpus, experiment.images))
    texts = what.held_out[form][: experiment.evaluation.scene_images]
    return Prompts(f"held-out captions, {form}", [{"prompt": text} for text in texts], [samples or 1] * len(texts))


def read_prompt_file(path: Path) -> list[dict[str, Any]]:
    """Rows of a .txt, one prompt a line, or of a .jsonl, one object with "prompt" a line; blank lines are passed over.

    Raises ValueError naming the line; OSError when the file cannot be opened.
    """
    if path.suffix not in (".txt", ".jsonl"):
        raise ValueError(
            f'prompts={path}: must be "{OFFICIAL}", a .txt with a prompt a line, or a .jsonl with a "prompt" a line'
        )
    rows = _json_rows(path) if path.suffix == ".jsonl" else _text_rows(path)
    if not rows:
        raise ValueError(f"{path}: holds no prompt")
    return rows


def _text_rows(path: Path) -> list[dict[str, Any]]:
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not UTF-8 text ({error.reason} at byte {error.start})") from None
    return [{"prompt": line.strip()} for line in lines if line.strip()]


def _json_rows(path: Path) -> list[dict[str, Any]]:
    holds, rows = 'a text "prompt"', []
    for where, row in json_lines(path, holds):
        if not isinstance(row.get("prompt"), str) or not row["prompt"].strip():
            raise ValueError(f"{where}: must be an object with {holds}")
        rows.append(row)
    return rows
