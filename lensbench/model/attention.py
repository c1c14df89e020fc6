"""One attention over the tokens of two streams, with text of any length and nothing computed for its padding."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812 - the field's name for it
from torch import Tensor, nn

from lensbench.model.layers import RMSNorm, unit_rms

THETA = 10_000.0  # base of the rotary frequencies


@dataclass(frozen=True)
class Packing:
    """How a batch's text tokens are laid out: padded (B, T, ...) or the real ones alone, one after the other (M, ...).

    Only attention needs rows; everything else is computed for real tokens alone. Where nothing is padded there is
    nothing to do: no index, no mask.
    """

    shape: tuple[int, int]  # (B, T)
    places: Tensor | None = None  # (M,) of the real tokens in the flattened (B * T)
    padding: Tensor | None = None  # (B, 1, 1, T), true where a token is none

    @classmethod
    def of(cls, text_mask: Tensor) -> Packing:
        """The packing of a mask (B, T)."""
        if bool(text_mask.all()):
            return cls((text_mask.shape[0], text_mask.shape[1]))
        places = text_mask.flatten().nonzero().squeeze(1)
        return cls(
            (text_mask.shape[0], text_mask.shape[1]),
            places,
            ~text_mask[:, None, None],
        )

    def pack(self, x: Tensor) -> Tensor:
        """(B, T, ...) -> (M, ...); as it is where nothing is padded."""
        return x if self.places is None else x.flatten(0, 1).index_select(0, self.places)

    def pad(self, x: Tensor) -> Tensor:
        """(M, ...) -> (B, T, ...), zero where padded."""
        if self.places is None:
            return x
        batch, tokens = self.shape
        return x.new_zeros(batch * tokens, *x.shape[1:]).index_copy(0, self.places, x).unflatten(0, (batch, tokens))

    def spread(self, x: Tensor) -> Tensor:
        """One row an image (B, 1, C) -> one a text token, to be broadcast or (M, C)."""
        return x if self.places is None else x.squeeze(1).index_select(0, self.places // self.shape[1])


class JointAttention(nn.Module):
    """One attention over image and text tokens together."""

    def __init__(self, width: int, head_dim: int) -> None:
        super().__init__()
        self.norm_q = RMSNorm(head_dim)
        self.norm_k = RMSNorm(head_dim)
        self.norm_added_q = RMSNorm(head_dim)
        self.norm_added_k = RMSNorm(head_dim)
        self.img_qkv = nn.Linear(width, 3 * width)
        self.txt_qkv = nn.Linear(width, 3 * width)
        self.to_out = nn.ModuleList([nn.Linear(width, width)])
        self.to_add_out = nn.Linear(width, width)
        self.head_dim = head_dim

    def forward(
        self, image: Tensor, text: Tensor, rotary: Tensor, packing: Packing, *, text_out: bool
    ) -> tuple[Tensor, Tensor | None]:
        """image (B, N, D), text (B, T, D) or packed (M, D), rotary (2, N+T, d) -> both streams, mixed."""
        image_tokens = image.shape[1]
        streams = (
            self.heads(self.img_qkv(image), self.norm_q, self.norm_k),
            tuple(packing.pad(x) for x in self.heads(self.txt_qkv(text), self.norm_added_q, self.norm_added_k)),
        )
        # Joined with the tokens next to the channels, as attention reads them: (2, B, heads, S, d), S = N + T.
        queries_keys = torch.cat([qk.permute(2, 0, 3, 1, 4) for qk, _ in streams], dim=3)
        values = torch.cat([v.transpose(1, 2) for _, v in streams], dim=2)  # (B, heads, S, d)
        queries, keys = turned(queries_keys, rotary).unbind(0)
        if not text_out:
            queries = queries[:, :, :image_tokens]
        out = attention(queries, keys, values, packing.padding).transpose(1, 2).flatten(2)  # (B, S, D)
        if not text_out:
            return self.to_out[0](out), None
        image_out, text_mixed = out.split([image_tokens, out.shape[1] - image_tokens], dim=1)
        return self.to_out[0](image_out), self.to_add_out(packing.pack(text_mixed))

    def heads(self, qkv: Tensor, norm_q: RMSNorm, norm_k: RMSNorm) -> tuple[Tensor, Tensor]:
        """qkv (..., 3D) -> queries and keys, normalised, (..., 2, heads, d), and values (..., heads, d).

        Queries are scaled by d^-0.5 here, where it costs nothing.
        """
        queries_keys, values = qkv.unflatten(-1, (3, -1, self.head_dim)).split([2, 1], dim=-3)
        weight = torch.stack([norm_q.weight * self.head_dim**-0.5, norm_k.weight]).unsqueeze(1)  # (2, 1, d)
        return (unit_rms(queries_keys, norm_q.eps) * weight).to(values.dtype), values.squeeze(-3)


def turned(x: Tensor, rotary: Tensor) -> Tensor:
    """x (..., S, d) with neighboring channels turned as pairs; rotary (2, S, d): see `rotary_table`."""
    cosines, sines = rotary.to(x.dtype)
    swapped = x.unflatten(-1, (-1, 2)).flip(-1).flatten(-2)
    return torch.addcmul(x * cosines, swapped, sines)


def attention(queries: Tensor, keys: Tensor, values: Tensor, padding: Tensor | None) -> Tensor:
    """Softmax attention of (B, heads, S, d), queries scaled already.

    padding (B, 1, 1, T), true where one of the last T keys is none, or None where all are real.
    """
    if queries.device.type == "cpu" and queries.dtype == torch.bfloat16:
        # In bfloat16 two matrix products take half the time of torch's fused attention for the CPU, both ways.
        with torch.autocast("cpu", enabled=False):  # which would do the softmax in float32
            scores = queries @ keys.transpose(-1, -2)
            if padding is not None:
                with torch.no_grad():  # its gradient is that of the softmax, which is zero there already
                    scores[..., -padding.shape[-1] :].masked_fill_(padding, -torch.inf)
            return scores.softmax(dim=-1) @ values
    return fused_attention(queries, keys, values, padding)


def fused_attention(queries: Tensor, keys: Tensor, values: Tensor, padding: Tensor | None) -> Tensor:
    """`attention` by torch's own kernel."""
    mask = None if padding is None else F.pad(~padding, (keys.shape[2] - padding.shape[-1], 0), value=True)
    return F.scaled_dot_product_attention(queries, keys, values, attn_mask=mask, scale=1.0)


