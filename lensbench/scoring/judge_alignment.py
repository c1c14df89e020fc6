"""The towers behind shapes-alignment: the parts of a picture and the words of a caption in one space.

Late interaction (Khattab and Zaharia 2020, ColBERT; Yao et al. 2022, FILIP): every word is compared with every part of
the picture (each object, each ordered pair of objects, and the whole), keeps the part that fits it best, and the
alignment is the mean over the words by learned weights. So one false word in a long caption costs its share, where a
single vector for a caption would have to bind all of it at once. The space is split into aspects, each with a cosine of
its own, and a word weighs them: a word that asks for a color must not lose by the size it does not ask for.
"""

from __future__ import annotations

import re

import torch
from torch import Tensor, nn
from torch.nn import functional

from lensbench.data.scenes import COLORS, SHAPES
from lensbench.scoring.judge_network import GRID

WIDTH = 96
ASPECTS, ASPECT_WIDTH = 8, 12
DIMENSIONS = ASPECTS * ASPECT_WIDTH  # of the shared space
MAX_WORDS = 112  # longer captions are cut; the longest of the world has about 90 words and signs
OBJECTS = 5  # most objects of a picture that are looked at; a scene has four
PARTS = OBJECTS + OBJECTS * (OBJECTS - 1) + 1
_SEEN = len(SHAPES) + len(COLORS) + 4
_PAD, _UNKNOWN = 0, 1
_THERE = 0.3  # GenEval's threshold


def words_of(text: str) -> list[str]:
    """A caption in lower case as words and punctuation."""
    return re.findall(r"[a-z]+|\d+|[^\sa-z\d]", text.lower())


def _perceptron(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(inputs, hidden), nn.GELU(), nn.Linear(hidden, outputs))


def _units(vectors: Tensor) -> Tensor:
    """(..., 96) -> (..., 8, 12), each aspect of unit length."""
    return functional.normalize(vectors.unflatten(-1, (ASPECTS, ASPECT_WIDTH)), dim=-1)


class _Context(nn.Module):
    """Mixes each word with its neighbors: what binds a color to its noun stands beside it."""

    def __init__(self, width: int, dilation: int) -> None:
        super().__init__()
        self.mix = nn.Conv1d(width, width, 5, padding=2 * dilation, dilation=dilation)
        self.out = nn.Conv1d(width, width, 1)

    def forward(self, hidden: Tensor) -> Tensor:
        return hidden + self.out(functional.gelu(self.mix(hidden)))


