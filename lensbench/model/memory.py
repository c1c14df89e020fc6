"""What a training step keeps in memory, in closed form: weights, gradients, optimizer, averaged weights, activations.

Activations are counted tensor by tensor: what `LensTransformer`, not compiled, saves for the backward pass. It is an
estimate; the tests hold it against what torch really keeps. Not counted: what lives for one operation only, CUDA's own
memory and fragmentation, for which `largest_batch` leaves `HEADROOM`; the text encoder and the autoencoder, whose
outputs are read from disk.

"bf16" means float32 weights, gradients and optimizer with the products in bfloat16 under autocast, Lightning's
"bf16-mixed". The scores of the attention are not kept: torch's fused kernels compute them twice instead.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

from lensbench.model.sizes import parameter_count
from lensbench.model.transformer import LensConfig

HEADROOM = 0.1  # of a GPU's memory, left free: a choice, not a measurement
FLOAT = 4  # bytes


@dataclass(frozen=True)
class Setting:
    """How a model is trained, as far as memory depends on it."""

    optimizer: Literal["adamw", "muon"] = "adamw"
    precision: Literal["fp32", "bf16"] = "bf16"
    checkpointing: bool = False  # a block keeps its inputs alone and is computed again in the backward pass
    device: Literal["gpu", "cpu"] = "gpu"
    equal_texts: bool = False  # every text of a batch has as many tokens: nothing is packed

    @property
    def product_bytes(self) -> int:
        """Bytes of an element that a matrix product takes or gives."""
        return 2 if self.precision == "bf16" else FLOAT


class Kept(NamedTuple):
    """A tensor that a token leaves for the backward pass, in channels for each channel of the width."""

    widths: int
    float32: bool = False  # in any precision; else in that of the products
    gpu_only: bool = False  # torch's norms keep their inputs; on the CPU `UnitRMS` does not

    def bytes(self, setting: Setting) -> int:
        """Bytes for each channel of the width."""
        if self.gpu_only and setting.device != "gpu":
            return 0
        return self.widths * (FLOAT if self.float32 else setting.product_bytes)


# Of every token in every block: both streams go into the joint attention.
INTO_ATTENTION = {
    "input of the first norm": Kept(1, float32=True, gpu_only=True),
    "first norm": Kept(1, float32=True),
    "input of queries, keys and values": Kept(1),
    "queries and keys": Kept(2, float32=True, gpu_only=True),
    "normalized queries and keys": Kept(2, float32=True),
    "turned queries and keys": Kept(2),
    "values": Kept(1),
}
# Of the tokens that are read again: all but the text of the last block.
OUT_OF_ATTENTION = {
    "output of the attention": Kept(1),
    "input of the stream's output projection": Kept(1),
    "what the first gate scales": Kept(1),
    "input of the second norm": Kept(1, float32=True, gpu_only=True),
    "second norm": Kept(1, float32=True),
    "input of the MLP": Kept(1),
    "what the second gate scales": Kept(1),
}
HIDDEN = 4  # of the MLP's hidden width: both first products, the SiLU of one, the product of the two
# Besides, of text tokens, where texts of different lengths are packed.
TEXT_INTO_ATTENTION = {"shift and scale, a row a token": Kept(4), "queries, keys and values before padding": Kept(5)}
TEXT_OUT_OF_ATTENTION = {"gates, shift and scale, a row a token": Kept(6)}
# Once an image and block.
MODULATION = {"modulation of the image": Kept(10)}


@dataclass(frozen=True)
class TrainingMemory:
    """Bytes during a training step: what there is once, and what each image of a batch adds."""

    weights: int
    gradients: int
    optimizer: int
    average: int  # the averaged weights that are sampled from
    copies: int  # of the weights, in the precision of the products
    activations: int  # an image's, kept for the backward pass
    data: int  # an image's latents, noise and text features

    @property
    def fixed(self) -> int:
        """Bytes whatever the batch."""
        return self.weights + self.gradients + self.optimizer + self.average + self.copies

    def total(self, batch: int) -> int:
        """Bytes with `batch` images in a step."""
        return self.fixed + batch * (self.activations + self.data)

    def largest_batch(self, memory: int) -> int:
        """Images a step that fit `memory` bytes with `HEADROOM` of them left free; 0 where not one does."""
        return max(0, int((1 - HEADROOM) * memory) - self.fixed) // (self.activations + self.data)


def training_memory(config: LensConfig, image_tokens: int, text_tokens: int, setting: Setting) -> TrainingMemory:
    """The memory of training `LensTransformer(config)` on images and texts of so many tokens."""
    parameters, trained = parameter_count(config), trained_parameter_count(config)
    one_moment = trained_block_entries(config) if setting.optimizer == "muon" else 0
    features = text_tokens * config.enc_hidden_dim * len(config.selected_layer_index)
    return TrainingMemory(
        weights=FLOAT * parameters,
        gradients=FLOAT * trained,
        optimizer=FLOAT * (2 * trained - one_moment),
        average=FLOAT * parameters,
        copies=2 * trained if setting.precision == "bf16" else 0,
        activations=activation_bytes(config, image_tokens, text_tokens, setting),
        data=FLOAT * (2 * image_tokens * config.in_channels + features),
    )


def trained_parameter_count(config: LensConfig) -> int:
    """Parameters that get a gradient: all but those behind the last block's text output, which is never read."""
    d = config.inner_dim
    return parameter_count(config) - (d * d + d) - d - 3 * d * config.mlp_dim


