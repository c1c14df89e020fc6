"""Sets of sampled images on disk: written in chunks as they are sampled, so that a stop costs one chunk.

    images/<set>/set.json       what the images are: a digest of the weights, the texts, the noise and the sampler
    images/<set>/00000.npz      the first images, uint8 (n, S, S, 3); 00256.npz the next, and so on
    images/<set>/features/      what extractors made of them
    images/<set>.png            the first of them side by side, for people

Two evaluations of one cell that ask for the same images share them: the files of the one are links to the other's.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lensbench.publishing import partial_of, publish, publish_text

IMAGES = "images"  # the folder of an evaluation's image sets
ABOUT = "set.json"
FEATURES = "features"  # beside the images, a file an extractor: see lensbench.scoring.feature_file
MOST_IMAGES, MOST_PIXELS = 256, 2**24  # of a chunk
SHEET_IMAGES, SHEET_COLUMNS, SHEET_SIDE = 64, 16, 64

Key = tuple[int, int]  # prompt index, sample
Sample = Callable[[Sequence[str], Sequence[Key]], np.ndarray]


@dataclass(frozen=True)
class ImageSet:
    """Images that are asked for: one for each text, from the noise of its key.

    `made_by` says all else that decides their pixels: weights, sampler, guidance, size.
    """

    name: str
    texts: Sequence[str]
    keys: Sequence[Key]
    side_px: int
    made_by: Mapping[str, Any]

    @property
    def digest(self) -> str:
        """sha256 of everything that decides the pixels."""
        told = [dict(self.made_by), list(self.texts), [list(key) for key in self.keys], self.side_px]
        return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()

    @property
    def chunks(self) -> list[slice]:
        """The images of each file. Their borders depend on the set alone: a run that goes on gives the same pixels."""
        size = max(1, min(MOST_IMAGES, MOST_PIXELS // self.side_px**2))
        return [slice(start, min(start + size, len(self.texts))) for start in range(0, len(self.texts), size)]


def sampled(
    wanted: ImageSet, evaluation: Path, sample: Sample, report: Callable[[int], None]
) -> Iterator[tuple[slice, np.ndarray]]:
    """The images of a set in the evaluation's folder, chunk by chunk; those that are not there are sampled and kept.

    `report(n)` is told of images that need not be sampled; `sample` reports its own.
    """
    folder = evaluation / IMAGES / wanted.name
    _begin(wanted, folder)
    _take_over(wanted, evaluation)
    for chunk in wanted.chunks:
        path = _file(folder, chunk)
        images = _read(path, chunk.stop - chunk.start)
        if images is None:
            images = sample(wanted.texts[chunk], wanted.keys[chunk])
            _write(path, images)
        else:
            report(len(images))
        if chunk.start == 0:
            _write_sheet(images, folder.with_suffix(".png"))
        yield chunk, images


def read_images(folder: Path) -> np.ndarray | None:
    """All images of a set's folder, uint8 (N, S, S, 3), or None where it is not there.

    Raises ValueError, one line, where files are missing or damaged.
    """
    if not (folder / ABOUT).is_file():
        return None
    try:
        count = int(json.loads((folder / ABOUT).read_text())["images"])
    except (ValueError, KeyError, TypeError):
        raise ValueError(f"{folder / ABOUT}: damaged; delete {folder} and score the cell again") from None
    parts = [_read(path, None) for path in sorted(folder.glob("*.npz"))]
    whole = [part for part in parts if part is not None]
    if len(whole) < len(parts) or sum(map(len, whole)) != count:
        raise ValueError(f"{folder}: some of its {count} images are missing or damaged; delete it and score again")
    return np.concatenate(whole)


def weights_of(evaluation: Path) -> set[str]:
    """The digests of the weights that made the images in an evaluation's folder."""
    found = set()
    for about in evaluation.glob(f"{IMAGES}/*/{ABOUT}"):
        try:
            found.add(str(json.loads(about.read_text())["made_by"]["weights"]))
        except (OSError, ValueError, KeyError, TypeError):
            continue  # images that nobody knows the makers of are sampled again
    return found


def _begin(wanted: ImageSet, folder: Path) -> None:
    """Make the folder; images of another set that lie there go."""
    told = {"digest": wanted.digest, "images": len(wanted.texts), "made_by": dict(wanted.made_by)}
    try:
        there = json.loads((folder / ABOUT).read_text())["digest"] == wanted.digest
    except (OSError, ValueError, KeyError, TypeError):
        there = False
    if not there:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        publish_text(folder / ABOUT, json.dumps(told, indent=1) + "\n")


def _take_over(wanted: ImageSet, evaluation: Path) -> None:
    """Link what other evaluations of the cell have of the same set."""
    folder = evaluation / IMAGES / wanted.name
    for about in sorted(evaluation.parent.glob(f"*/{IMAGES}/*/{ABOUT}")):
        other = about.parent
        if other == folder:
            continue
        try:
            if json.loads(about.read_text())["digest"] != wanted.digest:
                continue
        except (OSError, ValueError, KeyError, TypeError):
            continue
        for path in (*other.glob("*.npz"), *other.glob(f"{FEATURES}/*.npy")):
            ours = folder / path.relative_to(other)
            if ours.exists():
                continue
            ours.parent.mkdir(exist_ok=True)
            try:
                os.link(path, ours)
            except OSError:  # no links on this file system
                partial = partial_of(ours)
                shutil.copy2(path, partial)
                publish(partial, ours)


def _file(folder: Path, chunk: slice) -> Path:
    return folder / f"{chunk.start:05d}.npz"


def _read(path: Path, count: int | None) -> np.ndarray | None:
    """The images of a file; None where it is not there, damaged, or holds another number of them."""
    try:
        with np.load(path) as file:  # its members carry checksums, which reading checks
            images = np.asarray(file["images"])
    except Exception:  # numpy and zipfile have no one class for a damaged file
        return None
    return images if count is None or len(images) == count else None


def _write(path: Path, images: np.ndarray) -> None:
    partial = partial_of(path)
    with partial.open("wb") as file:
        np.savez_compressed(file, images=images)
    publish(partial, path)


def _write_sheet(images: np.ndarray, path: Path) -> None:
    from PIL import Image

    scale = max(1, SHEET_SIDE // images.shape[1])
    partial = partial_of(path)
    Image.fromarray(_mosaic(images[:SHEET_IMAGES], SHEET_COLUMNS, scale)).save(partial, format="png")
    publish(partial, path)


def _mosaic(images: np.ndarray, columns: int, scale: int) -> np.ndarray:
    """(N, S, S, 3) laid out in rows of `columns`, each pixel `scale` wide, with a thin gray line between."""
    n, side = images.shape[:2]
    rows = -(-n // columns)
    sheet = np.full((rows * (side * scale + 2), columns * (side * scale + 2), 3), 128, dtype=np.uint8)
    for i, image in enumerate(images):
        top, left = (i // columns) * (side * scale + 2), (i % columns) * (side * scale + 2)
        sheet[top : top + side * scale, left : left + side * scale] = image.repeat(scale, 0).repeat(scale, 1)
    return sheet
