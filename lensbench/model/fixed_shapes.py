"""Features that depend on their text alone, whatever it is encoded with.

A matrix product may add up in another order when its shape changes, so the last bits of a text's features depend on
how many texts of what length are beside it. Here a text is computed in a shape that its own number of tokens decides: a
multiple of 16 tokens, in a fixed number of rows, which are filled up. Measured bit-equal for MiniLM and Qwen3 on a CPU,
with one thread and with two, whatever the other rows hold; not tried on a GPU.

A mixture of experts is another matter: how many tokens an expert is given depends on every row. Such a model takes one
text at a time (`alone`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

TOKENS = 16  # a text is filled up to a multiple of so many
# Tokens of a pass. On a CPU more are no faster; a GPU needs more to be busy.
CPU_TOKENS, GPU_TOKENS = 256, 2048
COUNTED = 4096  # texts whose tokens are counted at a time

# Tokens (R, T) int64 and the mask (R, T), true where a token is real, at least one a row -> K tensors (R, T, E).
Forward = Callable[[Tensor, Tensor], Sequence[Tensor]]


def encode_lines(
    lines: Sequence[Sequence[int]], forward: Forward, *, device: torch.device, alone: bool = False
) -> list[list[Tensor]]:
    """What `forward` gives for the tokens of each line: K tensors (its tokens, E) a line.

    Lines of no tokens are computed as one token and cut to none.
    """
    assert lines, "no lines to encode"
    by_length: dict[int, list[int]] = {}
    for place, line in enumerate(lines):
        by_length.setdefault(_length(len(line), alone), []).append(place)
    found: dict[int, list[Tensor]] = {}
    for length, places in by_length.items():
        rows = 1 if alone else rows_of(length, device)
        for start in range(0, len(places), rows):
            chosen = places[start : start + rows]
            ids = torch.zeros(rows, length, dtype=torch.long)
            mask = torch.zeros(rows, length, dtype=torch.bool)
            mask[:, 0] = True
            for row, place in enumerate(chosen):
                tokens = len(lines[place])
                ids[row, :tokens] = torch.tensor(lines[place], dtype=torch.long)
                mask[row, :tokens] = True
            layers = forward(ids.to(device), mask.to(device))
            for row, place in enumerate(chosen):
                found[place] = [layer[row, : len(lines[place])] for layer in layers]
    return [found[place] for place in range(len(lines))]


def rows_of(length: int, device: torch.device) -> int:
    """How many texts of `length` tokens are computed at a time."""
    return max(1, (CPU_TOKENS if device.type == "cpu" else GPU_TOKENS) // length)


def padded(lines: Sequence[Sequence[Tensor]]) -> tuple[list[Tensor], Tensor]:
    """K tensors (its tokens, E) a line as K tensors (B, T, E), zero where padded, and the mask (B, T).

    T is the longest line, and one at least.
    """
    lengths = torch.tensor([len(line[0]) for line in lines])
    longest = max(1, int(lengths.max()))
    layers = [part.new_zeros(len(lines), longest, part.shape[1]) for part in lines[0]]
    for row, line in enumerate(lines):
        for layer, part in zip(layers, line, strict=True):
            layer[row, : len(part)] = part
    mask = torch.arange(longest)[None, :] < lengths[:, None]
    return layers, mask.to(layers[0].device)


def counted(texts: Sequence[str], count: Callable[[Sequence[str]], list[int]]) -> np.ndarray:
    """What `count` gives for each of the texts, int64; some at a time, so that memory does not grow with them."""
    found = [count(texts[start : start + COUNTED]) for start in range(0, len(texts), COUNTED)]
    return np.array([n for some in found for n in some], dtype=np.int64)


def _length(tokens: int, alone: bool) -> int:
    return max(1, tokens) if alone else max(1, -(-tokens // TOKENS)) * TOKENS
