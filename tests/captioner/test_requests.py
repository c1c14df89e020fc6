"""What is sent: prompts from versioned files, pictures by a stated rule."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from lensbench.captioner.answers import cleaned
from lensbench.captioner.prompts import FOLDER, open_prompt, prompt_names
from lensbench.captioner.requests import NotAPictureError, sent_picture, sent_size


def saved(image: Image.Image, format_: str, **how: Any) -> bytes:
    out = io.BytesIO()
    image.save(out, format_, **how)
    return out.getvalue()


def picture(width: int, height: int, mode: str = "RGB") -> Image.Image:
    """Red on the left, blue on the right."""
    image = Image.new("RGB", (width, height), (250, 10, 10))
    image.paste((10, 10, 250), (width // 2, 0, width, height))
    return image.convert(mode)


def decoded(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).astype(int)


@pytest.mark.parametrize("format_", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_a_small_plain_picture_is_sent_as_it_was_imported(format_: str, mode: str) -> None:
    data = saved(picture(100, 60, mode), format_)
    if format_ == "WEBP":
        mode = "RGB"
    sent = sent_picture(data, 512)
    assert sent.data == data
    assert (sent.media_type, sent.size) == (f"image/{format_.lower()}", (100, 60))


def rotated() -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = 6  # shown after a quarter turn to the right
    return exif


@pytest.mark.parametrize(
    ("data", "size"),
    [
        (lambda: saved(picture(1000, 600), "JPEG"), (512, 307)),
        (lambda: saved(picture(600, 1000), "PNG"), (307, 512)),
        (lambda: saved(picture(5000, 3), "PNG"), (512, 1)),
        (lambda: saved(picture(100, 60), "BMP"), (100, 60)),
        (lambda: saved(picture(100, 60), "TIFF"), (100, 60)),
        (lambda: saved(picture(100, 60, "CMYK"), "JPEG"), (100, 60)),
        (lambda: saved(picture(100, 60, "P"), "PNG"), (100, 60)),
        (lambda: saved(picture(100, 60, "RGBA"), "PNG"), (100, 60)),
        (lambda: saved(picture(100, 60), "JPEG", exif=rotated()), (60, 100)),
        (lambda: saved(picture(2000, 1000), "JPEG", exif=rotated()), (256, 512)),
    ],
    ids=["large", "tall", "long", "bmp", "tiff", "cmyk", "palette", "alpha", "rotated", "large and rotated"],
)
def test_any_other_becomes_an_upright_rgb_jpeg_within_the_largest_side(
    data: Callable[[], bytes], size: tuple[int, int]
) -> None:
    original = data()
    sent = sent_picture(original, 512)
    assert sent.media_type == "image/jpeg"
    with Image.open(io.BytesIO(sent.data)) as image:
        assert (image.format, image.mode, image.size) == ("JPEG", "RGB", size)
        assert image.getexif().get(0x0112, 1) == 1
    assert sent.size == size == sent_size(original, 512)
    seen = decoded(sent.data)
    first, last = (seen[0, 0], seen[-1, -1]) if size[0] < size[1] else (seen[:, 0].mean(0), seen[:, -1].mean(0))
    assert first[0] > 180 > first[2], "red is on the left, or above"
    assert last[2] > 180 > last[0]


def test_transparency_is_laid_on_white() -> None:
    data = saved(Image.new("RGBA", (20, 20), (0, 0, 0, 0)), "PNG")
    assert decoded(sent_picture(data, 512).data).min() > 250


@pytest.mark.parametrize("data", [b"", b"no picture", saved(picture(64, 64), "PNG")[:100]])
def test_what_cannot_be_decoded_is_named_so(data: bytes) -> None:
    with pytest.raises(NotAPictureError):
        sent_picture(data, 32)


@settings(max_examples=40, deadline=None)
@given(width=st.integers(1, 900), height=st.integers(1, 900), side=st.integers(32, 600))
def test_the_size_is_known_from_the_header(width: int, height: int, side: int) -> None:
    data = saved(Image.new("RGB", (width, height)), "PNG", compress_level=1)
    sent = sent_picture(data, side)
    assert max(sent.size) <= max(side, 1)
    foreseen = sent_size(data, side)
    assert abs(foreseen[0] - sent.size[0]) <= 1
    assert abs(foreseen[1] - sent.size[1]) <= 1


def test_the_request_carries_the_bytes(asking: Any) -> None:
    data = saved(picture(30, 20), "PNG")
    url = asking.about_image(data)["messages"][1]["content"][1]["image_url"]["url"]
    assert base64.b64decode(url.removeprefix("data:image/png;base64,")) == data


@pytest.mark.parametrize(
    ("text", "secret", "said"),
    [
        ("Incorrect API key: sk-0123456789abcdefghij.", "sk-0123456789abcdefghij", "Incorrect API key: [key]."),
        ("Bearersk-0123456789abcdefghijX", "sk-0123456789abcdefghij", "Bearer[key]X"),
        ("max_tokens exceeded for x", "x", "max_tokens exceeded for [key]"),
        ("two\n lines\u2028and \ud83d", "", "two lines and ?"),
        ("a" * 1000, "k", "a" * 300),
    ],
)
def test_what_a_server_says_is_one_line_without_the_key(text: str, secret: str, said: str) -> None:
    assert cleaned(text, secret) == said


# --- prompts ------------------------------------------------------------------------------------------------------


def strict(schema: dict[str, Any]) -> bool:
    if schema["type"] == "object":
        parts = schema["properties"]
        closed = schema["additionalProperties"] is False and schema["required"] == list(parts)
        return closed and all(strict(part) for part in parts.values())
    return strict(schema["items"]) if schema["type"] == "array" else True


@pytest.mark.parametrize("name", prompt_names())
def test_every_prompt_of_the_package_opens_and_is_strict(name: str) -> None:
    prompt = open_prompt(name)
    assert strict(prompt.schema)
    assert prompt.answer in prompt.schema["required"]
    assert prompt.version.startswith(f"{name}@")


def test_the_prompts_are_those_that_are_promised() -> None:
    assert prompt_names() == ["brief-v1", "detailed-v1", "rewrite-v1", "structured-v1"]
    assert set(open_prompt("structured-v1").schema["required"]) == {
        "objects",
        "relations",
        "text",
        "style",
        "caption",
    }


def test_a_version_changes_with_what_is_sent_and_not_with_an_assumption(tmp_path: Path) -> None:
    text = (FOLDER / "brief-v1.toml").read_text()
    version = open_prompt("brief-v1").version

    def changed(old: str, new: str) -> str:
        assert old in text
        (tmp_path / "brief-v1.toml").write_text(text.replace(old, new))
        return open_prompt(str(tmp_path / "brief-v1.toml")).version

    assert changed("15 words", "15 words") == version
    assert changed("output_tokens = 30", "output_tokens = 31") == version
    assert changed("15 words", "16 words") != version
    assert changed("one sentence of plain text", "a sentence of plain text") != version
    assert changed("text-to-image model learns", "model learns") != version


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('answer = "caption"', 'answer = "title"', "is no property of its schema"),
        ("system =", "sistem =", "system is missing"),
        ("output_tokens = 30", "output_tokens = 3000", "between 1 and max_output_tokens"),
        ("output_tokens = 30", 'output_tokens = "30"', "output_tokens is missing or not a int"),
        ('answer = "caption"', 'answer = "caption"\nlanguage = "en"', "unknown field 'language'"),
        ("[schema", "schema", "not a TOML file"),
    ],
)
def test_a_mistake_in_a_prompt_file_is_one_line(tmp_path: Path, old: str, new: str, said: str) -> None:
    path = tmp_path / "mine.toml"
    path.write_text((FOLDER / "brief-v1.toml").read_text().replace(old, new, 1))
    with pytest.raises(ValueError, match=said) as error:
        open_prompt(str(path))
    assert "mine.toml" in str(error.value)


@pytest.mark.parametrize("name", ["poetic-v1", "", "..", "../prompts/brief-v1"])
def test_a_prompt_that_does_not_exist_is_named_with_those_that_do(name: str) -> None:
    with pytest.raises(ValueError, match="detailed-v1"):
        open_prompt(name)


def test_the_maker_holds_every_setting_that_changes_the_text(asking: Any) -> None:
    makers = {
        replace(asking, **change).maker
        for change in (
            {},
            {"model": "gpt-4.1-mini"},
            {"max_output_tokens": 10},
            {"temperature": None},
            {"temperature": 1.0},
            {"seed": 0},
            {"detail": "low"},
            {"max_side": 64},
            {"prompt": open_prompt("brief-v1")},
        )
    }
    assert len(makers) == 9
