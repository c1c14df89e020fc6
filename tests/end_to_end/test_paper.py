"""`make paper` on a small frozen result: the PDF is built, its numbers are those of the records, and no other."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from lensbench.report.freeze import open_frozen

ROOT = Path(__file__).resolve().parents[2]
FROZEN = ROOT / "tests" / "report" / "frozen"
WITHOUT_CLOCK = {"SOURCE_DATE_EPOCH": "0", "FORCE_SOURCE_DATE": "1"}

pytestmark = pytest.mark.skipif(shutil.which("pdflatex") is None, reason="pdflatex is not installed")


def make_paper(results: Path, paper: Path) -> tuple[Path, str]:
    """The PDF and LaTeX's last log."""
    paper.mkdir()
    shutil.copy(ROOT / "paper" / "main.tex", paper)
    filled = [sys.executable, "-m", "lensbench.report.paper", str(results), "--into", str(paper)]
    subprocess.run(filled, check=True, cwd=ROOT, capture_output=True)
    for _ in range(3):
        command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "main.tex"]
        path = {"PATH": str(Path(shutil.which("pdflatex") or "").parent) + ":/usr/bin:/bin", "HOME": str(paper)}
        done = subprocess.run(
            command, cwd=paper, capture_output=True, text=True, errors="replace", env=path | WITHOUT_CLOCK
        )
        assert done.returncode == 0, done.stdout[-3000:]
    return paper / "main.pdf", done.stdout


def words(pdf: Path) -> str:
    from pypdf import PdfReader

    return re.sub(r"\s+", " ", " ".join(page.extract_text() for page in PdfReader(pdf).pages))


@pytest.fixture(scope="module")
def paper(tmp_path_factory) -> tuple[Path, str]:
    return make_paper(FROZEN, tmp_path_factory.mktemp("paper") / "paper")


def macros(folder: Path) -> dict[str, str]:
    text = (folder / "tables" / "macros.tex").read_text()
    return dict(re.findall(r"\\newcommand\{\\(\w+)\}\{(.*)\}", text))


def test_the_numbers_of_the_records_are_in_the_text(paper):
    pdf, log = paper
    text = words(pdf)
    records = pd.read_parquet(FROZEN / "records.parquet")
    of_arm = records[(records["metric"] == "geneval") & (records["model.depth"] == 4)]
    for form in ("short", "detailed"):
        for name in ("alt", "detailed"):
            here = of_arm[(of_arm["prompt_form"] == form) & (of_arm["captions.set"] == name)]
            score = f"{100 * here['value'].mean():.1f}"
            assert re.search(rf"{re.escape(score)} ?%", text), (form, name, score)
    found = macros(pdf.parent)
    assert found["findingDetailedGain"].replace(r"\ensuremath{-}", "") in text
    assert "8 training runs" in text
    assert "Undefined" not in log
    assert "Overfull" not in log


def test_the_text_types_no_number_of_its_own():
    source = (ROOT / "paper" / "main.tex").read_text()
    body = source.partition(r"\maketitle")[2]
    body = re.sub(r"\\begin\{thebibliography\}.*\\end\{thebibliography\}", "", body, flags=re.DOTALL)
    body = re.sub(r"%.*|\$[^$]*\$|\\(label|ref|generated|figurefile|paragraph)\{[^}]*\}|\\,\\%", "", body)
    allowed = {"95"}  # the level of the intervals, which is no result
    assert set(re.findall(r"\d+(?:\.\d+)?", body)) <= allowed


def test_the_appendix_says_what_was_run(paper):
    text = words(paper[0])
    records = pd.read_parquet(FROZEN / "records.parquet")
    assert all(cell in text for cell in records["cell"].unique())
    for said in ("Reproducibility", "Checklist", "training.learning_rate", "abc1234def56", "No captioner was used"):
        assert said in text, said


def test_a_changed_record_changes_the_text(paper, tmp_path):
    results = Path(shutil.copytree(FROZEN, tmp_path / "golden"))
    records = pd.read_parquet(results / "records.parquet")
    best = (records["metric"] == "fd_shapes") & (records["captions.set"] == "detailed") & (records["model.depth"] == 4)
    records.loc[best, "value"] = 98.76
    records.to_parquet(results / "records.parquet", index=False)
    pdf, _ = make_paper(results, tmp_path / "paper")
    assert "98.76" in words(pdf)
    assert "98.76" not in words(paper[0])


def test_names_of_letters_that_latex_lacks_still_give_a_paper(tmp_path):
    results, name = Path(shutil.copytree(FROZEN, tmp_path / "golden")), "короткие-短い-é"
    for file in ("experiments.json", "provenance.json"):
        (results / file).write_text((results / file).read_text().replace('"detailed"', json.dumps(name)))
    for file in ("records.parquet", "outcomes.parquet"):
        table = pd.read_parquet(results / file)
        table.assign(**{"captions.set": table["captions.set"].replace("detailed", name)}).to_parquet(results / file)
    frozen = open_frozen(results)
    records = pd.read_parquet(results / "records.parquet")
    hashes = [frozen.hash_of(cell) for cell in records["cell"]]
    records.assign(experiment_hash=hashes).to_parquet(results / "records.parquet", index=False)
    pdf, _ = make_paper(results, tmp_path / "paper")
    for letter in name.replace("-", ""):
        assert letter in "é" or f"U+{ord(letter):04X}" in words(pdf)


@pytest.mark.slow
def test_the_same_results_give_the_same_pdf(paper, tmp_path):
    again, _ = make_paper(FROZEN, tmp_path / "paper")
    assert again.read_bytes() == paper[0].read_bytes()


def test_a_result_that_is_not_whole_is_no_paper(tmp_path):
    results = Path(shutil.copytree(FROZEN, tmp_path / "golden"))
    records = pd.read_parquet(results / "records.parquet")
    records[records["cell"] != records["cell"].iloc[0]].to_parquet(results / "records.parquet", index=False)
    command = [sys.executable, "-m", "lensbench.report.paper", str(results), "--into", str(tmp_path / "paper")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2
    assert len(done.stderr.strip().splitlines()) == 1
    assert "missing" in done.stderr


def test_further_results_have_folders_and_macros_of_their_own(tmp_path):
    def filled(*results: Path) -> Path:
        command = [sys.executable, "-m", "lensbench.report.paper", *map(str, results), "--into", str(tmp_path)]
        subprocess.run(command, check=True, cwd=ROOT, capture_output=True)
        return tmp_path

    paper = filled(ROOT / "results" / "demo", FROZEN)
    own, further = ((paper / "tables" / folder / "macros.tex").read_text() for folder in ("", "golden"))
    names = [set(re.findall(r"newcommand{.(\w+)}", text)) for text in (own, further)]
    assert not names[0] & names[1]
    assert "sweepCells" in names[0]
    assert all(name.startswith("golden") for name in names[1])
    assert (paper / "figures" / "golden" / "curves.pdf").is_file()
    told = (paper / "tables" / "golden" / "appendix.tex").read_text()
    assert told.count(r"\section{") == 1
    assert "Every run is the experiment of \\texttt{demo} but for these fields" in told
    assert all(cell in told for cell in pd.read_parquet(FROZEN / "records.parquet")["cell"].unique())
    filled(ROOT / "results" / "demo")
    assert not (paper / "tables" / "golden").exists(), "the paper would tell of results that are not its own"
    assert (paper / "tables" / "main.tex").is_file()
