"""The page in a real browser: headless Chromium opens the file and somebody clicks, types and reads.

Skipped where there is no Chromium (Debian's `chromium`) or no playwright.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from lensbench.report.grid import arrange
from lensbench.report.headline import headline
from lensbench.report.page.write import write_page
from lensbench.report.tables import tables
from lensbench.sweep.sweep import Results
from tests import photographs
from tests.images import EVALUATION, keep_images

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
TASKS = ("single_object", "counting", "position")
ARMS, DEPTHS, SEEDS, FORMS = ("alt", "brief", "detailed"), (2, 3), (0, 1), ("short", "detailed")
PROMPTS, SAMPLES, SIDE = 8, 2, 16
NAMES = {"alt": "alt-text", "brief": "brief", "detailed": "detailed"}
HOSTILE = "</script><script>document.title = 'broken'</script><img src=x onerror=alert(1)> & \"quoted\""
GONE = {"captions.set": "brief", "model.depth": 3, "seed": 1}


def study(prompts: int = PROMPTS, seeds: tuple[int, ...] = SEEDS) -> Results:
    """A sweep whose verdicts follow a rule, and in which one cell failed."""
    records, outcomes, missing = [], [], []
    for arm, depth, seed in product(ARMS, DEPTHS, seeds):
        values = {"captions.set": arm, "model.depth": depth, "seed": seed}
        cell = f"{arm}-{depth}-{seed}"
        if values == GONE:
            missing.append({"cell": cell, **values, "reason": "failed: the disk is full"})
            continue
        rng = np.random.default_rng([ARMS.index(arm), depth, seed])
        common = {"sweep": "study", **values, "cell": cell, "step": 100, "evaluation_hash": EVALUATION}
        for form in FORMS:
            rows: list[dict[str, Any]] = []
            for task, number, sample in product(TASKS, range(prompts), range(SAMPLES)):
                index = TASKS.index(task) * prompts + number
                right = rng.random() < 0.15 + 0.3 * ARMS.index(arm)
                words = f"{form} {task} number {number}" + (HOSTILE if index == 0 else "")
                reason = "" if right else f"0 of 1 thing {number} found"
                box = f'[["circle","red",2,2,10,10,0.97],["ring","blue",8,8,15,15,{0.5 if number else 0.95}]]'
                row = {"task": task, "prompt_index": index, "sample": sample, "prompt": words, "value": float(right)}
                rows.append({**common, "metric": "geneval", "prompt_form": form, **row, "reason": reason, "boxes": box})
            outcomes += rows
            number_of = {"low": np.nan, "high": np.nan, "n": len(rows), "samples_seen": 3200, "train_flops": 1e12}
            judged = pd.DataFrame(rows).groupby("task")["value"].mean()
            means = {f"geneval.{task}": value for task, value in judged.items()} | {"geneval": judged.mean()}
            for metric, value in means.items():
                told = {"prompt_form": form, "metric": metric, "value": float(value), "judge_digest": "j" * 64}
                records.append({**common, **told, **number_of})
    factors: dict[str, list[Any]] = {"captions.set": [*ARMS], "model.depth": [*DEPTHS], "seed": [*seeds]}
    frames = (pd.DataFrame(records), pd.DataFrame(outcomes))
    return Results("study", factors, {"captions.set": "alt"}, *frames, missing=missing, notes=[])


def color_of(cell: str, form: str, at: int) -> tuple[int, int, int]:
    """A picture's color: which cell, wording and place it has."""
    rng = np.random.default_rng([*cell.encode(), len(form), at])
    return tuple(int(v) for v in rng.integers(20, 235, 3))  # type: ignore[return-value]


def write(results: Results, folder: Path) -> Path:
    for (cell, form), rows in results.outcomes.groupby(["cell", "prompt_form"]):
        images = np.zeros((len(rows), SIDE, SIDE, 3), np.uint8)
        images[:] = np.array([color_of(str(cell), str(form), i) for i in range(len(rows))])[:, None, None]
        keep_images(folder / "runs", str(cell), str(form), images)
    grid = arrange(results)
    missing = [f"missing: {row['cell']}: {row['reason']}" for row in results.missing]
    return write_page(grid, tables(grid), headline(grid), missing, {"sweep": "study"}, [], folder / "runs", folder)


@pytest.fixture(scope="module")
def results() -> Results:
    return study()


