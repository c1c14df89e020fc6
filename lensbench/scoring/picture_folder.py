"""A folder of pictures as GenEval lays it out, that can be begun, interrupted and gone on with.

    00000/metadata.jsonl      the prompt's row, as GenEval's own generation scripts write it
    00000/samples/0000.png    its pictures
    generation.json           what they were drawn from; GenEval passes over it

A picture appears whole, by a rename, or not at all.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

RECORD = "generation.json"


@dataclass(frozen=True)
class PictureFolder:
    """The pictures of numbered prompts under `path`, each told by (prompt index, sample)."""

    path: Path

    def refuse_other(self, settings: Mapping[str, Any]) -> None:
        """Raise ValueError, one line, when the folder holds anything else, or was begun with other settings.

        Compared are the settings that are given, so that the cheap ones can be looked at first.
        """
        if not self.path.exists():
            return
        if not self.path.is_dir():
            raise ValueError(f"{self.path}: is a file; the pictures need a folder")
        record = self.path / RECORD
        if not record.exists():
            if found := sorted(entry.name for entry in self.path.iterdir() if not entry.name.startswith(".")):
                raise ValueError(
                    f"{self.path}: holds {found[0]} but no {RECORD}, so it is not the pictures of an earlier command; "
                    "choose a new folder"
                )
            return
        begun = self._record()["settings"]
        for name, value in settings.items():
            if begun.get(name) != json.loads(json.dumps(value)):
                raise ValueError(
                    f"{self.path}: was begun with {name}={_short(begun.get(name))}, not {_short(value)}; "
                    "choose another folder, or give what it was begun with"
                )

    def begin(self, rows: Sequence[Mapping[str, Any]], settings: Mapping[str, Any]) -> None:
        """Write the record and each prompt's row, where they are missing.

        Raises ValueError as `refuse_other`.
        """
        self.refuse_other(settings)
        self.path.mkdir(parents=True, exist_ok=True)
        if not (self.path / RECORD).exists():
            self._write_record({"settings": dict(settings), "sessions": []})
        for index, row in enumerate(rows):
            metadata = self._folder(index) / "metadata.jsonl"
            (metadata.parent / "samples").mkdir(parents=True, exist_ok=True)
            content = json.dumps(row).encode()
            if not metadata.exists() or metadata.read_bytes() != content:
                _replace(metadata, content)

    def note_session(self, session: Mapping[str, Any]) -> None:
        """Add to the record what draws from here on, unless it is what drew last."""
        record = self._record()
        last = record["sessions"][-1] if record["sessions"] else {}
        if {name: last.get(name) for name in session} != json.loads(json.dumps(session)):
            record["sessions"].append(dict(session))
            self._write_record(record)

    def note_cost(self, seconds_an_image: float, peak_bytes: Mapping[str, int]) -> None:
        """Add to the record what the last session's pictures cost: the median over its batches, and its most memory."""
        record = self._record()
        last = record["sessions"][-1]
        last["seconds_an_image"], last["peak_bytes"] = seconds_an_image, dict(peak_bytes)
        self._write_record(record)

    def picture(self, prompt: int, sample: int) -> Path:
        """Where a picture is or will be."""
        return self._folder(prompt) / "samples" / f"{sample:04d}.png"

    def has(self, prompt: int, sample: int, height: int, width: int) -> bool:
        """Whether a picture is there, whole and of this size."""
        from PIL import Image

        try:
            with Image.open(self.picture(prompt, sample)) as picture:
                fits = picture.size == (width, height)
                picture.verify()
        except (OSError, SyntaxError):  # absent; or broken, which PIL says in either way
            return False
        return fits

    def save(self, prompt: int, sample: int, image: np.ndarray) -> None:
        """Write a picture, (H, W, 3) uint8. OSError, saying which and what to do, when that cannot be done."""
        from PIL import Image

        path = self.picture(prompt, sample)
        # Hidden until it is whole: GenEval takes every name that begins with digits and ".png".
        partial = path.with_name(f".{path.name}.partial")
        try:
            Image.fromarray(image).save(partial, format="PNG")
            os.replace(partial, path)
        except OSError as error:
            hint = "what is drawn is kept: make room, and run the same command again"
            raise OSError(error.errno, f"cannot write {path}: {error.strerror or error}; {hint}") from error

    def _folder(self, prompt: int) -> Path:
        return self.path / f"{prompt:05d}"

    def _record(self) -> dict[str, Any]:
        path = self.path / RECORD
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
            if not isinstance(record["settings"], dict) or not isinstance(record["sessions"], list):
                raise TypeError("no settings or no sessions")
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{path}: cannot be read ({error}); choose a new folder") from None
        return dict(record)

    def _write_record(self, record: Mapping[str, Any]) -> None:
        _replace(self.path / RECORD, (json.dumps(record, indent=1) + "\n").encode())


def _replace(path: Path, content: bytes) -> None:
    partial = path.with_name(f".{path.name}.partial")
    partial.write_bytes(content)
    os.replace(partial, path)


def _short(value: Any) -> str:
    text = "nothing" if value is None else str(value)
    return text if len(text) <= 24 else f"{text[:12]}..."
