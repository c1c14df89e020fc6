"""What examining a picture says is what reading it does: the same files, their sizes, the rules that were applied."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from lensbench.data.buckets import Size
from lensbench.data.pictures import RULES, examine, native_size, quiet, read_picture, reason


def gradient(width: int = 48, height: int = 32) -> Image.Image:
    x, y = np.meshgrid(np.linspace(0, 255, width), np.linspace(0, 255, height))
    return Image.fromarray(np.stack([x, y, 255 - x], axis=-1).astype(np.uint8))


def saved(image: Image.Image, format_: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, format_, **options)
    return file.getvalue()


def rotated(orientation: int, format_: str = "JPEG") -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return saved(gradient(), format_, exif=exif)


def animated(format_: str) -> bytes:
    frames = [Image.new("RGB", (20, 20), (100 * i, 0, 0)) for i in range(3)]
    return saved(frames[0], format_, save_all=True, append_images=frames[1:])


def sixteen_bit_color() -> bytes:
    """A PNG of 16 bits a channel, which Pillow reads and does not write."""
    import struct
    import zlib

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    row = b"\0" + struct.pack(">3H", 0x8000, 0xFFFF, 0) * 20
    header = struct.pack(">IIBBBBB", 20, 20, 16, 2, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(row * 20)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


GRAY16 = Image.fromarray(np.full((20, 20), 30000, dtype=np.uint16))
READ: dict[str, tuple[Callable[[], bytes], str, tuple[int, int], tuple[str, ...]]] = {
    "jpeg": (lambda: saved(gradient(), "JPEG"), "JPEG", (48, 32), ()),
    "png": (lambda: saved(gradient(), "PNG"), "PNG", (48, 32), ()),
    "webp": (lambda: saved(gradient(), "WEBP"), "WEBP", (48, 32), ()),
    "bmp": (lambda: saved(gradient(), "BMP"), "BMP", (48, 32), ()),
    "tiff": (lambda: saved(gradient(), "TIFF"), "TIFF", (48, 32), ()),
    "mirrored jpeg": (lambda: rotated(2), "JPEG", (48, 32), ("rotated",)),
    "turned jpeg": (lambda: rotated(6), "JPEG", (32, 48), ("rotated",)),
    "turned png": (lambda: rotated(8, "PNG"), "PNG", (32, 48), ("rotated",)),
    "turned tiff": (lambda: rotated(6, "TIFF"), "TIFF", (32, 48), ("rotated",)),
    "gray": (lambda: saved(gradient().convert("L"), "JPEG"), "JPEG", (48, 32), ("gray",)),
    "bits": (lambda: saved(gradient().convert("1"), "PNG"), "PNG", (48, 32), ("gray",)),
    "cmyk": (lambda: saved(gradient().convert("CMYK"), "JPEG"), "JPEG", (48, 32), ("cmyk",)),
    "cmyk tiff": (lambda: saved(gradient().convert("CMYK"), "TIFF"), "TIFF", (48, 32), ("cmyk",)),
    "palette": (lambda: saved(gradient().convert("P"), "PNG"), "PNG", (48, 32), ("palette",)),
    "clear palette": (
        lambda: saved(gradient().convert("P"), "PNG", transparency=0),
        "PNG",
        (48, 32),
        ("palette", "transparent"),
    ),
    "alpha": (lambda: saved(gradient().convert("RGBA"), "PNG"), "PNG", (48, 32), ("transparent",)),
    "gray alpha": (lambda: saved(gradient().convert("LA"), "PNG"), "PNG", (48, 32), ("gray", "transparent")),
    "16-bit gray": (lambda: saved(GRAY16, "PNG"), "PNG", (20, 20), ("gray", "16-bit")),
    "16-bit tiff": (lambda: saved(GRAY16, "TIFF"), "TIFF", (20, 20), ("gray", "16-bit")),
    "16-bit color": (sixteen_bit_color, "PNG", (20, 20), ("16-bit",)),
    "lab": (lambda: saved(Image.new("LAB", (20, 20)), "TIFF"), "TIFF", (20, 20), ("color space",)),
    "phone": (
        lambda: saved(gradient(), "MPO", save_all=True, append_images=[Image.new("RGB", (48, 32))]),
        "MPO",
        (48, 32),
        ("preview",),
    ),
    "one pixel": (lambda: saved(Image.new("RGB", (1, 1)), "JPEG"), "JPEG", (1, 1), ()),
}
SET_ASIDE: dict[str, tuple[Callable[[], bytes], str]] = {
    "empty": (lambda: b"", "empty file"),
    "noise": (lambda: bytes(range(256)) * 8, "no picture in a format"),
    "gif": (lambda: saved(gradient(), "GIF"), "no picture in a format"),
    "moving png": (lambda: animated("PNG"), "3 frames"),
    "moving webp": (lambda: animated("WEBP"), "3 frames"),
    "pages": (lambda: animated("TIFF"), "3 frames"),
    "32-bit gray": (lambda: saved(Image.new("I", (20, 20), 70000), "TIFF"), "white level is not known"),
    "float": (lambda: saved(Image.new("F", (20, 20), 0.5), "TIFF"), "white level is not known"),
}


@pytest.mark.parametrize("name", READ)
def test_the_facts_of_a_picture(name: str) -> None:
    make, format_, size, rules = READ[name]
    facts = examine(make())
    assert facts == (format_, *size, rules)
    assert set(rules) <= RULES.keys()
    assert read_picture(make(), Size(16, 16)).shape == (16, 16, 3)


@pytest.mark.parametrize("name", SET_ASIDE)
def test_what_has_no_single_meaning_is_refused_by_both(name: str) -> None:
    make, why = SET_ASIDE[name]
    for look in (examine, lambda data: read_picture(data, Size(16, 16))):
        with pytest.raises(Exception) as caught:  # noqa: PT011 - Pillow raises anything
            look(make())
        assert why in reason(caught.value)


NOISY = [saved(Image.effect_noise((90, 70), 80).convert("RGB"), f) for f in ("JPEG", "PNG", "WEBP", "TIFF", "BMP")]
NOISY.append(saved(Image.effect_noise((90, 70), 80).convert("RGB"), "JPEG", progressive=True))


@given(
    st.sampled_from(NOISY), st.floats(0.1, 0.98), st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), max_size=3)
)
def test_damaged_pictures_are_refused_by_both_or_by_none(data: bytes, share: float, bytes_: list) -> None:  # type: ignore[type-arg]
    """Cut short, or with bytes changed: an import must not keep what training cannot read, nor drop what it can."""
    damaged = bytearray(data[: int(len(data) * share)] if not bytes_ else data)
    for place, value in bytes_:
        damaged[int(place * (len(damaged) - 1))] = value

    def works(look: Callable[[bytes], object]) -> bool:
        try:
            look(bytes(damaged))
        except Exception:
            return False
        return True

    with quiet():
        assert works(examine) == works(lambda data: read_picture(data, Size(16, 16)))


def test_a_path_and_its_bytes_are_one_picture(tmp_path) -> None:  # type: ignore[no-untyped-def]
    (tmp_path / "x.png").write_bytes(saved(gradient(), "PNG"))
    assert (
        read_picture(tmp_path / "x.png", Size(16, 16)) == read_picture((tmp_path / "x.png").read_bytes(), Size(16, 16))
    ).all()
    assert examine(tmp_path / "x.png") == examine((tmp_path / "x.png").read_bytes())


@pytest.mark.parametrize(("size", "part"), [(Size(8, 16), "all of it"), (Size(8, 8), "middle"), (Size(4, 16), "band")])
def test_the_largest_part_of_the_middle_with_the_ratio(tmp_path: Path, size: Size, part: str) -> None:
    # 40 x 20: black, but for columns of the middle square in red and rows of the middle band in green
    pixels = np.zeros((20, 40, 3), np.uint8)
    pixels[:, 10:30, 0] = 255
    pixels[5:15, :, 1] = 255
    Image.fromarray(pixels).save(tmp_path / "x.png")
    found = read_picture(tmp_path / "x.png", size)
    assert found.shape == (*size, 3)
    share = {channel: float((found[..., channel] > 127).mean()) for channel in (0, 1)}
    assert share == {"all of it": {0: 0.5, 1: 0.5}, "middle": {0: 1.0, 1: 0.5}, "band": {0: 0.5, 1: 1.0}}[part]


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_a_pictures_own_size_is_that_of_what_is_read(tmp_path: Path, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.new("RGB", (40, 20)).save(tmp_path / "x.jpg", exif=exif)
    facts = examine(tmp_path / "x.jpg")
    assert native_size(tmp_path / "x.jpg") == (facts.height, facts.width)
    assert native_size(tmp_path / "x.jpg") == ((20, 40) if orientation in (1, 3) else (40, 20))
