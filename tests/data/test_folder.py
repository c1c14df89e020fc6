"""A folder of photographs: what is used, what is set aside and why, and one clear line when nothing can be done."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import skimage
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from lensbench.data.buckets import Size
from lensbench.data.corpus import open_corpus
from lensbench.data.folder import PhotoFolder, split_by_key
from lensbench.data.pictures import read_picture
from lensbench.experiment import Experiment, FolderCorpus

PHOTOGRAPHS = [
    Path(skimage.__file__).parent / "data" / name
    for name in ("astronaut.png", "brick.png", "chelsea.png", "coffee.png", "horse.png", "rocket.jpg", "retina.jpg")
]
SIZE = 32


def caption(picture: Path, *sets: str) -> None:
    for name in sets or ("alt", "detailed"):
        picture.with_name(f"{picture.stem}.{name}.txt").write_text(f"{name} text of {picture.stem}", encoding="utf-8")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Seven photographs, each with two captions, two of them in a folder below."""
    target = tmp_path / "photos"
    (target / "below").mkdir(parents=True)
    for i, source in enumerate(PHOTOGRAPHS):
        copy = Path(shutil.copy(source, target / "below" if i < 2 else target))
        caption(copy)
    return target


def opened(folder: Path, images: int = 1000, **fields: object) -> PhotoFolder:
    corpus = open_corpus(FolderCorpus(path=folder, size_px=SIZE).model_copy(update=fields), images)
    assert isinstance(corpus, PhotoFolder)
    return corpus


def keys_of(corpus: PhotoFolder) -> list[str]:
    return corpus.train_keys + corpus.validation_keys


def gradient(width: int = 48, height: int = 48) -> np.ndarray:
    x, y = np.meshgrid(np.linspace(0, 255, width), np.linspace(0, 255, height))
    return np.stack([x, y, 255 - x], axis=-1).astype(np.uint8)


# --- good folders ---------------------------------------------------------------------------------------------------


def test_photographs_are_read_with_their_keys_and_captions(folder: Path) -> None:
    corpus = opened(folder)
    assert {*keys_of(corpus)} == {hashlib.sha256(p.read_bytes()).hexdigest() for p in PHOTOGRAPHS}
    assert corpus.set_aside == {}
    assert (corpus.dropped, corpus.merged) == (0, 0)
    images = corpus.images(keys_of(corpus))
    assert images.dtype == torch.uint8
    assert images.shape == (7, 3, SIZE, SIZE)
    astronaut = hashlib.sha256(PHOTOGRAPHS[0].read_bytes()).hexdigest()
    assert corpus.files[astronaut] == "below/astronaut.png"
    assert corpus.texts("alt")[astronaut] == "alt text of astronaut"
    torch.testing.assert_close(
        corpus.images([astronaut])[0], torch.from_numpy(read_picture(PHOTOGRAPHS[0], Size(SIZE, SIZE))).permute(2, 0, 1)
    )


def test_the_digest_is_of_the_images_not_of_names_places_or_captions(folder: Path, tmp_path: Path) -> None:
    corpus = opened(folder)
    assert corpus.config.digest == corpus.digest
    assert corpus.digest == hashlib.sha256("\n".join(sorted(keys_of(corpus))).encode()).hexdigest()
    moved = tmp_path / "moved"
    shutil.move(folder, moved)
    for path in sorted((moved / "below").iterdir()):
        path.rename(moved / f"renamed-{path.name}")
    (moved / "coffee.alt.txt").write_text("another text")
    again = opened(moved)
    assert again.digest == corpus.digest
    assert keys_of(again) == keys_of(corpus)
    for name in ("rocket.jpg", "rocket.alt.txt"):
        (moved / name).unlink()
    assert opened(moved).digest != corpus.digest


