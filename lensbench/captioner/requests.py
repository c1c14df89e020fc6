"""A request to a captioner: the settings that decide its answer, the picture as it is sent, the body.

The picture is sent as it was imported where the API takes it so: JPEG, PNG or WebP, RGB or gray, upright, no side
longer than `max_side`. Any other is decoded by the rules of training (see lensbench.data.pictures), scaled down to
`max_side` where it is larger, and sent as JPEG of quality 90.
"""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from lensbench.captioner.prompts import Prompt
from lensbench.captions.store import Maker

if TYPE_CHECKING:
    from PIL import Image

Detail = Literal["low", "high", "auto"]
AS_THEY_ARE = {"JPEG": "image/jpeg", "PNG": "image/png", "WEBP": "image/webp"}
QUALITY = 90
ORIENTATION = 0x0112  # EXIF's tag


@dataclass(frozen=True)
class Asking:
    """What decides the text beside the image. `detail` and `max_side` (pixels) are for images alone: None for texts."""

    model: str
    prompt: Prompt
    max_output_tokens: int
    temperature: float | None = 0.0
    seed: int | None = None
    detail: Detail | None = "high"
    max_side: int | None = 512

    @cached_property
    def maker(self) -> Maker:
        """Who makes the texts: every setting that changes them is in it."""
        names = ("detail", "max_output_tokens", "max_side", "seed", "temperature")
        said = {name: getattr(self, name) for name in names if getattr(self, name) is not None}
        return Maker(self.model, self.prompt.version, json.dumps(said, sort_keys=True, separators=(",", ":")))

    @property
    def words(self) -> str:
        """Everything in a request that is no image: for counting its tokens."""
        return self.prompt.system + self.prompt.user + json.dumps(self.prompt.schema)

    def body(self, content: str | list[dict[str, Any]]) -> dict[str, Any]:
        """The body of a chat completion; `content` is the user's message."""
        body: dict[str, Any] = {
            "model": self.model,
            "messages": [{"role": "system", "content": self.prompt.system}, {"role": "user", "content": content}],
            "max_completion_tokens": self.max_output_tokens,
            "response_format": {
                "type": "json_schema",
                "json_schema": {"name": self.prompt.answer, "strict": True, "schema": self.prompt.schema},
            },
            "store": False,
        }
        if self.temperature is not None:
            body["temperature"] = self.temperature
        if self.seed is not None:
            body["seed"] = self.seed
        return body

    def about_image(self, data: bytes) -> dict[str, Any]:
        """The request for an image. Raises NotAPictureError for bytes that are none."""
        assert self.max_side is not None, "settings for texts cannot ask about images"
        assert self.detail is not None, "settings for texts cannot ask about images"
        picture = sent_picture(data, self.max_side)
        url = f"data:{picture.media_type};base64,{base64.b64encode(picture.data).decode()}"
        return self.body(
            [
                {"type": "text", "text": self.prompt.user},
                {"type": "image_url", "image_url": {"url": url, "detail": self.detail}},
            ]
        )

    def about_text(self, text: str) -> dict[str, Any]:
        """The request for a text, which takes the place of {prompt}."""
        return self.body(self.prompt.user.replace("{prompt}", text))


class NotAPictureError(Exception):
    """Bytes that cannot be decoded, and why."""


class Picture(NamedTuple):
    """A picture as it is sent."""

    data: bytes
    media_type: str
    size: tuple[int, int]  # width, height


def sent_picture(data: bytes, max_side: int) -> Picture:
    """The picture that is sent for an image's bytes: see the module's rule. Raises NotAPictureError."""
    from PIL import Image, ImageOps

    from lensbench.data.pictures import as_rgb

    with _opened(data) as image:
        media_type = AS_THEY_ARE.get(image.format or "")
        if media_type and max(image.size) <= max_side and image.mode in ("RGB", "L") and _upright(image):
            return Picture(data, media_type, image.size)
        if image.format == "JPEG":
            image.draft("RGB", (max_side, max_side))  # decodes at a half, a quarter or an eighth where that is enough
        image.load()
        rgb = as_rgb(ImageOps.exif_transpose(image))
        rgb.thumbnail((max_side, max_side), Image.Resampling.LANCZOS)
        out = io.BytesIO()
        rgb.save(out, "JPEG", quality=QUALITY)
        return Picture(out.getvalue(), "image/jpeg", rgb.size)


def sent_size(data: bytes, max_side: int) -> tuple[int, int]:
    """Width and height of the picture that is sent, from the image's header alone. Raises NotAPictureError."""
    with _opened(data) as image:
        width, height = image.size
        if image.getexif().get(ORIENTATION, 1) in range(5, 9):  # lies on its side
            width, height = height, width
    scale = min(1.0, max_side / max(width, height))
    return max(1, round(width * scale)), max(1, round(height * scale))


@contextmanager
def _opened(data: bytes) -> Iterator[Image.Image]:
    from lensbench.data.pictures import opened, reason

    try:
        with opened(data) as image:
            yield image
    except Exception as error:  # a broken file can make a decoder raise anything
        raise NotAPictureError(reason(error)) from error


def _upright(image: Image.Image) -> bool:
    return image.getexif().get(ORIENTATION, 1) not in range(2, 9) and not image.has_transparency_data
