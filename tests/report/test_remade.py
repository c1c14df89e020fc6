"""Tables beside frozen results are what the records give, or it is said which are not."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner

from lensbench.commands.results import app
from lensbench.report.build import rebuild
from lensbench.report.freeze import open_frozen
from lensbench.report.remade import tables_otherwise

FROZEN = Path(__file__).parent / "frozen"
PROJECT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = Path(shutil.copytree(FROZEN, tmp_path_factory.mktemp("built") / "golden"))
    rebuild(folder, Console(quiet=True))
    return folder


@pytest.fixture
def folder(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "golden"))


def told(folder: Path) -> list[str]:
    return tables_otherwise(open_frozen(folder), folder)


def test_what_was_just_built_is_what_the_records_give(folder: Path) -> None:
    (folder / "notes.md").write_text("a reader's own")
    assert told(folder) == []


@pytest.mark.parametrize("name", ["main.md", "scores.csv", "costs.tex", "macros.tex", "summary.md"])
def test_a_number_that_was_changed_by_hand_is_found(folder: Path, name: str) -> None:
    text = (folder / name).read_text()
    numbers = list(re.finditer(r"\d+\.\d+", text))
    place = numbers[len(numbers) // 2]
    (folder / name).write_text(text[: place.start()] + "9" + text[place.start() :])
    (line,) = told(folder)
    assert line == f"not what the records give: {name}; lensbench results build {folder} makes them again"


def test_the_last_digits_of_another_processor_are_no_difference(folder: Path) -> None:
    path = folder / "scores.csv"
    path.write_text(re.sub(r"\d\.\d{10,}", lambda found: repr(float(found[0]) * (1 + 1e-9)), path.read_text()))
    assert told(folder) == []


@pytest.mark.parametrize("name", ["main.tex", "main.md", "summary.md"])
def test_a_file_that_is_no_text_is_named(folder: Path, name: str) -> None:
    (folder / name).write_bytes(bytes(range(128, 256)))
    (line,) = told(folder)
    assert line.startswith(f"not what the records give: {name}; ")


def test_tables_of_captions_that_are_no_longer_frozen_and_tables_that_are_gone_are_named(folder: Path) -> None:
    (folder / "captions.json").unlink()
    (folder / "data.md").unlink()
    other, gone = told(folder)
    assert "captions.csv, captions.md, captions.tex" in other
    assert gone.startswith("not there: data.md; ")


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(path.parent.name for path in (PROJECT / "results").glob("*/provenance.json")))
def test_the_committed_results_are_of_their_recipes_and_their_tables_of_the_records(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(PROJECT)
    done = CliRunner().invoke(app, ["check", f"sweeps/{name}.py"])
    assert done.exit_code == 0, done.output
    assert f"results/{name}: fresh: every record is of an experiment of sweeps/{name}.py, every table of" in done.output
