"""A folder of photographs with captions beside them: cat.jpg, cat.alt.txt, cat.detailed.txt.

The key of an image is the sha256 of its file's bytes, so it survives renaming and moving, and copies of one file are
one image. A file that cannot be read is set aside by name with the reason; it never ends a run by itself.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from lensbench.data.buckets import Size
from lensbench.data.pictures import FORMATS_SAID, native_size, quiet, read_picture, reason
from lensbench.data.sources.folders import choices, default_columns, text_of
from lensbench.data.sources.listing import Listing
from lensbench.data.sources.sidecars import name_in
from lensbench.data.sources.source import captions_from
from lensbench.experiment import FolderCorpus

if TYPE_CHECKING:
    import torch

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

    def images(self, keys: Sequence[str], size: Size | None = None) -> torch.Tensor:
        """The images of `keys`: uint8 (N, 3, H, W), of the corpus's own size or of `size`, read anew."""
        height, width = size or (self.config.size_px, self.config.size_px)
        pixels = np.empty((len(keys), height, width, 3), dtype=np.uint8)
        with quiet():
            for i, key in enumerate(keys):
                pixels[i] = self._pixels[key] if size is None else read_picture(self._file(key), size)
        import torch

        return torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous()

    def native_sizes(self, keys: Sequence[str]) -> np.ndarray:
        """The height and width, in pixels, that the images of `keys` have themselves: (N, 2)."""
        with quiet():
            return np.array([native_size(self._file(key)) for key in keys])

    def _file(self, key: str) -> Path:
        return self.config.path / self.files[key]

    def texts(self, caption_set: str) -> dict[str, str]:
        """Key -> text of every usable image in one caption set.

        Raises ValueError naming the sets that exist when the folder does not have this one.
        """
        if caption_set in self._texts:
            return self._texts[caption_set]
        hint = f" (a caption of cat.jpg in this set would be cat.{caption_set}.txt)"
        raise not_a_set(self.config, caption_set, self.sets_found, hint)


def open_folder(config: FolderCorpus) -> PhotoFolder:
    """Read a folder and everything below it; which files are read, and which caption is whose, is what an import of the
    folder says.

    Captions are UTF-8. Pictures that share a stem in one folder (cat.jpg, cat.png) share their captions. An image is
    used when every set of `config.caption_sets` has a caption for it, beside any of its copies, that is not empty.
    Held-out images are chosen by their key alone: adding pictures moves none from one side to the other, but for the
    smallest folders, where each side is given at least one.

    Raises ValueError when there is no such folder, nothing in it can be used, a caption is not UTF-8, or the folder
    holds other images than those that `config.digest` stands for.
    """
    folder = config.path
    captioned, sets_found, set_aside = _pictures(folder)
    if not captioned:
        what = f"; set aside: {some(set_aside)}" if set_aside else ""
        raise ValueError(f"no pictures in {folder}: looked for {FORMATS_SAID} in it and below{what}")

    pixels: dict[str, np.ndarray] = {}
    files: dict[str, str] = {}
    texts: dict[str, dict[str, str]] = {}  # key -> caption set -> text
    merged = 0
    with quiet():
        for path, said in captioned.items():
            name = name_in(path, folder)
            try:
                with path.open("rb") as file:
                    key = hashlib.file_digest(file, "sha256").hexdigest()
                if key in pixels:
                    merged += 1
                else:
                    pixels[key] = read_picture(path, Size(config.size_px, config.size_px))
                    files[key], texts[key] = name, {}
            except Exception as error:  # a broken file can make a decoder raise anything
                set_aside[name] = reason(error)
                continue
            for caption_set in config.caption_sets:
                if caption_set not in texts[key] and (text := _caption(said.get(caption_set))):
                    texts[key][caption_set] = text
    if not pixels:
        raise ValueError(f"none of the {len(set_aside)} pictures in {folder} can be read: {some(set_aside)}")

    usable = sorted(key for key in pixels if len(texts[key]) == len(set(config.caption_sets)))
    lacking = {s: sum(s not in texts[key] for key in pixels) for s in config.caption_sets}
    refuse_few(folder, len(usable), len(pixels), lacking, len(set_aside), sets_found)
    config = digested(config, usable, ((key, texts[key]) for key in usable))
    train, held_out = split_by_key(usable, config.validation_share)
    return PhotoFolder(
        config=config,
        train_keys=train,
        validation_keys=held_out,
        set_aside=set_aside,
        dropped=len(pixels) - len(usable),
        merged=merged,
        files={key: files[key] for key in usable},
        sets_found=sets_found,
        _pixels={key: pixels[key] for key in usable},
        _texts={s: {key: texts[key][s] for key in usable} for s in config.caption_sets},
    )


