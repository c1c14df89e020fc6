"""The Lens denoiser: a double-stream rectified-flow transformer with the published structure and parameter names.

- every block is double-stream: image and text tokens have their own weights and meet in one joint attention
- fused QKV, RMSNorm on queries and keys, SwiGLU without bias, affine RMSNorm before attention and MLP
- the time, and nothing else, modulates; text is never pooled
- rotary positions on three axes (frame, height, width), image centred on zero, text beyond the image's edge
- text features of several encoder layers, each normalised, concatenated on channels
- only the image stream is read out

Source: "Lens: Rethinking Training Efficiency for Foundational Text-to-Image Models" (arXiv 2605.21573), its published
inference code and configs. A published checkpoint loads with `strict=True`.

The last block's text output is never read, so it is not computed: its `to_add_out`, `txt_norm2` and `txt_mlp` exist,
because published checkpoints have them, and never get a gradient (nor would they if it were computed).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F  # noqa: N812 - the field's name for it
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from lensbench.model.attention import JointAttention, Packing, rotary_table
from lensbench.model.config import LensConfig
from lensbench.model.layers import ModulatedLayerNorm, RMSNorm, SwiGLU, TimeTextEmbed, modulated

TEXT_EPS = 1e-5
QUERY_KEY_BIAS_STD = 1.5  # at the start


class Block(nn.Module):
    """One double-stream block: attention, then MLP, both modulated by the time."""

    def __init__(self, width: int, head_dim: int, hidden: int) -> None:
        super().__init__()
        self.attn = JointAttention(width, head_dim)
        self.img_mod = nn.Sequential(nn.SiLU(), nn.Linear(width, 6 * width))
        self.img_norm1 = RMSNorm(width)
        self.img_norm2 = RMSNorm(width)
        self.img_mlp = SwiGLU(width, hidden)
        self.txt_mod = nn.Sequential(nn.SiLU(), nn.Linear(width, 6 * width))
        self.txt_norm1 = RMSNorm(width)
        self.txt_norm2 = RMSNorm(width)
        self.txt_mlp = SwiGLU(width, hidden)

    def forward(
        self, image: Tensor, text: Tensor, time: Tensor, rotary: Tensor, packing: Packing, *, text_out: bool = True
    ) -> tuple[Tensor, Tensor]:
        """image (B, N, D), text (B, T, D) or packed (M, D), time (B, 1, D) after its SiLU -> image, text.

        The text comes back untouched if not `text_out`.
        """
        # The SiLU is the same for all blocks and was applied once; [1] is the linear.
        shift1, scale1, gate1, shift2, scale2, gate2 = self.img_mod[1](time).chunk(6, dim=-1)
        t_modulation = self.txt_mod[1](time)
        if not text_out:
            t_modulation = t_modulation[..., : 2 * image.shape[-1]]
        t_shift1, t_scale1, *t_rest = packing.spread(t_modulation).chunk(6 if text_out else 2, dim=-1)
        image_mixed, text_mixed = self.attn(
            modulated(image, self.img_norm1, shift1, scale1),
            modulated(text, self.txt_norm1, t_shift1, t_scale1),
            rotary,
            packing,
            text_out=text_out,
        )
        image = torch.addcmul(image, gate1, image_mixed)
        image = torch.addcmul(image, gate2, self.img_mlp(modulated(image, self.img_norm2, shift2, scale2)))
        if text_out:
            t_gate1, t_shift2, t_scale2, t_gate2 = t_rest
            text = torch.addcmul(text, t_gate1, text_mixed)
            text = torch.addcmul(text, t_gate2, self.txt_mlp(modulated(text, self.txt_norm2, t_shift2, t_scale2)))
        return image, text


class LensTransformer(nn.Module):
    """The denoiser of a `LensConfig`. Weights are drawn from torch's global generator: see `initialize`."""

    def __init__(self, config: LensConfig) -> None:
        super().__init__()
        self.config = config
        width = config.inner_dim
        # Modules stand in the published order, so that optimiser states line up with published ones too.
        self.time_text_embed = TimeTextEmbed(width)
        self.txt_norm = nn.ModuleList([RMSNorm(config.enc_hidden_dim, TEXT_EPS) for _ in config.selected_layer_index])
        self.txt_in = nn.Linear(config.enc_hidden_dim * len(config.selected_layer_index), width)
        self.img_in = nn.Linear(config.in_channels, width)
        self.transformer_blocks = nn.ModuleList(
            [Block(width, config.attention_head_dim, config.mlp_dim) for _ in range(config.num_layers)]
        )
        self.norm_out = ModulatedLayerNorm(width)
        self.proj_out = nn.Linear(width, config.in_channels)
        self.checkpointing = False  # keep the inputs of every block alone and compute the rest twice
        self.initialize()

    def initialize(self) -> None:
        """Weights as in DiT (arXiv 2212.09748, section 3.2): Xavier, no bias; time embedder N(0, 0.02^2).

        The modulations start without the time and with open gates: each block is a plain pre-norm block. DiT's closed
        gates keep the text from the image for the first hundreds of steps, which short runs do not have. Queries and
        keys have random biases: with them a head prefers some relative positions from the start, and a model that is
        told positions by rotation alone finds out where its tokens are much sooner. The last projection is zero, so
        the velocity starts at zero.
        """
        for name, parameter in self.named_parameters():
            if name.endswith(("_mod.1.weight", "norm_out.linear.weight", "proj_out.weight", ".bias")):
                nn.init.zeros_(parameter)
                if name.endswith("_mod.1.bias"):
                    with torch.no_grad():  # (shift, scale, gate) of the attention, then of the MLP
                        parameter.view(6, -1)[[2, 5]] = 1.0
                elif name.endswith("_qkv.bias"):
                    nn.init.normal_(parameter[: 2 * self.config.inner_dim], std=QUERY_KEY_BIAS_STD)
            elif name.startswith("time_text_embed."):
                nn.init.normal_(parameter, std=0.02)
            elif parameter.ndim == 2:
                nn.init.xavier_uniform_(parameter)
            else:
                nn.init.ones_(parameter)  # the weight of a norm

    def forward(
        self,
        latents: Tensor,
        timestep: Tensor,
        text_features: Sequence[Tensor],
        text_mask: Tensor,
        grid: tuple[int, int],
    ) -> Tensor:
        """Velocity (B, H*W, C) of `latents` (B, H*W, C), row-major on `grid` (H, W), at `timestep` (B,) in [0, 1].

        `text_features`: one (B, T, E) for each of `selected_layer_index`; `text_mask` (B, T) bool, true where a token
        is real. A row without a real token is unconditional. Padding changes nothing. Raises ValueError on shapes.
        """
        height, width = grid
        image_tokens, text_tokens = latents.shape[1], text_mask.shape[1]
        if image_tokens != height * width:
            raise ValueError(f"{image_tokens} image tokens do not fill a {height}x{width} grid")
        if len(text_features) != len(self.txt_norm):
            raise ValueError(f"{len(text_features)} layers of text features, but the model reads {len(self.txt_norm)}")
        if any(layer.shape[:2] != text_mask.shape for layer in text_features):
            shapes = [tuple(layer.shape) for layer in text_features]
            raise ValueError(f"text features {shapes} do not match their mask {tuple(text_mask.shape)}")
        empty = ~text_mask.any(dim=1)
        if bool(empty.any()) and any(bool(layer[empty].any()) for layer in text_features):
            raise ValueError(
                "text_mask is all false in a row whose features are not zero: unconditional rows have zeros"
            )
        packing = Packing.of(text_mask)
        text = [packing.pack(layer) for layer in text_features]
        rotary = rotary_table(self.config.axes_dims_rope, grid, text_tokens, latents.device)
        return self.velocity(latents, timestep, text, rotary, packing)

    def compile_velocity(self) -> None:
        """From now on compute by torch.compile: one compilation for padded batches and one for those that are not."""
        self.velocity = torch.compile(self.velocity, dynamic=True, fullgraph=True)  # type: ignore[method-assign]

    def velocity(
        self, latents: Tensor, timestep: Tensor, layers: list[Tensor], rotary: Tensor, packing: Packing
    ) -> Tensor:
        """`forward` once the text is packed: what `compile_velocity` compiles, without a branch on values."""
        image = self.img_in(latents)
        text = self.txt_in(torch.cat([norm(x) for norm, x in zip(self.txt_norm, layers, strict=True)], dim=-1))
        time = F.silu(self.time_text_embed(timestep)).unsqueeze(1)  # (B, 1, D)
        last = len(self.transformer_blocks) - 1
        for n, block in enumerate(self.transformer_blocks):
            given = (image, text, time, rotary, packing)
            if self.checkpointing and torch.is_grad_enabled():
                image, text = checkpoint(
                    block, *given, text_out=n < last, use_reentrant=False, preserve_rng_state=False
                )
            else:
                image, text = block(*given, text_out=n < last)
        return self.proj_out(self.norm_out(image, time))
