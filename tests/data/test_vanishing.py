"""Images as people have them, through the real command: no split is mixed in, and no image vanishes uncounted."""

from __future__ import annotations

import io
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import skimage
from PIL import Image, PngImagePlugin

from lensbench.data.imported import open_images
from lensbench.data.sources.splits import split_of
from tests.data.corpora import Run, captions, image, write_folder, write_table, write_tar

# --- splits ----------------------------------------------------------------------------------------------------------


def split_source(kind: str, path: Path) -> Path:
    for split, seeds in (("train", range(4)), ("test", range(10, 13))):
        files: dict[str, bytes | str] = {}
        for i in seeds:
            files |= {f"{i}.png": image(i), f"{i}.txt": f"cap {i}"}
        if kind == "parquet":
            rows = [image(i) for i in seeds]
            write_table(path / "data" / f"{split}-00000-of-00001.parquet", rows, caption=[f"cap {i}" for i in seeds])
        elif kind == "tars":
            path.mkdir(exist_ok=True)
            write_tar(path / f"{split}-0000.tar", files)
        else:
            write_folder(path / split, files)
    return path


@pytest.mark.parametrize("kind", ["parquet", "tars", "folder"])
def test_of_several_splits_train_is_read_and_said_so(kind: str, tmp_path: Path, run: Run) -> None:
    source = split_source(kind, tmp_path / "source")
    for words, seeds in (
        ((), range(4)),
        (("--split", "test"), range(10, 13)),
        (("--split", "all"), [*range(4), *range(10, 13)]),
    ):
        out = tmp_path / f"out{len(list(tmp_path.iterdir()))}"
        ran = run("corpus", "import", source, out, "--strict", *words)
        assert ran.code == 0
        assert captions(out) == {"alt": {image(i): f"cap {i}" for i in seeds}}
        assert ("split train is read, not test: --split NAME" in ran.out) == (not words)
    assert (
        "has the splits train, test, not 'dev'"
        in run("corpus", "import", source, tmp_path / "no", "--split", "dev").err
    )


def test_of_a_saved_datasets_splits_train_is_read_unless_another_is_asked_for(tmp_path: Path, run: Run) -> None:
    import datasets

    def saved(seeds: range) -> datasets.Dataset:
        rows = {"image": [{"bytes": image(i), "path": None} for i in seeds], "caption": [f"cap {i}" for i in seeds]}
        kinds = {"image": datasets.Image(), "caption": datasets.Value("string")}
        return datasets.Dataset.from_dict(rows, features=datasets.Features(kinds))

    train, test = saved(range(4)), saved(range(10, 13))
    source = tmp_path / "source"
    datasets.DatasetDict({"train": train, "test": test}).save_to_disk(source)
    assert "split train is read, not test" in run("corpus", "import", source, tmp_path / "out", "--strict").out
    assert captions(tmp_path / "out") == {"alt": {image(i): f"cap {i}" for i in range(4)}}
    run("corpus", "import", source, tmp_path / "test", "--split", "test")
    assert len(captions(tmp_path / "test")["alt"]) == 3
    run("corpus", "import", source, tmp_path / "all", "--split", "all")
    assert len(captions(tmp_path / "all")["alt"]) == 7
    assert (
        "has the splits train, test, not 'dev'" in run("corpus", "import", source, tmp_path / "x", "--split", "dev").err
    )
    datasets.DatasetDict({"a": train, "b": test}).save_to_disk(tmp_path / "two")
    assert (
        "has the splits a, b: say which with --split" in run("corpus", "import", tmp_path / "two", tmp_path / "x").err
    )
    train.save_to_disk(tmp_path / "one")
    assert "is one dataset" in run("corpus", "import", tmp_path / "one", tmp_path / "x", "--split", "test").err


def test_splits_of_some_files_alone_are_all_read_and_said_so(tmp_path: Path, run: Run) -> None:
    source = split_source("parquet", tmp_path / "source")
    write_table(source / "more.parquet", [image(20)], caption=["cap 20"])
    ran = run("corpus", "import", source, tmp_path / "out", "--strict")
    assert ran.code == 2
    assert "some files are of the splits train, test and others of none: all are read" in ran.err
    assert len(captions(tmp_path / "out")["alt"]) == 8
    assert run("corpus", "import", source, tmp_path / "all", "--strict", "--split", "all").code == 0


def test_files_that_the_datasets_package_leaves_out_are_counted(tmp_path: Path, run: Run) -> None:
    """It takes the one whose name has "train" in it."""
    for name in ("one", "train station", "three"):
        write_table(tmp_path / "source" / f"{name}.parquet", [image(len(name))], caption=["cap"])
    ran = run("corpus", "import", tmp_path / "source", tmp_path / "out", "--format", "datasets", "--strict")
    assert ran.code == 2
    assert "only 1 of 3 .parquet files are read" in ran.err
    assert run("corpus", "import", tmp_path / "source", tmp_path / "every", "--strict").code == 0
    assert len(captions(tmp_path / "every")["alt"]) == 3


@pytest.mark.parametrize(
    ("path", "split"),
    [
        ("data/train-00000-of-00001.parquet", "train"),
        ("train2017/a/b.jpg", "train"),
        ("x/Validation/1.jpg", "validation"),
        ("my_dev.tar", "validation"),
        ("eval/1.jpg", "test"),
        ("trains/1.jpg", None),
        ("greatest/1.jpg", None),
        ("train-test/1.jpg", None),
        ("1.jpg", None),
    ],
)
def test_splits_by_name(path: str, split: str | None) -> None:
    assert split_of(path) == split


# --- images that do not vanish ---------------------------------------------------------------------------------------