def not_a_set(config: FolderCorpus, caption_set: str, sets_found: Sequence[str], hint: str = "") -> ValueError:
    """Why texts of a caption set cannot be had: the experiment does not name it, or there is none."""
    if caption_set in sets_found:
        return ValueError(
            f"caption set {caption_set!r} is not among corpus.caption_sets ({', '.join(config.caption_sets)}): add it "
            "there, so that images that lack it are dropped from every arm"
        )
    there = ", ".join(sets_found) or "none"
    return ValueError(f"no caption set {caption_set!r} in {config.path}: there are {there}{hint}")


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


def refuse_few(
    folder: Path, usable: int, readable: int, lacking: Mapping[str, int], set_aside: int, sets_found: Sequence[str]
) -> None:
    """Raise ValueError, which says why, when there are too few usable images to train on and to hold out.

    `lacking` counts the readable images without a caption in each set of the experiment.
    """
    if usable >= FEWEST_IMAGES:
        return
    why = ", ".join(f"{n} without a caption in {s!r}" for s, n in lacking.items() if n)
    raise ValueError(
        f"{folder} has {usable} usable images and at least {FEWEST_IMAGES} are needed: {readable} can be read"
        + (f", {why}" if why else "")
        + (f", {set_aside} set aside" if set_aside else "")
        + (f"; caption sets in the folder: {', '.join(sets_found) or 'none'}" if readable > usable else "")
    )


def digested(
    config: FolderCorpus, usable: Sequence[str], texts: Iterable[tuple[str, Mapping[str, str]]]
) -> FolderCorpus:
    """The config with the digests of the usable images and of their captions; keys are sorted, `texts` in their order.

    Raises ValueError when the config has other digests already: the images or captions are not the experiment's.
    """
    digest = hashlib.sha256("\n".join(usable).encode()).hexdigest()
    if config.digest not in ("", digest):
        raise ValueError(
            f"{config.path} holds other images than the experiment was made for: the digest of its {len(usable)} "
            f"usable images is {digest[:12]}, corpus.digest is {config.digest[:12]}; restore the images or clear "
            "corpus.digest"
        )
    said = hashlib.sha256()
    for i, line in enumerate(_said(texts)):
        said.update(f"\n{line}".encode() if i else line.encode())
    captions_digest = said.hexdigest()
    if config.captions_digest not in ("", captions_digest):
        raise ValueError(
            f"{config.path} holds other captions than the experiment was made for: restore them or clear "
            "corpus.captions_digest"
        )
    return config.model_copy(update={"digest": digest, "captions_digest": captions_digest})


def _said(texts: Iterable[tuple[str, Mapping[str, str]]]) -> Iterator[str]:
    for key, captions in texts:
        for name in sorted(captions):
            yield f"{key}/{name}/{captions[name]!r}"


def some(set_aside: Mapping[str, str], most: int = 3) -> str:
    """The first few files that were set aside with their reasons."""
    shown = "; ".join(f"{name}: {why}" for name, why in sorted(set_aside.items())[:most])
    return shown + (f"; and {len(set_aside) - most} more" if len(set_aside) > most else "")


def _pictures(folder: Path) -> tuple[dict[Path, dict[str, Path | bytes]], tuple[str, ...], dict[str, str]]:
    """The picture files in a folder and below, sorted by path, each with where its captions lie by set; the caption
    sets that at least one of them has, sorted; and what is set aside at sight with the reason."""
    captioned: dict[Path, dict[str, Path | bytes]] = {}
    set_aside: dict[str, str] = {}
    with tempfile.NamedTemporaryFile(prefix="lensbench-", suffix=".sqlite") as kept:
        try:
            listing = Listing(folder, Path(kept.name))
        except ValueError as error:
            raise ValueError(f"corpus.path: {error}") from None
        orders = {name: choices(name, listing.columns) for name in default_columns(listing.columns)}
        for file, said in listing.files():
            if file.reason:
                set_aside[name_in(file.path, folder) + ("/" if file.path.is_dir() else "")] = file.reason
                continue
            found = {name: next((said[c] for c in order if c in said), None) for name, order in orders.items()}
            captioned[file.path] = {name: where for name, where in found.items() if where is not None}
    return captioned, tuple(sorted({name for said in captioned.values() for name in said})), set_aside


def _caption(said: Path | bytes | None) -> str:
    """The caption that lies there, "" where there is none. ValueError, which says what to do, where it is no text."""
    if said is None:
        return ""
    try:
        captions, faults, _ = captions_from({"": text_of(said)})
    except OSError as error:
        raise ValueError(f"caption file {said!s} cannot be read: {error.strerror}") from None
    if faults:
        raise ValueError(f"caption file {said!s} is {faults['']}: re-encode it, e.g. with iconv -f LATIN1 -t UTF-8")
    return captions.get("", "")
