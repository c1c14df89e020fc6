"""A folder of photographs with captions beside them: cat.jpg, cat.alt.txt, cat.detailed.txt.

The key of an image is the sha256 of its file's bytes, so it survives renaming and moving, and copies of one file are
one image. A file that cannot be read is set aside by name with the reason; it never ends a run by itself.
"""

from __future__ import annotations

import hashlib
import os
import stat
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps

from lensbench.experiment import FolderCorpus

EXTENSIONS = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")
# Pictures too, but not read: set aside with the reason, so that nobody wonders where they went.
OTHER_PICTURES = (".gif", ".heic", ".heif", ".avif", ".jp2", ".svg", ".psd", ".tga", ".raw", ".cr2", ".nef", ".dng")
# What Pillow may take a file for, whatever its name (JPEG includes MPO). Few and harmless: some of its other readers
# run programs.
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "DIB", "TIFF")
FEWEST_IMAGES = 4


@dataclass(frozen=True)
class PhotoFolder:
    """The usable photographs of a folder at one resolution.

    `config` carries the digest. `set_aside` maps a file (relative to the folder) to why it is not used; `merged` counts
    files with the bytes of another; `dropped` counts images that lack a caption of `config.caption_sets`.
    """

    config: FolderCorpus
    train_keys: list[str]
    validation_keys: list[str]
    set_aside: dict[str, str]
    dropped: int
    merged: int
    files: dict[str, str]  # key -> file, relative to the folder
    sets_found: tuple[str, ...]  # caption sets that at least one picture of the folder has
    _pixels: dict[str, np.ndarray]  # key -> (S, S, 3) uint8
    _texts: dict[str, dict[str, str]]  # caption set -> key -> text

    @property
    def digest(self) -> str:
        """sha256 over the sorted keys of the usable images."""
        return self.config.digest

    def images(self, keys: Sequence[str]) -> torch.Tensor:
        """The images of `keys`: uint8 (N, 3, S, S)."""
        size = self.config.size_px
        pixels = np.empty((len(keys), size, size, 3), dtype=np.uint8)
        for i, key in enumerate(keys):
            pixels[i] = self._pixels[key]
        return torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous()

    def texts(self, caption_set: str) -> dict[str, str]:
        """Key -> text of every usable image in one caption set.

        Raises ValueError naming the sets that exist when the folder does not have this one.
        """
        if caption_set in self._texts:
            return self._texts[caption_set]
        if caption_set in self.sets_found:
            raise ValueError(
                f"caption set {caption_set!r} is not among corpus.caption_sets ({', '.join(self._texts)}): add it "
                "there, so that images that lack it are dropped from every arm"
            )
        raise ValueError(
            f"no caption set {caption_set!r} in {self.config.path}: there are {', '.join(self.sets_found)} "
            f"(a caption of cat.jpg in this set would be cat.{caption_set}.txt)"
        )


