"""The page of a sweep that no detector judged: images of held-out captions with their captions and scores."""

from __future__ import annotations

import base64
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lensbench.report.grid import arrange
from lensbench.report.page.comparer import Comparer, compare
from lensbench.report.page.write import write_page
from lensbench.report.tables import tables
from tests.photographs import (
    ARMS,
    CAPTIONED,
    FORMS,
    SAMPLED,
    SCORED,
    SEEDS,
    caption,
    color_of,
    cosine,
    keep_photographs,
    photographs,
)


def images_of(found: Comparer, name: str) -> np.ndarray:
    """The middle pixel of each image of a sheet."""
    sheet = found.sheets[name]
    pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(sheet.jpeg))).convert("RGB")).astype(int)
    half = sheet.side // 2
    return pixels[half :: sheet.side, half :: sheet.side].reshape(-1, 3)


def page_of(results, runs: Path | None, out: Path) -> str:
    out.mkdir(exist_ok=True)
    grid = arrange(results)
    return write_page(grid, tables(grid), [], [], {}, [], runs, out).read_text(encoding="utf-8")


def test_each_image_has_its_own_caption_and_score(tmp_path):
    keep_photographs(tmp_path)
    found = compare(arrange(photographs()), tmp_path, {})
    data = found.data
    assert not data["verdicts"]
    assert [score["name"] for score in data["scores"]] == ["CLIP cosine vit_b32"]
    assert len(data["panels"]) == 3 * len(FORMS)  # a cell failed
    assert found.pictures == found.asked == 3 * len(FORMS) * CAPTIONED
    for panel in data["panels"]:
        arm, seed, form = ARMS[panel["arm"]], SEEDS[panel["seed"]], data["forms"][panel["form"]]
        shown = images_of(found, f"{panel['cell']}/{form}")
        assert len(panel["items"]) == CAPTIONED
        for at, item in enumerate(panel["items"]):
            _, place, sample, *texts = data["items"][item]
            assert (place, sample) == (at, 0)
            assert data["texts"][texts[panel["form"]]] == caption(form, place)
            assert np.abs(shown[at] - color_of(arm, seed, form, place)).max() <= 6
            score = panel["scores"][0][at]
            assert score == (pytest.approx(cosine(arm, seed, form, place)) if place < SCORED else None)


def test_images_that_only_a_distance_was_taken_of_are_shown_with_their_captions(tmp_path):
    keep_photographs(tmp_path)
    found = compare(arrange(photographs(clip=False)), tmp_path, {})
    assert found.data["scores"] == []
    assert found.pictures == 3 * len(FORMS) * CAPTIONED
    assert {*found.data["texts"]} == {caption(form, i) for form in FORMS for i in range(CAPTIONED)}


def test_the_page_stays_the_same_when_the_runs_are_gone(tmp_path):
    keep_photographs(tmp_path / "runs")
    text = page_of(photographs(), tmp_path / "runs", tmp_path / "out")
    assert "192 pictures sampled from held-out captions" in text
    assert f"{3 * len(FORMS) * (SAMPLED - CAPTIONED)} more have no score of their own or caption here" in text
    assert "No detector judged them" in text
    assert page_of(photographs(), None, tmp_path / "out") == text


def test_without_images_captions_and_scores_are_told_and_a_loss_alone_is_nothing_to_compare(tmp_path):
    assert "Captions and scores are." in page_of(photographs(), None, tmp_path / "scores")
    assert not compare(arrange(photographs(clip=False)), None, {}).holds
    loss = page_of(photographs(clip=False, fid=False), None, tmp_path / "loss")
    assert "no judged pictures" in loss


def test_images_of_another_number_than_was_scored_are_refused(tmp_path):
    keep_photographs(tmp_path, images=SAMPLED - 1)
    with pytest.raises(ValueError, match=f"{SAMPLED - 1} images for {SAMPLED}"):
        compare(arrange(photographs()), tmp_path, {})
