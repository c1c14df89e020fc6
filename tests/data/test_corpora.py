"""Captions as people have them, through the real command: each is read, or named with the flag that reads it."""

from __future__ import annotations

import io
import json
import shutil
import tarfile
import unicodedata
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lensbench.captions.store import caption_sets
from lensbench.data import importing
from lensbench.data.corpus import open_corpus
from lensbench.data.imported import open_images
from lensbench.data.importing import Asked, import_corpus
from lensbench.data.sources.members import Member, group, rule_of
from lensbench.experiment import FolderCorpus
from tests.data.corpora import Run, captions, image, write_folder, write_table, write_tar

# --- captions that are used ------------------------------------------------------------------------------------------

SIDECARS = {
    "caption files": {"k.jpg": image(0), "k.caption": "cap 0"},
    "endings in capitals": {"IMG_1.JPG": image(0), "IMG_1.TXT": "cap 0"},
    "another form of Unicode": {
        unicodedata.normalize("NFC", "café.jpg"): image(0),
        unicodedata.normalize("NFD", "café.txt"): "cap 0",
    },
    "the image's whole name": {"k.jpg": image(0), "k.jpg.txt": "cap 0"},
    "dots": {"img.v1.0.jpg": image(0), "img.v1.0.txt": "cap 0"},
    "metadata.jsonl": {"t/0.png": image(0), "t/metadata.jsonl": json.dumps({"file_name": "0.png", "text": "cap 0"})},
    "metadata.csv": {"t/below/0.png": image(0), "t/metadata.csv": "file_name,text\nbelow/0.png,cap 0\n"},
}


@pytest.mark.parametrize("name", SIDECARS)
def test_the_captions_of_a_folder_are_read(name: str, tmp_path: Path, run: Run) -> None:
    folder = write_folder(tmp_path / "photos", SIDECARS[name])
    ran = run("corpus", "import", folder, tmp_path / "out", "--strict")
    assert (ran.code, ran.err) == (0, "")
    assert captions(tmp_path / "out") == {"alt": {image(0): "cap 0"}}


def test_training_from_a_folder_reads_the_captions_that_its_import_has(tmp_path: Path, run: Run) -> None:
    files: dict[str, bytes | str] = {"notes.txt": "of no image"}
    for i in range(6):
        files |= {f"train/i.{i}.jfif": image(i), f"test/{i}": image(10 + i)}
        files |= {f"train/i.{i}.caption": f"cap {i}", f"test/{i}.txt": f"cap {10 + i}"}
        files[f"train/i.{i}.detailed.TXT"] = f"long {i}"
    folder = write_folder(tmp_path / "photos", files)
    run("corpus", "import", folder, tmp_path / "out")
    both = [
        open_corpus(FolderCorpus(path=path, size_px=16, caption_sets=("alt", "detailed")), 100)
        for path in (folder, tmp_path / "out")
    ]
    assert both[0].digest == both[1].digest
    assert both[0].config.captions_digest == both[1].config.captions_digest
    assert both[0].set_aside == both[1].set_aside
    assert len(both[0].train_keys + both[0].validation_keys) == 6


def test_several_captions_of_an_image_are_further_sets(tmp_path: Path, run: Run) -> None:
    images = [image(i) for i in range(3)]
    source = write_table(tmp_path / "x.parquet", images, captions=[["a 0", "b 0"], ["a 1", " "], []])
    assert run("corpus", "import", source, tmp_path / "out", "--strict").code == 0
    assert captions(tmp_path / "out") == {
        "alt": {images[0]: "a 0", images[1]: "a 1"},
        "alt2": {images[0]: "b 0"},
    }


