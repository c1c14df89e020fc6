"""An import: every image once, whatever interrupts it, in flat memory."""

from __future__ import annotations

import errno
import hashlib
import io
import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from lensbench.captions.store import caption_sets
from lensbench.data import importing, shards
from lensbench.data.importing import Asked, finished, import_corpus
from lensbench.data.shards import mapped, read_manifest

PYTHON = sys.executable


def picture(i: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (12, 10), (i % 256, i // 256, 7)).save(file, "PNG")
    return file.getvalue()


def noise(i: int, side: int = 40) -> bytes:
    file = io.BytesIO()
    pixels = np.random.default_rng(i).integers(0, 256, (side, side, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(file, "PNG", compress_level=0)
    return file.getvalue()


def key(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def table(path: Path, images: list[bytes | None], **texts: list[str | None]) -> Asked:
    columns = {"image": pa.array(images, pa.binary()), **{n: pa.array(t, pa.string()) for n, t in texts.items()}}
    pq.write_table(pa.table(columns), path, row_group_size=5)
    return Asked(str(path), "parquet")


def imported(what: Asked, out: Path, report: Any = lambda done, total: None) -> dict[str, Any]:
    return import_corpus(what, out, workers=2, report=report)


def stored(out: Path) -> list[dict[str, Any]]:
    """Every row of every shard, in order."""
    return [row for shard in read_manifest(out)["shards"] for row in mapped(out, shard).to_pylist()]


def captions(out: Path) -> dict[str, list[tuple[str, str]]]:
    """Key and text of every row of every set, sorted: a key with two rows is there twice."""
    return {s.name: sorted((r["key"], r["text"]) for r in s.table().to_pylist()) for s in caption_sets(out)}


def everything(out: Path) -> dict[str, Any]:
    """All that must not depend on what interrupted an import."""
    aside = pq.read_table(out / shards.SET_ASIDE).to_pylist()
    return {"manifest": read_manifest(out), "rows": stored(out), "captions": captions(out), "set aside": aside}


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shards of a few images and commits every few samples."""
    monkeypatch.setattr(shards, "SHARD_BYTES", 400)
    monkeypatch.setattr(shards, "BATCH_BYTES", 150)
    monkeypatch.setattr(importing, "MOST_SAMPLES", 7)


# --- what is kept ---------------------------------------------------------------------------------------------------


def test_images_are_kept_as_they_came_under_their_keys(tmp_path: Path) -> None:
    images = [picture(i) for i in range(12)]
    what = table(tmp_path / "x.parquet", images, caption=[f" text\n{i} " for i in range(12)])
    manifest = imported(what, tmp_path / "out")
    rows = stored(tmp_path / "out")
    assert [row["image"] for row in rows] == images
    assert [row["key"] for row in rows] == [key(data) for data in images]
    assert rows[3] == {
        "key": key(images[3]),
        "image": images[3],
        "format": "PNG",
        "width": 12,
        "height": 10,
        "rules": [],
        "source": "x.parquet row 3",
    }
    assert captions(tmp_path / "out") == {"alt": sorted((key(data), f"text {i}") for i, data in enumerate(images))}
    assert (manifest["images"], manifest["merged"], manifest["set_aside"]) == (12, 0, 0)
    assert manifest["digest"] == hashlib.sha256("\n".join(sorted(map(key, images))).encode()).hexdigest()
    (alt,) = caption_sets(tmp_path / "out")
    assert alt.maker.captioner == "import"
    assert alt.maker.prompt_version == "caption"
    assert json.loads(alt.maker.parameters) == {"format": "parquet", "source": str(tmp_path / "x.parquet")}
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "corpus.json",
        "images",
        "captions",
        "set_aside.parquet",
        "lock",
    }


def test_what_is_set_aside_has_its_key_reason_and_source(tmp_path: Path) -> None:
    images = [picture(0), b"", None, b"<html>", picture(1)[:45], picture(2)]
    imported(table(tmp_path / "x.parquet", images, caption=["x"] * 6), tmp_path / "out")
    rows = pq.read_table(tmp_path / "out" / shards.SET_ASIDE).to_pylist()
    assert [(row["what"], row["key"], row["source"]) for row in rows] == [
        ("image", None, "x.parquet row 1"),
        ("image", None, "x.parquet row 2"),
        ("image", key(b"<html>"), "x.parquet row 3"),
        ("image", key(picture(1)[:45]), "x.parquet row 4"),
    ]
    assert [row["reason"][:14] for row in rows] == ["empty file", "no bytes: the ", "no picture in ", "image file is "]
    assert {k for k, _ in captions(tmp_path / "out")["alt"]} == {key(images[0] or b""), key(images[5] or b"")}


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 6), st.sampled_from([None, "", "a", "b", " a "])), min_size=1, max_size=40),
    st.integers(60, 2000),
)
def test_copies_are_merged_and_the_first_caption_stays(samples: list[tuple[int, str | None]], shard_bytes: int) -> None:
    with tempfile.TemporaryDirectory() as name, pytest.MonkeyPatch.context() as patch:
        patch.setattr(shards, "SHARD_BYTES", shard_bytes)
        patch.setattr(importing, "MOST_SAMPLES", 5)
        what = table(Path(name) / "x.parquet", [picture(i) for i, _ in samples], caption=[text for _, text in samples])
        manifest = imported(what, Path(name) / "out")
        first: dict[int, str] = {}
        differing = 0
        for i, text in samples:
            if text and text.strip():
                differing += first.setdefault(i, text.strip()) != text.strip()
        distinct = list(dict.fromkeys(i for i, _ in samples))
        assert manifest["merged"] == len(samples) - len(distinct)
        assert manifest["differing_captions"] == differing
        assert manifest["samples"] == len(samples)
        assert [row["key"] for row in stored(Path(name) / "out")] == [key(picture(i)) for i in distinct]
        expected = sorted((key(picture(i)), text) for i, text in first.items())
        assert captions(Path(name) / "out") == ({"alt": expected} if expected else {})


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ECONNRESET])
def test_a_trouble_of_the_machine_or_the_network_sets_nothing_aside(
    tmp_path: Path, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    what = table(tmp_path / "x.parquet", [picture(i) for i in range(3)])

    def fail(*given: object) -> None:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr("lensbench.data.sources.tables.content", fail)
        with pytest.raises(OSError, match=os.strerror(number)):
            imported(what, tmp_path / "out")
    assert imported(what, tmp_path / "out")["set_aside"] == 0


def test_shards_are_of_their_size(tmp_path: Path, small: None) -> None:
    images = [picture(i) for i in range(40)]
    manifest = imported(table(tmp_path / "x.parquet", images), tmp_path / "out")
    assert len(manifest["shards"]) > 5
    assert all(400 <= shard["bytes"] < 600 for shard in manifest["shards"][:-1])
    assert [row["image"] for row in stored(tmp_path / "out")] == images


# --- interruptions --------------------------------------------------------------------------------------------------


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(1, 60), min_size=1, max_size=4), st.randoms(use_true_random=False))
def test_an_import_that_was_stopped_ends_as_one_that_was_not(stops: list[int], chance: random.Random) -> None:
    images: list[bytes | None] = [picture(chance.randrange(40)) for _ in range(60)]
    for i in range(5):
        images[chance.randrange(60)] = (b"", None, b"<html>", picture(3)[:50], b"x")[i]
    texts = [chance.choice(["one", "two", None]) for _ in images]
    with tempfile.TemporaryDirectory() as name, pytest.MonkeyPatch.context() as patch:
        patch.setattr(shards, "SHARD_BYTES", 400)
        patch.setattr(importing, "MOST_SAMPLES", 7)
        what = table(Path(name) / "x.parquet", images, caption=texts)
        imported(what, Path(name) / "whole")
        for stop in stops:

            def interrupt(done: int, total: int | None, stop: int = stop) -> None:
                assert total == 60
                if done >= stop:
                    raise KeyboardInterrupt

            with pytest.raises(KeyboardInterrupt):
                imported(what, Path(name) / "out", interrupt)
            assert not shards.is_imported(Path(name) / "out")
        imported(what, Path(name) / "out")
        assert everything(Path(name) / "out") == everything(Path(name) / "whole")


COMMAND = """
import sys
from lensbench.data import importing, shards
shards.SHARD_BYTES, shards.BATCH_BYTES, importing.MOST_SAMPLES = 200_000, 50_000, 100
sys.argv = ["lensbench", *sys.argv[1:]]
from lensbench.cli import main
main()
"""
# It says when it has taken so many samples, and waits a hundred later.
HELD = """
import os, time
from pathlib import Path
from lensbench.data import importing
take, place, taken = importing._Journal.take, int(os.environ["PLACE"]), 0
def held(self, *given):
    global taken
    taken += 1
    if taken == place:
        Path(os.environ["HERE"]).touch()
    while taken == place + 100:
        time.sleep(1)
    return take(self, *given)
importing._Journal.take = held
"""


def command(*arguments: object) -> list[str]:
    """The real command, with smaller shards."""
    return [PYTHON, "-c", COMMAND, *map(str, arguments)]


def test_killed_at_random_moments(tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    for i in range(600):
        (folder / f"{i:03d}.png").write_bytes(noise(i % 580))
        (folder / f"{i:03d}.alt.txt").write_text(f"alt {i % 590}")
    (folder / "broken.png").write_bytes(b"x")
    run = command("corpus", "import", folder)
    subprocess.run([*run, tmp_path / "whole"], check=True, capture_output=True)
    out, here = tmp_path / "out", tmp_path / "here"
    chance = random.Random(0)
    half_way = 0
    for _ in range(40):
        process = subprocess.Popen(
            [PYTHON, "-c", HELD + COMMAND, *map(str, run[3:]), str(out)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            env=os.environ | {"HERE": str(here), "PLACE": str(chance.randint(1, 140))},
        )
        while not here.exists() and process.poll() is None:
            time.sleep(0.002)
        if process.poll() is not None:
            break
        time.sleep(chance.uniform(0, 0.05))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        here.unlink()
        half_way += not shards.is_imported(out)
    assert half_way >= 2
    again = subprocess.run([*run, out], check=True, capture_output=True, text=True)
    assert shards.is_imported(out), again.stdout
    assert everything(out) == everything(tmp_path / "whole")
    assert read_manifest(out)["merged"] == 20
    assert not list(out.rglob("*.partial"))


def test_ctrl_c_says_how_to_go_on(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    pq.write_table(pa.table({"image": [noise(i, 100) for i in range(1500)]}), path)
    process = subprocess.Popen(
        command("corpus", "import", path, tmp_path / "out"), stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    while not (tmp_path / "out" / "images").exists() and process.poll() is None:
        time.sleep(0.002)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate()
    assert process.returncode == 130
    assert len(stderr.splitlines()) == 1
    assert "continue with: lensbench corpus import" in stderr


def test_an_import_that_is_finished_says_so(tmp_path: Path) -> None:
    table(tmp_path / "x.parquet", [picture(i) for i in range(3)])
    run = command("corpus", "import", tmp_path / "x.parquet", tmp_path / "out")
    first = subprocess.run(run, check=True, capture_output=True, text=True)
    assert "taken for Parquet (--format parquet)" in first.stdout
    assert "3 images" in first.stdout
    (tmp_path / "x.parquet").unlink()
    again = subprocess.run(run, check=True, capture_output=True, text=True)
    done, *summary = again.stdout.splitlines()
    assert done == f"{tmp_path / 'out'}: this import is finished; nothing to do"
    assert summary == first.stdout.splitlines()[1:]


# --- refusals -------------------------------------------------------------------------------------------------------


def test_another_import_is_refused(tmp_path: Path) -> None:
    what = table(tmp_path / "x.parquet", [picture(i) for i in range(3)], caption=["x"] * 3, text=["y"] * 3)
    for stop in (True, False):  # begun, finished

        def report(done: int, total: int | None, stop: bool = stop) -> None:
            if stop and done:
                raise KeyboardInterrupt

        try:
            imported(what, tmp_path / "out", report)
        except KeyboardInterrupt:
            assert stop
        other = what._replace(captions=("text=alt",))
        look = imported if stop else finished
        with pytest.raises(ValueError, match="holds the import of another source or other options"):
            look(other, tmp_path / "out")
    assert finished(what, tmp_path / "out")


def test_a_source_that_changed_in_the_meantime_is_refused(tmp_path: Path, small: None) -> None:
    def interrupt(done: int, total: int | None) -> None:
        if done == 15:
            raise KeyboardInterrupt

    what = table(tmp_path / "x.parquet", [picture(i) for i in range(20)])
    with pytest.raises(KeyboardInterrupt):
        imported(what, tmp_path / "out", interrupt)
    table(tmp_path / "x.parquet", [picture(i) for i in range(30)])
    with pytest.raises(ValueError, match="changed since its import into"):
        imported(what, tmp_path / "out")


def test_a_folder_with_other_things_in_it_is_refused(tmp_path: Path) -> None:
    what = table(tmp_path / "x.parquet", [picture(0)])
    with pytest.raises(ValueError, match="is not empty and holds no import"):
        finished(what, tmp_path)
    with pytest.raises(ValueError, match="is a file, not a folder"):
        finished(what, tmp_path / "x.parquet")
    (tmp_path / "out").mkdir()
    assert not finished(what, tmp_path / "out")


def test_two_at_once_are_refused(tmp_path: Path) -> None:
    what = table(tmp_path / "x.parquet", [picture(i) for i in range(3)])
    said = []

    def meanwhile(done: int, total: int | None) -> None:
        if done == 1:
            with pytest.raises(ValueError, match="another process is importing into") as caught:
                imported(what, tmp_path / "out")
            said.append(str(caught.value))

    imported(what, tmp_path / "out", meanwhile)
    assert said


def test_nothing_that_can_be_used(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"no picture in .* can be used: x\.parquet row 0: empty file; x\.parquet row 1"
    ):
        imported(table(tmp_path / "x.parquet", [b"", b"x"]), tmp_path / "out")


# --- the disk and the memory ----------------------------------------------------------------------------------------


def test_a_disk_that_cannot_be_written_to_is_one_line_and_the_same_command_goes_on(tmp_path: Path) -> None:
    """A bound on the size of files makes the kernel refuse to write, as a full disk does."""
    path = tmp_path / "x.parquet"
    pq.write_table(pa.table({"image": [noise(i) for i in range(200)]}), path)
    run = command("corpus", "import", path, tmp_path / "out")
    limited = ["bash", "-c", 'ulimit -f 100; exec "$@"', "limited", *run]  # in KiB
    failed = subprocess.run(limited, capture_output=True, text=True)
    assert failed.returncode == 2, failed.stderr
    assert len(failed.stderr.splitlines()) == 1, failed.stderr
    assert "File too large" in failed.stderr
    subprocess.run(run, check=True, capture_output=True)
    assert read_manifest(tmp_path / "out")["images"] == 200


@pytest.mark.parametrize(
    "error", [OSError(errno.ENOSPC, "No space left on device"), sqlite3.OperationalError("database or disk is full")]
)
def test_a_full_disk_says_what_to_do(tmp_path: Path, error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: object) -> None:
        raise error

    what = table(tmp_path / "x.parquet", [picture(i) for i in range(3)])
    with monkeypatch.context() as patch:
        patch.setattr(shards.ShardWriter, "publish", full)
        with pytest.raises(OSError, match="MB free\\): free some, and the same command") as it:
            imported(what, tmp_path / "out")
    assert it.value.errno == errno.ENOSPC
    assert imported(what, tmp_path / "out")["images"] == 3


MEMORY = """
import resource, sys
from pathlib import Path
from lensbench.data import importing, shards
shards.SHARD_BYTES, shards.BATCH_BYTES, importing.MOST_SAMPLES, importing.CACHE_KIB = 500_000, 100_000, 1000, 256
what = importing.Asked(sys.argv[1], "parquet")
importing.import_corpus(what, Path(sys.argv[2]), workers=2, report=lambda done, total: None)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def test_memory_is_flat(tmp_path: Path) -> None:
    """Four times the images; shards, commits and the journal's cache are smaller than usual, as the images are."""
    peaks = []
    plain = picture(0)
    for count in (5_000, 20_000):
        path = tmp_path / f"{count}.parquet"
        # Other bytes and the same picture: what follows a PNG's end is no part of it.
        images = [plain + os.urandom(8) + b"x" * 400 for _ in range(count)]
        texts = [f"a caption of some length, number {i}, " * 5 for i in range(count)]
        pq.write_table(pa.table({"image": images, "caption": texts}), path, row_group_size=1000)
        done = subprocess.run(
            [PYTHON, "-c", MEMORY, path, tmp_path / f"out{count}"], check=True, capture_output=True, text=True
        )
        peaks.append(int(done.stdout) / 1024)
        assert read_manifest(tmp_path / f"out{count}")["images"] == count
    assert peaks[1] - peaks[0] < 6, f"{peaks} MiB: 15,000 more images, of which the keys alone are 1 MiB"
