"""The real images that an evaluation's distances are taken to: held-out ones of a corpus, a folder, or statistics."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from lensbench.data.corpus import Corpus
from lensbench.experiment import Evaluation
from lensbench.scoring.corpus_images import HELD_OUT_SHARE, CorpusImages, open_real
from lensbench.scoring.extractors import Extractor
from lensbench.scoring.feature_file import FeatureWriter, file_of, set_features
from lensbench.scoring.feature_pass import Sample
from lensbench.scoring.images_folder import Images
from lensbench.scoring.reference import Reference, read_reference
from lensbench.scoring.set_scores import halves, halves_of_rows

AT_A_TIME = 256  # images
FOLDER = "references"  # in the cache that cells share


class RealFeatures(NamedTuple):
    """What an extractor makes of real images, whole and in two random halves; None where halves cannot be had."""

    whole: Sample
    halves: tuple[Sample, Sample] | None


@dataclass(frozen=True)
class RealImages:
    """Real images: of a corpus by their keys, of a folder, or known by statistics alone.

    `digest` (sha256) identifies them, `name` says for people which they are.
    """

    name: str
    digest: str
    corpus: Corpus | None = None
    keys: Sequence[str] = ()
    images: Images | None = None
    statistics: Reference | None = None

    def count(self, sampled: int) -> int | None:
        """How many there are beside so many sampled images; None where statistics do not say."""
        if self.statistics is not None:
            return self.statistics.count
        return len(self.images) if self.images is not None else min(sampled, len(self.keys))

    def check(self, extractor: Extractor, needs_rows: bool, metric: str) -> None:
        """Raise ValueError, one line, where a metric cannot be taken to these images."""
        if self.statistics is not None:
            self.statistics.refuse_other(extractor)
            if needs_rows and self.statistics.rows is None:
                raise ValueError(
                    f"{self.statistics.path}: holds a mean and a covariance, but {metric} needs the features of every "
                    "image; give the folder, or an .npz with 'feats'"
                )

    def features(self, extractor: Extractor, sampled: int, cache: Path, *, keep: bool, seed: int) -> RealFeatures:
        """Their features, computed once for all cells that share a cache. ValueError for an image that is damaged."""
        if self.statistics is not None:
            of = self.statistics
            whole = Sample(of.mean, of.covariance, of.count, of.rows)
            return RealFeatures(whole, halves_of_rows(of.rows, seed))
        count = self.count(sampled)
        assert count is not None
        writer = FeatureWriter(file_of(cache / FOLDER / self.digest[:12], extractor, count), extractor, count)
        if not writer.there:
            for images in self._pixels(count):
                writer.take(images)
        found = set_features(writer.read(), seed, keep=keep)
        return RealFeatures(found.whole(), halves(found))

    def _pixels(self, count: int) -> Iterator[np.ndarray]:
        """The first `count` images, uint8 (n, H, W, 3), a few at a time."""
        if self.images is not None:
            for i in range(count):
                yield self.images.pixels(i)[None]
            return
        assert self.corpus is not None
        for start in range(0, count, AT_A_TIME):
            keys = self.keys[start : min(start + AT_A_TIME, count)]
            yield self.corpus.images(keys).permute(0, 2, 3, 1).numpy()


def open_real_images(evaluation: Evaluation, corpus: Corpus, keys: Sequence[str]) -> RealImages:
    """The real images of an evaluation; held-out ones (`keys`) where it names none.

    Raises ValueError, one line, where they are not there or other ones than the experiment says.
    """
    path = evaluation.reference
    if path is None:
        told = "\n".join([corpus.digest, str(corpus.config.size_px), *keys])
        return RealImages("held-out images", hashlib.sha256(told.encode()).hexdigest(), corpus, keys)
    if path.suffix == ".npz":
        if not path.is_file():
            raise ValueError(f"evaluation.reference={path}: no such file")
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        found = RealImages(path.name, digest, statistics=read_reference(path))
    else:
        images = open_real(path, getattr(corpus.config, "validation_share", HELD_OUT_SHARE))
        name = path.name or str(path)
        found = RealImages(
            f"held-out images of {name}" if isinstance(images, CorpusImages) else name, images.digest, images=images
        )
    if found.digest != evaluation.reference_digest:
        raise ValueError(
            f"evaluation.reference={path}: give evaluation.reference_digest={found.digest!r}, so that the experiment "
            "says which real images it is compared with"
        )
    return found
