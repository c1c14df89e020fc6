"""Which prompt each image of a folder was sampled from."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lensbench.scoring.images_folder import METADATA, Images

SAYS_SO = (
    "GenEval's layout, a folder a prompt (0/0.png, 0/1.png, 1/0.png), or names that end in prompt and sample (0_0.png)"
)


@dataclass(frozen=True)
class Prompted:
    """The text of an image, and the prompt that it shares with others: intervals are over prompts."""

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
    """Prompts of a file: rows with "prompt", and "image", the image's path in the folder, or in order.

    Without "image", a row is of one image, in the order of names, or of several where the folder says which: in
    GenEval's layout, a folder a prompt, or names that end in the prompt's number and the sample's. Images with one text
    share a prompt. Raises ValueError, one line, when an image has no row or several, or a row no image.
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
        texts = [str(rows[place]["prompt"]) for place in _places(images, len(rows), source)]
    return [Prompted(text, text) for text in texts]


def other_prompts(images: Images, prompted: Sequence[Prompted]) -> list[str]:
    """A line where a folder in GenEval's layout says other prompts than those that its images are scored against."""
    try:
        own = from_layout(images)
    except ValueError:  # it says none
        return []
    other = [i for i, (ours, theirs) in enumerate(zip(own, prompted, strict=True)) if ours.text != theirs.text]
    if not other:
        return []
    first = other[0]
    return [
        f"{len(other):,} of {len(images):,} images are scored against other prompts than {images.folder} has beside "
        f"them: {images.name(first)} was sampled from {own[first].text!r}, the file says {prompted[first].text!r}"
    ]


def _places(images: Images, prompts: int, source: str) -> list[int]:
    """The prompt of each image, a place in the file, as the images' names say it."""
    many = f"{source}: {prompts:,} prompts for {len(images):,} pictures"
    said = [_numbers(images, i) for i in range(len(images))]
    kinds = {kind for kind, _ in said}
    if None in kinds or len(kinds) > 1:
        raise ValueError(
            f"{many}, whose names do not say which prompt each is of; name them as in {SAYS_SO}, give one prompt a "
            'picture in the order of names, or a .jsonl with "image" and "prompt" a line'
        )
    samples: dict[int, set[int]] = {}
    for _, (prompt, sample) in said:
        samples.setdefault(prompt, set()).add(sample)
    numbers = sorted(samples)
    if numbers not in (list(range(prompts)), list(range(1, prompts + 1))):
        raise ValueError(
            f"{many}: the names number {len(numbers):,} prompts, {numbers[0]} to {numbers[-1]}; the file must have as "
            "many prompts as the folder"
        )
    most = max(map(len, samples.values()))
    if few := [number for number in numbers if len(samples[number]) < most]:
        raise ValueError(
            f"{many}: prompt {few[0]} has {len(samples[few[0]])} pictures and others {most}" + _more(len(few))
        )
    return [prompt - numbers[0] for _, (prompt, _) in said]


def _numbers(images: Images, index: int) -> tuple[str | None, tuple[int, int]]:
    """What an image's path is beside its last two numbers, and those: of the prompt and of the sample.

    None for a path that does not end in two numbers: a name with one number tells no prompt.
    """
    name = images.name(index)
    found = re.fullmatch(r"(.*?)(\d+)(/samples/|/|[_-]+)(\d+)(\.[^./]+)", name, re.DOTALL)
    if found is None:
        return None, (0, 0)
    before, prompt, between, sample, _ = found.groups()
    return before + between, (int(prompt), int(sample))


def _more(count: int) -> str:
    return f" and {count - 1:,} more" if count > 1 else ""