def trained_block_entries(config: LensConfig) -> int:
    """Entries of the blocks' matrices that get a gradient: Muon's, which keeps one moment of each and not two."""
    d, mlp = config.inner_dim, 3 * config.inner_dim * config.mlp_dim
    return config.num_layers * 2 * (10 * d * d + mlp) - d * d - mlp


def activation_bytes(config: LensConfig, image_tokens: int, text_tokens: int, setting: Setting) -> int:
    """Bytes that one image keeps for the backward pass.

    With checkpointing: the inputs of every block, and all of one block while its backward pass is computed.
    """
    ends = _ends(config, image_tokens, text_tokens, setting)
    last = _block(config, image_tokens, text_tokens, setting, text_out=False)
    if config.num_layers == 1:
        return ends + last
    other = _block(config, image_tokens, text_tokens, setting, text_out=True)
    if setting.checkpointing:
        inputs = (image_tokens + text_tokens) * config.inner_dim * setting.product_bytes
        return ends + config.num_layers * inputs + other
    return ends + (config.num_layers - 1) * other + last


def _block(config: LensConfig, image_tokens: int, text_tokens: int, setting: Setting, *, text_out: bool) -> int:
    def widths(kept: dict[str, Kept]) -> int:
        return sum(tensor.bytes(setting) for tensor in kept.values())

    d, tokens = config.inner_dim, image_tokens + text_tokens
    read, text_read = (tokens, text_tokens) if text_out else (image_tokens, 0)
    channels = tokens * widths(INTO_ATTENTION) + read * widths(OUT_OF_ATTENTION)
    if not setting.equal_texts:
        channels += text_tokens * widths(TEXT_INTO_ATTENTION) + text_read * widths(TEXT_OUT_OF_ATTENTION)
    return d * (channels + widths(MODULATION)) + read * HIDDEN * config.mlp_dim * setting.product_bytes


def _ends(config: LensConfig, image_tokens: int, text_tokens: int, setting: Setting) -> int:
    """Before the blocks and after them: latents, normed text features as they go in, final norm, error."""
    product = setting.product_bytes
    norm = 2 * FLOAT if setting.device == "gpu" else FLOAT  # input and output, or the output alone
    features = config.enc_hidden_dim * len(config.selected_layer_index)
    text = text_tokens * features * (norm + product)
    latents = image_tokens * config.in_channels * (product + FLOAT)
    final_norm = image_tokens * config.inner_dim * (2 * FLOAT + product)
    return text + latents + final_norm