@pytest.fixture(scope="module")
def page_file(results, tmp_path_factory) -> Path:
    return write(results, tmp_path_factory.mktemp("page"))


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if CHROMIUM is None:
        pytest.skip("chromium is not installed")
    with playwright.sync_playwright() as started:
        opened = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield opened
        opened.close()


def is_complaint(said: Any) -> bool:
    # that somebody reads pixels back often is true of these tests alone
    return said.type in ("error", "warning") and "willReadFrequently" not in said.text


@pytest.fixture
def visit(browser) -> Iterator[Callable[..., Any]]:
    """Open a page in a window of its own without a network. Whatever it asks for or complains about fails the test."""
    complaints: list[str] = []
    contexts = []

    def opened(path: Path, width: int = 1280, height: int = 900, **options: Any) -> Any:
        context = browser.new_context(viewport={"width": width, "height": height}, offline=True, **options)
        contexts.append(context)
        tab = context.new_page()
        tab.on("console", lambda said: complaints.append(said.text) if is_complaint(said) else None)
        tab.on("pageerror", lambda error: complaints.append(str(error)))
        tab.on("dialog", lambda dialog: complaints.append(f"dialog {dialog.message}"))
        wanted = path.as_uri()
        tab.on("request", lambda asked: None if asked.url.partition("#")[0] == wanted or asked.url.startswith("data:")
               else complaints.append(f"asked for {asked.url}"))  # fmt: skip
        tab.goto(wanted)
        return tab

    yield opened
    for context in contexts:
        context.close()
    assert complaints == []


@pytest.fixture
def tab(visit, page_file) -> Any:
    return visit(page_file)


def geneval(results: Results, arm: str, depth: int = 3, seed: int = 0, form: str = "detailed") -> pd.Series:
    rows = results.outcomes
    values = {"captions.set": arm, "model.depth": depth, "seed": seed, "prompt_form": form}
    for name, value in values.items():
        rows = rows[rows[name] == value]
    return rows.set_index(["task", "prompt_index", "sample"])["value"] > 0.5


def shown(tab: Any) -> int:
    """How many rows the list holds."""
    first = tab.locator("#list [role=option]").first
    return int(first.get_attribute("aria-setsize")) if first.count() else 0


def place(tab: Any) -> int:
    """Which row is in the viewer."""
    return int(tab.locator("#place").inner_text().split(" of ")[0])


def until(tab: Any, expression: str) -> None:
    """Wait for an expression to be true, at most five seconds; the page lets nobody evaluate text within it."""
    for _ in range(100):
        if tab.evaluate(expression):
            return
        tab.wait_for_timeout(50)
    raise AssertionError(f"never true: {expression}")


def test_it_opens_with_the_answer_and_nothing_that_a_prompt_says_runs(tab, results):
    assert tab.title() == "study: what captions are worth"
    assert tab.locator("h1").inner_text().startswith("How much do training captions matter")
    assert tab.locator(".findings li").first.is_visible()
    assert "the disk is full" in tab.locator("#missing").inner_text()
    assert tab.locator("#prompt").inner_text() == "detailed single_object number 0" + HOSTILE
    assert tab.locator("#comparer img").count() == 0


def test_a_table_is_sorted_by_clicks_and_comes_back(tab):
    table = tab.locator("section.table", has=tab.locator("#table-main")).locator("table")
    head = table.locator("th[data-sort=number]").nth(3)  # the mean of short prompts
    column = head.evaluate("head => head.cellIndex")

    def numbers() -> list[float]:
        told = table.locator("tbody tr").evaluate_all(
            "(rows, i) => rows.map((row) => row.cells[i].dataset.value)", column
        )
        return [float(value) for value in told if value is not None]

    first = numbers()
    head.locator("button").click()
    assert head.get_attribute("aria-sort") == "descending"
    assert numbers() == sorted(first, reverse=True) != first
    head.locator("button").press("Enter")
    assert head.get_attribute("aria-sort") == "ascending"
    assert numbers() == sorted(first)
    head.locator("button").click()
    assert head.get_attribute("aria-sort") is None
    assert numbers() == first


def test_a_number_that_is_missing_stays_last_both_ways(visit, tmp_path):
    gone = study()
    lone = gone.records["captions.set"].eq("brief") & gone.records["model.depth"].eq(3)
    few = Results(**{**vars(gone), "records": gone.records[~lone]})
    grid = arrange(few)
    path = write_page(grid, tables(grid), [], [], {}, [], None, tmp_path)
    table = visit(path).locator("section.table table").first
    button = table.locator("th[data-sort=number] button").first
    for _ in range(2):
        button.click()
        assert table.locator("tbody tr").last.locator("td.missing").count() > 0


