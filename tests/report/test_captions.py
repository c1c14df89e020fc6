"""The caption report: what it says of sweeps, folders and corpora, and what it draws."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from lensbench.captions.store import CaptionRow, Maker, writing
from lensbench.cli import app
from lensbench.experiment import Experiment, TextEncoder
from lensbench.report.captions import CaptionReport, figure, of_corpus, of_experiments, table, write_csv
from lensbench.report.render import to_console, to_latex, to_markdown

BASE = Experiment().replace({"images": 60})
ARMS = (
    {"captions.set": "alt"},
    {"captions.set": "detailed"},
    {"captions.set": "detailed", "captions.dropout": 0.3},
    {"captions.set": "0.7*detailed+0.3*alt"},
    {"captions.length_matched_to": "alt"},
    {"captions.set": "dose", "captions.present": 0.5, "captions.wrong": 0.4},
    {"captions.shuffled": True},
)


@pytest.fixture(scope="module")
def report() -> CaptionReport:
    return of_experiments([BASE.replace(arm) for arm in ARMS])


def test_an_arm_is_a_row_and_dropout_makes_none(report: CaptionReport) -> None:
    assert list(report.found) == [
        *("alt-text", "detailed", "70 % detailed, 30 % alt-text", "detailed, as long as alt-text", "dose 0.5/0.4"),
        "detailed, shuffled",
    ]
    assert {found.captions for found in report.found.values()} == {60}


def test_the_numbers_are_those_of_the_policies(report: CaptionReport) -> None:
    alt, detailed, mixed, matched, _, shuffled = report.found.values()
    assert matched.words.counts.tolist() == alt.words.counts.tolist()
    assert shuffled.words.counts.tolist() == detailed.words.counts.tolist()
    assert alt.words.mean < mixed.words.mean < detailed.words.mean
    of = {name: found.accuracy for name, found in report.found.items() if found.accuracy is not None}
    assert len(of) == 6
    assert (of["detailed"].false, of["detailed"].said) == (0, of["detailed"].there)
    assert of["dose 0.5/0.4"].said / of["dose 0.5/0.4"].there == pytest.approx(0.5, abs=0.02)
    assert 0.3 < of["dose 0.5/0.4"].false / of["dose 0.5/0.4"].said < 0.42
    assert of["detailed, shuffled"].false > 0.5 * of["detailed, shuffled"].said


@pytest.mark.parametrize("width", [80, 120])
def test_the_table_fits_a_terminal_and_says_what_it_is(report: CaptionReport, width: int) -> None:
    built = table(report)
    console = to_console(built, width).plain
    assert max(map(len, console.splitlines())) <= width
    for words in ("median", "cut %", "unique %", "TTR", "spatial", "false %", "detailed, as long as alt-text"):
        assert words in console
        assert words in to_markdown(built)
    assert "70 \\% detailed, 30 \\% alt-text" in to_latex(built, "tab:x")
    assert any("60 images" in note for note in built.notes)


def test_the_csv_holds_the_curves(report: CaptionReport, tmp_path: Path) -> None:
    write_csv(report, tmp_path / "x.csv")
    with (tmp_path / "x.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["captions"] == "detailed"]
    lengths = {int(row["at"]): int(row["value"]) for row in rows if row["statistic"] == "words.captions"}
    assert sum(lengths.values()) == 60
    assert ("vocabulary", "100") in {(row["statistic"], row["at"]) for row in rows}


def test_the_figure_is_the_same_every_time(report: CaptionReport, tmp_path: Path) -> None:
    for name in ("a", "b"):
        assert [path.name for path in figure(report, tmp_path / f"{name}.png")] == [f"{name}.png", f"{name}.pdf"]
    for suffix in ("png", "pdf"):
        assert (tmp_path / f"a.{suffix}").read_bytes() == (tmp_path / f"b.{suffix}").read_bytes()
    pixels = np.asarray(Image.open(tmp_path / "a.png").convert("RGB"))
    assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 50


def caption(key: str, text: str, state: str = "done") -> CaptionRow:
    return CaptionRow(key * 64, "x", "", "{}", text, state, "stop", None, None, None, "2026-01-01T00:00:00+00:00")  # type: ignore[arg-type]


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    for name, texts in (("alt", ["a cat", "a cat"]), ("gpt", ["a gray cat on a mat", "a cat " * 90]), ("new", [])):
        with writing(tmp_path / "captions" / name, Maker("x", "", "{}")) as writer:
            for key, text in zip("ab", texts, strict=False):
                writer.add(caption(key, text))
            writer.add(caption("c", "", "refused"))
    return tmp_path


def test_a_corpus_is_described_by_what_is_done(corpus: Path) -> None:
    found = of_corpus(corpus, (), TextEncoder()).found
    assert list(found) == ["alt", "gpt"]
    assert (found["alt"].captions, found["alt"].duplicates, found["alt"].accuracy) == (2, 0.5, None)
    assert (found["gpt"].window, found["gpt"].cut) == (126, 0.5)
    assert "scene graph" not in to_markdown(table(of_corpus(corpus, ("gpt",), TextEncoder())))


@pytest.mark.parametrize(("asked", "words"), [("gtp", "no caption set 'gtp'"), ("new", "'new' in .* no caption yet")])
def test_a_set_that_cannot_be_described_is_one_line(corpus: Path, asked: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        of_corpus(corpus, (asked,), TextEncoder())


def test_a_folder_without_sets_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no caption sets in"):
        of_corpus(tmp_path, (), TextEncoder())


def test_the_command(corpus: Path, tmp_path: Path) -> None:
    arguments = [
        "captions",
        "stats",
        str(corpus),
        "--csv",
        str(tmp_path / "x.csv"),
        "--figure",
        str(tmp_path / "f.png"),
    ]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    assert "gpt" in done.output
    assert (tmp_path / "x.csv").is_file()
    assert (tmp_path / "f.pdf").is_file()
    sweep = Path(__file__).resolve().parents[2] / "sweeps" / "demo.py"
    done = CliRunner().invoke(app, ["captions", "stats", str(sweep), "--set", "0.5*alt+0.5*brief"])
    assert done.exit_code == 0, done.output
    assert "50 % alt-text, 50 % brief" in done.output
