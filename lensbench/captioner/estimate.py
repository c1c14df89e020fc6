"""What captions will cost: by the rules before anything is sent, by a pilot's measured usage after it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from lensbench.captioner.prices import (
    FEWEST_BYTES_PER_TOKEN,
    OVERHEAD_TOKENS,
    Price,
    text_tokens,
)
from lensbench.captioner.requests import Asking


@dataclass(frozen=True)
class Estimate:
    """Tokens and dollars of so many requests. Dollars are None where the model's price is not known."""

    requests: int
    input_tokens: int
    output_tokens: int
    live_usd: float | None
    batch_usd: float | None


def by_rules(asking: Asking, price: Price | None, sizes: Iterable[tuple[int, int]]) -> Estimate:
    """The estimate for images that are sent with these widths and heights, in pixels."""
    words = text_tokens(asking.words) + OVERHEAD_TOKENS
    requests = tokens = 0
    for width, height in sizes:
        requests += 1
        tokens += words + image_tokens(asking, price, width, height)
    return _priced(requests, tokens, requests * asking.prompt.output_tokens, price)


def by_rules_of_texts(asking: Asking, price: Price | None, texts: Sequence[str]) -> Estimate:
    """The same for requests about texts."""
    tokens = len(texts) * (text_tokens(asking.words) + OVERHEAD_TOKENS) + sum(map(text_tokens, texts))
    return _priced(len(texts), tokens, len(texts) * asking.prompt.output_tokens, price)


def image_tokens(asking: Asking, price: Price | None, width: int, height: int) -> int:
    """Tokens of an image as it is sent, by the model's rule; a model without a price is taken for one with tiles."""
    rule = (price or Price(input=0, output=0)).image
    return rule.tokens(width, height, asking.detail or "high")


def most_input_tokens(asking: Asking, price: Price | None, longest_text: str = "") -> int:
    """Input tokens of a request, at most: for the largest image that is sent, or the longest text."""
    words = text_tokens(asking.words + longest_text, FEWEST_BYTES_PER_TOKEN) + OVERHEAD_TOKENS
    if asking.max_side is None:
        return words
    side = asking.max_side
    shapes = [(side, other) for other in {side, *range(32, side, 32)}]
    return words + max(image_tokens(asking, price, *shape) for shape in shapes)


def worst_usd(asking: Asking, price: Price | None, *, batch: bool, longest_text: str = "") -> float:
    """What a request costs at most, in dollars; 0 where the price is not known."""
    if price is None:
        return 0.0
    return price.usd(most_input_tokens(asking, price, longest_text), asking.max_output_tokens, batch=batch)


@dataclass(frozen=True)
class Measured:
    """A mean over a pilot's images with its 95 % interval (Student's t over images)."""

    mean: float
    low: float
    high: float

    def of(self, n: int) -> Measured:
        """The sum over `n` further images."""
        return Measured(self.mean * n, max(0.0, self.low * n), self.high * n)


def measured(values: Sequence[float]) -> Measured:
    """The mean of a random sample with its interval; a sample of one has no interval that is known."""
    n = len(values)
    mean = sum(values) / n
    if n == 1:
        return Measured(mean, math.nan, math.nan)
    from scipy.stats import t

    spread = math.sqrt(sum((value - mean) ** 2 for value in values) / (n - 1))
    half = float(t.ppf(0.975, n - 1)) * spread / math.sqrt(n)
    return Measured(mean, mean - half, mean + half)


def _priced(requests: int, input_tokens: int, output_tokens: int, price: Price | None) -> Estimate:
    live, batch = (
        None if price is None else price.usd(input_tokens, output_tokens, batch=in_batch) for in_batch in (False, True)
    )
    return Estimate(requests, input_tokens, output_tokens, live, batch)