@pytest.mark.parametrize(("kind", "rule"), [
    ("first", lambda a, b: a & ~b), ("second", lambda a, b: b & ~a), ("both", lambda a, b: a & b),
    ("neither", lambda a, b: ~a & ~b),
])  # fmt: skip
def test_the_filter_by_verdicts_of_two_arms_finds_what_was_judged(tab, results, kind, rule):
    wanted = rule(geneval(results, "detailed"), geneval(results, "alt"))
    tab.select_option("#verdicts", kind)
    assert shown(tab) == wanted.sum() > 0
    if kind == "first":
        for row in tab.locator("#list [role=option]").all():
            assert re.search(r"alt-text wrong;.* detailed right\.$", row.get_attribute("aria-label"))
    tab.select_option("#task", label="counting")
    assert shown(tab) == wanted["counting"].sum()
    tab.select_option("#second", label="brief")
    brief = rule(geneval(results, "detailed"), geneval(results, "brief"))
    assert shown(tab) == brief["counting"].sum()


def test_the_table_of_counts_counts_and_filters(tab, results):
    a, b = geneval(results, "detailed"), geneval(results, "alt")
    line = tab.locator(".counts tbody tr", has_text="position")
    told = [int(words) for words in line.locator("button").all_inner_texts()]
    a, b = a["position"], b["position"]
    assert told == [len(a), (a & ~b).sum(), (b & ~a).sum(), (a & b).sum(), (~a & ~b).sum()]
    line.locator("button").nth(1).click()
    assert shown(tab) == told[1]
    assert tab.locator("#task").evaluate("box => box.selectedOptions[0].text") == "position"
    assert tab.locator("#verdicts").evaluate("box => box.selectedOptions[0].text") == "detailed right, alt-text wrong"
    assert tab.locator(".counts [aria-pressed=true]").inner_text() == str(told[1])


def test_words_size_seed_and_wording_choose_rows(tab):
    everything = len(TASKS) * PROMPTS * SAMPLES
    assert shown(tab) == everything
    tab.fill("#words", "POSITION number 3")
    assert shown(tab) == SAMPLES
    tab.select_option("#scale", label="all sizes")
    assert shown(tab) == SAMPLES * 2
    tab.select_option("#seed", label="all seeds")
    tab.select_option("#form", label="any wording")
    assert shown(tab) == SAMPLES * 2 * 2 * 2
    tab.fill("#words", "no prompt says this")
    assert shown(tab) == 0
    assert "No prompt fits" in tab.locator("#count").inner_text()
    tab.fill("#words", "")
    assert shown(tab) == everything * 8


def test_a_missing_cell_is_said_and_nothing_stands_in_for_it(tab):
    tab.select_option("#seed", label="1")
    figure = tab.locator("#arms figure").nth(1)
    assert "no such cell" in figure.inner_text()
    assert re.search(r"brief, .*: missing", figure.locator("canvas").get_attribute("aria-label"), re.DOTALL)


def test_each_arm_shows_the_picture_that_was_judged(tab):
    tab.uncheck("#boxes")
    tab.locator("#list").focus()
    for _ in range(3):
        tab.keyboard.press("ArrowDown")
    until(tab, "document.querySelector('#arms canvas').getContext('2d').getImageData(9, 9, 1, 1).data[3]")
    pixel = "c => [...c.getContext('2d').getImageData(c.width / 2, c.height / 2, 1, 1).data].slice(0, 3)"
    for arm, canvas in zip(ARMS, tab.locator("#arms canvas").all(), strict=True):
        got, wanted = canvas.evaluate(pixel), color_of(f"{arm}-3-0", "detailed", 3)
        assert np.abs(np.array(got) - wanted).max() <= 6
    tiles = tab.locator("#row-3 canvas").all()
    assert np.abs(np.array(tiles[2].evaluate(pixel)) - color_of("detailed-3-0", "detailed", 3)).max() <= 6


