"""One dial for size: the Lens family has width = 32 x depth; and what a model of it counts and costs."""

from __future__ import annotations

from lensbench.experiment import Experiment
from lensbench.model.config import TIME_CHANNELS, LensConfig


def lens(
    depth: int,
    *,
    in_channels: int = 128,
    out_channels: int = 32,
    patch_size: int = 2,
    enc_hidden_dim: int = 2880,
    selected_layer_index: tuple[int, ...] = (5, 11, 17, 23),
) -> LensConfig:
    """The member of the family with `depth` blocks: depth 48 is Lens, 32 is the paper's Lens-Toy (1.2B).

    The width is 32 x depth; heads have 64 channels from depth 8 on and 32 below. Raises ValueError for a depth whose
    width is not whole heads (odd depths from 9 on).
    """
    if depth < 1:
        raise ValueError(f"depth={depth}: must be at least 1")
    head_dim = 64 if depth >= 8 else 32
    width = 32 * depth
    if width % head_dim:
        raise ValueError(f"depth={depth}: a depth from 8 on must be even, as a head has 64 channels; take {depth + 1}")
    return LensConfig(
        patch_size=patch_size,
        in_channels=in_channels,
        out_channels=out_channels,
        num_layers=depth,
        attention_head_dim=head_dim,
        num_attention_heads=width // head_dim,
        enc_hidden_dim=enc_hidden_dim,
        axes_dims_rope=(8, 28, 28) if head_dim == 64 else (4, 14, 14),
        selected_layer_index=selected_layer_index,
    )


def denoiser_config(experiment: Experiment, encoder_width: int) -> LensConfig:
    """The Lens config of an experiment: the family's depth with its latents, its patch and its text encoder."""
    patch, channels = experiment.model.patch_size, experiment.autoencoder.latents.channels
    return lens(
        experiment.model.depth,
        in_channels=channels * patch**2,
        out_channels=channels,
        patch_size=patch,
        enc_hidden_dim=encoder_width,
        selected_layer_index=experiment.text_encoder.layers,
    )


def parameter_count(config: LensConfig) -> int:
    """Parameters of `LensTransformer(config)`, exactly, without building it. Lens: 4,104,225,152."""
    d, e, k = config.inner_dim, config.enc_hidden_dim, len(config.selected_layer_index)
    time = (TIME_CHANNELS + 1) * d + (d + 1) * d
    text_in = k * e + (k * e + 1) * d
    image_in = (config.in_channels + 1) * d
    stream = (
        (d + 1) * 6 * d  # modulation
        + 2 * d  # norms
        + (d + 1) * 3 * d  # qkv
        + (d + 1) * d  # output projection
        + 2 * config.attention_head_dim  # norms of queries and keys
        + 3 * d * config.mlp_dim
    )
    out = (d + 1) * 2 * d + (d + 1) * config.in_channels
    return time + text_in + image_in + config.num_layers * 2 * stream + out


def forward_flops(config: LensConfig, image_tokens: int, text_tokens: int) -> int:
    """FLOPs of the matrix products of one image's forward pass: two a multiply-add, attention included.

    The last block's text output, never computed, is not counted. `text_tokens` counts padding if there is any.
    """
    d, n, t = config.inner_dim, image_tokens, text_tokens
    every = 2 * 6 * d * d + (n + t) * 3 * d * d  # modulation of both streams, once an image; queries, keys, values
    query = 2 * (n + t) * d + d * d + 3 * d * config.mlp_dim  # scores and their mean of the values; projection; MLP
    queries = (config.num_layers - 1) * (n + t) + n
    ends = (TIME_CHANNELS + d) * d + t * config.enc_hidden_dim * len(config.selected_layer_index) * d
    ends += n * config.in_channels * d + 2 * d * d + n * d * config.in_channels
    return 2 * (config.num_layers * every + queries * query + ends)


def backward_flops(config: LensConfig, image_tokens: int, text_tokens: int) -> int:
    """FLOPs of the matrix products of one image's backward pass: two for each of the forward pass, one for each factor.

    But one for the products with data, latents and the time's sinusoids, which need no gradient. (Text features need
    none either, but the weights of the norms that they pass first do.) What a device computes again is not counted:
    fused attention its scores, a checkpointed block its forward pass.
    """
    data = (image_tokens * config.in_channels + TIME_CHANNELS) * config.inner_dim
    return 2 * forward_flops(config, image_tokens, text_tokens) - 2 * data


def train_flops_per_image(config: LensConfig, image_tokens: int, text_tokens: int) -> int:
    """FLOPs of a training step, an image: its forward and its backward pass."""
    return forward_flops(config, image_tokens, text_tokens) + backward_flops(config, image_tokens, text_tokens)