def test_a_folder_that_changed_is_not_mistaken_for_the_experiments(folder: Path) -> None:
    config = opened(folder).config
    assert opened(folder, digest=config.digest).digest == config.digest
    for path in folder.glob("rocket.*"):
        path.unlink()
    with pytest.raises(ValueError, match="holds other images than the experiment was made for"):
        opened(folder, digest=config.digest)


def test_edited_captions_are_another_experiment(folder: Path) -> None:
    before = opened(folder).config
    edited = next(folder.rglob("*.detailed.txt"))
    edited.write_text("something else entirely")
    after = opened(folder).config
    assert after.digest == before.digest
    hashes = {Experiment().replace({"corpus": config, "captions.set": "alt"}).hash() for config in (before, after)}
    assert len(hashes) == 2
    with pytest.raises(ValueError, match="other captions than the experiment was made for"):
        opened(folder, captions_digest=before.captions_digest)


def test_the_data_scale_takes_from_training_alone(folder: Path) -> None:
    everything = opened(folder)
    few = opened(folder, images=3)
    assert few.train_keys == everything.train_keys[:3]
    assert few.validation_keys == everything.validation_keys
    assert few.digest == everything.digest


def test_copies_are_one_image_whose_captions_are_pooled(folder: Path) -> None:
    shutil.copy(folder / "coffee.png", folder / "a copy.png")
    shutil.copy(folder / "coffee.png", folder / "another.png")
    caption(folder / "another.png", "alt")
    (folder / "coffee.alt.txt").unlink()
    corpus = opened(folder)
    assert corpus.merged == 2
    assert len(keys_of(corpus)) == 7
    key = hashlib.sha256((folder / "coffee.png").read_bytes()).hexdigest()
    assert corpus.texts("alt")[key] == "alt text of another"
    assert corpus.texts("detailed")[key] == "detailed text of coffee"


@pytest.mark.parametrize("text", ["", "  \n\t"])
def test_an_image_without_one_of_the_captions_leaves_every_arm(folder: Path, text: str) -> None:
    (folder / "coffee.alt.txt").unlink()
    (folder / "rocket.detailed.txt").write_text(text)
    corpus = opened(folder)
    assert corpus.dropped == 2
    assert len(keys_of(corpus)) == 5
    assert set(corpus.texts("alt")) == set(corpus.texts("detailed")) == set(keys_of(corpus))
    assert opened(folder, caption_sets=("alt",)).dropped == 1


def test_captions_may_have_a_byte_order_mark_and_lines(folder: Path) -> None:
    (folder / "coffee.alt.txt").write_bytes("\ufeffa cup,\r\n  caf\u00e9\n".encode())
    assert "a cup, café" in opened(folder).texts("alt").values()


@given(st.sets(st.integers(0, 10**9), min_size=2, max_size=60), st.floats(0.01, 0.99))
def test_the_split_depends_on_each_key_alone(numbers: set[int], share: float) -> None:
    keys = [hashlib.sha256(str(n).encode()).hexdigest() for n in sorted(numbers)]
    train, held_out = split_by_key(keys, share)
    assert train
    assert held_out
    assert sorted(train + held_out) == sorted(keys)
    assert split_by_key(keys[::-1], share) == (train, held_out)
    if len(held_out) > 1 and len(train) > 1:  # neither side was given its one
        more_train, more_held_out = split_by_key([*keys, "another key"], share)
        assert set(train) <= set(more_train)
        assert set(held_out) <= set(more_held_out)


@pytest.mark.parametrize("share", [0.1, 0.2, 0.5])
def test_the_split_has_its_share(share: float) -> None:
    keys = [hashlib.sha256(str(n).encode()).hexdigest() for n in range(5000)]
    assert len(split_by_key(keys, share)[1]) / 5000 == pytest.approx(share, abs=0.02)


# --- pictures -------------------------------------------------------------------------------------------------------


def mean_difference(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.abs(a.astype(int) - b.astype(int)).mean())


