"""Which prompt each picture of a folder was drawn from."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lensbench.scoring.images_folder import METADATA, Images


@dataclass(frozen=True)
class Prompted:
    """The text of a picture, and the prompt that it shares with others: intervals are over prompts."""

    text: str
    cluster: str


def from_layout(images: Images) -> list[Prompted]:
    """Prompts of a folder in GenEval's layout, 00000/metadata.jsonl beside 00000/samples/0000.png.

    Raises ValueError, one line, for a folder that is laid out otherwise.
    """
    read: dict[Path, str] = {}
    found = []
    for i, path in enumerate(images.files):
        metadata = path.parent.parent / METADATA
        if metadata not in read:
            try:
                read[metadata] = json.loads(metadata.read_text(encoding="utf-8"))["prompt"]
            except FileNotFoundError:
                raise ValueError(
                    f"{images.name(i)}: no {METADATA} beside its folder, as GenEval lays pictures out; give the "
                    "prompts with --prompts FILE"
                ) from None
            except (ValueError, KeyError, TypeError) as error:
                raise ValueError(f"{metadata}: holds no prompt ({type(error).__name__}: {error})") from None
        found.append(Prompted(read[metadata], metadata.parent.name))
    return found


def from_rows(images: Images, rows: Sequence[Mapping[str, Any]], source: str) -> list[Prompted]:
    """Prompts of a file: rows with "prompt", and "image", the picture's path in the folder, or in the order of names.

    Pictures with one text share a prompt. Raises ValueError, one line, when a picture has no row or several, or a row
    no picture.
    """
    if all("image" in row for row in rows):
        by_name = {str(row["image"]): str(row["prompt"]) for row in rows}
        if len(by_name) < len(rows):
            raise ValueError(f"{source}: names {len(rows) - len(by_name)} pictures more than once")
        names = [images.name(i) for i in range(len(images))]
        if missing := [name for name in names if name not in by_name]:
            raise ValueError(f"{source}: no prompt for {missing[0]}" + _more(len(missing)))
        if absent := sorted(by_name.keys() - set(names)):
            raise ValueError(f"{source}: {absent[0]} is not in {images.folder}" + _more(len(absent)))
        texts = [by_name[name] for name in names]
    elif len(rows) == len(images):
        texts = [str(row["prompt"]) for row in rows]
    else:
        raise ValueError(
            f"{source}: {len(rows):,} prompts for {len(images):,} pictures; give one a picture in the order of names, "
            'or a .jsonl with "image" and "prompt" a line'
        )
    return [Prompted(text, text) for text in texts]


def _more(count: int) -> str:
    return f" and {count - 1:,} more" if count > 1 else ""
