"""A picture depends on its prompt, its noise and the weights; a folder begun is gone on with, or refused."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from rich.console import Console

from lensbench.data.features import encode_texts
from lensbench.drawing.draw import Drawer, DrawingStoppedError, Settings, Wishes, draw, settle
from lensbench.drawing.pipeline import Parts, Pipeline, open_pipeline
from lensbench.drawing.prompts import Prompts, find_prompts
from lensbench.experiment import Experiment, TextEncoder
from lensbench.locks import file_lock
from lensbench.model.autoencoder import Pixels
from lensbench.model.text_encoder import open_text_encoder
from lensbench.model.transformer import LensTransformer
from lensbench.scoring.generate import generate, sampling_noise
from lensbench.scoring.picture_folder import PictureFolder

Tree = Callable[[Path], dict[str, bytes]]
TEXTS = ["a red circle", "a large blue ring at the top left is left of a small green cross", "", "two squares"]
KEYS = [(prompt, sample) for prompt in range(4) for sample in range(3)]


@pytest.fixture(scope="module")
def pipeline(cell: Path) -> Pipeline:
    return open_pipeline(cell, Parts())


@pytest.fixture(scope="module")
def prompts(pipeline: Pipeline) -> Prompts:
    return find_prompts(None, pipeline.experiment, "short", None)


@pytest.fixture(scope="module")
def drawer(pipeline: Pipeline, tmp_path_factory: pytest.TempPathFactory) -> Drawer:
    features = encode_texts(TEXTS, open_text_encoder(pipeline.text_encoder), tmp_path_factory.mktemp("cache"))
    return Drawer(pipeline, features, Settings(3, 2.0, (0.0, 0.95), 12, 20, 0))


@pytest.fixture(scope="module")
def alone(drawer: Drawer) -> dict[tuple[int, int], np.ndarray]:
    """Each picture, drawn with no other."""
    return {key: drawer.draw([TEXTS[key[0]]], [key])[0] for key in KEYS}


def drawn(pipeline: Pipeline, prompts: Prompts, out: Path, **wishes: object) -> str:
    """Draw into `out`; what was said meanwhile."""
    said = io.StringIO()
    draw(pipeline, prompts, Wishes(**wishes), out, Console(file=said, width=100))  # type: ignore[arg-type]
    return said.getvalue()


@settings(max_examples=25, deadline=None)
@given(st.lists(st.sampled_from(KEYS), min_size=1, max_size=9, unique=True))
def test_a_picture_depends_on_its_prompt_and_sample_alone(
    drawer: Drawer, alone: dict[tuple[int, int], np.ndarray], keys: list[tuple[int, int]]
) -> None:
    images = drawer.draw([TEXTS[prompt] for prompt, _ in keys], keys)
    assert images.shape == (len(keys), 12, 20, 3)
    for key, image in zip(keys, images, strict=True):
        # Sums are ordered otherwise in another batch: a value may round to its neighbor.
        assert np.abs(image.astype(int) - alone[key].astype(int)).max() <= 1


def test_no_two_pictures_are_alike(alone: dict[tuple[int, int], np.ndarray], drawer: Drawer) -> None:
    assert len({image.tobytes() for image in alone.values()}) == len(KEYS)
    other_seed = replace(drawer, settings=replace(drawer.settings, seed=1))
    assert not np.array_equal(other_seed.draw(TEXTS[:1], [(0, 0)])[0], alone[0, 0])


def test_a_cells_own_prompts_give_the_pictures_it_is_scored_on(
    pipeline: Pipeline, prompts: Prompts, experiment: Experiment, tmp_path: Path
) -> None:
    drawn(pipeline, prompts, tmp_path / "out")
    evaluation, keys = experiment.evaluation, prompts.pictures()
    texts = [prompts.rows[prompt]["prompt"] for prompt, _ in keys]
    features = encode_texts(texts, open_text_encoder(experiment.text_encoder), tmp_path / "cache")
    noise = sampling_noise(evaluation.prompt_seed, "geneval", keys, 16, 48)
    how = {"steps": evaluation.sampling_steps, "guidance": evaluation.guidance}
    scored = generate(pipeline.denoiser, Pixels(4), features, texts, noise, (4, 4), **how)  # type: ignore[arg-type]
    for key, image in zip(keys, scored, strict=True):
        with Image.open(PictureFolder(tmp_path / "out").picture(*key)) as picture:
            assert np.array_equal(np.asarray(picture), image)


@pytest.fixture(scope="module")
def complete(pipeline: Pipeline, prompts: Prompts, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("complete") / "out"
    drawn(pipeline, prompts, out, batch=5)
    return out


@pytest.mark.parametrize("saved", [0, 1, 7, 23])
def test_stopped_anywhere_the_same_call_goes_on_to_the_same_bytes(
    pipeline: Pipeline,
    prompts: Prompts,
    complete: Path,
    pictures: Tree,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    saved: int,
) -> None:
    save, left = PictureFolder.save, iter(range(saved))

    def save_some(*about: object) -> None:
        if next(left, None) is None:
            raise KeyboardInterrupt
        save(*about)  # type: ignore[arg-type]

    monkeypatch.setattr(PictureFolder, "save", save_some)
    with pytest.raises(DrawingStoppedError, match=f"{saved} of 24 pictures are drawn and kept"):
        drawn(pipeline, prompts, tmp_path / "out", batch=5)
    monkeypatch.undo()
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*.png")}
    assert len(kept) == saved
    assert f"{24 - saved} drawn now" in drawn(pipeline, prompts, tmp_path / "out", batch=5)
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    assert pictures(tmp_path / "out") == pictures(complete)
    assert "24 pictures" in (again := drawn(pipeline, prompts, tmp_path / "out", batch=5))
    assert "all were there already" in again


def test_finished_batches_are_not_drawn_again_and_the_others_are_laid_out_as_before(
    pipeline: Pipeline, prompts: Prompts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    batches: list[list[tuple[int, int]]] = []

    def noting(self: Drawer, texts: list[str], keys: list[tuple[int, int]]) -> np.ndarray:
        batches.append(list(keys))
        return np.zeros((len(keys), 16, 16, 3), dtype=np.uint8)

    monkeypatch.setattr(Drawer, "draw", noting)
    drawn(pipeline, prompts, tmp_path / "out", batch=5)
    whole = list(batches)
    assert sorted(key for keys in whole for key in keys) == prompts.pictures()
    for key in (whole[1][3], whole[4][0]):
        PictureFolder(tmp_path / "out").picture(*key).unlink()
    batches.clear()
    drawn(pipeline, prompts, tmp_path / "out", batch=5)
    assert batches == [whole[1], whole[4]]


def test_lost_and_broken_pictures_are_drawn_again_as_they_were(
    pipeline: Pipeline, prompts: Prompts, complete: Path, pictures: Tree
) -> None:
    before = pictures(complete)
    folder = PictureFolder(complete)
    folder.picture(3, 1).unlink()
    folder.picture(9, 0).write_bytes(b"half")
    assert "2 drawn now" in drawn(pipeline, prompts, complete, batch=5)
    assert pictures(complete) == before


def test_the_record_says_what_drew(complete: Path) -> None:
    record = json.loads((complete / "generation.json").read_text())
    for name in ("checkpoint", "text_encoder", "prompts"):
        assert len(record["settings"][name]) == 64
    assert record["settings"]["seed"] == 7
    assert record["sessions"][0]["torch"] == version("torch")
    assert str(complete.parent) not in (complete / "generation.json").read_text()


@pytest.mark.parametrize(
    ("wishes", "named"),
    [
        ({"steps": 4}, "steps=3, not 4"),
        ({"guidance": 3.0}, "guidance=2.0, not 3.0"),
        ({"guidance_interval": (0.5, 1.0)}, "guidance_interval"),
        ({"seed": 0}, "seed=7, not 0"),
        ({"height": 16, "width": 20}, "width=16, not 20"),
    ],
)
def test_a_folder_of_other_settings_is_refused(
    pipeline: Pipeline, prompts: Prompts, complete: Path, wishes: dict, named: str
) -> None:
    with pytest.raises(ValueError, match=named):
        drawn(pipeline, prompts, complete, **wishes)


def test_a_folder_of_other_prompts_weights_or_features_is_refused(
    pipeline: Pipeline, prompts: Prompts, complete: Path, cell: Path, experiment: Experiment
) -> None:
    with pytest.raises(ValueError, match="begun with prompts="):
        drawn(pipeline, find_prompts(None, experiment, "detailed", None), complete)
    with pytest.raises(ValueError, match="begun with checkpoint="):
        drawn(open_pipeline(cell, Parts(), step=2), prompts, complete)
    with pytest.raises(ValueError, match="begun with text_encoder_layers="):
        drawn(replace(pipeline, text_encoder=TextEncoder(layers=(1,))), prompts, complete)


def test_two_commands_do_not_draw_into_one_folder(pipeline: Pipeline, prompts: Prompts, tmp_path: Path) -> None:
    with file_lock(tmp_path / ".lock"), pytest.raises(ValueError, match="another command is drawing into it"):
        drawn(pipeline, prompts, tmp_path)


def test_a_text_encoder_that_does_not_fit_is_refused(
    pipeline: Pipeline, prompts: Prompts, denoiser: Callable[..., LensTransformer], tmp_path: Path
) -> None:
    other = replace(pipeline, denoiser=denoiser(enc_hidden_dim=64))
    with pytest.raises(ValueError, match="features of width 64, but the text encoder minilm gives 384"):
        drawn(other, prompts, tmp_path / "out")


def test_a_model_in_bfloat16_draws_about_the_same(
    pipeline: Pipeline, prompts: Prompts, denoiser: Callable[..., LensTransformer], complete: Path, tmp_path: Path
) -> None:
    half = denoiser(10).to(torch.bfloat16).eval()
    drawn(replace(pipeline, denoiser=half), prompts, tmp_path / "out")
    for key in prompts.pictures():
        exact, rounded = (
            np.asarray(Image.open(PictureFolder(folder).picture(*key))).astype(int)
            for folder in (complete, tmp_path / "out")
        )
        assert np.abs(exact - rounded).mean() < 4


def test_without_a_cell_lens_is_drawn_as_published() -> None:
    assert settle(Wishes(), None, 16) == Settings(50, 5.0, (0.0, 1.0), 1024, 1024, 0)
    wide = settle(Wishes(size=512, ratio="16:9", steps=4, guidance=1.0, seed=3), None, 16)
    assert wide == Settings(4, 1.0, (0.0, 1.0), 384, 688, 3)
    assert settle(Wishes(height=48, width=160), None, 16) == Settings(50, 5.0, (0.0, 1.0), 48, 160, 0)


@pytest.mark.parametrize(
    ("wishes", "said"),
    [
        (Wishes(size=512, height=512, width=512), "not some of both"),
        (Wishes(ratio="1:1", width=512), "not some of both"),
        (Wishes(height=512), "height=512, width=None: give both"),
        (Wishes(size=100), "size=100: must be a multiple of 16"),
        (Wishes(steps=0), "steps=0"),
        (Wishes(guidance=0.5), "guidance=0.5: must be at least 1"),
        (Wishes(guidance_interval=(0.8, 0.2)), "guidance_interval=0.8 0.2"),
        (Wishes(batch=0), "batch=0: must be at least 1"),
    ],
)
def test_wishes_that_cannot_be_are_refused_by_name(wishes: Wishes, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        settle(wishes, None, 16)