def test_boxes_are_drawn_listed_and_put_away(tab):
    until(tab, "document.querySelector('#arms canvas').getContext('2d').getImageData(9, 9, 1, 1).data[3]")
    edge = "c => [...c.getContext('2d').getImageData(c.width * 2 / 16, c.height * 5 / 16, 1, 1).data].slice(0, 3)"
    canvas = tab.locator("#arms canvas").first
    assert canvas.evaluate(edge) == [255, 90, 79]
    assert "red circle (97 %)" in tab.locator("#arms figure").first.inner_text()
    tab.uncheck("#boxes")
    assert canvas.count() == 1
    assert tab.locator("#arms canvas").first.evaluate(edge) != [255, 90, 79]
    assert "red circle" not in tab.locator("#arms figure").first.inner_text()
    tab.check("#boxes")
    tab.select_option("#task", label="counting")
    tab.click("#next")
    tab.click("#next")
    assert "blue ring (50 %, not counted)" in tab.locator("#arms figure").first.inner_text()


def test_the_keyboard_goes_from_prompt_to_prompt(tab):
    tab.locator("#pictures").scroll_into_view_if_needed()
    tab.evaluate(
        "document.documentElement.style.scrollBehavior = 'auto'; document.querySelector('.panes').scrollIntoView()"
    )
    tab.keyboard.press("ArrowRight")
    tab.keyboard.press("ArrowRight")
    assert place(tab) == 3
    tab.keyboard.press("ArrowLeft")
    assert place(tab) == 2
    tab.locator("#list").focus()
    for key, wanted in (
        ("ArrowDown", 3),
        ("End", 48),
        ("ArrowDown", 48),
        ("ArrowUp", 47),
        ("Home", 1),
        ("PageDown", 6),
    ):
        tab.keyboard.press(key)
        assert place(tab) == wanted, key
    chosen = tab.locator("#" + tab.locator("#list").get_attribute("aria-activedescendant"))
    assert chosen.get_attribute("aria-selected") == "true"
    assert chosen.get_attribute("aria-posinset") == "6"
    box, frame = chosen.bounding_box(), tab.locator("#list").bounding_box()
    assert frame["y"] <= box["y"] + 1
    assert box["y"] + box["height"] <= frame["y"] + frame["height"] + 1
    tab.keyboard.press("b")
    assert not tab.locator("#boxes").is_checked()


def test_keys_that_belong_to_a_field_stay_there(tab):
    tab.fill("#words", "number b")
    tab.fill("#words", "number")
    tab.locator("#words").press("ArrowLeft")
    tab.locator("#words").press("b")
    assert tab.input_value("#words") == "numbebr"
    assert tab.locator("#boxes").is_checked()
    tab.fill("#words", "")
    tab.locator("h1").click()
    tab.evaluate("scrollTo(0, 0)")
    tab.keyboard.press("ArrowRight")
    assert place(tab) == 1  # the pictures are out of sight


def test_a_screen_reader_is_told_prompt_and_verdicts(tab, results):
    right = geneval(results, "detailed").iloc[1]
    tab.click("#next")
    label = tab.locator("#arms canvas").nth(2).get_attribute("aria-label")
    assert label.startswith("detailed, “detailed single_object number 0")
    assert ("right" if right else "wrong, 0 of 1 thing 0 found") in label.split("”: ")[1]
    until(tab, "document.getElementById('live').textContent.startsWith('2 of 48. detailed single_object')")
    assert re.search(r"alt-text (right|wrong)", tab.locator("#live").text_content())
    unnamed = """() => [...document.querySelectorAll('select, input, button, [role], svg')].filter((e) =>
      !(e.labels?.length || e.getAttribute('aria-label') || e.getAttribute('aria-labelledby') || e.textContent.trim()))
      .map((e) => e.outerHTML)"""
    assert tab.evaluate(unnamed) == []
    names = [head.inner_text() for head in tab.locator("h1, h2").all()]
    assert names[1:] == ["The answer", "Pictures side by side", "Tables", "Curves", "Where it comes from"]


def brightness(what: Any, of: str = "backgroundColor") -> float:
    told = what.evaluate(f"e => getComputedStyle(e ?? document.body).{of}")
    return float(np.mean([int(v) for v in re.findall(r"\d+", told)[:3]]))


def test_dark_follows_the_system_and_the_switch(visit, page_file):
    assert brightness(visit(page_file)) > 200
    dark = visit(page_file, color_scheme="dark")
    assert brightness(dark) < 60
    title = dark.locator("#figures svg text").first
    assert brightness(title, "fill") > 150
    dark.select_option("#theme", "light")
    assert brightness(dark) > 200
    dark.reload()
    assert brightness(dark) > 200  # kept
    dark.select_option("#theme", "dark")
    dark.emulate_media(color_scheme="light")
    assert brightness(dark) < 60


