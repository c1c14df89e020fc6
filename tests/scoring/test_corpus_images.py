"""An imported corpus as real images: its held-out ones, as they are stored."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from lensbench.data.corpus import open_corpus
from lensbench.data.importing import Asked as Import
from lensbench.data.importing import import_corpus
from lensbench.data.shards import JOURNAL, MANIFEST
from lensbench.experiment import Evaluation, FolderCorpus
from lensbench.scoring.corpus_images import CorpusImages, open_real
from lensbench.scoring.folder_scores import Asked, score_folder
from lensbench.scoring.images_folder import open_images
from lensbench.scoring.metrics import parse
from lensbench.scoring.real_images import open_real_images
from tests.scoring.conftest import save_pictures


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """200 images of two captions each."""
    folder = save_pictures(tmp_path_factory.mktemp("photos"), 200, seed=1, side=32)
    for picture in sorted(folder.glob("*.png")):
        for name in ("alt", "detailed"):
            picture.with_suffix(f".{name}.txt").write_text(f"{name} of {picture.stem}")
    return folder


@pytest.fixture(scope="module")
def corpus(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("imported") / "corpus"
    import_corpus(Import(str(photos), "folder"), out, workers=1, report=lambda done, total: None)
    return out


@pytest.fixture(scope="module")
def held_out(photos: Path, corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of the files that the corpus holds out."""
    folder = tmp_path_factory.mktemp("held out")
    every = open_images(photos)
    wanted = set(open_corpus(FolderCorpus(path=corpus, size_px=16), 10).validation_keys)
    for path, digest in zip(every.files, every.digests, strict=True):
        if digest in wanted:
            (folder / path.name).write_bytes(path.read_bytes())
    return folder


def test_its_held_out_images_are_those_of_a_training_at_their_stored_size(corpus: Path, held_out: Path) -> None:
    found, files = open_real(corpus), open_images(held_out)
    assert isinstance(found, CorpusImages)
    assert 20 < len(found) < 80
    assert found.digest == files.digest
    assert (found.sizes, found.formats) == (files.sizes, files.formats)
    by_key = {digest: files.pixels(i) for i, digest in enumerate(files.digests)}
    for i in range(len(found)):
        np.testing.assert_array_equal(found.pixels(i), by_key[found.name(i)])


def test_a_score_against_it_is_the_score_against_its_held_out_files(
    corpus: Path, held_out: Path, tmp_path: Path
) -> None:
    drawn = save_pictures(tmp_path / "drawn", 90, seed=5, side=32)

    def value(against: Path) -> float:
        return score_folder(Asked(drawn, parse("kd:shapes,fd:shapes"), against=against)).rows[0].value

    assert value(corpus) == pytest.approx(value(held_out), rel=1e-9)


def test_an_evaluation_takes_it_as_its_reference_by_digest(corpus: Path, held_out: Path, photos: Path) -> None:
    trained = open_corpus(FolderCorpus(path=photos, size_px=16), 20)
    digest = open_images(held_out).digest
    real = open_real_images(Evaluation(reference=corpus, reference_digest=digest), trained, [])
    assert real.name == "held-out images of corpus"
    assert [image.shape for image in real._pixels(3)] == [(1, 32, 32, 3)] * 3
    with pytest.raises(ValueError, match=f"give evaluation.reference_digest='{digest}'"):
        open_real_images(Evaluation(reference=corpus, reference_digest="0" * 64), trained, [])


def test_a_corpus_of_a_larger_share_lends_no_image_that_was_trained_on(corpus: Path) -> None:
    config = FolderCorpus(path=corpus, size_px=16, validation_share=0.1)
    trained = open_corpus(config, 1000)
    digest = open_real(corpus, 0.1).digest
    real = open_real_images(Evaluation(reference=corpus, reference_digest=digest), trained, [])
    assert real.images is not None
    assert not set(real.images.digests) & set(trained.train_keys)


@pytest.mark.parametrize("what", ["unfinished", "no shard", "cut shard"])
def test_a_corpus_that_is_not_complete_is_one_line(corpus: Path, tmp_path: Path, what: str) -> None:
    import shutil

    broken = Path(shutil.copytree(corpus, tmp_path / "broken"))
    shard = broken / "images" / "00000.arrow"
    if what == "unfinished":
        (broken / MANIFEST).unlink()
        (broken / JOURNAL).touch()
    elif what == "no shard":
        shard.unlink()
    else:
        shard.write_bytes(shard.read_bytes()[:1000])
    drawn = save_pictures(tmp_path / "drawn", 90, seed=5, side=32)
    with pytest.raises(ValueError, match=r"broken.*(its import is not finished|is missing|is damaged)") as raised:
        score_folder(Asked(drawn, parse("kd:shapes"), against=broken))
    assert "\n" not in str(raised.value)
