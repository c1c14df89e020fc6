"""What is computed once and kept on disk, in a folder named by what it was made from."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path


def kept(cache: Path, kind: str, made_from: Mapping[str, object], fill: Callable[[Path], None]) -> Path:
    """The folder under `cache/kind` of what `made_from` gives; where there is none, `fill` writes one.

    `fill` is given an empty folder, which is renamed into place when it returns: a cache appears whole or not at all,
    and of several processes that make the same one the first wins. Raises what `fill` raises.
    """
    folder = cache / kind / hashlib.sha256(json.dumps(made_from, sort_keys=True).encode()).hexdigest()[:24]
    if folder.exists():
        return folder
    partial = folder.with_name(f"{folder.name}.partial-{uuid.uuid4().hex[:8]}")
    partial.mkdir(parents=True)
    try:
        fill(partial)
        (partial / "made_from.json").write_text(json.dumps(made_from, indent=1))
        os.replace(partial, folder)
    except OSError:
        if not folder.exists():  # else another process was first, with the same content
            raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return folder