def rotary_table(axes: tuple[int, ...], grid: tuple[int, int], text_tokens: int, device: torch.device) -> Tensor:
    """Cosines and signed sines (2, H*W + T, d) of the joint sequence's angles, image first; see `turned`.

    Height and width run from -(n - n//2) to n//2 - 1, the frame is 0; text token i is at max(H//2, W//2) + i on all
    three axes.
    """
    room = 64 * math.ceil(text_tokens / 64)  # so that a table serves many lengths
    return _rotary_table(axes, grid, room, device)[:, : grid[0] * grid[1] + text_tokens]


@functools.lru_cache(maxsize=128)
def _rotary_table(axes: tuple[int, ...], grid: tuple[int, int], text_tokens: int, device: torch.device) -> Tensor:
    # Cached tensors outlive the call: made under inference mode they could not be trained with.
    with torch.inference_mode(False), torch.no_grad():
        height, width = grid
        rows = torch.arange(height, dtype=torch.float64) - (height - height // 2)
        columns = torch.arange(width, dtype=torch.float64) - (width - width // 2)
        frames = torch.zeros(1, 1, dtype=torch.float64)
        image = torch.stack(torch.broadcast_tensors(frames, rows[:, None], columns[None, :]), dim=-1)
        text = max(height // 2, width // 2) + torch.arange(text_tokens, dtype=torch.float64)
        positions = torch.cat([image.reshape(-1, 3), text[:, None].expand(-1, 3)])  # (S, 3)
        angles = torch.cat(
            [
                positions[:, axis, None] * THETA ** (-torch.arange(0, channels, 2, dtype=torch.float64) / channels)
                for axis, channels in enumerate(axes)
            ],
            dim=1,
        )  # (S, d/2)
        cosines = angles.cos().repeat_interleave(2, dim=-1)
        sines = torch.stack([-angles.sin(), angles.sin()], dim=-1).flatten(-2)
        return torch.stack([cosines, sines]).to(device, torch.float32)
