from __future__ import annotations

import sys

import pytest

from lensbench.cli import main
from tests.data.corpora import Ran, Run


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """The command line, within this process."""

    def ran(*words: object) -> Ran:
        monkeypatch.setattr(sys, "argv", ["lensbench", *map(str, words)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        return Ran(int(ended.value.code or 0), *capsys.readouterr())

    return ran
