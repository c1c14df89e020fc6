"""Files that appear whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path


def publish(partial: Path, path: Path) -> None:
    """Put a file that is complete in its place, in one step; it is on the disk before it can be seen there."""
    with partial.open("rb") as file:
        os.fsync(file.fileno())
    os.replace(partial, path)
