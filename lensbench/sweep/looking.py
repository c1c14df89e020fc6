"""What is looked at while a cell trains: the held-out loss of each prompt form, and a sheet of pictures.

On the sheet a row is a prompt and a column a wording, with the same noise across a row and along training.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from lensbench.data.features import TextFeatures
from lensbench.data.latents import Latents
from lensbench.experiment import Form
from lensbench.model.autoencoder import Autoencoder
from lensbench.model.transformer import LensTransformer
from lensbench.publishing import publish
from lensbench.scoring.evaluation_plan import Plan
from lensbench.scoring.watching import first_samples, held_out_losses
from lensbench.training import files

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.ImageDraw import ImageDraw
    from PIL.ImageFont import FreeTypeFont

PICTURE, LARGEST = 96, 256  # least and largest side on a sheet, in pixels; small pictures grow by whole numbers
TEXT = 216  # width of a prompt
GAP, HEAD, LINE = 12, 66, 15
INK, PALE = "#222222", "#777777"


class Amount(NamedTuple):
    """How far a training is after a step."""

    step: int
    samples_seen: int
    train_flops: float


def look(
    denoiser: LensTransformer,
    step: int,
    *,
    plan: Plan,
    features: TextFeatures,
    autoencoder: Autoencoder,
    real: Latents,
    amount: Callable[[int], Amount],
    directory: Path,
) -> list[dict[str, int | float | str]]:
    """Rows of the held-out loss, one a form; leaves the sheet of pictures in `directory`. See training.watch.Probe.

    The arguments are those of lensbench.scoring.evaluate.score.
    """
    so_far = amount(step)
    losses = {row["prompt_form"]: row for row in held_out_losses(denoiser, plan, features, real).records}
    if prompts := plan.experiment.training.watch_images:
        samples = first_samples(denoiser, plan, features, autoencoder, prompts)
        heads: dict[Form, str] = {
            form: f"{form} prompts, held-out loss {row['value']:.4f}" for form, row in losses.items()
        }
        title = f"step {step:,}, {so_far.samples_seen:,} images seen"
        write_sheet(files.samples(directory, step), title, heads, samples.texts, samples.images)
    return [
        {**so_far._asdict(), "form": form, "validation_loss": row["value"]} | {k: row[k] for k in ("low", "high", "n")}
        for form, row in losses.items()
    ]


def write_sheet(
    path: Path,
    title: str,
    heads: Mapping[Form, str],
    texts: Mapping[Form, Sequence[str]],
    images: Mapping[Form, np.ndarray],
) -> None:
    """Write a PNG of images (P, S, S, 3) uint8 and their texts (P,), by form; `heads` stand above the forms."""
    from PIL import Image, ImageDraw

    first = next(iter(images.values()))
    prompts, pixels = first.shape[:2]
    side = min(pixels * -(-PICTURE // pixels), LARGEST)
    column = side + TEXT + 3 * GAP
    sheet = Image.new("RGB", (GAP + len(images) * column, HEAD + prompts * (side + GAP)), "white")
    draw = ImageDraw.Draw(sheet)
    draw.text((GAP, 9), title, fill=INK, font=_font(17))
    for place, form in enumerate(images):
        left = GAP + place * column
        draw.text((left, 40), heads[form], fill=PALE, font=_font(13))
        for row, (image, text) in enumerate(zip(images[form], texts[form], strict=True)):
            top = HEAD + row * (side + GAP)
            sheet.paste(_resized(Image.fromarray(image), side), (left, top))
            _words(draw, left + side + GAP, top, text, side)
    path.parent.mkdir(exist_ok=True)
    partial = path.with_suffix(".partial")
    sheet.save(partial, format="png")
    publish(partial, path)


def _resized(image: Image, side: int) -> Image:
    from PIL.Image import Resampling

    return image.resize((side, side), Resampling.NEAREST if side >= image.width else Resampling.LANCZOS)


def _words(draw: ImageDraw, left: int, top: int, text: str, height: int) -> None:
    """A prompt in as many lines as fit; what does not fit ends in dots."""
    font = _font(12)
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if font.getlength(longer) <= TEXT:
            lines[-1] = longer
        else:
            lines.append(word)
    room = height // LINE
    if len(lines) > room:
        lines = [*lines[: room - 1], lines[room - 1] + " ..."]
    for n, line in enumerate(lines):
        draw.text((left, top + n * LINE), line, fill=INK, font=font)


@functools.cache
def _font(size: int) -> FreeTypeFont:
    """Pillow's own, so that a sheet does not depend on the system's fonts."""
    from PIL import ImageFont

    font = ImageFont.load_default(size)
    assert isinstance(font, ImageFont.FreeTypeFont)
    return font