@pytest.mark.parametrize(
    ("name", "tolerance"), [("x.png", 0), ("x.bmp", 0), ("x.tif", 0), ("x.TIFF", 0), ("x.jpg", 3), ("x.webp", 3)]
)
def test_formats(tmp_path: Path, name: str, tolerance: float) -> None:
    Image.fromarray(gradient(SIZE, SIZE)).save(tmp_path / name, format=None if name != "x.TIFF" else "TIFF")
    assert mean_difference(read_picture(tmp_path / name, Size(SIZE, SIZE)), gradient(SIZE, SIZE)) <= tolerance


def test_the_middle_square_is_kept(tmp_path: Path) -> None:
    wide = np.zeros((40, 120, 3), dtype=np.uint8)
    wide[:, 40:80] = (0, 200, 0)
    for name, array in (("wide.png", wide), ("tall.png", wide.transpose(1, 0, 2))):
        Image.fromarray(np.ascontiguousarray(array)).save(tmp_path / name)
        assert (read_picture(tmp_path / name, Size(16, 16)) == (0, 200, 0)).all()


def test_reduction_is_antialiased(tmp_path: Path) -> None:
    board = ((np.indices((256, 256)).sum(axis=0) % 2) * 255).astype(np.uint8)
    Image.fromarray(board).save(tmp_path / "board.png")
    reduced = read_picture(tmp_path / "board.png", Size(16, 16))
    assert abs(reduced.astype(int) - 128).max() <= 8


def test_small_pictures_are_enlarged(tmp_path: Path) -> None:
    Image.new("RGB", (1, 3), (9, 8, 7)).save(tmp_path / "x.png")
    assert (read_picture(tmp_path / "x.png", Size(16, 16)) == (9, 8, 7)).all()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(tmp_path: Path, orientation: int) -> None:
    upright = gradient(SIZE, SIZE)
    upright[:8, :8] = 255
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: np.rot90(upright, 1),  # shown after a quarter turn clockwise
        7: np.rot90(upright, 2).transpose(1, 0, 2),
        8: np.rot90(upright, 3),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(np.ascontiguousarray(stored)).save(tmp_path / "x.png", exif=exif)
    np.testing.assert_array_equal(read_picture(tmp_path / "x.png", Size(SIZE, SIZE)), upright)


def test_cmyk(tmp_path: Path) -> None:
    Image.fromarray(gradient(SIZE, SIZE)).convert("CMYK").save(tmp_path / "x.jpg", quality=95)
    assert mean_difference(read_picture(tmp_path / "x.jpg", Size(SIZE, SIZE)), gradient(SIZE, SIZE)) < 4


def test_gray_and_black_and_white(tmp_path: Path) -> None:
    Image.new("L", (20, 20), 77).save(tmp_path / "gray.png")
    Image.new("1", (20, 20), 1).save(tmp_path / "bits.png")
    assert (read_picture(tmp_path / "gray.png", Size(16, 16)) == 77).all()
    assert (read_picture(tmp_path / "bits.png", Size(16, 16)) == 255).all()


def test_palette_with_a_transparent_color_is_laid_on_white(tmp_path: Path) -> None:
    image = Image.new("P", (20, 20), 0)
    image.putpalette([200, 0, 0, 0, 0, 200] + [0] * 762)
    image.paste(1, (0, 0, 10, 20))
    image.save(tmp_path / "opaque.png")
    image.save(tmp_path / "clear.png", transparency=0)
    assert tuple(read_picture(tmp_path / "opaque.png", Size(16, 16))[8, 15]) == (200, 0, 0)
    assert tuple(read_picture(tmp_path / "clear.png", Size(16, 16))[8, 15]) == (255, 255, 255)
    assert tuple(read_picture(tmp_path / "clear.png", Size(16, 16))[8, 0]) == (0, 0, 200)


