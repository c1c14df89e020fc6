"""The report as a whole: what is written, what is said, and that it is the same every time."""

from __future__ import annotations

import io
import json
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from rich.console import Console

from lensbench.experiment import Experiment
from lensbench.locks import file_lock
from lensbench.report.build import build, rebuild
from lensbench.report.captions import of_experiments
from lensbench.report.figures import curves, differences
from lensbench.report.grid import arrange
from lensbench.report.loss_figure import losses
from lensbench.report.paper import fill
from lensbench.report.paper import main as paper_main
from lensbench.report.pictures import sheets
from lensbench.report.scales_figure import scales
from lensbench.report.tables import tables
from lensbench.sweep.sweep import Cell
from tests.images import keep_images

ROOT = Path(__file__).resolve().parents[2]
FACTORS = {"captions.set": ["alt", "brief", "detailed"], "model.depth": [4], "seed": [0, 1]}
GONE = ({"captions.set": "brief", "model.depth": 4, "seed": 1},)
BUILT = ("main", "differences", "scores", "data", "sizes", "costs", "multiplier")
EXPECTED = {f"{name}.{kind}" for name in BUILT for kind in ("md", "csv", "tex")} | {
    *("index.html", "summary.md", "headline.tex", "macros.tex", "appendix.tex"),
    *("records.parquet", "outcomes.parquet", "experiments.json", "provenance.json"),
    *(f"figures/{name}.{kind}" for name in ("curves", "differences", "multiplier") for kind in ("png", "pdf")),
    "pictures/sheet-depth-4.png",
}


