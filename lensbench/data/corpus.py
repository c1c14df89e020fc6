"""Corpora: images with stable keys, split into training and held-out, whatever their captions.

`open_corpus` reads an experiment's corpus. The embedded one, the shapes world, is drawn on demand; a folder of
photographs is read in lensbench.data.folder, an imported corpus in lensbench.data.imported.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np

from lensbench.data import shapes
from lensbench.data.buckets import Size
from lensbench.data.folder import PhotoFolder, open_folder
from lensbench.data.imported import ImportedCorpus, open_imported
from lensbench.data.scale import drawn_places, held
from lensbench.data.scenes import Scene
from lensbench.data.shards import is_begun, is_imported
from lensbench.experiment import FolderCorpus, ShapesCorpus

if TYPE_CHECKING:
    import torch

# Raise it whenever `shapes.scene` or `shapes.render` gives another picture for the same key: it is part of the digest.
RENDERER_VERSION = 1
VALIDATION_IMAGES = 2000
TRAINING_IMAGES = 100_000_000  # that seeds draw from: those of two seeds are seldom the same
LARGEST_PX = 2048  # side of the world's images


@dataclass(frozen=True)
class ShapesWorld:
    """The shapes world at one resolution. Keys are "train-00000012", "validation-00000003", ...

    `set_aside` and `dropped` are empty: every image can be drawn and has every caption.
    """

    config: ShapesCorpus
    train_keys: list[str]
    validation_keys: list[str]
    set_aside: dict[str, str] = field(default_factory=dict)
    dropped: int = 0

    @property
    def digest(self) -> str:
        """sha256 of what determines every image of the world, not of how many are used."""
        science = json.dumps({**self.config.science(), "renderer": RENDERER_VERSION}, sort_keys=True)
        return hashlib.sha256(science.encode()).hexdigest()

    def images(self, keys: Sequence[str], size: Size | None = None) -> torch.Tensor:
        """The images of `keys`, drawn now: uint8 (N, 3, S, S), of the corpus's own size or of `size`, a square."""
        side = self.config.size_px if size is None else size.width
        assert size is None or size.height == side, "the world is square"
        pixels = np.empty((len(keys), side, side, 3), dtype=np.uint8)
        for i, key in enumerate(keys):
            pixels[i] = shapes.render(self.scene(key), side)
        import torch

        return torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous()

    def native_sizes(self, keys: Sequence[str]) -> np.ndarray:
        """The largest height and width, in pixels, that images are drawn at: (N, 2)."""
        return np.full((len(keys), 2), LARGEST_PX)

    def scene(self, key: str) -> Scene:
        """The scene graph behind an image."""
        shares = shapes.count_shares(self.config.max_objects)
        return shapes.scene(self.config.world_seed, *self.split_and_index(key), shares)

    def split_and_index(self, key: str) -> tuple[str, int]:
        """The parts of a key. Raises ValueError when it is not a key of this world."""
        split, dash, index = key.rpartition("-")
        if not (dash and split and index.isdecimal()):
            raise ValueError(f"{key!r} is no key of the shapes world: those look like 'train-00000012'")
        return split, int(index)


Corpus = ShapesWorld | PhotoFolder | ImportedCorpus


def open_corpus(config: ShapesCorpus | FolderCorpus, images: int, seed: int | None = None) -> Corpus:
    """The corpus with at most `images` training images: the first, or those that `seed` draws.

    With one seed a larger data scale contains every smaller one. Raises ValueError with one clear line when a folder
    cannot be used.
    """
    if isinstance(config, FolderCorpus):
        return at_scale(open_photographs(config), images, seed)
    places = range(images) if seed is None else drawn_places(seed, images, TRAINING_IMAGES).tolist()
    return ShapesWorld(
        config,
        train_keys=[shapes.key("train", i) for i in places],
        validation_keys=[shapes.key("validation", i) for i in range(VALIDATION_IMAGES)],
    )


def open_photographs(config: FolderCorpus) -> PhotoFolder | ImportedCorpus:
    """A folder of photographs or an imported corpus, with every image. Raises ValueError as `open_corpus` does."""
    if is_imported(config.path) or is_begun(config.path):
        return open_imported(config)
    return open_folder(config)


def at_scale(corpus: PhotoFolder | ImportedCorpus, images: int, seed: int | None) -> PhotoFolder | ImportedCorpus:
    """An opened corpus with at most `images` of its training images, as `open_corpus` has them; nothing is read."""
    return replace(corpus, train_keys=held(corpus.train_keys, images, seed))
