"""The command line: it starts fast, and every mistake is exit code 2 and one line that says what to do."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path

import pytest

from lensbench.experiment import Training

PROJECT = Path(__file__).resolve().parents[1]
BASE = "from lensbench.experiment import Experiment\nexperiment = Experiment()\n"
SWEEP = """from experiments.base import experiment
from lensbench.experiment import *
from lensbench.sweep.sweep import Sweep
sweep = Sweep(name="q", base=experiment, factors={"captions.set": ("alt", "detailed"), "seed": (0,)},
              reference={"captions.set": "alt"})
"""


def lensbench(*words: str | Path, cwd: Path = PROJECT, **environment: str) -> tuple[int, str, str]:
    done = subprocess.run(
        [sys.executable, "-c", "from lensbench.cli import main; main()", *map(str, words)],
        cwd=cwd,
        env=os.environ | {"COLUMNS": "100"} | environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    return done.returncode, done.stdout, done.stderr


def sweep_file(folder: Path, text: str = SWEEP, base: str = BASE) -> Path:
    for name in ("sweeps", "experiments"):
        (folder / name).mkdir(exist_ok=True)
    (folder / "experiments" / "base.py").write_text(base)
    (folder / "sweeps" / "q.py").write_text(text)
    return folder / "sweeps" / "q.py"


def refused(*words: str | Path, cwd: Path = PROJECT) -> str:
    """The one line a refused command leaves on stderr."""
    code, _, err = lensbench(*words, cwd=cwd)
    assert code == 2, err
    (line,) = err.splitlines()
    assert line.startswith("lensbench: ")
    return line


def test_help_and_version_import_nothing_heavy() -> None:
    code = (
        "import sys; sys.argv = ['lensbench', '--help']\nfrom lensbench.cli import main\n"
        "try: main()\nexcept SystemExit as e: assert not e.code\n"
        "heavy = {'torch', 'pandas', 'pydantic', 'numpy', 'mlflow', 'optuna', 'lightning'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for command in ("run", "report", "plan", "judge"):
        assert command in done.stdout
    assert lensbench("--version") == (0, f"lensbench {version('lensbench')}\n", "")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["run"], "SWEEP.py"),
        (["run", "nowhere.py"], "nowhere.py: no such sweep file"),
        (["captions", "list", "nowhere"], "nowhere: no such folder"),
        (["results", "diff", "HEAD", "HEAD", "/nowhere"], "/nowhere: not in "),
        (["results", "thaw", "sweeps/demo.py", "--results", "nowhere"], "nowhere/demo: no provenance.json"),
        (["bench", "verify", "nowhere.json"], "nowhere.json: no such card"),
        (["run", "sweeps/demo.py", "--sped", "3"], "--sped"),
        (["fly"], "fly"),
        (["judge", "fly"], "fly"),
    ],
)
def test_a_mistyped_command_is_one_line(words: list[str], said: str) -> None:
    assert said in refused(*words)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["corpus", "import", "", "out"], "argument 3 is empty"),
        (["corpus", "import", "photos", ""], "argument 4 is empty"),
        (["score", "photos", "--prompts", " "], "argument 4, of --prompts, is empty"),
        (["corpus", "import", "postgresql://me:secret@host/x", ""], "argument 4 is empty"),
    ],
)
def test_an_empty_argument_is_not_the_current_folder(tmp_path: Path, words: list[str], said: str) -> None:
    line = refused(*words, cwd=tmp_path)
    assert said in line
    assert "secret" not in line
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("base=experiment", "base=experiment.replace({'model.dept': 2})", ["q.py:4", "unknown field 'model.dept'"]),
        ("base=experiment", "base=Experiment(modle={})", ["q.py:4", "modle"]),
        ('"seed": (0,)', '"model.dept": (2,)', ["q.py:4", "factors", "model.dept"]),
        ('"seed": (0,)', '"model.depth": (2, -1)', ["q.py:4", "factors", "model.depth", "-1"]),
        ('("alt", "detailed")', '("alt", "poetic")', ["q.py:4", "poetic"]),
        ('reference={"captions.set": "alt"}', 'reference={"captions.set": "brief"}', ["reference", "brief"]),
        ("sweep = Sweep(", "sweep == Sweep(", ["q.py:4", "NameError"]),
        ("base=experiment", "base=Experiment(corpus=FolderCorpus())", ["corpus is a folder", "--corpus DIR"]),
        (
            "base=experiment",
            "base=Experiment(corpus=FolderCorpus()).replace({'images': 9})",
            ["corpus is a folder", "--corpus DIR"],
        ),
        ("experiments.base", "experiments.bose", ["q.py:1", "experiments.bose"]),
    ],
)
def test_a_mistake_in_a_sweep_file_is_one_line(tmp_path: Path, old: str, new: str, said: list[str]) -> None:
    assert old in SWEEP
    line = refused("run", sweep_file(tmp_path, SWEEP.replace(old, new)), cwd=tmp_path)
    for word in said:
        assert word in line
    assert not (tmp_path / "runs").exists()


def test_a_missing_image_folder_is_named(tmp_path: Path) -> None:
    line = refused("run", sweep_file(tmp_path), "--corpus", tmp_path / "no-images", cwd=tmp_path)
    assert "no-images" in line


@pytest.mark.parametrize("option", ["--runs", "--results"])
def test_a_directory_that_cannot_be_written_is_named_before_any_work(tmp_path: Path, option: str) -> None:
    (tmp_path / "file").touch()
    line = refused("run", sweep_file(tmp_path), option, tmp_path / "file" / "deeper", cwd=tmp_path)
    assert "cannot write in" in line
    assert "choose a directory that you can write" in line
    assert not list(tmp_path.glob("runs/*/experiment.json"))


@pytest.mark.parametrize("command", ["status", "report", "run"])
def test_a_file_in_the_place_of_the_runs_is_named(tmp_path: Path, command: str) -> None:
    (tmp_path / "file").touch()
    line = refused(command, sweep_file(tmp_path), "--runs", tmp_path / "file", cwd=tmp_path)
    assert "--runs" in line
    assert "is a file" in line


def test_a_file_size_limit_is_one_line_and_the_sweep_goes_on_later(tmp_path: Path) -> None:
    """What a full disk does to every writer, without a file system of our own."""
    path = sweep_file(tmp_path)
    code = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (1024, 1024))\n"
        "from lensbench.cli import main; main()"
    )
    done = subprocess.run(
        [sys.executable, "-B", "-c", code, "run", str(path)], cwd=tmp_path, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert "cannot write in runs" in line
    assert "free some space" in line


def test_a_report_of_nothing_says_what_is_missing(tmp_path: Path) -> None:
    code, out, err = lensbench("report", sweep_file(tmp_path), cwd=tmp_path)
    assert (code, err) == (1, "")
    assert out.count("missing: cell") == 2
    assert "no cell of q is complete in runs" in out


def test_the_plan_lists_every_cell_without_training(tmp_path: Path) -> None:
    code, out, err = lensbench("plan", sweep_file(tmp_path), cwd=tmp_path)
    assert (code, err) == (0, "")
    assert out.count("not run") == 1  # of every cell
    for word in ("alt", "detailed", "4,096", f"{Training().steps * Training().batch:,}"):
        assert word in out
    assert not (tmp_path / "runs").exists()


def test_a_developer_can_see_the_traceback(tmp_path: Path) -> None:
    code, _, err = lensbench("run", "nowhere.py", LENSBENCH_TRACEBACK="1")
    assert code == 1
    assert "Traceback" in err


def test_the_sweeps_of_the_project_load() -> None:
    from lensbench.sweep.design import drafts
    from lensbench.sweep.sweep import load

    for path in sorted((PROJECT / "sweeps").glob("*.py")):
        assert drafts(load(path))  # the cells, before any tuning


# A cell that only waits, in place of the module that loads torch: what is tested is the command around it.
WAITING = """
import sys, time, types
cell = sys.modules["lensbench.sweep.cell"] = types.ModuleType("lensbench.sweep.cell")
def run_cell(experiment, directory, *, cache, report, evaluations):
    (directory / "begun").touch()
    if experiment.images == 5:
        raise RuntimeError("too few images")
    time.sleep(60)