FORMATS = {
    **{f"a.{ending}": ("JPEG", {}) for ending in ("jfif", "jpe", "JPG", "mpo")},
    "a.apng": ("PNG", {}),
    "a.avif": ("AVIF", {}),
    "a.ppm": ("PPM", {}),
    "a.dib": ("BMP", {}),
    "no ending": ("JPEG", {}),
    "a.of-an-unusual-kind": ("WEBP", {}),
    "a.gif": ("PNG", {}),
}


@pytest.mark.parametrize("kind", ["folder", "tar"])
def test_whatever_holds_an_image_is_read_by_its_content(kind: str, tmp_path: Path, run: Run) -> None:
    made = {f"{i}/{name}": image(i, form, **options) for i, (name, (form, options)) in enumerate(FORMATS.items())}
    source = write_folder(tmp_path / "x", made) if kind == "folder" else write_tar(tmp_path / "x.tar", made)
    assert f"{len(FORMATS)} images" in run("corpus", "import", source, tmp_path / "out").out
    images = open_images(tmp_path / "out")
    assert {images.read(key) for key in images.keys} == set(made.values())


@pytest.mark.parametrize("kind", ["folder", "tar"])
def test_what_is_not_read_is_counted_by_kind(kind: str, tmp_path: Path, run: Run) -> None:
    files = {
        "1.jpg": image(1),
        "1.txt": "cap",
        "2.jxl": b"\xff\x0a",
        "3.gif": image(3, "GIF"),
        "4.heic": b"\0\0\0\x18ftyp",
    }
    files |= {"1.mp4": b"x", "1.npy": b"x", "5.svg": b"<svg/>"}
    source = write_folder(tmp_path / "x", files) if kind == "folder" else write_tar(tmp_path / "x.tar", files)
    out = run("corpus", "import", source, tmp_path / "out").out
    for ending in (".jxl", ".gif", ".heic", ".svg"):
        assert f"{ending} is not read: convert it" in out
    assert "1 images" in out
    assert "4 set aside" in out
    for ending in (".mp4", ".npy"):
        assert ending in out


def test_a_png_with_a_long_compressed_text_is_a_sound_image(tmp_path: Path, run: Run) -> None:
    text = PngImagePlugin.PngInfo()
    text.add_text("workflow", "x" * 3_000_000, zip=True)
    folder = write_folder(tmp_path / "x", {"1.png": image(1, "PNG", pnginfo=text), "1.txt": "cap"})
    assert "1 images" in run("corpus", "import", folder, tmp_path / "out", "--strict").out


def test_linked_folders_are_followed_once_and_loops_are_noticed(tmp_path: Path, run: Run) -> None:
    photos = write_folder(tmp_path / "photos", {"own/1.jpg": image(1), "own/1.txt": "cap 1"})
    elsewhere = write_folder(tmp_path / "elsewhere", {"2.jpg": image(2), "2.txt": "cap 2", "deep/3.jpg": image(3)})
    write_folder(tmp_path / "not meant", {"4.jpg": image(4)})
    for link, target in (
        ("linked", elsewhere),
        ("linked again", elsewhere),
        ("a copy", photos / "own"),
        ("own/up", photos),
        ("above", tmp_path),
        ("self.png", photos / "self.png"),
    ):
        (photos / link).symlink_to(target)
    (elsewhere / "deep" / "back").symlink_to(photos)
    ran = run("corpus", "import", photos, tmp_path / "out", "--strict")
    assert ran.code == 0
    assert "3 images" in ran.out
    assert "0 copies merged, 1 set aside" in ran.out
    assert "set aside (image): 1, as self.png: cannot be followed" in ran.out
    assert "5 links to a folder that is read already, or that holds the link" in ran.out
    assert captions(tmp_path / "out") == {"alt": {image(1): "cap 1", image(2): "cap 2"}}
    sources = pq.read_table(tmp_path / "out" / "set_aside.parquet")["source"].to_pylist()
    assert sources == ["self.png"]


# --- images that were cut --------------------------------------------------------------------------------------------


def photograph(name: str = "coffee.png", **options: object) -> bytes:
    out = io.BytesIO()
    path = Path(skimage.__file__).parent / "data" / name
    Image.open(path).convert("RGB").save(out, "JPEG", quality=90, **options)  # type: ignore[arg-type]
    return out.getvalue()


def test_a_jpeg_that_was_cut_or_has_a_hole_is_found_by_verify(tmp_path: Path, run: Run) -> None:
    whole = photograph()
    cut = whole[: len(whole) * 9 // 10] + b"\xff\xd9"
    hole = bytearray(photograph("chelsea.png"))
    hole[len(hole) // 2 : len(hole) // 2 + 2048] = bytes(2048)
    padded = photograph("astronaut.png", exif=b"Exif\0\0" + bytes(4000)) + bytes(4000)
    flat = io.BytesIO()
    Image.new("RGB", (64, 64), (9, 9, 9)).save(flat, "JPEG")
    files = {
        "cut.jpg": cut,
        "hole.jpg": bytes(hole),
        "padded.jpg": padded,
        "whole.jpg": whole,
        "flat.jpg": flat.getvalue(),
    }
    run("corpus", "import", write_folder(tmp_path / "photos", files), tmp_path / "out")
    ran = run("corpus", "check", tmp_path / "out", "--verify")
    assert ran.code == 0
    looks = [line for line in ran.out.splitlines() if line.startswith("look at ")]
    assert len(looks) == 2
    assert "(cut.jpg): its lowest" in looks[0]
    assert "are one color: it may have been cut" in looks[0]
    assert "(hole.jpg): its data has a hole" in looks[1]
    assert ran.out.splitlines()[-1] == "images that decode and may be damaged: 2"