def test_further_rows_of_an_image_in_a_table_are_further_captions(tmp_path: Path, run: Run) -> None:
    name = unicodedata.normalize("NFD", "café.jpg")
    rows = [("./a.jpg", "a 0"), (unicodedata.normalize("NFC", name), "b 0"), ("a.jpg", "a 1")]
    lines = [json.dumps({"file_name": file, "caption": text}) for file, text in rows]
    files = {"a.jpg": image(0), name: image(1), "metadata.jsonl": "\n".join(lines)}
    ran = run("corpus", "import", write_folder(tmp_path / "photos", files), tmp_path / "out", "--strict")
    assert (ran.code, ran.err) == (0, "")
    assert captions(tmp_path / "out") == {"alt": {image(0): "a 0", image(1): "b 0"}, "alt2": {image(0): "a 1"}}


def test_a_sidecar_of_several_lines_is_one_caption_and_said_so_or_with_lines_several(tmp_path: Path, run: Run) -> None:
    folder = write_folder(tmp_path / "photos", {"a.jpg": image(0), "a.txt": "a dog\n\ngrass\u2028here\n"})
    ran = run("corpus", "import", folder, tmp_path / "one", "--strict")
    assert ran.code == 0
    assert "captions of several lines in alt: 1, as of a.jpg: each is one caption; --lines" in ran.out
    assert captions(tmp_path / "one") == {"alt": {image(0): "a dog grass here"}}
    ran = run("corpus", "import", folder, tmp_path / "two", "--lines")
    assert "several lines" not in ran.out
    assert captions(tmp_path / "two") == {"alt": {image(0): "a dog"}, "alt2": {image(0): "grass here"}}
    assert "other options" in run("corpus", "import", folder, tmp_path / "two").err
    cell = json.dumps({"file_name": "a.jpg", "text": "a dog\ngrass"})
    table = write_folder(tmp_path / "more", {"a.jpg": image(0), "metadata.jsonl": cell})
    assert "captions of several lines in alt: 1" in run("corpus", "import", table, tmp_path / "three").out


@pytest.mark.parametrize("ending", ["tar", "tar.gz"])
def test_members_of_a_tar_need_not_lie_together(ending: str, tmp_path: Path, run: Run) -> None:
    files: dict[str, bytes | str] = {f"{i}.jpg": image(i) for i in range(5)}
    files |= {f"{i}.txt": f"cap {i}" for i in (3, 1, 4, 0, 2)}
    source = write_tar(tmp_path / f"x.{ending}", files)
    assert run("corpus", "import", source, tmp_path / "out", "--strict").code == 0
    assert captions(tmp_path / "out") == {"alt": {image(i): f"cap {i}" for i in range(5)}}
    assert [open_images(tmp_path / "out").read_row(i) for i in range(5)] == [image(i) for i in range(5)]


@pytest.mark.parametrize("stem", ["img_{i}.v1.{i}", "frame.{i:04d}", "a.b/{i}", "{i}"])
def test_names_with_dots_are_grouped_as_they_are_meant(stem: str, tmp_path: Path, run: Run) -> None:
    files: dict[str, bytes | str] = {}
    for i in range(4):
        name = stem.format(i=i)
        files |= {f"{name}.jpg": image(i), f"{name}.txt": f"cap {i}", f"{name}.detailed.txt": f"long {i}"}
    source = write_tar(tmp_path / "x.tar", files)
    ran = run("corpus", "import", source, tmp_path / "out", "--strict")
    assert ran.code == 0
    assert ("names with dots" in ran.out) == ("." in stem.rpartition("/")[2])
    assert captions(tmp_path / "out") == {
        "alt": {image(i): f"cap {i}" for i in range(4)},
        "detailed": {image(i): f"long {i}" for i in range(4)},
    }


def test_frames_without_texts_are_images_of_their_own(tmp_path: Path, run: Run) -> None:
    source = write_tar(tmp_path / "x.tar", {f"frame.{i:04d}.jpg": image(i) for i in range(6)})
    assert "6 images" in run("corpus", "import", source, tmp_path / "out").out


