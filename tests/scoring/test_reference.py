from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from lensbench.scoring.extractors import FunctionExtractor
from lensbench.scoring.frechet import Moments
from lensbench.scoring.reference import read_reference, write_reference
from lensbench.streams import numpy_stream

ROWS = numpy_stream(0, "test").standard_normal((50, 4)).astype(np.float32)
EXTRACTOR = FunctionExtractor("means", "weights", lambda images: images.mean((1, 2)), 4)


def test_what_is_written_is_read_and_merges_like_the_images(tmp_path: Path) -> None:
    parts = (Moments().update(ROWS[:20]), Moments().update(ROWS[20:]))
    for i, part in enumerate(parts):
        write_reference(tmp_path / f"{i}.npz", part, EXTRACTOR, "digest")
    merged = Moments()
    for i in range(2):
        stored = read_reference(tmp_path / f"{i}.npz")
        stored.refuse_other(EXTRACTOR)
        merged.merge(stored.moments())
    assert merged.count == 50
    np.testing.assert_allclose(merged.covariance, np.cov(ROWS.T), atol=1e-6)
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["0.npz", "1.npz"]


def test_others_read_what_is_written_and_what_others_write_is_read(tmp_path: Path) -> None:
    """clean-fid and EDM read and write mu and sigma, clean-fid feats for KID."""
    seen = Moments().update(ROWS)
    write_reference(tmp_path / "ours.npz", seen, EXTRACTOR, "digest", ROWS)
    with np.load(tmp_path / "ours.npz") as ours:
        assert ours["mu"].dtype == ours["sigma"].dtype == np.float64
        np.testing.assert_array_equal(ours["mu"], seen.mean)
        np.testing.assert_array_equal(ours["sigma"], seen.covariance)
        np.testing.assert_array_equal(ours["feats"], ROWS)
        assert json.loads(str(ours["lensbench"]))["images"] == 50
    np.savez_compressed(tmp_path / "clean.npz", mu=seen.mean, sigma=seen.covariance)
    np.savez_compressed(tmp_path / "clean_kid.npz", feats=ROWS)
    theirs, features = read_reference(tmp_path / "clean.npz"), read_reference(tmp_path / "clean_kid.npz")
    np.testing.assert_array_equal(theirs.covariance, seen.covariance)
    assert (theirs.count, theirs.rows, dict(theirs.about)) == (None, None, {})
    assert features.count == 50
    np.testing.assert_allclose(features.covariance, seen.covariance)
    theirs.refuse_other(EXTRACTOR)  # nothing is known against it
    with pytest.raises(ValueError, match="how many images"):
        theirs.moments()


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        ({"mean": np.zeros(4)}, "holds mean; reference statistics are 'mu' and 'sigma', or 'feats'"),
        ({"mu": np.zeros(4), "sigma": np.eye(3)}, r"mu has shape \(4,\) and sigma \(3, 3\)"),
        ({"mu": np.full(4, np.nan), "sigma": np.eye(4)}, "not finite"),
        ({"feats": np.zeros(4)}, r"feats has shape \(4,\)"),
        ({"mu": np.array([{}]), "sigma": np.eye(4)}, "not an .npz of numbers"),
        ({"mu": np.zeros(4), "sigma": np.eye(4), "lensbench": np.array("{")}, "not JSON"),
    ],
)
def test_other_files_are_one_line(tmp_path: Path, arrays: dict, said: str) -> None:
    np.savez(tmp_path / "bad.npz", **arrays)
    with pytest.raises(ValueError, match=said) as raised:
        read_reference(tmp_path / "bad.npz")
    assert "\n" not in str(raised.value)


def test_what_is_no_npz_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text.npz").write_text("mu")
    (tmp_path / "cut.npz").write_bytes(b"PK\x03\x04")
    np.save(tmp_path / "array.npy", np.zeros(3))
    for name in ("text.npz", "cut.npz", "array.npy"):
        with pytest.raises(ValueError, match=r"not an \.npz of numbers"):
            read_reference(tmp_path / name)


@pytest.mark.parametrize("change", ["name", "digest", "resize"])
def test_statistics_of_another_extractor_weights_or_resize_are_refused(tmp_path: Path, change: str) -> None:
    write_reference(tmp_path / "x.npz", Moments().update(ROWS), EXTRACTOR, "digest")
    other = FunctionExtractor("means", "weights", lambda images: images, 4)
    setattr(other, change, "else")
    with pytest.raises(ValueError, match=r"made with .* not 'else'; make it again"):
        read_reference(tmp_path / "x.npz").refuse_other(other)
    other = FunctionExtractor("means", "weights", lambda images: images, 5)
    with pytest.raises(ValueError, match="4 dimensions, but means has 5"):
        read_reference(tmp_path / "x.npz").refuse_other(other)
