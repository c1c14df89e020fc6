"""Published vision models as feature extractors: DINOv2, and CLIP's picture side. From safetensors on disk or the hub.

Tested with tiny random models of the same classes, saved as the published ones are; the published weights have not
been run by this project, nor has a GPU.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lensbench.model.pretrained import CONFIG, WANTED, ModelFiles, brief, digest, load_blocks, model_folder
from lensbench.scoring.extractors import clean_resize

PREPROCESSOR = "preprocessor_config.json"
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)

DINOV2_SIDE_PX = 224  # a multiple of its patches; as FD-DINOv2 is published (Stein et al. 2023, arXiv 2306.04675)
DINOV2_SIZES = {(384, 12): "vits14", (768, 12): "vitb14", (1024, 24): "vitl14", (1536, 40): "vitg14"}
# Width, patch and picture of OpenAI's vision sides.
CLIP_SIZES = {
    (768, 32, 224): "vit_b32",
    (768, 16, 224): "vit_b16",
    (1024, 14, 224): "vit_l14",
    (1024, 14, 336): "vit_l14_336",
}


class Opened(NamedTuple):
    """A frozen model on its device, its config, the folder it lies in and the sha256 of its files."""

    model: Any
    config: Any
    folder: Path
    digest: str


def open_model(name: str, argument: str, model_class: Any, device: str) -> Opened:
    """A whole model of a transformers class from a folder or hub id; `argument` names the option in errors.

    Raises ValueError, one line, when it cannot be had, is of another type, or its weights do not fit.
    """
    folder = model_folder(name, argument, [*WANTED, PREPROCESSOR])
    config_class = model_class.config_class
    try:
        values = json.loads((folder / CONFIG).read_text())
    except FileNotFoundError:
        raise ValueError(f"{argument}: no {CONFIG} in {folder}, so there is no model in this folder") from None
    except ValueError as error:
        raise ValueError(f"{folder / CONFIG}: not JSON ({error})") from None
    found = values.get("model_type") if isinstance(values, dict) else None
    if found != config_class.model_type:
        raise ValueError(f"{argument}: {folder} holds a model of type {found!r}, not {config_class.model_type!r}")
    try:
        config = config_class.from_dict(values)
    except Exception as error:  # the library has no one class for a value that does not fit
        raise ValueError(f"{folder / CONFIG}: not a {config_class.__name__} ({brief(error)})") from None
    files = ModelFiles(folder, folder)
    sha = digest(files)
    blocks = (
        config.num_hidden_layers if hasattr(config, "num_hidden_layers") else 0
    )  # CLIP has two stacks, and all of them
    return Opened(load_blocks(model_class, folder, config, blocks).float().to(device), config, folder, sha)


class DINOv2:
    """The class token of DINOv2 after the last norm: FD-DINOv2 where the model is ViT-L/14 (Stein et al. 2023)."""

    def __init__(self, model: str, argument: str = "model", device: str = "cpu") -> None:
        from transformers import Dinov2Model

        opened = open_model(model, argument, Dinov2Model, device)
        size = (opened.config.hidden_size, opened.config.num_hidden_layers)
        known = DINOV2_SIZES.get(size) if opened.config.patch_size == 14 else None
        self.name = f"dinov2_{known or f'{size[0]}x{size[1]}'}"
        self.digest, self.dimensions = opened.digest, opened.config.hidden_size
        side = DINOV2_SIDE_PX // opened.config.patch_size * opened.config.patch_size
        self.resize = f"{side} bicubic antialias float"
        self._model, self._device, self._resize = opened.model, device, clean_resize(side)

    def prepare(self, image: np.ndarray) -> np.ndarray:
        """One picture uint8 (H, W, 3) as float32 (224, 224, 3) in [0, 255]."""
        return self._resize(image)

    def embed(self, prepared: np.ndarray) -> np.ndarray:
        """Features float32 (B, F)."""
        import torch

        with torch.inference_mode():
            pixels = normalized(prepared, IMAGENET_MEAN, IMAGENET_STD).to(self._device)
            found: np.ndarray = self._model(pixel_values=pixels).pooler_output.float().cpu().numpy()
        return found


class CLIPImages:
    """CLIP's picture embeddings, of length 1: the features of CMMD where the model is ViT-L/14 at 336 px.

    As CMMD's authors do it (Jayasumana et al. 2024, arXiv 2401.09603): the middle square, resized with a bicubic.
    """

    def __init__(self, model: str, argument: str = "model", device: str = "cpu") -> None:
        from transformers import CLIPModel

        opened = open_model(model, argument, CLIPModel, device)
        self.name = clip_name(opened.config)
        self.digest, self.dimensions = opened.digest, opened.config.projection_dim
        side = opened.config.vision_config.image_size
        self.resize = f"middle square, {side} bicubic antialias float"
        self._model, self._device, self._resize = opened.model, device, clean_resize(side)

    def prepare(self, image: np.ndarray) -> np.ndarray:
        """One picture uint8 (H, W, 3) as float32 (S, S, 3) in [0, 255]."""
        side = min(image.shape[:2])
        top, left = (image.shape[0] - side) // 2, (image.shape[1] - side) // 2
        return self._resize(image[top : top + side, left : left + side])

    def embed(self, prepared: np.ndarray) -> np.ndarray:
        """Features float32 (B, F), each of length 1."""
        import torch

        with torch.inference_mode():
            pixels = normalized(prepared, CLIP_MEAN, CLIP_STD).to(self._device)
            found = self._model.get_image_features(pixels).pooler_output.float()
            unit: np.ndarray = (found / found.norm(dim=-1, keepdim=True)).cpu().numpy()
        return unit


def clip_name(config: Any) -> str:
    """clip_vit_b32 and the like for OpenAI's shapes; longer where the text side has other than 77 positions, the
    activation is another, or the shape is no published one."""
    vision, text = config.vision_config, config.text_config
    known = CLIP_SIZES.get((vision.hidden_size, vision.patch_size, vision.image_size))
    name = f"clip_{known or f'{vision.hidden_size}x{vision.num_hidden_layers}p{vision.patch_size}_{vision.image_size}'}"
    name += "" if vision.hidden_act == "quick_gelu" else f"_{vision.hidden_act}"
    return name if text.max_position_embeddings == 77 else f"{name}_text{text.max_position_embeddings}"


def normalized(prepared: np.ndarray, mean: tuple[float, ...], std: tuple[float, ...]) -> Any:
    """Pictures (B, H, W, 3) in [0, 255] as a float32 tensor (B, 3, H, W), standardized by channel."""
    import torch

    pixels = torch.from_numpy(prepared).permute(0, 3, 1, 2) / 255
    return (pixels - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]
