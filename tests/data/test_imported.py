"""Training from an imported corpus: what a folder gives, from the disk."""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import skimage
import torch
from PIL import Image

from lensbench.captions.store import CaptionRow, Maker, writing
from lensbench.data import shards
from lensbench.data.corpus import open_corpus
from lensbench.data.folder import PhotoFolder
from lensbench.data.imported import ImportedCorpus, open_images
from lensbench.data.importing import Asked, import_corpus
from lensbench.data.latents import PatchedImages, encode_images
from lensbench.data.rowstore import StoredRows
from lensbench.experiment import FolderCorpus
from lensbench.model.autoencoder import Pixels

PHOTOGRAPHS = [
    Path(skimage.__file__).parent / "data" / name
    for name in ("astronaut.png", "brick.png", "chelsea.png", "coffee.png", "horse.png", "rocket.jpg", "retina.jpg")
]
SIZE = 32


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Photographs with two captions each, and all that can be wrong with some."""
    target = tmp_path / "photos"
    (target / "below").mkdir(parents=True)
    for i, source in enumerate(PHOTOGRAPHS):
        copy = Path(shutil.copy(source, target / "below" if i < 2 else target))
        for name in ("alt", "detailed"):
            copy.with_name(f"{copy.stem}.{name}.txt").write_text(f"{name} text of {copy.stem}", encoding="utf-8")
    shutil.copy(target / "coffee.png", target / "a copy.png")
    (target / "a copy.alt.txt").write_text("the copy's, which comes first")
    shutil.copy(target / "horse.png", target / "zz.png")
    (target / "horse.alt.txt").unlink()
    (target / "zz.alt.txt").write_text("a horse's copy has one")
    Image.new("RGB", (9, 9), (1, 2, 3)).save(target / "no caption.png")
    (target / "broken.jpg").write_bytes(b"x")
    (target / "moving.gif").write_bytes(b"GIF89a")
    return target


def imported(folder: Path, out: Path) -> Path:
    import_corpus(Asked(str(folder), "folder"), out, workers=2, report=lambda done, total: None)
    return out


def opened(path: Path, images: int = 1000, **fields: object) -> PhotoFolder | ImportedCorpus:
    corpus = open_corpus(FolderCorpus(path=path, size_px=SIZE).model_copy(update=fields), images)
    assert not hasattr(corpus, "scene")
    return corpus  # type: ignore[return-value]


def test_a_folder_and_its_import_are_one_corpus(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "SHARD_BYTES", 300_000)  # several shards
    monkeypatch.setattr("lensbench.data.imported.KEYS_AT_A_TIME", 3)
    before, after = opened(folder), opened(imported(folder, tmp_path / "out"))
    assert isinstance(before, PhotoFolder)
    assert isinstance(after, ImportedCorpus)
    for field in ("train_keys", "validation_keys", "set_aside", "dropped", "merged", "sets_found", "digest"):
        assert getattr(before, field) == getattr(after, field), field
    assert (before.merged, before.dropped) == (2, 1)
    assert before.config.science() == after.config.science()
    assert before.config.captions_digest
    keys = before.train_keys + before.validation_keys
    assert torch.equal(before.images(keys), after.images(keys))
    assert torch.equal(before.images(keys[::-2]), after.images(keys[::-2]))
    for name in ("alt", "detailed"):
        assert before.texts(name) == after.texts(name)
    assert opened(tmp_path / "out", images=2).train_keys == before.train_keys[:2]
    assert opened(tmp_path / "out", images=2).digest == before.digest


def test_images_as_they_came(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "SHARD_BYTES", 300_000)
    monkeypatch.setattr(shards, "BATCH_BYTES", 100_000)
    images = open_images(imported(folder, tmp_path / "out"))
    assert len(images) == len(images.keys) == 8
    assert list(images.keys) == [images.keys[i] for i in range(8)]
    for key in images.keys:
        assert hashlib.sha256(images.read(key)).hexdigest() == key
    assert {*images.keys} >= {hashlib.sha256(path.read_bytes()).hexdigest() for path in PHOTOGRAPHS}
    assert list(images.keys[2:4]) == list(images.keys)[2:4]
    with pytest.raises(KeyError, match="has no image ffff"):
        images.read("f" * 64)


def test_texts_of_some_keys_alone(folder: Path, tmp_path: Path) -> None:
    corpus = opened(imported(folder, tmp_path / "out"))
    assert isinstance(corpus, ImportedCorpus)
    key = corpus.train_keys[0]
    assert corpus.texts("alt", [key]) == {key: corpus.texts("alt")[key]}


def test_pixels_are_decoded_once_and_read_from_the_disk(folder: Path, tmp_path: Path) -> None:
    corpus = opened(imported(folder, tmp_path / "out"))
    cache = tmp_path / "cache"
    told: list[tuple[int, int]] = []
    first = encode_images(corpus, corpus.train_keys, Pixels(4), cache, report=lambda *done: told.append(done))
    again = encode_images(
        corpus, corpus.train_keys, Pixels(4), cache, report=lambda *done: pytest.fail("decoded again")
    )
    n = len(corpus.train_keys)
    assert told == [(n, n)]
    assert isinstance(again, PatchedImages)
    assert isinstance(again.images, StoredRows)
    rows = np.array([1, 0, 1])
    assert torch.equal(first.gather(rows), again.gather(rows))
    assert torch.equal(again.gather(rows), Pixels(4).encode(corpus.images([corpus.train_keys[i] for i in rows]))[0])
    (file,) = cache.rglob("*.rows")
    assert file.stat().st_size >= n * 3 * SIZE * SIZE
    other = encode_images(opened(tmp_path / "out", size_px=16), corpus.train_keys, Pixels(4), cache)
    assert other.grid == (4, 4)


def test_a_set_that_is_being_written_is_used_as_far_as_it_is(folder: Path, tmp_path: Path) -> None:
    out = imported(folder, tmp_path / "out")
    fields = {"caption_sets": ("alt", "new"), "detailed_prompts": "new"}
    with pytest.raises(ValueError, match=r"8 can be read, 1 without a caption in 'alt', 8 without a caption in 'new'"):
        opened(out, **fields)
    keys = list(open_images(out).keys)
    with writing(out / "captions" / "new", Maker("someone", "v1", "{}")) as writer:
        for i, key in enumerate(keys):
            state = "refused" if i == 0 else "done"
            text = "" if i == 0 else f"new {i}"
            writer.add(CaptionRow(key, "someone", "v1", "{}", text, state, "", None, None, None, "2026-01-01"))
        corpus = opened(out, **fields)
    usable = {*corpus.train_keys, *corpus.validation_keys}
    assert keys[0] not in usable
    assert corpus.dropped in (1, 2)  # the first may be the one without alt-text
    assert {*corpus.texts("new").values()} == {f"new {i}" for i, key in enumerate(keys) if key in usable}


def test_sets_that_do_not_exist_are_named_with_those_that_do(folder: Path, tmp_path: Path) -> None:
    corpus = opened(imported(folder, tmp_path / "out"), caption_sets=("alt",), detailed_prompts="alt")
    with pytest.raises(ValueError, match=r"'detailed' is not among corpus\.caption_sets \(alt\)"):
        corpus.texts("detailed")
    with pytest.raises(ValueError, match=r"no caption set 'gpt' in .*: there are alt, detailed"):
        corpus.texts("gpt")


def test_other_images_or_captions_than_the_experiments_are_refused(folder: Path, tmp_path: Path) -> None:
    config = opened(imported(folder, tmp_path / "out")).config
    assert opened(tmp_path / "out", digest=config.digest, captions_digest=config.captions_digest).config == config
    with pytest.raises(ValueError, match="holds other images than the experiment was made for"):
        opened(tmp_path / "out", digest="0" * 64)
    with pytest.raises(ValueError, match="holds other captions than the experiment was made for"):
        opened(tmp_path / "out", captions_digest="0" * 64)


def test_an_import_that_is_not_finished_is_not_trained_on(folder: Path, tmp_path: Path) -> None:
    def stop(done: int, total: int | None) -> None:
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        import_corpus(Asked(str(folder), "folder"), tmp_path / "out", workers=1, report=stop)
    with pytest.raises(ValueError, match="its import is not finished: the same `lensbench corpus import` goes on"):
        opened(tmp_path / "out")


# --- damage, and the check ------------------------------------------------------------------------------------------


def check(out: Path, *options: str, width: int = 100) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "from lensbench.cli import main; main()", "corpus", "check", str(out), *options]
    environment = {"PATH": "/usr/bin:/bin", "COLUMNS": str(width)}
    return subprocess.run(command, capture_output=True, text=True, env=environment)


def test_the_check_prints_the_counts(folder: Path, tmp_path: Path) -> None:
    (folder / "empty.png").write_bytes(b"")
    (folder / "empty too.png").write_bytes(b"")
    (folder / "rocket.alt.txt").write_bytes(b"caf\xe9")
    out = imported(folder, tmp_path / "out")
    for width in (80, 120):
        done = check(out, "--verify", width=width)
        assert done.returncode == 0, done.stderr
        assert max(map(len, done.stdout.splitlines())) <= width
        said = " ".join(done.stdout.split())
        for words in (
            "images 8",
            "copies merged 2",
            "further captions that differ 1",
            "images set aside 4",
            "format PNG 6",
            "shorter 9 427 1,411",
            "image empty file 2 empty too.png",
            "caption in alt not UTF-8 1 rocket.jpg",
            "gray, or black and white, to RGB 1",
            "alt 6 75.0 %",
            "detailed 7 87.5 %",
            "every image has the bytes of its key",
        ):
            assert words in said, f"{words!r} is not in:\n{done.stdout}"


def shard_files(out: Path) -> list[Path]:
    return sorted((out / "images").iterdir())


def change_a_byte(out: Path) -> None:
    path = shard_files(out)[1]
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1  # in the midst of an image
    path.write_bytes(data)


def cut(out: Path) -> None:
    path = shard_files(out)[1]
    path.write_bytes(path.read_bytes()[:-1000])


def exchange(out: Path) -> None:
    first, second = shard_files(out)[:2]
    second.write_bytes(first.read_bytes())


DAMAGE = {
    "a byte": (change_a_byte, r"00001\.arrow is damaged: the bytes of 1 of its \d+ images are not those of their keys"),
    "cut": (cut, r"00001\.arrow is damaged"),
    "missing": (lambda out: shard_files(out)[1].unlink(), r"00001\.arrow is missing"),
    "another": (exchange, r"00001\.arrow is damaged: it has|the shards are whole, but not those"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_damage_is_found_and_named(name: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "SHARD_BYTES", 300_000)
    out = imported(folder, tmp_path / "out")
    assert len(shard_files(out)) > 2
    damage, words = DAMAGE[name]
    damage(out)
    done = check(out, "--verify")
    assert done.returncode == 1
    assert re.search(words, done.stderr), done.stderr
    assert len(done.stderr.splitlines()) == 1
    if name in ("cut", "missing"):
        with pytest.raises(ValueError, match=words):
            opened(out)


def test_a_damaged_image_is_named_when_it_is_needed(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shards, "SHARD_BYTES", 300_000)
    out = imported(folder, tmp_path / "out")
    path = shard_files(out)[0]
    data = path.read_bytes()
    path.write_bytes(data.replace(b"IDAT", b"XXXX"))
    corpus = opened(out)
    with pytest.raises(ValueError, match=r"image [0-9a-f]{12} of .* is damaged: .*; lensbench corpus check --verify"):
        corpus.images(corpus.train_keys + corpus.validation_keys)


def test_what_is_no_corpus(tmp_path: Path) -> None:
    done = check(tmp_path)
    assert done.returncode == 2
    assert done.stderr == f"lensbench: {tmp_path} is no imported corpus: it has no corpus.json\n"


SWEEP = """
from lensbench.experiment import Experiment, FolderCorpus, Model, Training
from lensbench.sweep.sweep import Sweep

sweep = Sweep(
    name="mine",
    base=Experiment(corpus=FolderCorpus(size_px=16), model=Model(depth=1), training=Training(steps=4, batch=4)),
    factors={"captions.set": ("alt", "detailed")},
    reference={"captions.set": "alt"},
)
"""


@pytest.mark.slow
def test_the_real_command_trains_from_it_and_knows_the_cells_for_those_of_the_folder(tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    for i in range(24):
        pixels = np.random.default_rng(i).integers(0, 256, (20, 20, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(photos / f"{i}.jpg")
        for name in ("alt", "detailed"):
            (photos / f"{i}.{name}.txt").write_text(f"{name} {i}")
    (tmp_path / "mine.py").write_text(SWEEP)

    def lensbench(*arguments: str) -> str:
        command = [sys.executable, "-c", "from lensbench.cli import main; main()", *arguments]
        done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    lensbench("corpus", "import", "photos", "out")
    lensbench("run", "mine.py", "--corpus", "out")
    assert len(list((tmp_path / "runs").glob("*/records.parquet"))) == 2
    assert "2 cells, 2 of them done\n" in lensbench("plan", "mine.py", "--corpus", "photos")