def open_folder(config: FolderCorpus, images: int) -> PhotoFolder:
    """Read a folder and everything below it (links to folders are not followed), with at most `images` to train on.

    Captions are UTF-8. Pictures that share a stem in one folder (cat.jpg, cat.png) share their captions. An image is
    used when every set of `config.caption_sets` has a caption for it, beside any of its copies, that is not empty.
    Held-out images are chosen by their key alone: adding pictures moves none from one side to the other, but for the
    smallest folders, where each side is given at least one.

    Raises ValueError when there is no such folder, nothing in it can be used, a caption is not UTF-8, or the folder
    holds other images than those that `config.digest` stands for.
    """
    folder = config.path
    paths, set_aside = _pictures(folder)
    if not paths:
        what = f"; set aside: {_some(set_aside)}" if set_aside else ""
        raise ValueError(f"no pictures in {folder}: looked for {', '.join(EXTENSIONS)} in it and below{what}")

    pixels: dict[str, np.ndarray] = {}
    files: dict[str, str] = {}
    texts: dict[str, dict[str, str]] = {}  # key -> caption set -> text
    merged = 0
    for path in paths:
        name = _name(path, folder)
        try:
            with path.open("rb") as file:
                key = hashlib.file_digest(file, "sha256").hexdigest()
            if key in pixels:
                merged += 1
            else:
                pixels[key] = read_picture(path, config.size_px)
                files[key], texts[key] = name, {}
        except Exception as error:  # a broken file can make a decoder raise anything
            set_aside[name] = _reason(error)
            continue
        for caption_set in config.caption_sets:
            if caption_set not in texts[key] and (text := _caption(path, caption_set)):
                texts[key][caption_set] = text
    if not pixels:
        raise ValueError(f"none of the {len(set_aside)} pictures in {folder} can be read: {_some(set_aside)}")

    sets_found = _sets_found(paths)
    usable = sorted(key for key in pixels if len(texts[key]) == len(set(config.caption_sets)))
    dropped = len(pixels) - len(usable)
    if len(usable) < FEWEST_IMAGES:
        lacking = {s: sum(s not in texts[key] for key in pixels) for s in config.caption_sets}
        why = ", ".join(f"{n} without a caption in {s!r}" for s, n in lacking.items() if n)
        raise ValueError(
            f"{folder} has {len(usable)} usable images and at least {FEWEST_IMAGES} are needed: {len(pixels)} can be "
            "read"
            + (f", {why}" if why else "")
            + (f", {len(set_aside)} set aside" if set_aside else "")
            + (f"; caption sets in the folder: {', '.join(sets_found) or 'none'}" if dropped else "")
        )
    digest = hashlib.sha256("\n".join(usable).encode()).hexdigest()
    if config.digest not in ("", digest):
        raise ValueError(
            f"{folder} holds other images than the experiment was made for: the digest of its {len(usable)} usable "
            f"images is {digest[:12]}, corpus.digest is {config.digest[:12]}; restore the images or clear corpus.digest"
        )
    said = "\n".join(f"{key}/{name}/{texts[key][name]!r}" for key in usable for name in sorted(texts[key]))
    captions_digest = hashlib.sha256(said.encode()).hexdigest()
    if config.captions_digest not in ("", captions_digest):
        raise ValueError(
            f"{folder} holds other captions than the experiment was made for: restore them or clear "
            "corpus.captions_digest"
        )
    train, held_out = split_by_key(usable, config.validation_share)
    return PhotoFolder(
        config=config.model_copy(update={"digest": digest, "captions_digest": captions_digest}),
        train_keys=train[:images],
        validation_keys=held_out,
        set_aside=set_aside,
        dropped=dropped,
        merged=merged,
        files={key: files[key] for key in usable},
        sets_found=sets_found,
        _pixels={key: pixels[key] for key in usable},
        _texts={s: {key: texts[key][s] for key in usable} for s in config.caption_sets},
    )


def split_by_key(keys: Sequence[str], share: float) -> tuple[list[str], list[str]]:
    """Training and held-out keys, each in an order that depends on the keys alone; at least one of each.

    A key is held out when its hash, as a fraction of the largest, is below `share`: about that share of many keys.
    """
    assert len(keys) >= 2, "two sides need two keys"

    def place(key: str) -> float:
        return int.from_bytes(hashlib.sha256(f"held out/{key}".encode()).digest()[:8], "big") / 2**64

    ordered = sorted(keys, key=place)
    count = sum(place(key) < share for key in ordered)
    count = min(max(count, 1), len(ordered) - 1)
    return ordered[count:], ordered[:count]


def read_picture(path: Path, size_px: int) -> np.ndarray:
    """A picture as uint8 (size_px, size_px, 3): upright, RGB, the middle square, scaled with an antialiased bicubic.

    Transparency is laid on white and 16-bit gray is scaled to 8 bits; color profiles are not applied. Raises ValueError
    for empty files and for pictures with no single meaning (several frames, unknown white level), and whatever Pillow
    raises for files that are broken or claim more than 179 million pixels.
    """
    if not path.stat().st_size:
        raise ValueError("empty file")
    with _quiet(), Image.open(path, formats=FORMATS) as image:
        # The further frames of an MPO are another view or a preview of the same photograph, as phones write it.
        frames = getattr(image, "n_frames", 1)
        if frames > 1 and image.format != "MPO":
            raise ValueError(f"{frames} frames or pages: not one picture")
        image.load()
        rgb = _rgb(ImageOps.exif_transpose(image))
    side = min(rgb.size)
    left, top = (rgb.width - side) // 2, (rgb.height - side) // 2
    # Cropped before it is scaled: nothing outside the square bleeds in, and a very long picture does not grow huge.
    square = rgb.crop((left, top, left + side, top + side))
    return np.array(square.resize((size_px, size_px), Image.Resampling.BICUBIC, reducing_gap=3.0))


