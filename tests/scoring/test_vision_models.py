from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from lensbench.scoring.extractors import features
from lensbench.scoring.vision_models import CLIPImages, DINOv2, clip_name
from lensbench.streams import numpy_stream

IMAGES = numpy_stream(0, "test").integers(0, 256, (3, 60, 44, 3), dtype=np.uint8)


def test_dinov2_is_its_class_token_at_224_px(dinov2_folder: Path) -> None:
    from transformers import Dinov2Model

    extractor = DINOv2(str(dinov2_folder))
    assert (extractor.name, extractor.dimensions) == ("dinov2_24x2", 24)
    pixels = torch.from_numpy(IMAGES).permute(0, 3, 1, 2).float()
    pixels = torch.nn.functional.interpolate(pixels, (224, 224), mode="bicubic", antialias=True).clamp(0, 255) / 255
    mean, std = (torch.tensor(v)[:, None, None] for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    with torch.inference_mode():
        theirs = Dinov2Model.from_pretrained(dinov2_folder)((pixels - mean) / std).last_hidden_state[:, 0]
    np.testing.assert_allclose(features(extractor, IMAGES), theirs.numpy(), atol=2e-3)


def test_clip_images_are_of_length_1_and_see_the_middle_square(clip_folder: Path) -> None:
    extractor = CLIPImages(str(clip_folder))
    found = features(extractor, IMAGES)
    assert found.shape == (3, 12)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-6)
    edges = IMAGES.copy()
    edges[:, :8], edges[:, -8:] = 0, 255  # 60 rows, 44 columns: eight rows on either side are cut off
    np.testing.assert_allclose(features(extractor, edges), found, atol=1e-7)


@pytest.mark.parametrize(
    ("vision", "positions", "name"),
    [
        ((768, 12, 32, 224, "quick_gelu"), 77, "clip_vit_b32"),
        ((1024, 24, 14, 224, "quick_gelu"), 77, "clip_vit_l14"),
        ((1024, 24, 14, 336, "quick_gelu"), 77, "clip_vit_l14_336"),
        ((1024, 24, 14, 224, "quick_gelu"), 248, "clip_vit_l14_text248"),
        ((768, 12, 32, 224, "gelu"), 77, "clip_vit_b32_gelu"),
        ((16, 2, 8, 32, "quick_gelu"), 77, "clip_16x2p8_32"),
    ],
)
def test_only_the_published_shapes_have_the_published_names(vision: tuple, positions: int, name: str) -> None:
    from transformers import CLIPConfig

    keys = ("hidden_size", "num_hidden_layers", "patch_size", "image_size", "hidden_act")
    config = CLIPConfig(
        vision_config=dict(zip(keys, vision, strict=True)) | {"num_attention_heads": 4},
        text_config={"max_position_embeddings": positions},
    )
    assert clip_name(config) == name


def test_weights_are_told_apart_and_missing_ones_named(dinov2_folder: Path, tmp_path: Path) -> None:
    from transformers import Dinov2Config, Dinov2Model

    config = Dinov2Config(hidden_size=24, num_hidden_layers=2, num_attention_heads=2, mlp_ratio=2, image_size=28)
    model = Dinov2Model(config)
    model.save_pretrained(tmp_path / "other")
    assert DINOv2(str(tmp_path / "other")).digest != DINOv2(str(dinov2_folder)).digest
    (tmp_path / "other" / "model.safetensors").unlink()
    with pytest.raises(ValueError, match=r"no model\.safetensors"):
        DINOv2(str(tmp_path / "other"))
    (tmp_path / "other" / "config.json").write_text("{")
    with pytest.raises(ValueError, match="not JSON"):
        DINOv2(str(tmp_path / "other"))
