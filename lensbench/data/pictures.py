"""What a picture is: which files are read, by which rules they become RGB, and why others are set aside.

The one place that decodes, for folders and imported corpora alike. JPEG (also MPO, of which the first picture is
taken), PNG, WebP, AVIF, BMP, PPM and TIFF are read, whatever the file is called. A picture is turned upright as its
EXIF says; palettes, gray and CMYK become RGB, color profiles are not applied; 16 bits a channel become 8; transparency
is laid on white. What has no single meaning is set aside: several frames or pages, 32-bit and floating-point gray
(their white level is not known), and what is broken, empty, in another format or claims more than 179 million pixels
(Pillow's bound for decompression bombs).
"""

from __future__ import annotations

import io
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageOps, PngImagePlugin

from lensbench.data.buckets import Size

EXTENSIONS = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".apng", ".webp", ".avif"),
    *(".bmp", ".dib", ".ppm", ".pgm", ".pbm", ".pnm", ".tif", ".tiff"),
)
# Pictures too, but not read: set aside with the reason, so that nobody wonders where they went.
OTHER_PICTURES = (
    *(".gif", ".heic", ".heif", ".jp2", ".j2k", ".jxl", ".svg", ".psd", ".tga", ".ico", ".exr", ".hdr", ".qoi"),
    *(".raw", ".cr2", ".cr3", ".nef", ".dng", ".arw", ".orf", ".rw2", ".raf", ".pef", ".srw"),
)
# What Pillow may take a file for, whatever its name (JPEG includes MPO). Few and harmless: some of its other readers
# run programs.
FORMATS = ("JPEG", "PNG", "WEBP", "AVIF", "BMP", "DIB", "PPM", "TIFF")
FORMATS_SAID = "JPEG, PNG, WebP, AVIF, BMP, PPM and TIFF"
# Tools write whole workflows into a PNG's compressed text: Pillow's bound on all of its text holds for one as well.
PngImagePlugin.MAX_TEXT_CHUNK = PngImagePlugin.MAX_TEXT_MEMORY
# Raise it whenever `read_picture` gives other pixels for the same file: pixels kept on disk are named by it.
RULES_VERSION = 1
# Every rule by which a picture is changed on its way to RGB.
RULES = {
    "rotated": "turned upright as EXIF says",
    "palette": "palette to RGB",
    "gray": "gray, or black and white, to RGB",
    "cmyk": "CMYK to RGB, profile not applied",
    "16-bit": "16 bits a channel to 8",
    "transparent": "transparency laid on white",
    "preview": "further pictures of an MPO left out",
    "color space": "another color space to RGB",
}
_ORIENTATION = 0x0112  # EXIF tag
_LARGE_PIXELS = 25_000_000
_one_large = threading.Lock()


class Facts(NamedTuple):
    """What decoding a picture told: Pillow's name of its format, its sides in pixels, upright, and names of `RULES`."""

    format: str
    width: int
    height: int
    rules: tuple[str, ...]


def read_picture(file: Path | bytes, size: Size) -> np.ndarray:
    """A picture, a file or its bytes, as uint8 (height, width, 3): RGB by the rules above, the largest part of the
    middle with the ratio of `size`, scaled with an antialiased bicubic.

    Raises ValueError for empty files and for pictures with no single meaning, and whatever Pillow raises for broken
    ones: `reason` words it.
    """
    with opened(file) as image:
        image.load()
        rgb = as_rgb(ImageOps.exif_transpose(image))
    scale = min(rgb.width / size.width, rgb.height / size.height)
    width, height = (max(1, round(scale * side)) for side in (size.width, size.height))
    left, top = (rgb.width - width) // 2, (rgb.height - height) // 2
    # Cropped before it is scaled: nothing outside the part bleeds in, and a very long picture does not grow huge.
    part = rgb.crop((left, top, left + width, top + height))
    return np.array(part.resize((size.width, size.height), Image.Resampling.BICUBIC, reducing_gap=3.0))


def native_size(file: Path) -> Size:
    """A picture's own size, upright, from its header."""
    with opened(file) as image:
        height, width = image.height, image.width
        return Size(width, height) if image.getexif().get(_ORIENTATION, 1) in (5, 6, 7, 8) else Size(height, width)


