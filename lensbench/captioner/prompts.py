"""What a captioner is asked: versioned files, each with its words and the JSON schema of the answer.

A prompt's version is its name and a digest of what it says, so captions of a changed file never pass for those of the
file before.
"""

from __future__ import annotations

import hashlib
import json
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).with_name("prompts")
FIELDS = {
    "answer": str,
    "output_tokens": int,
    "max_output_tokens": int,
    "system": str,
    "user": str,
    "schema": dict,
}


@dataclass(frozen=True)
class Prompt:
    """A prompt file.

    `answer` names the field of the JSON answer that is the text; `output_tokens` is what an answer takes, assumed until
    it is measured; `max_output_tokens` is where it is cut off. `schema` is strict: every field is required.
    """

    name: str
    answer: str
    output_tokens: int
    max_output_tokens: int
    system: str
    user: str
    schema: dict[str, Any]

    @property
    def version(self) -> str:
        """The name and the start of the sha256 of everything that is sent, e.g. "detailed-v1@4f2a91c07be3"."""
        said = json.dumps([self.answer, self.system, self.user, self.schema], sort_keys=True, separators=(",", ":"))
        return f"{self.name}@{hashlib.sha256(said.encode()).hexdigest()[:12]}"


def prompt_names() -> list[str]:
    """The prompts of the package."""
    return sorted(path.stem for path in FOLDER.glob("*.toml"))


def open_prompt(which: str) -> Prompt:
    """A prompt of the package by its name, or any .toml file of the same form by its path.

    Raises ValueError, one line, for a prompt that does not exist or says too little; OSError when it cannot be read.
    """
    path = Path(which) if which.endswith(".toml") else FOLDER / f"{which}.toml"
    if which in ("", ".", "..") or (not which.endswith(".toml") and which not in prompt_names()):
        raise ValueError(f"no prompt {which!r}: choose from {', '.join(prompt_names())}, or give a .toml file")
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not a TOML file ({error})") from None
    for field, kind in FIELDS.items():
        if not isinstance(values.get(field), kind):
            raise ValueError(f"{path}: {field} is missing or not a {kind.__name__}")
    if unknown := sorted(set(values) - set(FIELDS)):
        raise ValueError(f"{path}: unknown field {unknown[0]!r}; a prompt has {', '.join(FIELDS)}")
    if values["answer"] not in values["schema"].get("properties", {}):
        raise ValueError(f"{path}: answer = {values['answer']!r} is no property of its schema")
    if not 0 < values["output_tokens"] <= values["max_output_tokens"]:
        raise ValueError(f"{path}: output_tokens must be between 1 and max_output_tokens")
    texts = {field: values[field].strip() for field in ("system", "user")}
    return Prompt(name=path.stem, **(values | texts | {"schema": _strict(values["schema"])}))


def _strict(schema: dict[str, Any]) -> dict[str, Any]:
    # Strict output asks that every object lists its fields as required and allows no others.
    out = dict(schema)
    if "properties" in out:
        out["properties"] = {name: _strict(part) for name, part in out["properties"].items()}
        out |= {"type": "object", "required": list(out["properties"]), "additionalProperties": False}
    if "items" in out:
        out["items"] = _strict(out["items"])
    return out
