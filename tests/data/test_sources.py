"""Each kind of source gives the same pictures and captions, and goes on from any place."""

from __future__ import annotations

import io
import json
import os
import tarfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from lensbench.data.sources.opening import guess, open_source
from lensbench.data.sources.source import SetAsideError, Source

COUNT = 7


def picture(i: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (20, 20), (i % 256, i // 256, 9)).save(file, "PNG")
    return file.getvalue()


def add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(data)
    tar.addfile(member, io.BytesIO(data))


class Row(NamedTuple):
    data: bytes | None
    captions: dict[str, str]
    faults: dict[str, str]
    name: str


def rows(source: Source, place: object = None) -> list[Row]:
    found = []
    for sample in source.samples(place):
        try:
            found.append(Row(*sample.load()[:3], sample.name))
        except SetAsideError as error:
            found.append(Row(error.data, {}, {"": str(error)}, sample.name))
    return found


def opened(source: str | Path, tmp_path: Path, **options: object) -> Source:
    return open_source(str(source), guess(str(source)), tmp_path / "listing", **options)  # type: ignore[arg-type]


# --- every kind -----------------------------------------------------------------------------------------------------


def as_folder(path: Path) -> str:
    path.mkdir()
    for i in range(COUNT):
        (path / f"{i:04d}.png").write_bytes(picture(i))
        (path / f"{i:04d}.alt.txt").write_text(f"alt {i}")
        (path / f"{i:04d}.detailed.txt").write_text(f"detailed {i}")
    return str(path)


def as_img2dataset_folder(path: Path) -> str:
    as_folder(path)
    for i in range(COUNT):
        (path / f"{i:04d}.alt.txt").rename(path / f"{i:04d}.txt")
        (path / f"{i:04d}.json").write_text(json.dumps({"caption": f"alt {i}"}))
    pq.write_table(pa.table({"url": ["x"], "caption": ["alt"]}), path / "00000.parquet")
    return str(path)


def as_tars(path: Path) -> str:
    import webdataset

    path.mkdir()
    with webdataset.ShardWriter(str(path / "%05d.tar"), maxcount=3, verbose=False) as writer:
        for i in range(COUNT):
            fields = {"caption": f"alt {i}", "url": f"http://x/{i}"}
            writer.write(
                {
                    "__key__": f"{i:09d}",
                    "png": picture(i),
                    "txt": f"alt {i}",
                    "detailed.txt": f"detailed {i}",
                    "json": fields,
                }
            )
    pq.write_table(pa.table({"url": ["x"], "caption": ["alt"]}), path / "00000.parquet")  # img2dataset's, no pictures
    return str(path)


def columns() -> dict[str, list[object]]:
    return {
        "image": [picture(i) for i in range(COUNT)],
        "caption": [f"alt {i}" for i in range(COUNT)],
        "detailed": [f"detailed {i}" for i in range(COUNT)],
        "url": ["http://x"] * COUNT,
    }


def as_parquet(path: Path) -> str:
    path.mkdir()
    table = pa.table(columns())
    pq.write_table(table.slice(0, 4), path / "0.parquet", row_group_size=3)
    pq.write_table(table.slice(4), path / "1.parquet", row_group_size=2)
    return str(path)


def as_hugging_face_parquet(path: Path) -> str:
    data = columns()
    data["image"] = [{"bytes": value, "path": "x.png"} for value in data["image"]]
    path.mkdir()
    pq.write_table(pa.table(data), path / "train-00000-of-00001.parquet", row_group_size=4)
    return str(path)


def as_saved_dataset(path: Path) -> str:
    import datasets

    kinds = datasets.Features({name: datasets.Value("string") for name in columns()} | {"image": datasets.Image()})
    data = columns()
    data["image"] = [{"bytes": value, "path": None} for value in data["image"]]
    datasets.Dataset.from_dict(data, features=kinds).save_to_disk(path, num_shards=2)
    return str(path)


KINDS: dict[str, tuple[Callable[[Path], str], str]] = {
    "folder": (as_folder, "folder"),
    "img2dataset files": (as_img2dataset_folder, "folder"),
    "tars": (as_tars, "webdataset"),
    "parquet": (as_parquet, "parquet"),
    "hugging face parquet": (as_hugging_face_parquet, "parquet"),
    "saved dataset": (as_saved_dataset, "datasets"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_gives_the_same_pictures_and_captions(kind: str, tmp_path: Path) -> None:
    make, format_ = KINDS[kind]
    source = make(tmp_path / "source")
    assert guess(source) == format_
    found = rows(opened(source, tmp_path))
    assert [row.data for row in found] == [picture(i) for i in range(COUNT)]
    assert [row.captions for row in found] == [{"alt": f"alt {i}", "detailed": f"detailed {i}"} for i in range(COUNT)]
    assert not any(row.faults for row in found)
    assert len({row.name for row in found}) == COUNT


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_goes_on_from_any_place(kind: str, tmp_path: Path) -> None:
    source = opened(KINDS[kind][0](tmp_path / "source"), tmp_path)
    every = rows(source)
    assert source.total in (None, COUNT)
    for i, sample in enumerate(source.samples(None)):
        again = opened(tmp_path / "source", tmp_path)
        assert again.fingerprint() == source.fingerprint()
        assert rows(again, json.loads(json.dumps(sample.after))) == every[i + 1 :]


def test_a_dataset_is_streamed(tmp_path: Path) -> None:
    """As from the hub, by the same call, from a folder that stands in for it."""
    folder = Path(as_hugging_face_parquet(tmp_path / "source"))
    source = open_source(str(folder), "datasets", tmp_path / "listing")
    found = rows(source)
    assert [row.data for row in found] == [picture(i) for i in range(COUNT)]
    assert found[3].captions == {"alt": "alt 3", "detailed": "detailed 3"}
    assert rows(source, [0, 5]) == found[5:]


# --- folders --------------------------------------------------------------------------------------------------------


def test_a_folder_is_sorted_as_paths_are_and_listed_once(tmp_path: Path) -> None:
    folder = tmp_path / "source"
    for name in ("b.png", "a-z.png", "a/y.png", "a/x.png", "c.gif", "a.png"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(picture(1))
    names = [row.name for row in rows(opened(folder, tmp_path))]
    assert names == [str(path.relative_to(folder)) for path in sorted(folder.rglob("*.*"))]
    (folder / "aa.png").write_bytes(picture(2))
    assert [row.name for row in rows(opened(folder, tmp_path))] == names


def test_a_folders_odd_files(tmp_path: Path) -> None:
    folder = Path(as_folder(tmp_path / "source"))
    (folder / "0001.alt.txt").write_bytes(b"caf\xe9")
    (folder / "0002.detailed.txt").write_bytes(b" \n")
    (folder / "0003.alt.txt").unlink()
    (folder / "0003.alt.txt").symlink_to("nowhere.txt")
    (folder / "gone.jpg").symlink_to("nowhere.jpg")
    (folder / "moving.gif").write_bytes(b"GIF89a")
    os.mkfifo(folder / "pipe.heic")
    found = {row.name: row for row in rows(opened(folder, tmp_path))}
    assert found["0001.png"].captions == {"detailed": "detailed 1"}
    assert found["0001.png"].faults == {"alt": "not UTF-8 (byte 0xe9 at position 3)"}
    assert found["0002.png"].captions == {"alt": "alt 2"}
    assert found["0003.png"].faults == {"alt": "cannot be read: No such file or directory"}
    assert "broken link" in found["gone.jpg"].faults[""]
    assert found["gone.jpg"].data is None
    assert ".gif is not read" in found["moving.gif"].faults[""]
    assert found["moving.gif"].data == b"GIF89a"
    assert found["pipe.heic"].data is None


def test_the_sets_that_are_asked_for(tmp_path: Path) -> None:
    folder = Path(as_folder(tmp_path / "source"))
    (folder / "0000.txt").write_text("plain")
    found = rows(opened(folder, tmp_path, captions=("detailed=long", "txt=web")))
    assert found[0].captions == {"long": "detailed 0", "web": "plain"}
    assert found[1].captions == {"long": "detailed 1"}


def test_too_many_sets_are_asked_about(tmp_path: Path) -> None:
    folder = Path(as_folder(tmp_path / "source"))
    for i in range(60):
        (folder / f"0000.{i}.txt").write_text("x")
    with pytest.raises(ValueError, match="62 caption sets; say which to import with --caption"):
        opened(folder, tmp_path)


# --- tars -----------------------------------------------------------------------------------------------------------


def test_a_field_of_the_json_is_a_caption_when_it_is_asked_for(tmp_path: Path) -> None:
    source = opened(as_tars(tmp_path / "source"), tmp_path, captions=("caption=web", "detailed.txt=long"))
    assert rows(source)[2].captions == {"web": "alt 2", "long": "detailed 2"}


@pytest.mark.parametrize("pattern", ["{00000..00001}.tar", "0000[01].tar"])
def test_shards_by_pattern(tmp_path: Path, pattern: str) -> None:
    as_tars(tmp_path / "source")
    assert [row.data for row in rows(opened(f"{tmp_path}/source/{pattern}", tmp_path))] == [
        picture(i) for i in range(6)
    ]


def test_a_missing_shard_of_a_pattern_is_named(tmp_path: Path) -> None:
    as_tars(tmp_path / "source")
    with pytest.raises(ValueError, match=r"there is no tar file .*00003\.tar"):
        opened(f"{tmp_path}/source/{{00000..00003}}.tar", tmp_path)


def test_odd_samples_of_a_tar(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "x.tar.gz", "w:gz") as tar:
        add(tar, "1.txt", b"a text alone")
        add(tar, "2.left.jpg", picture(1))
        add(tar, "2.right.jpg", picture(2))
        add(tar, "3.gif", b"GIF89a")
        add(tar, "4.jpg", picture(4))
        add(tar, "4.txt", b"caf\xe9")
        add(tar, "below/5.JPG", picture(5))
        add(tar, "below/5.txt", b"\xef\xbb\xbffive\n")
    found = rows(opened(tmp_path / "x.tar.gz", tmp_path))
    assert [row.faults.get("", "")[:26] for row in found] == [
        "no picture among the sampl",
        "several pictures (left.jpg",
        ".gif is not read: convert ",
        "",
        "",
    ]
    assert found[2].data == b"GIF89a"
    assert found[3] == Row(picture(4), {}, {"alt": "not UTF-8 (byte 0xe9 at position 3)"}, "x.tar.gz/4")
    assert found[4] == Row(picture(5), {"alt": "five"}, {}, "x.tar.gz/below/5")
    chosen = rows(opened(tmp_path / "x.tar.gz", tmp_path, image_column="right.jpg"))
    assert chosen[1].data == picture(2)


def test_a_tar_that_is_cut_off_between_two_files_says_so(tmp_path: Path) -> None:
    folder = Path(as_tars(tmp_path / "source"))
    path = folder / "00000.tar"
    with tarfile.open(path) as tar:
        ends = [member.offset for member in tar.getmembers()][2:]
    whole = path.read_bytes()
    assert not any("damaged" in row.faults.get("", "") for row in rows(opened(folder, tmp_path)))
    for end in ends:
        path.write_bytes(whole[:end])
        assert any("lacks the end of an archive" in row.faults.get("", "") for row in rows(opened(folder, tmp_path)))


def test_a_damaged_tar_gives_what_lies_before_the_damage(tmp_path: Path) -> None:
    folder = Path(as_tars(tmp_path / "source"))
    whole = (folder / "00000.tar").read_bytes()
    (folder / "00000.tar").write_bytes(whole[: len(whole) // 2])
    (folder / "00001.tar").write_bytes(b"no tar at all" * 100)
    source = opened(folder, tmp_path)
    found = rows(source)
    assert found[0].data == picture(0)
    assert [row.data for row in found][-1] == picture(6)
    damaged = [row for row in found if "damaged after" in row.faults.get("", "")]
    assert [row.name for row in damaged] == ["00000.tar", "00001.tar"]
    for i, sample in enumerate(source.samples(None)):
        assert rows(source, sample.after) == found[i + 1 :]


# --- tables ---------------------------------------------------------------------------------------------------------


def test_cells_without_a_picture_and_texts_that_are_none(tmp_path: Path) -> None:
    (tmp_path / "here.png").write_bytes(picture(3))
    kind = pa.struct({"bytes": pa.binary(), "path": pa.string()})
    images = pa.array(
        [None, {"bytes": None, "path": "gone.png"}, {"bytes": None, "path": "here.png"}, {"bytes": b"", "path": None}],
        kind,
    )
    broken = pa.array([b"a", b"b", b"caf\xe9", None]).view(pa.string())
    tags = pa.array(["x", None, "y ", "x"]).dictionary_encode()
    pq.write_table(pa.table({"image": images, "text": broken, "tags": tags}), tmp_path / "x.parquet")
    found = rows(opened(tmp_path / "x.parquet", tmp_path, captions=("text=alt", "tags")))
    assert [row.faults.get("") for row in found[:2]] == [
        "no bytes: the cell is empty",
        "no bytes, and its file is not there: gone.png",
    ]
    assert found[2] == Row(picture(3), {"tags": "y"}, {"alt": "not UTF-8 (byte 0xe9 at position 3)"}, "x.parquet row 2")
    assert found[3] == Row(b"", {"tags": "x"}, {}, "x.parquet row 3")


@pytest.mark.parametrize(
    ("table", "options", "words"),
    [
        ({"a": [b"1"], "b": [b"2"]}, {}, "several columns hold bytes (a, b): say which with --image-column"),
        ({"caption": ["x"]}, {}, "no column holds pictures (bytes); columns: caption"),
        ({"jpg": [b"1"]}, {"image_column": "png"}, "--image-column png does not exist; columns: jpg"),
        ({"jpg": [b"1"], "n": [1]}, {"image_column": "n"}, "--image-column n is int64, not bytes"),
        ({"jpg": [b"1"], "t": ["x"], "n": [1]}, {"captions": ("n",)}, "no text column 'n'; text columns: t"),
        ({"jpg": [b"1"], "t": ["x"]}, {"captions": ("t=a", "t=a")}, "set 'a' is given twice"),
        ({"jpg": [b"1"], "t": ["x"]}, {"captions": ("t=../x",)}, "SET of letters, digits"),
        ({"jpg": [b"1"]}, {"split": "train"}, "no files are named after a split: leave --split out"),
    ],
)
def test_columns_that_cannot_be_meant(tmp_path: Path, table: dict, options: dict, words: str) -> None:  # type: ignore[type-arg]
    pq.write_table(pa.table(table), tmp_path / "x.parquet")
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - compared below
        opened(tmp_path / "x.parquet", tmp_path, **options)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_files_of_one_source_must_agree(tmp_path: Path) -> None:
    pq.write_table(pa.table({"jpg": [b"1"], "caption": ["x"]}), tmp_path / "0.parquet")
    pq.write_table(pa.table({"jpg": [b"1"]}), tmp_path / "1.parquet")
    with pytest.raises(ValueError, match=r"1\.parquet: no text column 'caption'"):
        opened(tmp_path, tmp_path)


def test_a_file_that_is_no_parquet(tmp_path: Path) -> None:
    (tmp_path / "x.parquet").write_bytes(b"no")
    with pytest.raises(ValueError, match=r"x\.parquet is no Parquet file, or is damaged"):
        opened(tmp_path / "x.parquet", tmp_path)


# --- guessing -------------------------------------------------------------------------------------------------------


def test_what_cannot_be_guessed_is_said(tmp_path: Path) -> None:
    (tmp_path / "x.zip").write_bytes(b"x")
    (tmp_path / "empty").mkdir()
    (tmp_path / "corpus").mkdir()
    (tmp_path / "corpus" / "corpus.json").write_text("{}")
    for source, words in (
        (tmp_path / "x.zip", "is a file, and no tar or Parquet file"),
        (tmp_path / "empty", "no pictures, tar or Parquet files in it"),
        (tmp_path / "corpus", "is an imported corpus already"),
        (tmp_path / "nowhere", "there is no"),
        ("nowhere", "there is no nowhere; a dataset of the hub is given as owner/name"),
    ):
        with pytest.raises(ValueError, match=words):
            guess(str(source))
    assert guess("owner/name") == "datasets"
    assert guess("shards/{000..010}.tar") == "webdataset"


@pytest.mark.parametrize("kind", KINDS)
def test_samples_can_be_loaded_later_and_by_other_threads(kind: str, tmp_path: Path) -> None:
    samples = list(opened(KINDS[kind][0](tmp_path / "source"), tmp_path).samples(None))
    with ThreadPoolExecutor(4) as pool:
        assert [content.data for content in pool.map(lambda s: s.load(), samples)] == [picture(i) for i in range(COUNT)]
