"""How to go on after a stop."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import sys
from pathlib import Path

import typer


def again() -> str:
    """The command line as it can be typed again: the program by its path where it is not on PATH."""
    program = Path(sys.argv[0])
    found = shutil.which(program.name)
    known = not program.is_file() or (found is not None and Path(found).samefile(program))
    typed = [re.sub(r"(://[^:/@]*:)[^@]*@", r"\1***@", word) for word in sys.argv[1:]]  # no password is printed
    typed = [re.sub(r"([?&]password=)[^&]*", r"\1***", word) for word in typed]
    return shlex.join(["lensbench" if known else os.path.relpath(program), *typed])


def to_go_on(said: object, exit_code: int = 130) -> typer.Exit:
    """Say on the error stream what was stopped and how to go on; returns the exit to raise."""
    print(f"lensbench: {said}; continue with: {again()}", file=sys.stderr)
    return typer.Exit(exit_code)