@given(st.integers(2, 30), st.sampled_from(["", ".v1", ".2024"]))
def test_webdatasets_rule_stands_where_its_endings_come_again(count: int, infix: str) -> None:
    """1.left.jpg and 1.right.jpg are one sample however many there are, and 1.v1.txt is of one caption set."""
    names = [f"{i}{side}" for i in range(count) for side in (f"{infix}.left.jpg", f"{infix}.right.jpg", ".txt")]
    members = [Member(name, 0, 0) for name in names]
    rule = rule_of(members)
    grouped = group(members, rule or "first dot", lambda said: None)
    assert len(grouped) == count


def test_the_rule_of_the_first_shard_is_that_of_the_last(tmp_path: Path, run: Run) -> None:
    """A last shard of one sample does not tell by itself."""
    files: dict[str, bytes | str] = {}
    for i in range(5):
        files |= {f"{i}.crop.jpg": image(i), f"{i}.crop.txt": f"cap {i}"}
    (tmp_path / "tars").mkdir()
    for shard, numbers in enumerate(((0, 1, 2, 3), (4,))):
        some = {name: data for name, data in files.items() if int(name[0]) in numbers}
        write_tar(tmp_path / "tars" / f"{shard}.tar", some)
    run("corpus", "import", tmp_path / "tars", tmp_path / "out")
    assert captions(tmp_path / "out") == {"crop": {image(i): f"cap {i}" for i in range(5)}}


def test_links_within_a_tar_are_files_of_it(tmp_path: Path, run: Run) -> None:
    source = tmp_path / "x.tar"
    with tarfile.open(source, "w") as archive:
        for name, data in (("a/1.txt", b"cap"), ("a/1.jpg", image(1)), ("b/2.jpg", image(2))):
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
        for name, target, kind in (
            ("b/2.txt", "a/1.txt", tarfile.LNKTYPE),
            ("b/3.jpg", "../a/1.jpg", tarfile.SYMTYPE),
            ("b/4.jpg", "../nowhere.jpg", tarfile.SYMTYPE),
        ):
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, target
            archive.addfile(member)
    ran = run("corpus", "import", source, tmp_path / "out")
    assert captions(tmp_path / "out") == {"alt": {image(1): "cap", image(2): "cap"}}
    assert "1 copy merged, 1 set aside" in ran.out
    assert "the link b/4.jpg leads to no file of it" in ran.out


@pytest.mark.parametrize("kind", ["folder", "tar"])
def test_an_import_that_was_stopped_says_what_one_that_was_not_says(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importing, "MOST_SAMPLES", 1)
    files: dict[str, bytes | str] = {"x.txt": "of no image", "x.mp4": b"x"}
    for i in range(6):
        name = f"img_{i}.v1.{i}"
        files |= {f"{name}.jpg": image(i), f"{name}.caption": f"cap {i}\n\nmore", f"{name}.gif": b"x"}
    files |= {f"img_{i}.v1.{i}.txt": "tags" for i in (5, 1, 3)}
    source = write_folder(tmp_path / "x", files) if kind == "folder" else write_tar(tmp_path / "x.tar", files)
    what = Asked(str(source), "folder" if kind == "folder" else "webdataset")
    whole = import_corpus(what, tmp_path / "whole", workers=1, report=lambda done, total: None)
    assert whole["notes"]

    for most in range(whole["samples"]):

        def stop(done: int, total: int | None, most: int = most) -> None:
            if done > most:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            import_corpus(what, tmp_path / "out", workers=1, report=stop)
    again = import_corpus(what, tmp_path / "out", workers=1, report=lambda done, total: None)
    assert again["notes"] == whole["notes"]
    assert again["digest"] == whole["digest"]
    assert captions(tmp_path / "out") == captions(tmp_path / "whole")


# --- captions that are not used, and how to use them -----------------------------------------------------------------


class Case(NamedTuple):
    """What lies there, what is said of it, and the options under which nothing is left to say."""

    make: Callable[[Path], Path]
    said: str
    options: tuple[str, ...] = ()


def in_folder(files: Mapping[str, bytes | str]) -> Callable[[Path], Path]:
    return lambda path: write_folder(path / "photos", files)