@pytest.mark.parametrize(("mode", "color"), [("RGBA", (200, 0, 0, 51)), ("LA", (0, 51))])
def test_alpha_is_laid_on_white(tmp_path: Path, mode: str, color: tuple[int, ...]) -> None:
    Image.new(mode, (20, 20), color).save(tmp_path / "x.png")
    expected = (244, 204, 204) if mode == "RGBA" else (204, 204, 204)
    np.testing.assert_allclose(read_picture(tmp_path / "x.png", Size(16, 16))[8, 8], expected, atol=1)


def test_a_color_marked_transparent_is_laid_on_white(tmp_path: Path) -> None:
    Image.new("RGB", (20, 20), (10, 20, 30)).save(tmp_path / "x.png", transparency=(10, 20, 30))
    assert (read_picture(tmp_path / "x.png", Size(16, 16)) == 255).all()


@pytest.mark.parametrize("name", ["x.png", "x.tif"])
@pytest.mark.parametrize(("value", "expected"), [(0, 0), (128 * 257, 128), (30000, 117), (65535, 255)])
def test_sixteen_bits_are_scaled_not_cut(tmp_path: Path, name: str, value: int, expected: int) -> None:
    Image.fromarray(np.full((20, 20), value, dtype=np.uint16)).save(tmp_path / name)
    assert (read_picture(tmp_path / name, Size(16, 16)) == expected).all()


def test_a_phones_photograph_with_a_preview_is_one_picture(tmp_path: Path) -> None:
    main, preview = Image.new("RGB", (40, 40), (0, 90, 0)), Image.new("RGB", (40, 40), (90, 0, 0))
    main.save(tmp_path / "x.jpg", format="MPO", save_all=True, append_images=[preview])
    np.testing.assert_allclose(read_picture(tmp_path / "x.jpg", Size(16, 16))[8, 8], (0, 90, 0), atol=4)


# --- files that are set aside ---------------------------------------------------------------------------------------


def png_claiming(width: int, height: int) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = chunk(b"IDAT", zlib.compress(b"\0" * 100))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + data + chunk(b"IEND", b"")