def examine(file: Path | bytes) -> Facts:
    """Decode a picture for nothing but its facts. Raises as `read_picture` does, and for the same files.

    A JPEG is decoded at an eighth of its size, which reads all of its data and computes a 64th of its pixels.
    """
    with opened(file) as image:
        size, format_ = image.size, image.format or ""
        raw = str(image.tile[0].args) if getattr(image, "tile", None) else ""  # type: ignore[attr-defined]
        draft = format_ in ("JPEG", "MPO")
        if draft:
            image.draft(None, (1, 1))  # None keeps the mode
        # One large picture at a time: many threads with 179 million pixels each would take gigabytes.
        with _one_large if image.width * image.height > _LARGE_PIXELS else nullcontext():
            orientation = image.getexif().get(_ORIENTATION, 1)  # loads a PNG; loading turns a TIFF upright
            rules = _rules(image, raw, orientation)
            image.load()
            upright = ImageOps.exif_transpose(image)
        as_rgb(upright.crop((0, 0, 1, 1)))  # whether this mode can be converted does not depend on the size
        if not draft:
            size = upright.size
        elif orientation in (5, 6, 7, 8):
            size = size[::-1]
    return Facts(format_, *size, rules)


@contextmanager
def quiet() -> Iterator[None]:
    """No warnings while pictures are read: what Pillow can read in spite of one (odd metadata, many pixels) is read.

    For the whole of a command or a loop, not for each picture: the filters of warnings are shared by all threads.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def reason(error: Exception) -> str:
    """Why a picture was set aside, in one line."""
    if isinstance(error, Image.DecompressionBombError):
        return "claims more pixels than any photograph has: taken for a decompression bomb"
    if isinstance(error, Image.UnidentifiedImageError):
        return f"no picture in a format that is read ({FORMATS_SAID})"
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return " ".join(text.split()) or type(error).__name__


def not_read(extension: str) -> str:
    """Why a file with one of `OTHER_PICTURES` is set aside at sight."""
    return f"{extension} is not read: convert it; read are {FORMATS_SAID}"


def holds_picture(file: Path | bytes) -> bool:
    """Whether a file with an unusual name, or its bytes, begins as a picture that is read does.

    A TIFF is not told so: the raw files of cameras begin as one and show a thumbnail.
    """
    formats = [name for name in FORMATS if name != "TIFF"]
    try:
        with Image.open(io.BytesIO(file) if isinstance(file, bytes) else file, formats=formats):
            return True
    except Exception:  # anything else can look like a broken picture
        return False


@contextmanager
def opened(file: Path | bytes) -> Iterator[Image.Image]:
    """A picture whose header has been read and whose pixels have not."""
    if not (file if isinstance(file, bytes) else file.stat().st_size):
        raise ValueError("empty file")
    with Image.open(io.BytesIO(file) if isinstance(file, bytes) else file, formats=FORMATS) as image:
        # The further frames of an MPO are another view or a preview of the same photograph, as phones write it.
        frames = getattr(image, "n_frames", 1)
        if frames > 1 and image.format != "MPO":
            raise ValueError(f"{frames} frames or pages: not one picture")
        yield image


def _rules(image: Image.Image, raw: str, orientation: object) -> tuple[str, ...]:
    """Names of the rules that a picture comes under; `raw` is Pillow's name of the layout of its data."""
    mode = image.mode
    applies = {
        "rotated": orientation in (2, 3, 4, 5, 6, 7, 8),
        "palette": mode in ("P", "PA"),
        "gray": mode in ("1", "L", "LA", "La") or mode.startswith("I;16"),
        "cmyk": mode == "CMYK",
        "16-bit": ";16" in mode or ";16" in raw,
        "transparent": image.has_transparency_data,
        "preview": getattr(image, "n_frames", 1) > 1,
        "color space": mode in ("YCbCr", "LAB", "HSV"),
    }
    assert applies.keys() == RULES.keys()
    return tuple(name for name, is_so in applies.items() if is_so)


def as_rgb(image: Image.Image) -> Image.Image:
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
