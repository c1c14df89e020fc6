"""The judge's networks: a small detector, and two towers that put a picture and a sentence into one space."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

from lensbench.data.scenes import COLORS, SHAPES

CANVAS_PX = 32  # every picture is resized to this side before it is judged
GRID = 8  # cells a side; a cell is 4 px of the canvas, so two objects never share one
FEATURES = 64  # channels of the last map, and dimensions of the features behind FD-shapes


def _convolution(channels_in: int, channels_out: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels_in, channels_out, 3, stride, 1, bias=False), nn.BatchNorm2d(channels_out), nn.ReLU()
    )


class _Residual(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = _convolution(channels, channels)
        self.second = nn.Sequential(nn.Conv2d(channels, channels, 3, 1, 1, bias=False), nn.BatchNorm2d(channels))

    def forward(self, x: Tensor) -> Tensor:
        return functional.relu(x + self.second(self.first(x)))


class Detector(nn.Module):
    """One prediction a cell: is an object's center here, its box, its shape, its color."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Sequential(
            _convolution(3, 16),
            _convolution(16, 32, stride=2),
            _Residual(32),
            _convolution(32, FEATURES, stride=2),
            _Residual(FEATURES),
            _Residual(FEATURES),
        )
        self.head = nn.Conv2d(FEATURES, 1 + 4 + len(SHAPES) + len(COLORS), 1)
        assert self.head.bias is not None
        nn.init.constant_(self.head.bias[:1], -3.0)  # few cells hold a center

    def forward(self, canvas: Tensor) -> tuple[Tensor, Tensor]:
        """canvas (N, 3, 32, 32) in [0, 1] -> predictions (N, 8, 8, 18), feature map (N, 64, 8, 8).

        A prediction is objectness logit, box (x and y of the center from the cell's center, in cells; log of the width
        and height in cells), shape logits, color logits.
        """
        features = self.trunk(canvas * 2 - 1)
        return self.head(features).permute(0, 2, 3, 1), features


def to_canvas(images: Tensor) -> Tensor:
    """Resize (N, 3, S, S) to the canvas: bicubic with antialias, clipped to [0, 1]."""
    if images.shape[-1] == CANVAS_PX:
        return images
    return functional.interpolate(images, size=(CANVAS_PX, CANVAS_PX), mode="bicubic", antialias=True).clamp(0, 1)
