"""What a model's tokens cost, from a dated file that users can override, and how many tokens an image is.

The rules for images are OpenAI's (platform.openai.com, "Images and vision"), whose documentation leaves some cases
open; small images are taken not to be scaled up. A pilot measures what is really counted.
"""

from __future__ import annotations

import math
import re
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

PRICES = Path(__file__).with_name("prices.toml")
SNAPSHOT = re.compile(r"-\d{4}-\d{2}-\d{2}$")  # gpt-4.1-2025-04-14 costs what gpt-4.1 costs
BYTES_PER_TOKEN = 4  # of English, roughly
FEWEST_BYTES_PER_TOKEN = 2.5  # English and JSON have more, so this never counts too few tokens
OVERHEAD_TOKENS = 20  # of the chat around the messages
MOST_PATCHES = 1536


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Tiles(_Part):
    """So many tokens for an image and for each of its 512-px tiles."""

    rule: Literal["tiles"]
    base: int = Field(ge=0)
    tile: int = Field(ge=0)

    def tokens(self, width: int, height: int, detail: str) -> int:
        """Tokens of an image of that many pixels."""
        if detail == "low":
            return self.base
        scale = min(1.0, 2048 / max(width, height))
        scale = min(scale, 768 / min(width, height))
        across, down = (math.ceil(round(side * scale, 6) / 512) for side in (width, height))
        return self.base + self.tile * across * down


class Patches(_Part):
    """So many tokens for each of an image's 32-px patches."""

    rule: Literal["patches"]
    factor: float = Field(gt=0)

    def tokens(self, width: int, height: int, detail: str) -> int:
        """Tokens of an image of that many pixels; `detail` makes no difference."""
        patches = math.ceil(width / 32) * math.ceil(height / 32)
        return math.ceil(min(patches, MOST_PATCHES) * self.factor)


class Price(_Part):
    """Dollars a million tokens of one model; `batch` is the batch API's share of them."""

    input: float = Field(ge=0)
    output: float = Field(ge=0)
    cached_input: float | None = Field(None, ge=0)
    batch: float = Field(0.5, ge=0, le=1)
    image: Annotated[Tiles | Patches, Field(discriminator="rule")] = Tiles(rule="tiles", base=85, tile=170)

    def usd(self, input_tokens: float, output_tokens: float, cached_tokens: float = 0, *, batch: bool) -> float:
        """What a request costs. The discount for cached input is taken live alone: a batch has its own."""
        if batch:
            return self.batch * (input_tokens * self.input + output_tokens * self.output) / 1e6
        cached = self.input if self.cached_input is None else self.cached_input
        fresh = max(0, input_tokens - cached_tokens)
        return (fresh * self.input + cached_tokens * cached + output_tokens * self.output) / 1e6


class _File(_Part):
    date: str
    models: dict[str, Price]


@dataclass(frozen=True)
class Prices:
    """The prices in force, and of which day each is."""

    models: dict[str, tuple[Price, str]]

    def of(self, model: str) -> tuple[Price, str] | None:
        """A model's price and its date; a dated snapshot of a model costs what the model costs. None: not known."""
        return self.models.get(model) or self.models.get(SNAPSHOT.sub("", model))


def open_prices(own: Path | None = None) -> Prices:
    """The package's prices, with those of a user's own file before them.

    Raises ValueError, one line, for a file of another form; OSError when it cannot be read.
    """
    models: dict[str, tuple[Price, str]] = {}
    for path in (PRICES, own):
        if path is not None:
            read = _read(path)
            models |= {name: (price, read.date) for name, price in read.models.items()}
    return Prices(models)


def text_tokens(text: str, bytes_per_token: float = BYTES_PER_TOKEN) -> int:
    """Tokens of a text, from its length: an estimate, for no tokenizer is at hand."""
    return math.ceil(len(text.encode()) / bytes_per_token)


def _read(path: Path) -> _File:
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
        return _File.model_validate(values | {"date": str(values.get("date", ""))})
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not a TOML file ({error})") from None
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise ValueError(f"{path}: {where}: {first['msg']}") from None