@contextmanager
def _quiet() -> Iterator[None]:
    """No warnings: what Pillow can read in spite of one (odd metadata, many pixels) is read."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _rgb(image: Image.Image) -> Image.Image:
    """Any mode as RGB."""
    if image.mode.startswith("I"):
        if image.mode == "I":
            raise ValueError("32-bit gray: its white level is not known; save it with 8 or 16 bits")
        image = Image.fromarray(np.round(np.asarray(image) / 257).astype(np.uint8))  # 65535 / 255 = 257
    elif image.mode == "F":
        raise ValueError("floating-point gray: its white level is not known; save it with 8 or 16 bits")
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        white = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, rgba).convert("RGB")
    return image.convert("RGB")


def _pictures(folder: Path) -> tuple[list[Path], dict[str, str]]:
    """The picture files in a folder and below, sorted by path, and what is set aside at sight with the reason."""
    try:
        is_folder = stat.S_ISDIR(folder.stat().st_mode)
    except (FileNotFoundError, NotADirectoryError):
        raise ValueError(f"corpus.path: there is no folder {folder}") from None
    except (OSError, ValueError) as error:
        raise ValueError(f"corpus.path: the folder {folder} cannot be read: {_reason(error)}") from None
    if not is_folder:
        raise ValueError(f"corpus.path: {folder} is a file, not a folder")
    paths: list[Path] = []
    set_aside: dict[str, str] = {}

    def unreadable(error: OSError) -> None:
        if Path(error.filename) == folder:
            raise ValueError(f"corpus.path: the folder {folder} cannot be read: {error.strerror}") from None
        set_aside[_name(Path(error.filename), folder) + "/"] = f"cannot be read: {error.strerror}"

    for directory, _, names in os.walk(folder, onerror=unreadable):
        for name in names:
            path = Path(directory, name)
            extension = path.suffix.lower()
            if extension in OTHER_PICTURES:
                reason = f"{extension} is not read: convert it to one of {', '.join(EXTENSIONS)}"
                set_aside[_name(path, folder)] = reason
            elif extension in EXTENSIONS and not path.is_file():
                set_aside[_name(path, folder)] = "not a file: a broken link or a device"
            elif extension in EXTENSIONS:
                paths.append(path)
    return sorted(paths), set_aside


def _name(path: Path, folder: Path) -> str:
    """The path inside the folder, fit to print whatever its bytes."""
    return os.fsencode(path.relative_to(folder)).decode("utf-8", "replace")


def _caption(picture: Path, caption_set: str) -> str:
    """The picture's caption on one line, "" when it has none. Raises ValueError when it is not UTF-8."""
    path = picture.with_name(f"{picture.stem}.{caption_set}.txt")
    try:
        return " ".join(path.read_bytes().decode("utf-8-sig").split())
    except FileNotFoundError:
        return ""
    except UnicodeDecodeError as error:
        raise ValueError(
            f"caption file {path} is not UTF-8 (byte {error.object[error.start]:#04x} at position {error.start}): "
            f"re-encode it, e.g. with iconv -f LATIN1 -t UTF-8"
        ) from None
    except OSError as error:
        raise ValueError(f"caption file {path} cannot be read: {error.strerror}") from None


def _sets_found(pictures: Sequence[Path]) -> tuple[str, ...]:
    """The caption sets that at least one of the pictures has, sorted."""
    found = set()
    stems: dict[Path, set[str]] = {}
    for picture in pictures:
        stems.setdefault(picture.parent, set()).add(picture.stem)
    for directory, names in stems.items():
        for path in directory.glob("*.*.txt"):
            stem, _, caption_set = path.name.removesuffix(".txt").rpartition(".")
            if stem in names:
                found.add(caption_set)
    return tuple(sorted(found))


def _reason(error: Exception) -> str:
    """Why a file was set aside, in one line."""
    if isinstance(error, Image.DecompressionBombError):
        return "claims more pixels than any photograph has: taken for a decompression bomb"
    if isinstance(error, Image.UnidentifiedImageError):
        return "no picture in a format that is read (JPEG, PNG, WebP, BMP, TIFF)"
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return " ".join(text.split()) or type(error).__name__


def _some(set_aside: dict[str, str], most: int = 3) -> str:
    """The first few files that were set aside with their reasons."""
    shown = "; ".join(f"{name}: {reason}" for name, reason in sorted(set_aside.items())[:most])
    return shown + (f"; and {len(set_aside) - most} more" if len(set_aside) > most else "")