def cut(source: Path) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(source.read_bytes()[: source.stat().st_size // 2])


def animate(path: Path) -> None:
    frames = [Image.new("RGB", (20, 20), (100 * i, 0, 0)) for i in range(3)]
    frames[0].save(path, save_all=True, append_images=frames[1:])


BROKEN: dict[str, tuple[Callable[[Path], object], str]] = {
    "empty.jpg": (lambda p: p.write_bytes(b""), "empty file"),
    "noise.png": (lambda p: p.write_bytes(bytes(range(256)) * 8), "no picture in a format that is read"),
    "page.jpg": (lambda p: p.write_text("<html>404</html>"), "no picture in a format that is read"),
    "cut.jpg": (cut(PHOTOGRAPHS[5]), "truncated"),
    "cut.png": (cut(PHOTOGRAPHS[2]), "truncated"),
    "bomb.png": (lambda p: p.write_bytes(png_claiming(100_000, 100_000)), "decompression bomb"),
    "lying.png": (lambda p: p.write_bytes(png_claiming(300, 300)), "truncated"),
    "moving.png": (animate, "3 frames"),
    "moving.webp": (animate, "3 frames"),
    "pages.tif": (animate, "3 frames"),
    "moving.gif": (animate, r"\.gif is not read: convert it"),
    "gif inside.jpg": (
        lambda p: Image.new("RGB", (9, 9)).save(p, format="GIF"),
        "no picture in a format that is read",
    ),
    "float.tif": (lambda p: Image.new("F", (20, 20), 0.5).save(p), "white level is not known"),
    "deep.tif": (lambda p: Image.new("I", (20, 20), 70000).save(p), "white level is not known"),
    "link.jpg": (lambda p: p.symlink_to("nowhere.jpg"), "broken link"),
    "pipe.jpg": (lambda p: os.mkfifo(p), "not a file"),
}


@pytest.mark.parametrize("name", BROKEN)
@pytest.mark.filterwarnings("error")
def test_what_cannot_be_read_is_set_aside_by_name(folder: Path, name: str) -> None:
    make, reason = BROKEN[name]
    before = opened(folder)
    make(folder / "below" / name)
    caption(folder / "below" / name)
    corpus = opened(folder)
    assert list(corpus.set_aside) == [f"below/{name}"]
    assert re.search(reason, corpus.set_aside[f"below/{name}"])
    assert corpus.digest == before.digest
    assert corpus.dropped == 0


def test_a_folder_below_that_cannot_be_listed_is_set_aside(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # The tests may run as root, whom no permission stops.
    scandir = os.scandir

    def refusing(path: str | Path) -> object:
        if Path(path).name == "below":
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refusing)
    corpus = opened(folder)
    assert corpus.set_aside == {"below/": "cannot be read: Permission denied"}
    assert len(keys_of(corpus)) == 5


def test_other_files_are_no_matter(folder: Path) -> None:
    (folder / "notes.txt").write_bytes(b"\xff\xfe not a caption")
    (folder / "Thumbs.db").write_bytes(b"x")
    (folder / "folder.jpg").mkdir()
    assert opened(folder).set_aside == {}


# --- folders that cannot be used ------------------------------------------------------------------------------------


def refused(folder: Path, **fields: object) -> str:
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the callers match
        opened(folder, **fields)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_missing_folder(tmp_path: Path) -> None:
    assert refused(tmp_path / "no" / "such") == f"corpus.path: there is no folder {tmp_path / 'no' / 'such'}"


def test_a_file_instead_of_a_folder(folder: Path) -> None:
    assert refused(folder / "coffee.png").endswith("is a file, not a folder")
    assert "there is no folder" in refused(folder / "coffee.png" / "below")


def test_a_folder_that_cannot_be_listed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refusing(path: str | Path) -> object:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(os, "scandir", refusing)
    assert refused(folder) == f"corpus.path: the folder {folder} cannot be read: Permission denied"


def test_an_empty_folder(tmp_path: Path) -> None:
    assert f"no pictures in {tmp_path}: looked for JPEG" in refused(tmp_path)
    (tmp_path / "x.heic").write_bytes(b"x")
    assert "x.heic: .heic is not read" in refused(tmp_path)


def test_nothing_can_be_read(tmp_path: Path) -> None:
    for i in range(5):
        (tmp_path / f"{i}.jpg").write_bytes(b"")
    message = refused(tmp_path)
    assert message.startswith(f"none of the 5 pictures in {tmp_path} can be read: 0.jpg: empty file;")
    assert message.endswith("and 2 more")


def test_too_few_images(folder: Path) -> None:
    for name in ("coffee", "horse"):
        (folder / f"{name}.alt.txt").unlink()
    (folder / "retina.detailed.txt").unlink()
    (folder / "rocket.jpg").write_bytes(b"")
    assert refused(folder) == (
        f"{folder} has 3 usable images and at least 4 are needed: 6 can be read, 2 without a caption in 'alt', "
        "1 without a caption in 'detailed', 1 set aside; caption sets in the folder: alt, detailed"
    )


def test_a_caption_set_that_no_image_has(folder: Path) -> None:
    message = refused(folder, caption_sets=("alt", "gpt"))
    assert "7 without a caption in 'gpt'" in message
    assert message.endswith("caption sets in the folder: alt, detailed")


def test_a_caption_that_is_not_utf8(folder: Path) -> None:
    (folder / "coffee.alt.txt").write_bytes("café".encode("latin-1"))
    assert refused(folder) == (
        f"caption file {folder / 'coffee.alt.txt'} is not UTF-8 (byte 0xe9 at position 3): "
        "re-encode it, e.g. with iconv -f LATIN1 -t UTF-8"
    )
