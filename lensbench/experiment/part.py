"""What the parts of an experiment have in common: frozen values that know which fields are science."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

Where = "where"  # metadata that marks a field as no part of the science
# Metadata of a field that came after the first runs: its default is what they did, and is left out of the hash.
Added = "added"


@dataclass(frozen=True)
class Before:
    """As `Added`, of a field whose default is not what earlier runs did: `value` is, and is left out of the hash."""

    value: Any


PLAIN = (str, int, float, bool)  # values that are their own JSON
LONGEST_SHOWN = 80  # characters of a wrong value, in an error


class Part(BaseModel):
    """A frozen value that refuses unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    def science(self) -> dict[str, Any]:
        """The JSON value of every field that is part of the science; one that is None says nothing: left out."""
        out: dict[str, Any] = {}
        for name, default in _hashed(type(self)):
            value = getattr(self, name)
            if value is not None and ((said := _science(value)) != default or default is None):
                out[name] = said
        return out


@functools.cache
def _hashed(kind: type[Part]) -> list[tuple[str, Any]]:
    """The fields of a part that are science, each with the value that is left out, None where each is said."""
    fields = {name: field for name, field in kind.model_fields.items() if Where not in field.metadata}
    earlier = {name: _science(field.default) for name, field in fields.items() if Added in field.metadata}
    earlier |= before(kind)
    return [(name, earlier.get(name)) for name in fields]


def before(kind: type[Part]) -> dict[str, Any]:
    """What earlier runs did where a part has no field for it: the values of `Before`, by field."""
    return {
        name: note.value
        for name, field in kind.model_fields.items()
        for note in field.metadata
        if isinstance(note, Before)
    }


def _science(value: Any) -> Any:
    if isinstance(value, Part):
        return value.science()
    return value if isinstance(value, PLAIN) else json.loads(json.dumps(value, default=str))


def canonical_json(science: Mapping[str, Any]) -> str:
    """A science as JSON with sorted keys and no spaces."""
    return json.dumps(science, sort_keys=True, separators=(",", ":"))


def sha256_of(science: Mapping[str, Any]) -> str:
    """sha256 of a science's canonical JSON, in hexadecimal: what every content hash is."""
    return hashlib.sha256(canonical_json(science).encode()).hexdigest()


def one_line(error: ValidationError) -> str:
    """A pydantic error as one line: each field, what is wrong with it and what it was given."""
    parts = []
    for item in error.errors():
        where = ".".join(str(p) for p in item["loc"] if p not in ("shapes", "folder")) or error.title.lower()
        message = item["msg"].removeprefix("Value error, ")
        given = repr(item["input"])
        if item["type"] in ("extra_forbidden", "value_error", "missing"):
            given = ""
        elif len(given) > LONGEST_SHOWN:
            given = given[:LONGEST_SHOWN] + "..."
        given = f" (given {given})" if given else ""
        parts.append(f"{where}: {message}{given}")
    return "; ".join(parts)
