"""Where a number comes from."""

import re
import subprocess
from pathlib import Path

import pytest

from lensbench.sweep.provenance import commit, hardware


def test_the_commit_is_the_checkouts_and_says_when_code_differs(monkeypatch: pytest.MonkeyPatch) -> None:
    root = Path(__file__).parents[2]
    if not (root / ".git").exists():
        assert re.fullmatch(r"v\d+\.\d+\.\d+", commit())
        return
    head = subprocess.run(["git", "-C", str(root), "rev-parse", "HEAD"], capture_output=True, text=True, check=True)
    assert commit().removesuffix("-dirty") == head.stdout.strip()[:12]


def test_without_git_the_version_stands_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    assert re.fullmatch(r"v\d+\.\d+\.\d+", commit.__wrapped__())


def test_the_hardware_names_a_processor_and_its_threads() -> None:
    assert re.search(r"\d+ threads?|NVIDIA|GPU", hardware())
