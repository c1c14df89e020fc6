"""The held-out images of an imported corpus as real images: at their stored size, as a folder's are."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lensbench.data.folder import split_by_key
from lensbench.data.imported import ImageBytes
from lensbench.data.shards import is_begun, is_imported, read_manifest, streamed
from lensbench.experiment import FolderCorpus
from lensbench.scoring.images_folder import Images, decoded, open_images

HELD_OUT_SHARE = float(FolderCorpus.model_fields["validation_share"].default)


@dataclass(frozen=True)
class CorpusImages(Images):
    """Images of an imported corpus. Their keys are the sha256 of their files, so `digests` are the keys."""

    data: ImageBytes

    @property
    def said(self) -> str:
        return f"held-out images of {self.folder}"

    def name(self, index: int) -> str:
        """An image's key."""
        return self.digests[index]

    def pixels(self, index: int) -> np.ndarray:
        """An image at its stored size, upright, as uint8 (H, W, 3). ValueError, one line, when it is damaged."""
        key = self.digests[index]
        return decoded(self.data.read(key), f"{self.folder}: image {key[:12]}")


def open_real(path: Path, share: float = HELD_OUT_SHARE) -> Images:
    """Real images to compare with: those of a folder or, of an imported corpus, the held-out ones.

    `share` is the corpus's `validation_share`: whether an image is held out depends on its key and the share alone.
    Raises ValueError, one line, for a folder as `open_images` does, and for a corpus that is not complete.
    """
    if not (is_imported(path) or is_begun(path)):
        return open_images(path)
    manifest = read_manifest(path)
    data = ImageBytes(path)
    if len(data) < 2:
        raise ValueError(f"{path}: a corpus of {len(data)} image holds none out; give a folder of real images")
    _, held_out = split_by_key(data.keys, share)
    wanted = set(held_out)
    formats: Counter[str] = Counter()
    sizes: Counter[tuple[int, int]] = Counter()
    for shard in manifest["shards"]:
        for batch in streamed(path, shard, ["key", "format", "width", "height"]):
            for row in batch.to_pylist():
                if row["key"] in wanted:
                    formats[row["format"]] += 1
                    sizes[row["width"], row["height"]] += 1
    return CorpusImages(path, (), tuple(held_out), dict(formats), dict(sizes), data)
