"""GenEval's own prompts for models of photographs, within a sweep: the 553 or the first of each task, in every form."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lensbench.json_lines import json_lines
from lensbench.scoring.geneval import official_prompts
from lensbench.scoring.shapes_prompts import Prompt, repeated, spread
from lensbench.streams import numpy_stream

if TYPE_CHECKING:
    from lensbench.experiment import Evaluation, Form


def coco_prompts(evaluation: Evaluation) -> list[Prompt]:
    """`prompts_per_task` of a task's official prompts, drawn by the evaluation's seed; a smaller set is the beginning
    of a larger one. Each gets about `images_per_task` over its number of prompts.

    The detailed wording is read from a file of `lensbench captions rewrite`. Raises ValueError, one line, where a form
    needs it and it is not there, is another than the experiment's, or lacks a prompt.
    """
    detailed = _detailed(evaluation) if set(evaluation.forms) - {"short"} else {}
    rows = official_prompts()

    def of_task(task: str) -> list[dict[str, Any]]:
        own = [row for row in rows if row["tag"] == task]
        order = numpy_stream(evaluation.prompt_seed, f"prompts/coco/{task}").permutation(len(own))
        return [own[i] for i in order]

    return spread(evaluation, of_task, lambda row, form, number: _text(row, form, detailed))


def detailed_digest(path: Path) -> str:
    """sha256 over the prompts of a file and their detailed wordings, in any order. ValueError for no such file."""
    return _digest(_read(path))


def _detailed(evaluation: Evaluation) -> dict[str, str]:
    path = evaluation.detailed_prompts
    if path is None:
        raise ValueError(
            "evaluation.detailed_prompts: GenEval's prompts have no detailed wording of their own; write one with "
            "`lensbench captions rewrite`, or ask in the form short alone: evaluation.forms=('short',)"
        )
    wordings = _read(path)
    digest = _digest(wordings)
    if digest != evaluation.detailed_prompts_digest:
        raise ValueError(
            f"evaluation.detailed_prompts={path}: give evaluation.detailed_prompts_digest={digest!r}, so that the "
            "experiment says which wording it is scored on"
        )
    return wordings


def _digest(wordings: dict[str, str]) -> str:
    return hashlib.sha256(json.dumps(sorted(wordings.items())).encode()).hexdigest()


def _read(path: Path) -> dict[str, str]:
    holds, found = '"prompt" and "detailed"', {}
    try:
        for where, row in json_lines(path, holds):
            if any(type(row.get(name)) is not str for name in ("prompt", "detailed")):
                raise ValueError(f"{where}: must be an object with {holds}")
            found[row["prompt"]] = row["detailed"]
    except OSError as error:
        raise ValueError(f"{path}: no file of reworded prompts ({error})") from None
    return found


def _text(row: dict[str, Any], form: Form, detailed: dict[str, str]) -> str:
    short = str(row["prompt"])
    if form == "short":
        return short
    if short not in detailed:
        raise ValueError(f"evaluation.detailed_prompts: no detailed wording of {short!r}; reword all 553")
    return detailed[short] if form == "detailed" else repeated(short, detailed[short])
