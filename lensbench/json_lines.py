"""Files with one JSON object a line, as people and programs write them.

A line ends at "\\n" alone. JSON allows U+2028, U+0085 and other breaks inside a string, and `str.splitlines` would cut
there.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def json_lines(path: Path, holds: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """The objects of a file in UTF-8, each with its place ("prompts.jsonl:3"); blank lines are passed over.

    `holds` says what an object must have, for the error. Raises ValueError, one line that names the place, for what is
    no such object and for a text with half of a character; OSError when the file cannot be opened.
    """
    with path.open("rb") as file:
        for number, raw in enumerate(file, 1):
            where = f"{path}:{number}"
            try:
                line = raw.decode("utf-8-sig" if number == 1 else "utf-8").strip()
            except UnicodeDecodeError as error:
                raise ValueError(f"{where}: not UTF-8 text ({error.reason} at byte {error.start})") from None
            if line:
                yield where, _object(line, where, holds)


def _object(line: str, where: str, holds: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{where}: not JSON ({error})") from None
    if not isinstance(row, dict):
        raise ValueError(f"{where}: must be an object with {holds}")
    if "\\u" in line:  # alone an escape can say half of a surrogate pair
        _check_whole(json.dumps(row, ensure_ascii=False), where)
    return row


def _check_whole(text: str, where: str) -> None:
    # Half of a surrogate pair is no character, and fits no file in UTF-8.
    try:
        text.encode()
    except UnicodeEncodeError as error:
        half = ascii(text[error.start]).strip("'")
        raise ValueError(
            f"{where}: half of a character ({half}), as of an emoji that was cut; write it whole"
        ) from None