def in_tar(files: Mapping[str, bytes | str]) -> Callable[[Path], Path]:
    return lambda path: write_tar(path / "x.tar", files)


BOTH = {"k.jpg": image(0), "k.txt": "tags", "k.caption": "cap 0"}
UNUSED = {
    "a text of no image": Case(
        in_folder({"k.jpg": image(0), "k.txt": "cap", "j.txt": "x", "l.alt.txt": "x"}),
        "text files not used: 2, as j.txt: no image has their name",
    ),
    "two captions of one set": Case(
        in_folder(BOTH), "captions .caption not used: 1, as of k.jpg", ("--caption", "txt=tags", "--caption", "caption")
    ),
    "two files of one caption": Case(
        in_folder({"k.jpg": image(0), "k.txt": "cap", "k.TXT": "other"}),
        "text files not used: 1, as k.txt: another file is the same caption",
    ),
    "a table with another separator": Case(
        in_folder({"k.jpg": image(0), "k.txt": "cap", "metadata.csv": "file_name;text\nk.jpg;x\n"}),
        "metadata.csv is not used: it has no rows with a file_name",
    ),
    "a row of no image": Case(
        in_folder({"k.jpg": image(0), "metadata.jsonl": '{"file_name": "j.jpg", "text": "x"}\n', "k.txt": "cap"}),
        "rows of metadata.jsonl not used: 1, as that of j.jpg",
    ),
    "two captions of one set in a tar": Case(
        in_tar(BOTH), "captions .caption not used: 1", ("--caption", "txt=tags", "--caption", "caption")
    ),
    "texts of no image in a tar": Case(
        in_tar({"0.jpg": image(0), "0.txt": "cap", "1.txt": "x", "2.txt": "x"}),
        "samples of texts without an image: 2, as x.tar/1",
    ),
    "a name that is no word": Case(
        in_tar({"000.jpg": image(0), "000....txt": "odd", "000.txt": "cap"}),
        "texts not used: 1, as of x.tar/000: ...txt",
    ),
    "a column": Case(
        lambda path: write_table(path / "x.parquet", [image(0)], caption=["a"], long_text=["b"]),
        "text columns not used: long_text: --caption long_text reads long_text",
        ("--caption", "caption=alt", "--caption", "long_text"),
    ),
    "images beside tars": Case(
        lambda path: write_folder(
            write_tar(path / "x.tar", {"1.jpg": image(0), "1.txt": "cap"}).parent, {"2.jpg": image(2), "2.txt": "cap"}
        ),
        "images beside them, not used: 1 .jpg: --format folder reads them",
        ("--format", "folder"),
    ),
    "no captions": Case(in_folder({"k.jpg": image(0)}), "no captions were imported"),
}


@pytest.mark.parametrize("name", UNUSED)
def test_what_is_not_used_is_said_and_strict_fails(name: str, tmp_path: Path, run: Run) -> None:
    case = UNUSED[name]
    (tmp_path / "source").mkdir()
    source = case.make(tmp_path / "source")
    ran = run("corpus", "import", source, tmp_path / "out")
    assert ran.code == 0
    assert f"lensbench: {tmp_path / 'out'}: {case.said}" in ran.err
    again = run("corpus", "import", source, tmp_path / "out", "--strict")
    assert (again.code, again.err) == (2, ran.err)
    assert case.said in run("corpus", "check", tmp_path / "out").out
    if case.options:
        ran = run("corpus", "import", source, tmp_path / "other", "--strict", *case.options)
        assert (ran.code, ran.err) == (0, "")


