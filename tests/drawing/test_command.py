"""`lensbench generate` as it is typed: killed, interrupted, gone on with, and every mistake one line."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from lensbench import cli

COMMAND = [sys.executable, "-c", "from lensbench.cli import main; main()", "generate"]
# Slow enough to be stopped half way.
SLOWLY = ["--steps", "60", "--batch", "1"]


def start(*words: str | Path) -> subprocess.Popen[str]:
    return subprocess.Popen([*COMMAND, *map(str, words)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_for_pictures(process: subprocess.Popen[str], out: Path, n: int) -> None:
    deadline = time.monotonic() + 100
    while len(list(out.glob("*/samples/*.png"))) < n:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)


def here(monkeypatch: pytest.MonkeyPatch, *words: str | Path) -> int:
    """The exit code of the command, run in this process."""
    monkeypatch.setattr("sys.argv", ["lensbench", "generate", *map(str, words)])
    with pytest.raises(SystemExit) as left:
        cli.main()
    return int(left.value.code or 0)


def test_killed_half_way_it_goes_on_to_the_bytes_of_one_drawn_at_a_stretch(
    cell: Path,
    tmp_path: Path,
    pictures: Callable[[Path], dict[str, bytes]],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    process = start(cell, tmp_path / "killed", *SLOWLY)
    wait_for_pictures(process, tmp_path / "killed", 3)
    process.send_signal(signal.SIGKILL)
    process.wait()
    stamps = {path: path.stat().st_mtime_ns for path in (tmp_path / "killed").glob("*/samples/*.png")}
    assert 3 <= len(stamps) < 24
    assert here(monkeypatch, cell, tmp_path / "killed", *SLOWLY) == 0
    out = capsys.readouterr().out
    assert f"{len(stamps)} of 24 pictures are there already" in out
    assert f"{24 - len(stamps)} drawn now" in out
    assert {path: path.stat().st_mtime_ns for path in stamps} == stamps
    assert here(monkeypatch, cell, tmp_path / "whole", *SLOWLY) == 0
    assert "24 pictures in" in capsys.readouterr().out
    assert len(pictures(tmp_path / "whole")) == 24 + 12
    assert pictures(tmp_path / "killed") == pictures(tmp_path / "whole")


def test_an_interrupt_says_what_is_kept_and_how_to_go_on(cell: Path, tmp_path: Path) -> None:
    process = start(cell, tmp_path / "out", *SLOWLY)
    wait_for_pictures(process, tmp_path / "out", 2)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    (line,) = err.splitlines()
    kept = len(list(tmp_path.glob("out/*/samples/*.png")))
    assert 2 <= kept < 24
    assert f"{kept} of 24 pictures are drawn and kept in {tmp_path / 'out'}" in line
    assert re.search(rf"continue with: \S*lensbench generate {cell} {tmp_path / 'out'} --steps 60", line)


def test_a_file_of_prompts_is_drawn_at_any_size(
    cell: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "p.txt").write_text("a red circle\n" + "a very long line of words " * 60)
    options = ["--prompts", tmp_path / "p.txt", "--samples", 2, "--size", 16, "--ratio", "16:9"]
    assert here(monkeypatch, cell, tmp_path / "out", *map(str, options)) == 0
    said = capsys.readouterr().out
    assert "encoding 2 prompts" in said
    assert "1 of them are longer than 128 tokens" in said
    sizes = []
    for path in sorted((tmp_path / "out").glob("*/samples/*.png")):
        with Image.open(path) as picture:
            sizes.append((str(path.relative_to(tmp_path / "out")), picture.size))
    names = [f"0000{prompt}/samples/000{sample}.png" for prompt in range(2) for sample in range(2)]
    assert sizes == [(name, (20, 12)) for name in names]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--prompts", "nowhere.txt"], "No such file or directory: nowhere.txt"),
        (["--prompts", "p.doc"], "prompts=p.doc: must be"),
        (["--size", "17"], "size=17: must be a multiple of 4"),
        (["--ratio", "5:4"], "ratio='5:4': must be one of"),
        (["--height", "16"], "give both"),
        (["--steps", "0"], "steps=0"),
        (["--step", "5"], "step=5: the cell has checkpoints at 2, 10"),
        (["--form", "long"], "long"),
        (["--guidance", "nan"], "guidance=nan"),
        (["--samples", "0"], "samples=0"),
        (["--batch", "0"], "batch=0"),
        (["--guidance-interval", "1", "0"], "guidance_interval=1 0"),
    ],
)
def test_a_mistake_is_one_line_and_leaves_nothing(
    cell: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    said: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert here(monkeypatch, cell, "out", *words) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("lensbench: ")
    assert said in line
    assert not (tmp_path / "out").exists()
