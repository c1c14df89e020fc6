"""One pass over a folder of pictures: each is decoded once, whatever the number of extractors, and none is kept.

Threads decode and resize while the networks run on what is ready. What stays in memory is a mean and a covariance, or
two of each where the set is halved, and the features alone where a measure needs them.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lensbench.data.pictures import quiet
from lensbench.scoring.extractors import Extractor, one_size
from lensbench.scoring.frechet import Moments
from lensbench.scoring.images_folder import Images
from lensbench.streams import numpy_stream

if TYPE_CHECKING:
    from lensbench.scoring.image_scores import Scorer

Report = Callable[[int, int], None]
_ROWS = 1024  # features that are taken into the covariance at a time


@dataclass(frozen=True)
class Sample:
    """The features of one set: mean (F,), covariance (F, F), how many images (None: not known), and themselves."""

    mean: NDArray[np.float64]
    covariance: NDArray[np.float64]
    count: int | None
    rows: NDArray[np.float32] | None = None

    @property
    def dimensions(self) -> int:
        return len(self.mean)

    @classmethod
    def of(cls, moments: Moments, rows: NDArray[np.float32] | None = None) -> Sample:
        """What has been seen; it needs two images."""
        return cls(moments.mean, moments.covariance, moments.count, rows)

    @classmethod
    def of_rows(cls, rows: NDArray[np.float32]) -> Sample:
        return cls.of(Moments().update(rows), rows)


@dataclass
class SetFeatures:
    """What one extractor saw of one set, in two random halves of it."""

    halves: tuple[Moments, Moments]
    second: NDArray[np.bool_]  # (N,) which images are in the second half
    rows: NDArray[np.float32] | None

    def whole(self) -> Sample:
        both = Moments().merge(self.halves[0]).merge(self.halves[1])
        return Sample.of(both, self.rows)

    def half(self, which: int) -> Sample:
        rows = None if self.rows is None else self.rows[self.second == bool(which)]
        return Sample.of(self.halves[which], rows)


@dataclass
class Timing:
    """Seconds: of the whole, of all threads' decoding and resizing together, and of the networks."""

    images: int = 0
    wall: float = 0.0
    reading: float = 0.0
    resizing: float = 0.0
    networks: float = 0.0


@dataclass
class _Buffer:
    """Features on their way into the moments: a covariance is updated once for many rows."""

    moments: Moments = field(default_factory=Moments)
    waiting: list[np.ndarray] = field(default_factory=list)

    def add(self, rows: np.ndarray) -> None:
        self.waiting.append(rows)
        if sum(map(len, self.waiting)) >= _ROWS:
            self.flush()

    def flush(self) -> None:
        if self.waiting:
            self.moments.update(np.concatenate(self.waiting))
            self.waiting.clear()


def in_two(count: int, seed: int) -> NDArray[np.bool_]:
    """Which of `count` images are in the second of two random halves."""
    second = np.zeros(count, dtype=bool)
    second[numpy_stream(seed, "halves").permutation(count)[: count // 2]] = True
    return second


def extract(
    images: Images,
    extractors: Mapping[str, Extractor],
    *,
    keep: frozenset[str] = frozenset(),
    batch: int = 32,
    workers: int = 2,
    seed: int = 0,
    timing: Timing | None = None,
    report: Report = lambda done, total: None,
) -> dict[str, SetFeatures]:
    """The features of a set by each extractor; those in `keep` keep the features of each image, in order.

    Raises ValueError for a picture that cannot be read, features that are not finite, and pictures that hold nothing
    but zeros and ones, as floats in [0, 1] do that were cast to bytes.
    """
    second = in_two(len(images), seed)
    buffers = {name: (_Buffer(), _Buffer()) for name in extractors}
    rows = {name: np.empty((len(images), extractors[name].dimensions), dtype=np.float32) for name in keep}
    timing = timing if timing is not None else Timing()
    began, done = time.perf_counter(), 0

    def prepare(index: int) -> _Read:
        start = time.perf_counter()
        image = images.pixels(index)
        read = time.perf_counter()
        prepared = [extractor.prepare(image) for extractor in extractors.values()]
        return _Read(prepared, int(image.max()), read - start, time.perf_counter() - read)

    for some in _batches(len(images), prepare, batch, workers):
        if not done and len(some) > 1 and max(item.brightest for item in some) == 1:
            raise ValueError(
                f"{images.folder}: the first {len(some)} pictures hold zeros and ones alone: floats in [0, 1] that "
                "were cast to bytes? multiply by 255 and round before saving"
            )
        stop = done + len(some)
        start = time.perf_counter()
        for place, (name, extractor) in enumerate(extractors.items()):
            found = extractor.embed(one_size([item.prepared[place] for item in some], name))
            if name in rows:
                rows[name][done:stop] = found
            for buffer, here in zip(buffers[name], (~second[done:stop], second[done:stop]), strict=True):
                if here.any():
                    buffer.add(found[here])
        timing.networks += time.perf_counter() - start
        timing.reading += sum(item.reading for item in some)
        timing.resizing += sum(item.resizing for item in some)
        done = stop
        report(done, len(images))
    timing.images += len(images)
    timing.wall += time.perf_counter() - began
    for pair in buffers.values():
        for buffer in pair:
            buffer.flush()
    return {
        name: SetFeatures((buffers[name][0].moments, buffers[name][1].moments), second, rows.get(name))
        for name in extractors
    }


@dataclass(frozen=True)
class _Read:
    prepared: list[np.ndarray]
    brightest: int
    reading: float
    resizing: float


def _batches(total: int, prepare: Callable[[int], Any], batch: int, workers: int) -> Iterator[list[Any]]:
    """`prepare` of 0 ... total - 1 in batches and in order, by threads that are at most three batches ahead."""
    with quiet(), ThreadPoolExecutor(workers) as pool:
        ahead: deque[Future[Any]] = deque()
        try:
            begun = 0
            for start in range(0, total, batch):
                while begun < min(total, start + 3 * batch):
                    ahead.append(pool.submit(prepare, begun))
                    begun += 1
                yield [ahead.popleft().result() for _ in range(min(batch, total - start))]
        finally:
            for waiting in ahead:
                waiting.cancel()


def image_values(
    images: Images,
    texts: Sequence[str],
    scorer: Scorer,
    *,
    batch: int = 32,
    workers: int = 2,
    report: Report = lambda done, total: None,
) -> NDArray[np.float64]:
    """The value (N,) that a scorer of single images gives each picture and its text."""

    def prepare(index: int) -> np.ndarray:
        return scorer.prepare(images.pixels(index))

    parts: list[np.ndarray] = [np.empty(0)]
    done = 0
    for some in _batches(len(images), prepare, batch, workers):
        parts.append(scorer.score(some, texts[done : done + len(some)]))
        done += len(some)
        report(done, len(images))
    return np.concatenate(parts)
