"""A folder of pictures: GenEval's layout, whole pictures or none, and nothing mixed into it."""

from __future__ import annotations

import json
import re
import resource
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lensbench.scoring.geneval import official_metadata_jsonl, official_prompts
from lensbench.scoring.picture_folder import PictureFolder

ROWS = [{"prompt": "a cat", "tag": "x"}, {"prompt": "ein Fuß"}]
SETTINGS = {"seed": 0, "guidance_interval": (0.0, 1.0), "checkpoint": "a" * 64}
IMAGE = np.random.default_rng(0).integers(0, 256, (8, 12, 3), dtype=np.uint8)


@pytest.fixture
def folder(tmp_path: Path) -> PictureFolder:
    folder = PictureFolder(tmp_path / "out")
    folder.begin(ROWS, SETTINGS)
    return folder


def test_the_official_rows_are_written_byte_for_byte(tmp_path: Path) -> None:
    rows = official_prompts()
    PictureFolder(tmp_path).begin(rows, SETTINGS)
    written = [(tmp_path / f"{index:05d}" / "metadata.jsonl").read_bytes() for index in range(553)]
    assert b"".join(line + b"\n" for line in written) == official_metadata_jsonl()
    assert not (tmp_path / "00553").exists()


def test_a_saved_picture_is_found_where_geneval_looks(folder: PictureFolder) -> None:
    folder.save(1, 3, IMAGE)
    with Image.open(folder.path / "00001" / "samples" / "0003.png") as picture:
        assert np.array_equal(np.asarray(picture), IMAGE)
    assert folder.has(1, 3, 8, 12)
    assert not folder.has(1, 3, 12, 8)
    assert not folder.has(1, 2, 8, 12)


def test_a_full_disk_is_one_line_and_leaves_no_picture(folder: PictureFolder) -> None:
    """A limit on the size of files does to a writer what a full disk does."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, before[1]))
    try:
        with pytest.raises(OSError, match=r"cannot write .*0000.png: .*; what is drawn is kept") as raised:
            folder.save(0, 0, IMAGE)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert "\n" not in str(raised.value)
    assert not folder.picture(0, 0).exists()


@pytest.mark.parametrize("keep", [0, 20, 200, -13])  # the last chunk is 12 bytes
def test_a_broken_picture_is_as_good_as_absent(folder: PictureFolder, keep: int) -> None:
    folder.save(0, 0, IMAGE)
    path = folder.picture(0, 0)
    whole = path.read_bytes()
    path.write_bytes(whole[:keep])
    assert not folder.has(0, 0, 8, 12)
    path.write_bytes(whole[:150] + bytes(4) + whole[154:])
    assert not folder.has(0, 0, 8, 12)
    path.write_bytes(whole)
    assert folder.has(0, 0, 8, 12)


def test_a_picture_in_the_making_has_no_name_that_geneval_takes(
    folder: PictureFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*paths: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("os.replace", stop)
    with pytest.raises(KeyboardInterrupt):
        folder.save(0, 0, IMAGE)
    (left,) = (folder.path / "00000" / "samples").iterdir()
    assert not re.match(r"\d+\.png", left.name)
    monkeypatch.undo()
    folder.save(0, 0, IMAGE)
    assert [path.name for path in (folder.path / "00000" / "samples").iterdir()] == ["0000.png"]


def test_the_same_settings_go_on_and_what_is_lost_is_written_again(folder: PictureFolder) -> None:
    (folder.path / "00001" / "metadata.jsonl").unlink()
    folder.begin(ROWS, SETTINGS)
    assert json.loads((folder.path / "00001" / "metadata.jsonl").read_text()) == ROWS[1]


@pytest.mark.parametrize("change", [{"seed": 1}, {"guidance_interval": (0.0, 0.5)}, {"checkpoint": "b" * 64}])
def test_other_settings_are_refused_by_name(folder: PictureFolder, change: dict) -> None:
    (name,) = change
    with pytest.raises(ValueError, match=rf"out: was begun with {name}=.*, not .*; choose another folder"):
        folder.begin(ROWS, SETTINGS | change)


def test_a_folder_of_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "holiday.jpg").touch()
    with pytest.raises(ValueError, match=r"holds holiday.jpg but no generation.json"):
        PictureFolder(tmp_path).begin(ROWS, SETTINGS)
    assert [path.name for path in tmp_path.iterdir()] == ["holiday.jpg"]
    with pytest.raises(ValueError, match="is a file"):
        PictureFolder(tmp_path / "holiday.jpg").begin(ROWS, SETTINGS)


def test_a_broken_record_is_one_line(folder: PictureFolder) -> None:
    (folder.path / "generation.json").write_text("{")
    with pytest.raises(ValueError, match=r"generation.json: cannot be read") as raised:
        folder.begin(ROWS, SETTINGS)
    assert "\n" not in str(raised.value)


def test_a_session_is_noted_once(folder: PictureFolder) -> None:
    for batch in (4, 4, 8):
        folder.note_session({"batch": batch})
    record = json.loads((folder.path / "generation.json").read_text())
    assert [session["batch"] for session in record["sessions"]] == [4, 8]
    folder.begin(ROWS, SETTINGS)
