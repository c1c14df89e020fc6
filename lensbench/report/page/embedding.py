"""The style and the scripts that a page has within itself."""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path

HERE = Path(__file__).parent


def embedded(*scripts: str) -> dict[str, str]:
    """The parts `style`, `script` (one element) and `script_digest` of a page's template.

    By the digest the browser runs this script and no other, whatever a prompt says.
    """
    script = "\n".join((HERE / name).read_text(encoding="utf-8") for name in scripts)
    return {
        "style": (HERE / "page.css").read_text(encoding="utf-8"),
        "script": script,
        "script_digest": base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    }