def files(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_damaged_file_of_images_costs_the_report_those_alone(simulated, drawn, tmp_path, capsys):
    results = simulated(FACTORS, steps=(600,), prompts=8)
    drawn(results, tmp_path / "runs")
    (hurt, *_) = sorted((tmp_path / "runs").rglob("geneval-short/*.npz"))
    hurt.write_bytes(hurt.read_bytes()[:-300] + bytes(300))
    written = build(results, tmp_path / "out", tmp_path / "runs", Console(file=io.StringIO()))
    assert tmp_path / "out" / "index.html" in written
    assert list((tmp_path / "out" / "pictures").glob("*.png"))
    said = capsys.readouterr().err
    assert said.count("are missing or damaged; delete it and score again; the report does without them") == 1
    assert str(hurt.parent) in said


def test_one_report_at_a_time_is_written_into_a_folder(simulated, tmp_path):
    results = simulated(FACTORS, steps=(600,), prompts=2)
    console = Console(file=io.StringIO())
    build(results, tmp_path / "out", tmp_path / "runs", console)
    before = files(tmp_path / "out")
    with file_lock(tmp_path / ".out.lock"), pytest.raises(ValueError, match="another process is writing a report"):
        build(results, tmp_path / "out", tmp_path / "runs", console)
    with file_lock(tmp_path / ".out.lock"), pytest.raises(ValueError, match="another process is writing a report"):
        rebuild(tmp_path / "out", console)
    assert files(tmp_path / "out") == before


def test_another_sweep_of_the_same_name_is_refused(simulated, tmp_path):
    results = simulated(FACTORS, steps=(600,), prompts=2)
    console = Console(file=io.StringIO())
    build(results, tmp_path / "out", tmp_path / "runs", console)
    told = json.loads((tmp_path / "out" / "provenance.json").read_text())
    (tmp_path / "out" / "provenance.json").write_text(json.dumps(told | {"schema": 2}))
    before = files(tmp_path / "out")
    other = Cell("another", {"seed": 0}, Experiment())
    with pytest.raises(ValueError, match=r"out: holds the results of another sweep of this name"):
        build(results, tmp_path / "out", tmp_path / "runs", console, cells=[other])
    assert files(tmp_path / "out") == before


@pytest.fixture(scope="module")
def report(simulated, drawn, tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    results = simulated(FACTORS, steps=(300, 600), missing=GONE, prompts=8)
    drawn(results, folder / "runs")
    for cell in set(results.records["cell"]):
        (folder / "runs" / cell / "experiment.json").write_text(
            '{"evaluation": {"guidance": 3.5, "sampling_steps": 12}}'
        )
    (folder / "runs" / "mlflow.db").touch()
    console = Console(width=110, record=True, file=io.StringIO(), force_terminal=True)
    written = build(results, folder / "out", folder / "runs", console)
    return results, folder, written, console.export_text()


def test_everything_promised_is_written_and_returned(report):
    _, folder, written, _ = report
    assert set(files(folder / "out")) == EXPECTED
    assert {path.relative_to(folder / "out").as_posix() for path in written} == EXPECTED


def test_the_same_records_give_the_same_bytes(report, tmp_path):
    results, folder, _, _ = report
    shuffled = results.records.sample(frac=1, random_state=3), results.outcomes.sample(frac=1, random_state=4)
    again = type(results)(**{**vars(results), "records": shuffled[0], "outcomes": shuffled[1]})
    build(again, tmp_path / "out", folder / "runs", Console(width=80, quiet=True))
    first, second = files(folder / "out"), files(tmp_path / "out")
    assert first.keys() == second.keys()
    assert [name for name in first if first[name] != second[name]] == []


def test_a_report_can_be_made_from_its_own_frozen_records(report, tmp_path):
    _, folder, _, _ = report
    for name in ("records.parquet", "outcomes.parquet", "experiments.json", "provenance.json"):
        shutil.copy(folder / "out" / name, tmp_path)
    rebuild(tmp_path, Console(quiet=True))
    first, second = files(folder / "out"), files(tmp_path)
    assert first.keys() - second.keys() == {"pictures/sheet-depth-4.png"}  # drawn while the runs are there
    assert {name for name in second if first[name] != second[name]} <= {"index.html"}  # has pictures, or has not


def test_the_console_shows_headline_tables_missing_cells_and_where_to_look(report):
    _, _, _, text = report
    for words in (
        *("described, not tested", "GenEval accuracy (%)", "What the training captions change", "guidance 3.5"),
        *("missing: brief, depth 4, seed 1", "the loss is not a number", "[low, high]: interval"),
        *("summary.md", "figures/curves.png", "sheet-depth-4.png", "mlflow ui --backend-store-uri sqlite:///"),
    ):
        assert words in text, words
    tables_only = text[: text.index(" summary ")]
    assert max(len(line) for line in tables_only.splitlines()) <= 110


def test_the_summary_is_whole(report):
    _, folder, _, _ = report
    text = (folder / "out" / "summary.md").read_text()
    for words in ("missing: brief, depth 4, seed 1", "figures/curves.png", "### Data and compute of one run", "3.5"):
        assert words in text
    for line in text.splitlines():
        if line.startswith("!["):
            assert (folder / "out" / line.partition("(")[2].rstrip(")")).is_file()


def test_frozen_records_are_the_records(report):
    results, folder, _, _ = report
    frozen = pd.read_parquet(folder / "out" / "records.parquet")
    key = ["cell", "metric", "prompt_form", "step"]
    wanted = results.records.sort_values(key, ignore_index=True)
    pd.testing.assert_frame_equal(frozen.sort_values(key, ignore_index=True), wanted, check_dtype=False)


def test_a_sweep_without_geneval_is_reported(simulated, tmp_path):
    results = simulated({"captions.set": ["alt", "detailed"], "seed": [0]}, geneval=False)
    written = build(results, tmp_path / "out", tmp_path / "runs", Console(quiet=True))
    assert tmp_path / "out" / "figures" / "curves.png" in written
    assert not (tmp_path / "out" / "pictures").exists()


@pytest.mark.parametrize("geneval", [True, False])
def test_watched_steps_draw_a_figure_of_their_own_and_change_nothing_else(simulated, tmp_path, geneval):
    factors = {"captions.set": ["alt", "detailed"], "seed": [0, 1]}
    written = {}
    for name, watched in (("without", ()), ("with", (75, 150, 300))):
        results = simulated(factors, steps=(300, 600) if geneval else (600,), geneval=geneval, watched=watched)
        build(results, tmp_path / name, tmp_path / "runs", Console(quiet=True))
        written[name] = files(tmp_path / name)
    new = {f"figures/losses.{kind}" for kind in ("png", "pdf")}
    assert new <= written["with"].keys() - written["without"].keys()
    said = {name for name, was in written["without"].items() if written["with"][name] != was}
    assert {"records.parquet", "summary.md"} <= said
    of_last_step = [name for name in BUILT if name != "multiplier"]  # which is read off the curves
    assert not said & {f"{name}.{kind}" for name in of_last_step for kind in ("md", "csv", "tex")}
    assert "![Held-out loss along training](figures/losses.png)" in written["with"]["summary.md"].decode()
    pixels = np.asarray(Image.open(tmp_path / "with" / "figures" / "losses.png").convert("RGB"))
    assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 20


def test_the_figure_of_losses_has_every_watched_step_of_every_arm(simulated):
    results = simulated(FACTORS, steps=(600,), watched=(75, 150, 300))
    figure = losses(arrange(results))
    assert [axes.get_xlabel() for axes in figure.axes] == ["training images seen", "training FLOPs"] * 2
    for axes in figure.axes:
        lines = [line for line in axes.lines if line.get_marker() not in ("None", "")]
        assert len(lines) == 3
        scale = 64 if axes.get_xlabel() == "training images seen" else 64 * 1.3e9
        for line in lines:
            assert list(line.get_xdata()) == pytest.approx([scale * step for step in (75, 150, 300, 600)])
        assert len(axes.lines) == 3 + 3 * 2  # a thin one for each seed


NINE = {"captions.set": ["alt", "detailed"], "images": [256, 1024, 4096], "model.depth": [2, 3, 4], "seed": [0, 1]}


def test_scores_against_scale_have_every_number_of_every_arm(simulated):
    grid = arrange(simulated(NINE))
    figure = scales(grid)
    assert [axes.get_title() for axes in figure.axes[:3]] == ["depth 2", "depth 3", "depth 4"]
    assert len(figure.axes) == 6, "a row for each wording"
    for place, axes in enumerate(figure.axes):
        form, depth = ("short", "detailed")[place // 3], (2, 3, 4)[place % 3]
        drawn = {tuple(line.get_ydata()) for line in axes.lines}
        assert all(list(line.get_xdata()) == [256, 1024, 4096] for line in axes.lines)
        at = [scale for scale in grid.scales if dict(scale.settings)["model.depth"] == depth]
        wanted = {tuple(100 * grid.number(scale, arm, "geneval", form).value for scale in at) for arm in grid.arms}
        assert drawn == wanted


def test_a_sweep_of_two_sizes_has_no_figure_of_scales(simulated):
    assert scales(arrange(simulated(NINE | {"images": [256, 1024], "model.depth": [2]}))) is None


def test_figures_of_many_scales_fit_a_page_and_say_which_they_show(simulated):
    grid = arrange(simulated(NINE, watched=(75, 150)))
    for figure, columns in ((curves(grid), 2), (losses(grid), 4), (differences(grid), 2)):
        assert len(figure.axes) == 3 * columns
        assert figure.get_figheight() < 10.5
        assert "the last 3 of 9 scales" in figure.get_supxlabel()
        assert [axes.get_ylabel().split("\n")[0] for axes in figure.axes[::columns]] == [
            f"4,096 images, depth {depth}" for depth in (2, 3, 4)
        ]


def test_figures_of_a_sweep_that_is_under_way_show_the_scales_that_are_there(simulated):
    pairs = {"captions.set": ["alt", "brief", "detailed"], "captions.shuffled": [False, True]}
    later = ({"images": 4096},)
    grid = arrange(simulated(NINE | pairs, {"captions.set": "alt", "captions.shuffled": False}, missing=later))
    for figure in (curves(grid), differences(grid)):
        assert figure.axes[0].get_ylabel().startswith("1,024 images")
    assert losses(grid) is None


def test_many_differences_are_drawn_at_the_largest_scale_alone(simulated):
    every = {"captions.set": ["alt", "brief", "detailed"], "captions.shuffled": [False, True]}
    figure = differences(arrange(simulated(NINE | every, {"captions.set": "alt", "captions.shuffled": False})))
    assert len(figure.axes) == 2
    assert "the last of 9 scales" in figure.get_supxlabel()
    assert figure.get_figheight() < 10.5


def test_an_earlier_reports_pictures_do_not_stay(report, tmp_path):
    results, folder, _, _ = report
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "sheet-depth-99.png").touch()
    build(results, tmp_path, folder / "runs", Console(quiet=True))
    assert [path.name for path in (tmp_path / "pictures").iterdir()] == ["sheet-depth-4.png"]


def test_figures_are_pictures_with_something_on_them(report):
    _, folder, _, _ = report
    for name in ("figures/curves.png", "figures/differences.png", "pictures/sheet-depth-4.png"):
        pixels = np.asarray(Image.open(folder / "out" / name).convert("RGB"))
        assert min(pixels.shape[:2]) > 300
        assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 20


def test_pictures_that_were_not_judged_are_refused(report, tmp_path):
    results, folder, _, _ = report
    runs = tmp_path / "runs"
    shutil.copytree(folder / "runs", runs)
    for cell in results.outcomes["cell"].unique():
        keep_images(runs, str(cell), "short", np.zeros((3, 8, 8, 3), np.uint8))
    with pytest.raises(ValueError, match="3 images for 96 judged images"):
        sheets(arrange(results), runs, tmp_path / "pictures")


def test_the_paper_gets_tables_and_figures(report, tmp_path):
    _, folder, _, _ = report
    written = fill(folder / "out", tmp_path)
    assert {path.relative_to(tmp_path).as_posix() for path in written} == {
        *(f"tables/{name}.tex" for name in (*BUILT, "headline", "macros", "appendix")),
        *("figures/curves.pdf", "figures/differences.pdf", "figures/multiplier.pdf"),
    }
    assert (tmp_path / "tables" / "main.tex").read_bytes() == (folder / "out" / "main.tex").read_bytes()


def test_a_report_with_captions_describes_them_to_the_paper_too(report, tmp_path):
    results, folder, _, _ = report
    base = Experiment().replace({"images": 30})
    captions = of_experiments([base.replace({"captions.set": name}) for name in FACTORS["captions.set"]])
    console = Console(width=110, record=True, file=io.StringIO())
    written = build(results, tmp_path / "out", folder / "runs", console, captions)
    about = {f"captions.{kind}" for kind in ("md", "csv", "tex", "json")} | {
        "figures/captions.png",
        "figures/captions.pdf",
    }
    assert {path.relative_to(tmp_path / "out").as_posix() for path in written} == EXPECTED | about
    assert set(files(tmp_path / "out")) == EXPECTED | about
    assert "figures/captions.png" in (tmp_path / "out" / "summary.md").read_text()
    filled = {path.relative_to(tmp_path).as_posix() for path in fill(tmp_path / "out", tmp_path / "paper")}
    assert {"paper/tables/captions.tex", "paper/figures/captions.pdf"} <= filled


def test_a_paper_without_a_report_is_one_line_and_exit_code_two(tmp_path, capsys):
    assert paper_main([str(tmp_path), "--into", str(tmp_path / "paper")]) == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 1


def test_the_paper_asks_for_nothing_that_a_small_latex_lacks():
    source = (ROOT / "paper" / "main.tex").read_text()
    packages = set(re.findall(r"\\usepackage(?:\[[^]]*\])?\{(\w+)\}", source))
    assert packages == {"fontenc", "inputenc", "lmodern", "geometry", "amsmath", "booktabs", "longtable", "graphicx",
                        "hyperref"}  # fmt: skip


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="pdflatex is not installed")
def test_the_paper_compiles(report, tmp_path):
    _, folder, _, _ = report
    shutil.copy(ROOT / "paper" / "main.tex", tmp_path)
    fill(folder / "out", tmp_path)
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "main.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:]
    assert "Overfull" not in done.stdout


def test_tables_are_the_same_whatever_was_asked_before(report):
    results, *_ = report
    grid = arrange(results)
    first = repr(tables(grid))
    assert repr(tables(grid)) == first == repr(tables(arrange(results)))