def test_without_scripts_the_answer_the_tables_and_the_curves_are_there(visit, page_file):
    tab = visit(page_file, java_script_enabled=False)
    for wanted in (".findings li", "section.table table", "#figures svg", "noscript p", "#provenance dl"):
        assert tab.locator(wanted).first.is_visible(), wanted
    assert not tab.locator("#comparer").is_visible()


@pytest.mark.parametrize("width", [320, 400, 768, 1280])
def test_nothing_is_wider_than_the_window(visit, page_file, width):
    tab = visit(page_file, width=width)
    assert tab.evaluate("document.documentElement.scrollWidth") <= width
    picture = tab.locator("#arms canvas").first.bounding_box()
    assert picture["width"] >= 80


def test_on_paper_are_the_tables_and_no_buttons(visit, page_file):
    tab = visit(page_file, color_scheme="dark")
    tab.select_option("#theme", "dark")
    tab.emulate_media(media="print")
    assert brightness(tab) == 255
    assert brightness(tab.locator("h1"), "color") < 60
    assert not tab.locator(".controls").is_visible()
    assert not tab.locator("#list").is_visible()
    assert tab.locator("#arms canvas").first.is_visible()
    assert tab.locator("section.table table").first.is_visible()


def test_ten_thousand_pictures_stay_fluid(visit, tmp_path):
    results = study(prompts=150, seeds=(0, 1))
    path = write(results, tmp_path)
    tab = visit(path)
    for name in ("scale", "seed", "form"):
        tab.locator(f"#{name}").select_option("")
    pictures = shown(tab) * len(ARMS)
    assert pictures >= 10_000
    longest = tab.evaluate(
        """async () => {
          const list = document.getElementById("list"), took = [];
          for (let i = 0; i < 60; i++) {
            await new Promise(requestAnimationFrame);
            const began = performance.now();
            list.scrollTop = (i * 7919 * 84) % list.scrollHeight;
            list.dispatchEvent(new Event("scroll"));
            await new Promise(requestAnimationFrame);
            took.push(performance.now() - began);
          }
          return took.sort((a, b) => a - b)[Math.floor(took.length / 2)];
        }"""
    )
    assert tab.locator("#list canvas").count() < 100  # only what is seen
    assert longest < 100
    began = tab.evaluate("performance.now()")
    tab.select_option("#verdicts", "first")
    assert 0 < shown(tab) * len(ARMS) < pictures
    assert tab.evaluate("performance.now()") - began < 2000


@pytest.fixture(scope="module")
def unjudged_file(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("photographs")
    results = photographs.photographs()
    photographs.keep_photographs(folder / "runs")
    grid = arrange(results)
    told = [f"missing: {row['cell']}: {row['reason']}" for row in results.missing]
    return write_page(grid, tables(grid), headline(grid), told, {}, [], folder / "runs", folder)


def test_images_that_nobody_judged_stand_side_by_side_with_their_captions_and_scores(visit, unjudged_file):
    tab = visit(unjudged_file)
    assert shown(tab) == photographs.CAPTIONED
    assert tab.locator("#prompt").inner_text() == photographs.caption("detailed", 0)
    assert tab.locator(".pair").is_hidden()
    assert tab.locator("#task").is_hidden()
    assert tab.locator("#boxes").is_hidden()
    until(tab, "document.querySelector('#arms canvas').getContext('2d').getImageData(9, 9, 1, 1).data[3]")
    pixel = "c => [...c.getContext('2d').getImageData(c.width / 2, c.height / 2, 1, 1).data].slice(0, 3)"
    for arm, figure in zip(photographs.ARMS, tab.locator("#arms figure").all(), strict=True):
        got = figure.locator("canvas").evaluate(pixel)
        assert np.abs(np.array(got) - photographs.color_of(arm, 0, "detailed", 0)).max() <= 6
        assert f"{photographs.cosine(arm, 0, 'detailed', 0):.4f}" in figure.inner_text()
        assert "wrong" not in figure.inner_text()
    assert tab.locator("#count").inner_text() == f"{photographs.CAPTIONED} rows."
    tab.fill("#words", "31:")
    assert shown(tab) == 1
    assert "CLIP" not in tab.locator("#arms").inner_text()  # its cosine was not taken
    tab.select_option("#seed", label="1")
    assert "no such cell" in tab.locator("#arms figure").nth(1).inner_text()
