"""Short evaluation prompts reworded like detailed captions, once, into a file: both forms are fixed before any scoring.

A model rewords them as it captions images, with the same client and store, keyed by the sha256 of the prompt. For the
shapes world rules do it: the very wording that its own evaluation prompts have.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lensbench import publishing
from lensbench.captioner.live import Job
from lensbench.captioner.prices import Price
from lensbench.captioner.requests import Asking
from lensbench.captioner.writing import Display, Outcome, Run, ask
from lensbench.captions.store import CaptionSet, Maker

RULES = "rules"
THERE = "is there and says otherwise; prompts that were scored on must not change: choose another name"


def prompt_key(text: str) -> str:
    """The key of a prompt in the store."""
    return hashlib.sha256(text.encode()).hexdigest()


def answers_folder(out: Path) -> Path:
    """Where the answers for a file are kept: beside it."""
    return out.with_name(f"{out.stem}.answers")


def check_out(out: Path, source: str) -> None:
    """Raise ValueError or OSError, before anything is paid, where the file of prompts can never be written."""
    if out.is_dir():
        raise ValueError(f"{out} is a folder: name the file of prompts, as OUT.jsonl")
    if Path(source).exists() and out.exists() and out.samefile(source):
        raise ValueError(f"{out} is the file of the prompts themselves: choose another name for the reworded ones")
    folder = out.absolute().parent
    while not folder.exists():
        folder = folder.parent
    if not folder.is_dir() or not os.access(folder, os.W_OK):
        raise ValueError(f"{out} cannot be written: {folder} is no folder that you may write to")


def lines_as_in(rows: Sequence[dict[str, Any]], out: Path, asking: Asking, keep_short: bool) -> list[dict[str, Any]]:
    """The lines of a file that is there already, from the answers beside it: nothing is asked for it any more.

    Raises ValueError where they are not those of these prompts and this captioner.
    """
    folder = answers_folder(out)
    if not (folder / "set.json").exists() or CaptionSet(folder).maker != asking.maker:
        raise ValueError(f"{out} {THERE}")
    lines, _ = finished_rows(rows, out, keep_short)
    if len(lines) < len(rows):
        raise ValueError(f"{out} {THERE}")
    return lines


def rewrite(
    rows: Sequence[dict[str, Any]], out: Path, asking: Asking, price: Price | None, run: Run, display: Display
) -> Outcome:
    """Have every row's "prompt" reworded that is not yet, into the answers beside `out`. Raises as `writing.write`."""
    texts = {prompt_key(row["prompt"]): row["prompt"] for row in rows}

    def job(key: str) -> Job:
        return Job(key, lambda: asking.about_text(texts[key]))

    longest = max(texts.values(), key=lambda text: len(text.encode()))
    return ask(answers_folder(out), asking, price, run, display, list(texts), job, longest)


def finished_rows(
    rows: Sequence[dict[str, Any]], out: Path, keep_short: bool
) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """The rows of the file, and the prompts without a rewording with why.

    With `keep_short` those keep their own wording, and their "state" says so.
    """
    found = CaptionSet(answers_folder(out))
    answers = {row["key"]: row for batch in found.batches() for row in batch.to_pylist()}
    lines, lacking = [], {}
    for row in rows:
        answer = answers.get(prompt_key(row["prompt"]))
        if answer is not None and answer["state"] == "done":
            lines.append(_line(row, answer["text"], found.maker))
            continue
        lacking[row["prompt"]] = "no answer" if answer is None else f"{answer['state']}: {answer['finish_reason']}"
        if keep_short and answer is not None:
            lines.append(_line(row, row["prompt"], found.maker) | {"state": answer["state"]})
    return lines, lacking


def ruled_rows(rows: Sequence[dict[str, Any]], texts: Sequence[str], prompt_seed: int) -> list[dict[str, Any]]:
    """The rows of the file for prompts of the shapes world, reworded by its rules (see scoring.shapes_prompts)."""
    maker = Maker(RULES, "shapes", json.dumps({"prompt_seed": prompt_seed}, separators=(",", ":")))
    return [_line(row, text, maker) for row, text in zip(rows, texts, strict=True)]


def publish(lines: Sequence[dict[str, Any]], out: Path) -> bool:
    """Write the file, whole or not at all; False where it is there with the same content.

    Raises ValueError when another is there: prompts never change under a model that was scored on them.
    """
    text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines).encode()
    if out.exists():
        if out.read_bytes() != text:
            raise ValueError(f"{out} {THERE}")
        return False
    partial = out.with_name(f"{out.name}.partial")
    partial.write_bytes(text)
    publishing.publish(partial, out)
    return True


def digest(lines: Sequence[dict[str, Any]]) -> str:
    """sha256 over the prompts and their rewordings in order."""
    said = json.dumps([[line["prompt"], line["detailed"]] for line in lines], separators=(",", ":"))
    return hashlib.sha256(said.encode()).hexdigest()


def _line(row: dict[str, Any], detailed: str, maker: Maker) -> dict[str, Any]:
    made_by = {"captioner": maker.captioner, "prompt_version": maker.prompt_version}
    return row | {"detailed": detailed, **made_by, "parameters": json.loads(maker.parameters)}
