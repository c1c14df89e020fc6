"""Mask2Former and CLIP as GenEval's judge, on tiny random models in the files of the published ones."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from lensbench.scoring.geneval import CLASSES, COLORS
from lensbench.scoring.mask2former import (
    COCO_NAMES,
    LOWEST_SCORE,
    SELF_TEST,
    ClipColors,
    GenEvalJudge,
    Mask2Former,
    fitted,
)
from lensbench.streams import numpy_stream

MEAN, STD = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])


@pytest.fixture(scope="module")
def detector_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from transformers import Mask2FormerConfig, Mask2FormerForUniversalSegmentation, SwinConfig

    folder = tmp_path_factory.mktemp("mask2former")
    backbone = SwinConfig(
        embed_dim=8,
        depths=[1, 1, 1, 1],
        num_heads=[1, 1, 2, 2],
        window_size=4,
        out_features=["stage1", "stage2", "stage3", "stage4"],
    )
    small = {"feature_size": 32, "mask_feature_size": 32, "hidden_dim": 32, "num_attention_heads": 2}
    config = Mask2FormerConfig(
        backbone_config=backbone,
        **small,
        encoder_feedforward_dim=16,
        dim_feedforward=16,
        encoder_layers=1,
        decoder_layers=2,
        num_queries=7,
        id2label={i: COCO_NAMES.get(name, name) for i, name in enumerate(CLASSES)},
    )
    with torch.random.fork_rng():
        torch.manual_seed(3)
        model = Mask2FormerForUniversalSegmentation(config)
        # Sure of something: without it nothing passes the lowest score.
        torch.nn.init.normal_(model.class_predictor.weight, std=2.0)
        model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def detector(detector_folder: Path) -> Mask2Former:
    return Mask2Former(str(detector_folder))


@pytest.fixture(scope="module")
def colors(clip_folder: Path) -> ClipColors:
    return ClipColors(str(clip_folder))


def picture(seed: int, height: int, width: int) -> np.ndarray:
    small = numpy_stream(seed, "picture").integers(0, 256, (6, 6, 3), dtype=np.uint8)
    return np.array(Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC))


def by_hand(detector: Mask2Former, image: np.ndarray) -> dict[str, list[tuple[tuple[float, ...], np.ndarray]]]:
    """The reference's steps one at a time, query by query and class by class."""
    height, width = image.shape[:2]
    tall, wide = fitted(height, width)
    pixels = torch.from_numpy(image).permute(2, 0, 1)[None].float() / 255
    scaled = torch.nn.functional.interpolate(pixels, size=(tall, wide), mode="bilinear", align_corners=False)
    canvas = torch.full((1, 3, -(-tall // 32) * 32, -(-wide // 32) * 32), 128 / 255)
    canvas[..., :tall, :wide] = scaled
    mean, std = (torch.tensor(x).float()[:, None, None] for x in (MEAN, STD))
    with torch.inference_mode():
        out = detector._model(pixel_values=(canvas - mean) / std)
    probability = out.class_queries_logits[0].softmax(-1)
    candidates = [(float(probability[q, c]), q, c) for q in range(len(probability)) for c in range(80)]
    candidates.sort(reverse=True)
    found: dict[str, list[tuple[tuple[float, ...], np.ndarray]]] = {}
    for score, query, of_class in candidates[:100]:
        mask = out.masks_queries_logits[0, query][None, None]
        mask = torch.nn.functional.interpolate(mask, size=canvas.shape[2:], mode="bilinear", align_corners=False)
        mask = mask[..., :tall, :wide]
        mask = torch.nn.functional.interpolate(mask, size=(height, width), mode="bilinear", align_corners=False)[0, 0]
        inside = (mask > 0).numpy()
        if not inside.any():
            continue
        total = score * float(mask.sigmoid().numpy()[inside].sum() / (inside.sum() + 1e-6))
        ys, xs = np.nonzero(inside)
        box = (xs.min(), ys.min(), xs.max() + 1, ys.max() + 1, total)
        if total > LOWEST_SCORE:
            found.setdefault(CLASSES[of_class], []).append((tuple(map(float, box)), inside))
    return {name: sorted(group, key=lambda pair: -pair[0][4]) for name, group in found.items()}


def test_detections_are_the_references(detector: Mask2Former) -> None:
    images = [picture(0, 96, 128), picture(1, 64, 64), picture(2, 96, 128)]
    for image, (boxes, masks) in zip(images, detector.detect(images), strict=True):
        expected = by_hand(detector, image)
        assert boxes.keys() == expected.keys() == masks.keys()
        assert boxes, "a detector that finds nothing proves nothing"
        for name, group in boxes.items():
            np.testing.assert_allclose(group, [box for box, _ in expected[name]], rtol=1e-4, atol=1e-4)
            assert (masks[name].numpy() == np.stack([mask for _, mask in expected[name]])).mean() > 0.999
            assert [box[4] for box in group] == sorted((box[4] for box in group), reverse=True)


@pytest.mark.parametrize(
    ("size", "expected"),
    [((512, 512), (800, 800)), ((512, 1024), (667, 1333)), ((1024, 512), (1333, 667)), ((2000, 2000), (800, 800))],
)
def test_pictures_are_scaled_into_1333_by_800(size: tuple[int, int], expected: tuple[int, int]) -> None:
    assert fitted(*size) == expected


def test_a_detector_that_finds_nothing_known_scores_nothing(detector: Mask2Former, colors: ClipColors) -> None:
    with pytest.raises(ValueError, match="did not find a cat in the left half of its self-test picture"):
        GenEvalJudge(detector, colors).self_test()
    assert Image.open(SELF_TEST).size == (647, 240)


def test_other_classes_are_refused(detector_folder: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(detector_folder, tmp_path / "other"))
    config = json.loads((folder / "config.json").read_text())
    config["id2label"]["0"] = "wall"
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="are not COCO's 80 in order"):
        Mask2Former(str(folder))


def test_the_color_is_that_of_the_mask_alone(colors: ClipColors) -> None:
    image = picture(4, 60, 80)
    mask = torch.zeros(60, 80, dtype=torch.bool)
    mask[20:50, 10:60] = True
    box = (10.0, 20.0, 60.0, 50.0, 0.9)
    crop = colors._crop(image, box, mask)
    changed = np.where(mask.numpy()[..., None], image, 255 - image)
    assert torch.equal(colors._crop(changed, box, mask), crop)
    other = np.where(mask.numpy()[..., None], 255 - image, image)
    assert not torch.equal(colors._crop(other, box, mask), crop)
    assert crop.shape == (3, 32, 32)
    hidden = torch.zeros_like(mask)
    hidden[20, 10] = True
    gray = colors._crop(image, box, hidden)
    assert (gray == 153).float().mean() > 0.9


def test_colors_are_the_nearest_of_the_averaged_templates(colors: ClipColors) -> None:
    image = picture(5, 60, 80)
    masks = torch.ones(3, 60, 80, dtype=torch.bool)
    boxes = [(0.0, 0.0, 40.0, 60.0, 0.9), (20.0, 10.0, 80.0, 50.0, 0.8), (5.0, 5.0, 30.0, 20.0, 0.7)]
    said = colors.colors(image, "dog", boxes, masks)
    model, tokenizer = colors._model, colors._tokenizer
    with torch.inference_mode():
        rows = []
        for color in COLORS:
            texts = [f"a photo of a {color} dog", f"a photo of a {color}-colored dog", f"a photo of a {color} object"]
            each = [model.get_text_features(**tokenizer(text, return_tensors="pt")).pooler_output[0] for text in texts]
            mean = torch.stack([one / one.norm() for one in each]).mean(0)
            rows.append(mean / mean.norm())
        for box, mask, color in zip(boxes, masks, said, strict=True):
            pixels = colors._crop(image, box, mask) / 255
            mean, std = (
                torch.tensor([0.48145466, 0.4578275, 0.40821073]),
                torch.tensor([0.26862954, 0.26130258, 0.27577711]),
            )
            feature = model.get_image_features(
                ((pixels - mean[:, None, None]) / std[:, None, None])[None]
            ).pooler_output
            assert COLORS[int((torch.stack(rows) @ feature[0]).argmax())] == color


def test_another_activation_is_refused(clip_folder: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(clip_folder, tmp_path / "other"))
    config = json.loads((folder / "config.json").read_text())
    config["vision_config"]["hidden_act"] = "gelu"
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="OpenAI's CLIP, which GenEval uses, has quick_gelu"):
        ClipColors(str(folder))


def test_what_was_seen_knows_its_colors(detector: Mask2Former, colors: ClipColors) -> None:
    judge = GenEvalJudge(detector, colors)
    (seen,) = judge.look([picture(0, 96, 128)])
    name = next(iter(seen.detections))
    assert seen.color(name, 0) in COLORS
    assert judge.digest != detector.digest
    assert "Mask2Former" in judge.name
