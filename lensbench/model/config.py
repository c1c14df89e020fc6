"""The shape of a Lens denoiser. Nothing here needs torch: a sweep is planned without it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

TIME_CHANNELS = 256  # sinusoids the time is expanded into


@dataclasses.dataclass(frozen=True)
class LensConfig:
    """Shape of a Lens denoiser, with the names of the published config.json; the defaults are the published Lens.

    Raises ValueError, one line, for shapes that cannot be.
    """

    patch_size: int = 2  # side of a patch, in latent positions
    in_channels: int = 128  # channels of a token: patch_size**2 * out_channels
    out_channels: int = 32  # channels of a latent position
    num_layers: int = 48
    attention_head_dim: int = 64
    num_attention_heads: int = 24
    inner_dim: int = 0  # width: num_attention_heads * attention_head_dim; 0 fills it in
    enc_hidden_dim: int = 2880  # width of the text encoder
    axes_dims_rope: tuple[int, ...] = (8, 28, 28)  # channels of a head rotated by frame, height, width
    gate_mlp: bool = True
    rms_norm: bool = True
    multi_layer_encoder_feature: bool = True
    selected_layer_index: tuple[int, ...] = (5, 11, 17, 23)  # 0-based layers of the text encoder

    def __post_init__(self) -> None:
        object.__setattr__(self, "axes_dims_rope", tuple(self.axes_dims_rope))
        object.__setattr__(self, "selected_layer_index", tuple(self.selected_layer_index))
        width = self.num_attention_heads * self.attention_head_dim
        object.__setattr__(self, "inner_dim", self.inner_dim or width)
        for name in ("patch_size", "in_channels", "out_channels", "num_layers", "inner_dim", "enc_hidden_dim"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)}: must be at least 1")
        if self.inner_dim != width:
            raise ValueError(
                f"inner_dim={self.inner_dim} is not num_attention_heads * attention_head_dim = {width}: leave it out"
            )
        if self.in_channels != self.patch_size**2 * self.out_channels:
            raise ValueError(
                f"in_channels={self.in_channels} is not patch_size**2 * out_channels = "
                f"{self.patch_size**2 * self.out_channels}: a velocity must have the shape of its latents"
            )
        if len(self.axes_dims_rope) != 3 or any(d < 0 or d % 2 for d in self.axes_dims_rope):
            raise ValueError(f"axes_dims_rope={self.axes_dims_rope}: needs three even numbers (frame, height, width)")
        if sum(self.axes_dims_rope) != self.attention_head_dim:
            raise ValueError(
                f"axes_dims_rope={self.axes_dims_rope} does not add up to attention_head_dim={self.attention_head_dim}"
            )
        if not self.selected_layer_index:
            raise ValueError("selected_layer_index is empty: name at least one layer of the text encoder")
        for name in ("gate_mlp", "rms_norm", "multi_layer_encoder_feature"):
            if getattr(self, name) is not True:
                raise ValueError(
                    f"{name}={getattr(self, name)}: every published Lens has true, and nothing else is built"
                )

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> LensConfig:
        """The config of a published config.json; diffusers' own keys (`_class_name`, ...) are passed over.

        Raises ValueError for a key that Lens does not have.
        """
        known = {field.name for field in dataclasses.fields(cls)}
        unknown = sorted(key for key in values if key not in known and not key.startswith("_"))
        if unknown:
            raise ValueError(f"unknown keys in a Lens config: {', '.join(unknown)}")
        return cls(**{key: value for key, value in values.items() if key in known})

    @property
    def mlp_dim(self) -> int:
        """Hidden width of the SwiGLU."""
        return int(self.inner_dim / 3 * 8)
