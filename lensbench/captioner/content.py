"""What the content of an answer says: a text, a refusal in words, or neither."""

from __future__ import annotations

import functools
import json
import re
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

REFUSALS = Path(__file__).with_name("refusals.toml")


def text_in(content: str, answer: str) -> str | None:
    """The text that a content gives under the name `answer`, on one line; None where it gives none, or several.

    As a rule the content is the JSON that was asked for. Servers that do not keep to a schema wrap it in a fence or in
    prose: it is read where one text alone is there. Prose without JSON is no answer: nothing tells a caption from what
    is said about it.
    """
    try:
        whole = json.loads(content)
    except (ValueError, RecursionError):
        found = {text for part in _objects(content) if (text := _named(part, answer)) is not None}
        return found.pop() if len(found) == 1 else None
    return _named(whole, answer)


def refuses(text: str) -> bool:
    """Whether a text begins as a refusal does: see refusals.toml."""
    words = " ".join(text.translate(_APOSTROPHES).casefold().split()).lstrip("\"'*_ ")
    return _openings().match(words) is not None


_APOSTROPHES = str.maketrans(dict.fromkeys("\u2018\u2019\u02bc\u0060\u00b4", "'"))


@functools.cache
def _openings() -> re.Pattern[str]:
    openings = tomllib.loads(REFUSALS.read_text(encoding="utf-8"))["openings"]
    return re.compile(rf"(?:{'|'.join(map(re.escape, openings))})(?!\w)")


def _named(value: Any, name: str) -> str | None:
    text = value.get(name) if isinstance(value, Mapping) else None
    return " ".join(text.split()) if isinstance(text, str) else None


def _objects(content: str) -> Iterator[Any]:
    # The JSON objects in a text, outermost ones alone.
    decoder, at = json.JSONDecoder(), 0
    while (at := content.find("{", at)) >= 0:
        try:
            found, at = decoder.raw_decode(content, at)
        except (ValueError, RecursionError):
            at += 1
            continue
        yield found
