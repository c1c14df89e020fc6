"""FLUX.2's autoencoder as Lens uses it: 32 channels at an eighth of the side, in 2x2 patches of 128, standardized.

The statistics are the running mean and variance of the autoencoder's own batch normalization, one for each of the 128
channels of a patch: (x - mean) / sqrt(var + eps). Images are encoded by the mode of their distribution, never by a
sample of it, so a latent depends on the image alone. Weights and network come from diffusers' `AutoencoderKLFlux2`.

Source: arXiv 2605.21573 and the published pipelines of Lens and FLUX.2.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lensbench.experiment import LATENTS
from lensbench.model.autoencoder import as_floats, check_images, check_latents, patchify, unpatchify
from lensbench.model.pretrained import PICKLES, brief, model_folder

CLASS = "AutoencoderKLFlux2"
CHANNELS, DOWNSAMPLING, PATCH = LATENTS["flux2"]
WEIGHTS = "diffusion_pytorch_model*.safetensors"
PIXELS_AT_ONCE = 2**21  # eight images of 512 x 512: what goes through the network at a time, to bound its memory


class Flux2Autoencoder:
    """The frozen autoencoder of `model`, in float32: a diffusers folder, of it or of a pipeline (`vae/`), or a hub id.

    Raises ValueError, one line, when there is no such model, its weights are no safetensors, do not fit their config or
    are of another shape than FLUX.2's, or `digest` is given and not theirs.
    """

    channels = CHANNELS * PATCH**2
    stride = DOWNSAMPLING * PATCH

    def __init__(self, model: str, digest: str | None = None) -> None:
        folder = _folder(model)
        self._vae = _load(folder)
        self.digest = _digest(folder, self._vae)
        if digest not in (None, self.digest):
            raise ValueError(
                f"autoencoder.digest={digest}: the model in {folder} has {self.digest}; give the model that the "
                "experiment was made with, or its new digest"
            )

    @torch.no_grad()
    def encode(self, images: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """Latents (B, H*W, 128), of about unit variance, and their grid, as in `Autoencoder`."""
        check_images(images, self.stride)
        vae = self._vae.to(images.device)
        parts = images.split(_at_once(images.shape[2] * images.shape[3]))
        modes = [vae.encode(2 * as_floats(part).float() - 1).latent_dist.mode() for part in parts]
        tokens, grid = patchify(torch.cat(modes), PATCH)
        mean, scale = _statistics(vae)
        return (tokens - mean) / scale, grid

    @torch.no_grad()
    def decode(self, latents: Tensor, grid: tuple[int, int]) -> Tensor:
        """Images as in `Autoencoder`."""
        check_latents(latents, grid, self.channels)
        vae = self._vae.to(latents.device)
        mean, scale = _statistics(vae)
        positions = unpatchify(latents.float() * scale + mean, grid, PATCH)
        parts = positions.split(_at_once(grid[0] * grid[1] * self.stride**2))
        return (torch.cat([vae.decode(part).sample for part in parts]) + 1) / 2


def _at_once(pixels: int) -> int:
    """How many images of so many pixels go through the network at a time: a power of two, so that all parts are equal
    wherever as many or another power of two are given, and the last bits of an image do not depend on its place."""
    return 1 << max(0, (PIXELS_AT_ONCE // pixels).bit_length() - 1)


def _statistics(vae: Any) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each channel of a patch, (128,) each."""
    return vae.bn.running_mean, torch.sqrt(vae.bn.running_var + vae.bn.eps)


def _folder(model: str) -> Path:
    """The folder with the autoencoder's config and weights: local, or fetched from the hub."""
    # The autoencoder's own files alone: a pipeline's repository holds its denoiser and its text encoder too.
    wanted = ("config.json", WEIGHTS, f"{WEIGHTS}.index.json")
    place = model_folder(model, "autoencoder.model", [f"{part}{file}" for part in ("", "vae/") for file in wanted])
    if not (place / "config.json").is_file() and (place / "vae").is_dir():
        place /= "vae"
    if not (place / "config.json").is_file():
        raise ValueError(
            f"autoencoder.model={model!r}: no config.json in it or in its vae/, so this is no diffusers autoencoder"
        )
    return place


def _load(folder: Path) -> Any:
    from diffusers import AutoencoderKLFlux2
    from diffusers.utils import logging

    _check_config(folder / "config.json")
    if not any(folder.glob(WEIGHTS)):
        pickles = sorted(path.name for path in folder.iterdir() if path.suffix in PICKLES)
        found = f"; {pickles[0]} is a pickle, which can run code when it is opened" if pickles else ""
        raise ValueError(f"{folder}: no {WEIGHTS}{found}")
    level = logging.get_verbosity()
    logging.set_verbosity(logging.CRITICAL)  # what it would say of missing tensors is said below, in one line
    try:
        vae, info = AutoencoderKLFlux2.from_pretrained(
            folder,
            use_safetensors=True,
            local_files_only=True,
            low_cpu_mem_usage=False,  # which would stop at the first wrong shape
            ignore_mismatched_sizes=True,  # told below, by name
            output_loading_info=True,
            torch_dtype=torch.float32,
        )
    except Exception as error:  # diffusers has no one class for what it cannot read
        raise ValueError(f"{folder}: it cannot be read as an {CLASS} ({brief(error)})") from None
    finally:
        logging.set_verbosity(level)
    wrong = [f"{name} has shape {tuple(got)}, not {tuple(due)}" for name, got, due in sorted(info["mismatched_keys"])]
    wrong += [f"{name} is missing" for name in sorted(info["missing_keys"])]
    wrong += [f"{name} is unknown" for name in sorted(info["unexpected_keys"])]
    if wrong:
        more = f" and {len(wrong) - 4} more" if len(wrong) > 4 else ""
        raise ValueError(f"{folder}: the weights do not fit config.json: {'; '.join(wrong[:4])}{more}")
    return vae.eval().requires_grad_(False)


def _check_config(path: Path) -> None:
    """ValueError unless this is FLUX.2's autoencoder, 128 channels a patch at a sixteenth of the side."""
    try:
        config = json.loads(path.read_text())
        name = config["_class_name"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path}: not the config of a diffusers model ({error})") from None
    if name != CLASS:
        raise ValueError(f"{path}: got a {name}, expected an {CLASS}")
    got = {
        "latent_channels": config.get("latent_channels", CHANNELS),
        "downsampling": 2 ** (len(config.get("block_out_channels", (0,) * 4)) - 1),
        "patch_size": list(config.get("patch_size", (PATCH, PATCH))),
    }
    expected = {"latent_channels": CHANNELS, "downsampling": DOWNSAMPLING, "patch_size": [PATCH, PATCH]}
    for key, value in expected.items():
        if got[key] != value:
            raise ValueError(f"{path}: {key}: got {got[key]}, expected {value}, which FLUX.2's autoencoder has")


def _digest(folder: Path, vae: Any) -> str:
    """sha256 of the weights' files and of the config, but for what says where they come from."""
    config = {name: value for name, value in dict(vae.config).items() if not name.startswith("_")}
    found = hashlib.sha256(json.dumps(config, sort_keys=True, default=str).encode())
    for path in sorted(folder.glob(WEIGHTS)):
        with path.open("rb") as file:
            found.update(hashlib.file_digest(file, "sha256").digest())
    return found.hexdigest()