cell.run_cell = run_cell
from lensbench.cli import main
main()
"""


def test_an_interrupt_says_what_is_kept_and_how_to_go_on(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", WAITING, "run", str(sweep_file(tmp_path)), "--workers", "1"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 100
    while not list(tmp_path.glob("runs/*/begun")):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    (line,) = err.splitlines()
    assert "0 of 2 cells are complete and kept in runs" in line
    assert f"continue with: lensbench run {tmp_path / 'sweeps' / 'q.py'}" in line


def test_a_sweep_whose_cells_all_fail_says_why_and_exits_1(tmp_path: Path) -> None:
    path = sweep_file(tmp_path, base=BASE.replace("Experiment()", "Experiment(images=5)"))
    done = subprocess.run(
        [sys.executable, "-c", WAITING, "run", str(path), "--workers", "1"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (done.returncode, done.stderr) == (1, "")
    missing = [line for line in done.stdout.splitlines() if line.startswith("missing: cell")]
    assert len(missing) == 2
    assert all("RuntimeError: too few images" in line for line in missing)


def test_a_terminal_of_few_letters_ends_no_command() -> None:
    code = "import sys; from lensbench import cli; cli.app = lambda **how: print('caf\\xe9 \\u2713'); cli.main()"
    environment = os.environ | {"PYTHONIOENCODING": "ascii"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, "caf\\xe9 \\u2713\n"), done.stderr
