"""Levels of factors in words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def levels_shown(levels: Mapping[str, Any]) -> str:
    """Levels for people, e.g. `images=1024 depth=3`."""
    return " ".join(f"{dotted.rpartition('.')[2]}={level}" for dotted, level in levels.items())
