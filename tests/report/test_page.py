"""The page as a file: whole, safe whatever prompts say, the same every time, and true to what was judged.

What it does in a browser is tested in tests/end_to_end/test_page.py.
"""

from __future__ import annotations

import base64
import io
import json
import re
import zlib
from collections import Counter
from html import unescape
from html.parser import HTMLParser
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from lensbench.metrics import GENEVAL
from lensbench.report.grid import arrange
from lensbench.report.headline import headline
from lensbench.report.page import comparer
from lensbench.report.page.comparer import Sheet, choose, compare, earlier_sheets, script_json, sheets_json
from lensbench.report.page.write import write_page
from lensbench.report.tables import tables
from tests.images import keep_images

FACTORS = {"captions.set": ["alt", "brief", "detailed"], "model.depth": [4, 8], "seed": [0, 1]}
GONE = ({"captions.set": "brief", "model.depth": 8, "seed": 1},)
HOSTILE = "</script><script>window.broken = 1</script><!-- \"quoted\" & 'so' ${x} \u2028 <img src=x onerror=alert(1)>"


class Read(HTMLParser):
    """Elements, their attributes and the text of each script and table cell."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text: dict[str, str] = {}
        self.inside = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self.inside = dict(attrs).get("id") or tag

    def handle_endtag(self, tag: str) -> None:
        self.inside = ""

    def handle_data(self, data: str) -> None:
        self.text[self.inside] = self.text.get(self.inside, "") + data

    def count(self, tag: str) -> int:
        return sum(name == tag for name, _ in self.elements)


def noise_pictures(results, runs: Path, side: int = 16) -> dict[tuple[str, str], np.ndarray]:
    """Each judged picture a color of its own, as a run leaves them."""
    judged = results.outcomes[results.outcomes["metric"] == "geneval"]
    drawn = {}
    for (cell, form), rows in judged.groupby(["cell", "prompt_form"]):
        rows = rows[rows["step"] == rows["step"].max()]
        rng = np.random.default_rng(zlib.crc32(f"{cell} {form}".encode()))
        images = np.broadcast_to(rng.integers(0, 255, (len(rows), 1, 1, 3)), (len(rows), side, side, 3)).astype(
            np.uint8
        )
        keep_images(runs, str(cell), str(form), images)
        drawn[str(cell), str(form)] = images
    return drawn


def page_of(results, runs: Path | None, out: Path, missing: tuple[str, ...] = ()) -> str:
    out.mkdir(exist_ok=True)
    grid = arrange(results)
    path = write_page(grid, tables(grid), headline(grid), missing, {"sweep": "simulated"}, [], runs, out)
    return path.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def study(simulated, tmp_path_factory):
    folder = tmp_path_factory.mktemp("page")
    results = simulated(FACTORS, steps=(300, 600), missing=GONE, prompts=3)
    drawn = noise_pictures(results, folder / "runs")
    line = "missing: brief, depth 8, seed 1 (cell 0): failed: the loss is not a number"
    return results, folder, drawn, page_of(results, folder / "runs", folder / "out", (line,))


def test_it_asks_nothing_of_a_network(study):
    *_, text = study
    read = Read(text)
    for name, attributes in read.elements:
        assert name not in ("link", "iframe", "object", "embed", "base")
        for attribute in ("src", "href", "xlink:href", "action", "poster", "srcset"):
            value = attributes.get(attribute)
            assert value is None or value.startswith(("#", "data:image/")), (name, value)
    assert "url(" not in re.sub(r"url\(#[^)]*\)", "", text)
    assert "@import" not in text
    policy = next(a["content"] for n, a in read.elements if a.get("http-equiv") == "Content-Security-Policy")
    assert "default-src 'none'" in str(policy)


def test_the_answer_comes_before_the_tables_and_pictures(study):
    results, _, _, text = study
    sentences, text = headline(arrange(results)), unescape(text)
    assert sentences
    said = [text.index(sentence) for sentence in sentences]
    assert text.index("<h1>") < min(said)
    assert max(said) < text.index('id="pictures"') < text.index('id="tables"')


def test_every_number_of_every_table_is_there_without_a_script(study):
    results, _, _, text = study
    body = text[text.index('id="tables"') : text.index('id="figures"')]
    cells = Counter(re.findall(r"<t[dh][^>]*>(?:<span[^>]*>)?([^<]*)", body))
    intervals = set(re.findall(r"<small>([^<]*)</small>", body))
    for table in tables(arrange(results)).values():
        assert table.title in text
        for row in table.rows:
            for cell, column in zip(row.cells, table.columns, strict=True):
                assert cells[cell.text + cell.mark] > 0
                assert not (column.interval and cell.interval) or cell.interval in intervals
    assert 'class="missing"' in body or "†" in body


def test_what_is_missing_is_said_near_the_answer(study):
    *_, text = study
    assert text.index("One cell is missing") < text.index('id="pictures"')
    assert "brief, depth 8, seed 1" in text


def test_each_verdict_has_its_own_picture_prompt_and_reason(study):
    results, _, drawn, text = study
    data, sheets = (json.loads(Read(text).text[name]) for name in ("data", "sheets"))
    judged = results.outcomes[(results.outcomes["metric"] == "geneval") & (results.outcomes["step"] == 600)]
    assert sum(len(panel["items"]) for panel in data["panels"]) == len(judged)
    place = {(row.cell, row.prompt_form, row.task, row.prompt_index, row.sample): row for row in judged.itertuples()}
    tasks = list(arrange(results).tasks)
    for panel in data["panels"]:
        form = data["forms"][panel["form"]]
        sheet = sheets[f"{panel['cell']}/{form}"]
        pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(sheet["jpeg"]))).convert("RGB")).astype(int)
        for at, item in enumerate(panel["items"]):
            task, index, sample, *texts = data["items"][item]
            row = place[panel["cell"].partition("/")[0], form, tasks[task], index, sample]
            assert data["texts"][texts[panel["form"]]] == row.prompt
            assert panel["right"][at] == ("1" if row.value else "0")
            assert data["reasons"][panel["reasons"][at]] == row.reason
            y, x = (sheet["side"] * n for n in divmod(at, sheet["columns"]))
            tile = pixels[y : y + sheet["side"], x : x + sheet["side"]]
            wanted = drawn[panel["cell"].partition("/")[0], form][at].astype(int)
            assert np.abs(tile - wanted).max() <= 6


def test_the_same_results_give_the_same_bytes_also_when_the_runs_are_gone(study, tmp_path):
    results, folder, _, text = study
    line = ("missing: brief, depth 8, seed 1 (cell 0): failed: the loss is not a number",)
    mixed = type(results)(**{**vars(results), "outcomes": results.outcomes.sample(frac=1, random_state=4)})
    assert page_of(mixed, folder / "runs", tmp_path, line) == text
    assert page_of(results, tmp_path / "no runs", tmp_path, line) == text


def test_without_any_pictures_prompts_and_verdicts_are_still_there(study, tmp_path):
    results, *_ = study
    text = page_of(results, tmp_path / "no runs", tmp_path)
    assert "The pictures themselves are not here" in text
    assert json.loads(Read(text).text["data"])["panels"]
    assert json.loads(Read(text).text["sheets"]) == {}


def test_an_earlier_page_of_other_prompts_lends_no_pictures(study, tmp_path):
    results, folder, *_ = study
    (tmp_path / "index.html").write_bytes((folder / "out" / "index.html").read_bytes())
    earlier = earlier_sheets(tmp_path / "index.html")
    assert len(compare(arrange(results), None, earlier).sheets) == len(earlier) == 22
    other = type(results)(**{**vars(results), "outcomes": results.outcomes.assign(prompt="another prompt")})
    assert compare(arrange(other), None, earlier).sheets == {}


@pytest.mark.parametrize(
    "earlier", ["", "no page", 'id="sheets">{"a": {"side": 1}}</script>', 'id="sheets">[1]</script>']
)
def test_an_earlier_page_that_cannot_be_read_lends_no_pictures(tmp_path, earlier):
    (tmp_path / "index.html").write_text(earlier)
    assert earlier_sheets(tmp_path / "index.html") == {}
    assert earlier_sheets(tmp_path / "none.html") == {}


def test_pictures_that_were_not_judged_are_refused(study, tmp_path):
    results, *_ = study
    noise_pictures(results, tmp_path / "runs")
    for cell, form in product(results.outcomes["cell"].unique(), ("short", "detailed")):
        keep_images(tmp_path / "runs", str(cell), form, np.zeros((3, 8, 8, 3), np.uint8))
    with pytest.raises(ValueError, match="3 images for 36 judged images"):
        compare(arrange(results), tmp_path / "runs", {})


def test_nothing_that_a_prompt_says_breaks_the_page(study, tmp_path):
    results, folder, _, text = study
    outcomes = results.outcomes.assign(
        prompt=results.outcomes["prompt"] + HOSTILE, reason=results.outcomes["reason"] + HOSTILE
    )
    missing = [{**row, "reason": HOSTILE} for row in results.missing]
    name = 'the <b>"sweep"</b>'
    hostile = type(results)(
        **{**vars(results), "sweep_name": name, "outcomes": outcomes, "missing": missing, "notes": [HOSTILE]}
    )
    grid = arrange(hostile)
    told = {"hardware": [HOSTILE], HOSTILE: HOSTILE}
    path = write_page(grid, tables(grid), [HOSTILE], [HOSTILE], told, [], folder / "runs", tmp_path)
    broken, plain = Read(path.read_text(encoding="utf-8")), Read(text)
    for tag in ("script", "style", "canvas", "b"):
        assert broken.count(tag) == plain.count(tag)
    assert broken.count("img") == 0
    assert not any(name.startswith("on") for _, attributes in broken.elements for name in attributes)
    assert any(HOSTILE in said for said in json.loads(broken.text["data"])["texts"])


@given(st.recursive(st.text() | st.integers() | st.none(), lambda v: st.lists(v) | st.dictionaries(st.text(), v)))
def test_json_within_a_script_element_stays_what_it_was(value):
    told = script_json(value)
    assert json.loads(told) == value
    assert not set("<>&\u2028\u2029") & set(told)


def test_sheets_are_read_back_as_they_were_written(tmp_path):
    sheets = {"cell/short": Sheet("a" * 16, 16, 16, 4, "AAAA"), "cell/</script>": Sheet("b", 128, 512, 2, "")}
    path = tmp_path / "index.html"
    path.write_text(f'<script type="application/json" id="sheets">{sheets_json(sheets)}</script><p>more</p>')
    assert earlier_sheets(path) == sheets


@given(
    scales=st.integers(1, 40),
    seeds=st.integers(1, 5),
    prompts=st.integers(1, 30),
    samples=st.integers(1, 4),
    most=st.integers(50, 20_000),
)
def test_a_page_holds_no_more_pictures_than_it_may(simulated, scales, seeds, prompts, samples, most):
    rows = [
        {"task": task, "prompt_index": 100 * number + i, "sample": sample, "prompt": "", "seed": 0}
        for number, task in enumerate(("colors", "counting"))
        for i in range(prompts)
        for sample in range(samples)
    ]
    first = pd.DataFrame(rows)
    grid = _Shape(scales, seeds)
    chosen = choose(grid, grid.scales, first, 2, most)
    held = int(comparer._kept(first, chosen).sum()) * 2 * 3 * len(chosen.scales) * len(chosen.seeds)
    everything = len(first) * 2 * 3 * scales * seeds
    if everything <= most:
        assert held == everything
        assert not chosen.words(grid)
    else:
        assert held < everything
        assert chosen.words(grid)
        assert held <= most or (held == 2 * 2 * 3 and most < held)
    assert chosen.scales[-1] == scales - 1  # the largest is always there


class _Shape:
    """As much of a grid as `choose` asks for, with three arms."""

    def __init__(self, scales: int, seeds: int) -> None:
        self.scales, self.seeds, self.arms = tuple(range(scales)), tuple(range(seeds)), (0, 1, 2)


def test_of_too_many_pictures_the_first_by_number_are_shown(study, monkeypatch):
    results, folder, *_ = study
    monkeypatch.setattr(comparer, "MOST_PICTURES", 150)
    found = compare(arrange(results), folder / "runs", {})
    assert found.pictures <= 150
    shown = {tuple(found.data["items"][item][:3]) for panel in found.data["panels"] for item in panel["items"]}
    assert {sample for _, _, sample in shown} == {0}
    assert {(task, 3 * task) for task in range(6)} <= {(task, index) for task, index, _ in shown}
    assert "the first picture of each prompt" in found.chosen


def test_boxes_the_protocol_looks_at_are_shown_and_results_without_boxes_are_read(study, tmp_path):
    results, *_ = study
    assert not any("boxes" in panel for panel in compare(arrange(results), None, {}).data["panels"])
    seen = '[["circle","red",1.26,2,8,9.5,0.914],["ring","blue",0,0,4,4,0.21]]'
    outcomes = results.outcomes.assign(boxes=np.where(results.outcomes["sample"] == 0, seen, None))
    data = compare(arrange(type(results)(**{**vars(results), "outcomes": outcomes})), None, {}).data
    assert (data["classes"], data["colors"]) == (["circle"], ["red"])
    for panel in data["panels"]:
        for item, boxes in zip(panel["items"], panel["boxes"], strict=True):
            assert boxes == ([0, 0, 1.3, 2, 8, 9.5, 91] if data["items"][item][2] == 0 else [])


def test_large_pictures_are_made_smaller_and_say_how_large_they_were(study, tmp_path):
    results, *_ = study
    noise_pictures(results, tmp_path / "runs", side=200)
    found = compare(arrange(results), tmp_path / "runs", {})
    assert {(sheet.side, sheet.drawn) for sheet in found.sheets.values()} == {(comparer.LARGEST, 200)}


def test_figures_say_their_values_and_share_no_id(study):
    results, _, _, text = study
    grid = arrange(results)
    ids = [attributes["id"] for _, attributes in Read(text).elements if attributes.get("id")]
    assert [name for name, n in Counter(ids).items() if n > 1] == []
    said = set(re.findall(r"<title>([^<]*)</title>", text))
    for arm in grid.arms:
        group = grid.number(grid.scales[-1], arm, GENEVAL, "short")
        assert f"{arm.label}: {100 * group.value:.4g} at {64 * 600:,}" in said


def test_a_sweep_without_geneval_has_a_page_that_says_so(simulated, tmp_path):
    results = simulated({"captions.set": ["alt", "detailed"], "seed": [0]}, geneval=False)
    text = page_of(results, None, tmp_path)
    assert "This sweep has no judged pictures" in text
    assert Read(text).count("table") == len(tables(arrange(results)))
