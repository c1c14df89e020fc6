"""Features of a set of images by one extractor, in a file: computed once, for every metric and evaluation that asks.

The file is a .npy of float32 (N, F) and a seal (lensbench.sealing): a damaged one is written again. It is written batch
by batch and read as a memory map, so that memory does not grow with the number of images.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lensbench.publishing import partial_of, publish
from lensbench.scoring.extractors import Extractor, one_size
from lensbench.scoring.feature_pass import SetFeatures, in_two
from lensbench.scoring.frechet import Moments
from lensbench.sealing import is_whole, seal

ROWS = 1024  # that are taken into a covariance at a time
BATCH = 32  # images that an extractor sees at a time; its features may depend on it in their last digits


def file_of(folder: Path, extractor: Extractor, count: int) -> Path:
    """Where the features of the first `count` images of a set by this extractor lie."""
    return folder / f"{extractor.name}-{extractor.digest[:12]}-{count}.npy"


class FeatureWriter:
    """Writes the features of the first `count` images of a set, which come in any division; none where they are there.

    Raises ValueError for features that are not finite.
    """

    def __init__(self, path: Path, extractor: Extractor, count: int) -> None:
        self.path, self.extractor, self.count = path, extractor, count
        self.done, self.waiting = 0, list[np.ndarray]()
        self.partial = partial_of(path)
        self.rows: NDArray[np.float32] | None = None  # opened with the first images: the folder is emptied before

    @property
    def there(self) -> bool:
        """Whether the features are in their file."""
        return _is_whole(self.path, self.count, self.extractor.dimensions)

    def take(self, images: np.ndarray) -> None:
        """Take in images uint8 (n, H, W, 3), in order; those past `count` are not looked at."""
        if self.done == self.count or (not self.done and not self.waiting and self.there):
            return
        if self.rows is None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            shape = (self.count, self.extractor.dimensions)
            self.rows = np.lib.format.open_memmap(self.partial, mode="w+", dtype=np.float32, shape=shape)
        left = self.count - self.done - len(self.waiting)
        self.waiting += [self.extractor.prepare(image) for image in images[:left]]
        while len(self.waiting) >= BATCH or (self.waiting and self.done + len(self.waiting) == self.count):
            batch, self.waiting = self.waiting[:BATCH], self.waiting[BATCH:]
            found = self.extractor.embed(one_size(batch, self.extractor.name))
            if not np.isfinite(found).all():
                raise ValueError(f"{self.extractor.name}: features are not finite; check the images and its weights")
            self.rows[self.done : self.done + len(found)] = found
            self.done += len(found)
        if self.done == self.count:
            self.rows = None  # closes the map, which writes what is left of it
            seal(self.partial)
            publish(self.partial, self.path)

    def read(self) -> NDArray[np.float32]:
        """The features (count, F), as a memory map."""
        assert self.there, f"{self.done} of {self.count} images were given"
        return np.asarray(np.load(self.path, mmap_mode="r"))


def set_features(rows: NDArray[np.float32], seed: int, *, keep: bool) -> SetFeatures:
    """Means and covariances of two random halves of features (N, F); with `keep` the features themselves too."""
    second = in_two(len(rows), seed)
    halves = (Moments(), Moments())
    for start in range(0, len(rows), ROWS):
        block, other = rows[start : start + ROWS], second[start : start + ROWS]
        halves[0].update(block[~other])
        halves[1].update(block[other])
    return SetFeatures(halves, second, rows if keep else None)


def _is_whole(path: Path, count: int, dimensions: int) -> bool:
    try:
        return is_whole(path) and bool(np.load(path, mmap_mode="r").shape == (count, dimensions))
    except (OSError, ValueError, EOFError):
        return False