class Alignment(nn.Module):
    """Image tower on what the detector sees, text tower on a vocabulary of its own."""

    def __init__(self, vocabulary: list[str]) -> None:
        super().__init__()
        self.vocabulary = vocabulary
        self._index = {word: i + 2 for i, word in enumerate(vocabulary)}
        self.object = _perceptron(_SEEN, 128, DIMENSIONS)
        self.pair = _perceptron(2 * _SEEN + 2, 192, DIMENSIONS)
        self.whole = _perceptron(3 + (1 + len(SHAPES)) * OBJECTS, 192, DIMENSIONS)
        self.word = nn.Embedding(len(vocabulary) + 2, WIDTH, padding_idx=_PAD)
        self.text = nn.ModuleList(_Context(WIDTH, dilation) for dilation in (1, 2, 4, 1))
        self.out = nn.Linear(WIDTH, DIMENSIONS + ASPECTS + 1)

    def tokens(self, texts: list[str]) -> Tensor:
        """Word numbers (N, T), padded with 0; words outside the vocabulary share one number."""
        rows = [
            [self._index.get(word, _UNKNOWN) for word in words_of(text)][:MAX_WORDS] or [_UNKNOWN] for text in texts
        ]
        length = max(map(len, rows), default=1)
        return torch.tensor([row + [_PAD] * (length - len(row)) for row in rows], dtype=torch.long).view(-1, length)

    def embed_words(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Word numbers (N, T) -> vectors (N, T, 96) and weights (N, T) that sum to one."""
        lengths = (tokens != _PAD).sum(1)
        # Texts of like length go together: most captions are far shorter than the longest.
        order = lengths.argsort()
        parts = [self._embed(tokens[rows, : int(lengths[rows[-1]])]) for rows in order.split(len(order) // 4 + 1)]
        width = tokens.shape[1]
        words = torch.cat([functional.pad(part, (0, 0, 0, width - part.shape[1])) for part, _ in parts])
        weights = torch.cat([functional.pad(part, (0, width - part.shape[1])) for _, part in parts])
        back = order.argsort()
        return words[back], weights[back]

    def _embed(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        padding = tokens == _PAD
        there = (~padding)[:, None].float()
        hidden = self.word(tokens).mT * there
        for block in self.text:
            hidden = block(hidden) * there
        out = self.out(hidden.mT)
        weights = out[..., -1].masked_fill(padding, -1e4).softmax(-1)
        aspects = out[..., DIMENSIONS:-1].softmax(-1)[..., None]
        return (aspects * _units(out[..., :DIMENSIONS])).flatten(-2), weights

    def embed_parts(self, canvas: Tensor, predictions: Tensor) -> tuple[Tensor, Tensor]:
        """Canvas (N, 3, 32, 32) and the detector's predictions -> vectors (N, 26, 96) and which are there (N, 26)."""
        count, shapes = len(canvas), len(SHAPES)
        score = predictions[..., 0].sigmoid()
        peak = score * (score == functional.max_pool2d(score, 3, 1, 1))
        strength, place = peak.flatten(1).topk(OBJECTS, dim=1)
        there = strength > _THERE
        index = place[..., None]
        local = predictions.flatten(1, 2).gather(1, index.expand(-1, -1, predictions.shape[-1]))
        x, y = (place % GRID + 0.5 + local[..., 1]) / GRID, (place // GRID + 0.5 + local[..., 2]) / GRID
        what = local[..., 5 : 5 + shapes].softmax(-1)
        color = local[..., 5 + shapes :].softmax(-1)
        # Sizes and places are spread to about -1 to 1, so that they weigh as much as the shapes and colors.
        size = 4 * local[..., 3:5] - 3.6
        objects = torch.cat([what, color, size, 4 * x[..., None] - 2, 4 * y[..., None] - 2], -1)
        i, j = torch.tensor([(a, b) for a in range(OBJECTS) for b in range(OBJECTS) if a != b]).T
        apart = torch.stack([x[:, i] - x[:, j], y[:, i] - y[:, j]], -1) * 4
        pairs = torch.cat([objects[:, i], objects[:, j], apart], -1)
        number = torch.cat([there[..., None] * what, there[..., None]], -1).sum(1)
        steps = (number[..., None] - torch.arange(OBJECTS)).clamp(0, 1).flatten(1)  # 3 reads as 1, 1, 1, 0, 0
        # More than half of a picture is background, so each channel's median belongs to it.
        ground = canvas.flatten(2).median(-1).values
        whole = torch.cat([2 * ground - 1, steps], -1)
        parts = torch.cat([self.object(objects), self.pair(pairs), self.whole(whole)[:, None]], 1)
        always = torch.ones(count, 1, dtype=torch.bool)
        return _units(parts).flatten(-2), torch.cat([there, there[:, i] & there[:, j], always], 1)


def late_interaction(words: Tensor, weights: Tensor, parts: Tensor, there: Tensor) -> Tensor:
    """Alignment of every text with every picture of its group, in [-1, 1].

    words (..., T, L, D), weights (..., T, L), parts (..., N, P, D), there (..., N, P) -> (..., N, T).
    """
    pictures, count = parts.shape[-3:-1]
    texts, length = words.shape[-3:-1]
    cosine = parts.flatten(-3, -2) @ words.flatten(-3, -2).mT
    cosine = cosine.unflatten(-1, (texts, length)).unflatten(-3, (pictures, count))
    best = cosine.masked_fill(~there[..., None, None], -1).amax(-3)
    return (best * weights[..., None, :, :]).sum(-1)
