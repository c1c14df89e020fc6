"""Any folder of pictures, as it is scored: which files, what identifies them, and their pixels at their own size.

Unlike training, scoring sets nothing aside: a file that cannot be read ends the command, for a score of fewer pictures
than there are is another score.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from PIL import ImageOps

from lensbench.data.pictures import FORMATS_SAID, as_rgb, opened, quiet, reason
from lensbench.data.sources.sidecars import name_in, natural_order, order, walk

METADATA = "metadata.jsonl"  # of a prompt's folder in GenEval's layout


@dataclass(frozen=True)
class Images:
    """The images of a folder and below, sorted by name, 2.png before 10.png; `digests` are the sha256 of each file."""

    folder: Path
    files: tuple[Path, ...]
    digests: tuple[str, ...]
    formats: Mapping[str, int]  # Pillow's name of the format -> files
    sizes: Mapping[tuple[int, int], int]  # (width, height) as stored -> files

    def __len__(self) -> int:
        return len(self.digests)

    @cached_property
    def digest(self) -> str:
        """sha256 over the sorted digests: the same pictures under other names are the same set."""
        return hashlib.sha256("\n".join(sorted(self.digests)).encode()).hexdigest()

    @property
    def said(self) -> str:
        """What they are, for people."""
        return str(self.folder)

    def name(self, index: int) -> str:
        """A file's path inside the folder."""
        return name_in(self.files[index], self.folder)

    def pixels(self, index: int) -> np.ndarray:
        """An image at its own size, upright, as uint8 (H, W, 3). ValueError, one line, when it cannot be read."""
        return read_image(self.files[index])


def open_images(folder: Path) -> Images:
    """The images of a folder and of the folders that it links to, told by their content, hidden files left out.

    In GenEval's layout (00000/samples/0000.png beside 00000/metadata.jsonl), its grid.png, a collage, is no picture.
    Raises ValueError, one line, when there is no such folder, no picture, or one that cannot be read.
    """
    files: list[Path] = []
    for found in walk(folder):
        if found.path.name.startswith(".") or found.kind != "picture":
            continue
        if found.reason:
            raise ValueError(f"{found.path}: {found.reason}; take it out of the folder, for a score leaves nothing out")
        if not (found.path.name == "grid.png" and (found.path.parent / METADATA).is_file()):
            files.append(found.path)
    if not files:
        raise ValueError(f"no pictures in {folder}: looked for {FORMATS_SAID} in it and below")
    files.sort(key=lambda path: natural_order(path, folder))
    digests: list[str] = []
    formats: Counter[str] = Counter()
    sizes: Counter[tuple[int, int]] = Counter()
    with quiet():
        for path in files:
            try:
                with path.open("rb") as file:
                    digests.append(hashlib.file_digest(file, "sha256").hexdigest())
                with opened(path) as image:
                    formats[image.format or "?"] += 1
                    sizes[image.size] += 1
            except Exception as error:  # a broken file can make a decoder raise anything
                raise _unreadable(path, error) from None
    return Images(folder, tuple(files), tuple(digests), dict(formats), dict(sizes))


def read_image(path: Path) -> np.ndarray:
    """A picture at its own size, upright, as uint8 (H, W, 3). Raises ValueError, one line, when it cannot be read."""
    return decoded(path, path)


def decoded(file: Path | bytes, where: Path | str) -> np.ndarray:
    """An image, a file or its bytes, as `read_image` gives it; `where` names it in the error."""
    try:
        with opened(file) as image:
            image.load()
            return np.array(as_rgb(ImageOps.exif_transpose(image)))
    except Exception as error:
        raise _unreadable(where, error) from None


def _unreadable(path: Path | str, error: Exception) -> ValueError:
    return ValueError(f"{path}: cannot be read ({reason(error)}); a score leaves nothing out: mend or remove it")


def warnings_about(images: Images, other: Images | None = None) -> list[str]:
    """What makes a comparison doubtful, one line each: formats, sizes, and pictures that come more than once."""
    said = []
    if len(images.formats) > 1:
        said.append(f"{images.said}: mixed formats, {_counts(images.formats)}; compression alone moves distances")
    if len(images.sizes) > 1:
        shown = _counts({f"{w}x{h}": n for (w, h), n in images.sizes.items()})
        said.append(f"{images.said}: mixed sizes, {shown}; each is resized to the same square")
    if list(images.files) != sorted(images.files, key=lambda path: order(path, images.folder)):
        said.append(f"{images.said}: images are in the order of their numbers, 2.png before 10.png, as prompts must be")
    if copies := len(images) - len(set(images.digests)):
        said.append(f"{images.said}: {copies:,} of {len(images):,} pictures are copies of another")
    if other is None:
        return said
    if len(images.formats) == len(other.formats) == 1 and images.formats.keys() != other.formats.keys():
        a, b = next(iter(images.formats)), next(iter(other.formats))
        said.append(f"{images.said} is {a} and {other.said} is {b}: compression alone moves distances")
    if len(images.sizes) == len(other.sizes) == 1 and images.sizes.keys() != other.sizes.keys():
        a, b = ("x".join(map(str, next(iter(side.sizes)))) for side in (images, other))
        said.append(f"{images.said} is {a} and {other.said} is {b}: resizing alone moves distances")
    if shared := len(set(images.digests) & set(other.digests)):
        said.append(f"{shared:,} pictures are in both {images.said} and {other.said}: distances come out too small")
    return said


def refuse_equal(images: Images, other: Images) -> None:
    """Raise ValueError when two folders hold the same pictures: that distance is 0 and says nothing."""
    if images.digest == other.digest:
        raise ValueError(
            f"{images.said} and {other.said} hold the same {len(images):,} pictures (digest {images.digest[:12]}); "
            "a set is not compared with itself"
        )


def _counts(of: Mapping[str, int], most: int = 3) -> str:
    ranked = sorted(of.items(), key=lambda pair: (-pair[1], pair[0]))
    shown = ", ".join(f"{count:,} {name}" for name, count in ranked[:most])
    return shown + (f" and {len(ranked) - most} more" if len(ranked) > most else "")