@pytest.mark.parametrize("kind", ["folder", "tar"])
def test_a_field_of_a_json_is_suggested_and_then_read(kind: str, tmp_path: Path, run: Run) -> None:
    files = {"1.jpg": image(1), "1.json": '{"caption": "cap 1", "width": 24}', "1_stats.json": "{}"}
    source = write_folder(tmp_path / "x", files) if kind == "folder" else write_tar(tmp_path / "x.tar", files)
    assert "'caption' in their .json: 1, as of" in run("corpus", "import", source, tmp_path / "out").out
    assert run("corpus", "import", source, tmp_path / "more", "--strict", "--caption", "caption=alt").code == 0
    assert captions(tmp_path / "more") == {"alt": {image(1): "cap 1"}}


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({"1.jpg": image(1), "1.txt": "cap"}, ("--caption", "deteiled")),
        ({"1.jpg": image(1), "1.txt": "cap"}, ("--caption", "..=x")),
        ({"1.jpg": image(1), "1.txt": "cap"}, ("--caption", "txt=..")),
        ({"1.jpg": image(1), "1.txt": "cap"}, ("--split", "test")),
        ({f"1.{i}.txt": "cap" for i in range(60)} | {"1.jpg": image(1)}, ()),
    ],
)
@pytest.mark.parametrize("kind", ["folder", "tar"])
def test_options_that_nothing_answers_are_refused(
    kind: str, files: dict[str, bytes | str], words: tuple[str, ...], tmp_path: Path, run: Run
) -> None:
    source = write_folder(tmp_path / "x", files) if kind == "folder" else write_tar(tmp_path / "x.tar", files)
    ran = run("corpus", "import", source, tmp_path / "out", *words)
    assert ran.code == 2
    assert len(ran.err.splitlines()) == 1
    # what was wrong is mended, and the same folder takes the import
    assert run("corpus", "import", source, tmp_path / "out", "--caption", "1" if not words else "txt").code == 0


def test_no_caption_set_leaves_the_corpus(tmp_path: Path, run: Run) -> None:
    files = {"000.jpg": image(0), "000....txt": "odd", "000../x.txt": "odd", "000.a b.txt": "odd"}
    run("corpus", "import", write_tar(tmp_path / "x.tar", files), tmp_path / "out")
    assert caption_sets(tmp_path / "out") == []
    assert not (tmp_path / "out" / "set.json").exists()


# --- caption sets that are odd ---------------------------------------------------------------------------------------


def test_a_broken_caption_set_hides_no_other_and_foreign_rows_are_counted(tmp_path: Path, run: Run) -> None:
    for name, seeds in (("few", range(4)), ("many", range(2, 7))):
        files: dict[str, bytes | str] = {}
        for i in seeds:
            files |= {f"{i}.jpg": image(i), f"{i}.{name}.txt": f"cap {i}"}
        run("corpus", "import", write_folder(tmp_path / f"{name} photos", files), tmp_path / name)
    few = tmp_path / "few"
    shutil.copytree(tmp_path / "many" / "captions" / "many", few / "captions" / "many")
    (few / "captions" / "bad").mkdir()
    (few / "captions" / "bad" / "set.json").write_text("{")
    listed = run("captions", "list", few)
    assert listed.code == 1
    assert "few" in listed.out
    assert f"many: 3 rows are of images that are not in {few}" in listed.out
    assert "bad/set.json cannot be read" in listed.err
    checked = run("corpus", "check", few)
    assert checked.code == 1
    assert " ".join(checked.out.split()).count("50.0 % 3 of images that are not here") == 1
    assert "bad/set.json cannot be read" in checked.err


def test_a_caption_and_a_name_cannot_steer_the_terminal(tmp_path: Path, run: Run) -> None:
    files = {"1.jpg": image(1), "1.txt": "a \x1b[31mred\x00 dog", "\x1b[2J.jpg": b"no image"}
    imported = run("corpus", "import", write_folder(tmp_path / "photos", files), tmp_path / "out")
    shown = run("captions", "show", tmp_path / "out", "alt")
    assert r"a \x1b[31mred\x00 dog" in shown.out
    assert captions(tmp_path / "out") == {"alt": {image(1): "a \x1b[31mred\x00 dog"}}
    assert r"\x1b[2J.jpg" in imported.out
    for ran in (imported, shown, run("corpus", "check", tmp_path / "out")):
        assert "\x1b" not in ran.out + ran.err
