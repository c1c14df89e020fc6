"""GenEval's detector without mmdet: Mask2Former through transformers, its colors by CLIP, post-processed as mmdet does.

The reference runs mmdet's Mask2Former Swin-S (COCO instances). The same architecture is published for transformers with
other weights, so the backend's name and digest go into every record and every table. Post-processing follows the
reference, not transformers' `post_process_instance_segmentation`, which judges at 384 px and lets a mask overwrite
another. Tested with tiny random models of the same classes; the published weights have not been run by this project,
nor has a GPU.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from lensbench.scoring.geneval import CLASSES, COLORS, with_article
from lensbench.scoring.vision_models import CLIP_MEAN, CLIP_STD, IMAGENET_MEAN, IMAGENET_STD, clip_name, open_model

DETECTOR = "facebook/mask2former-swin-small-coco-instance"
COLOR_MODEL = "openai/clip-vit-large-patch14"
LONG_SIDE, SHORT_SIDE = 1333, 800  # a picture is scaled to fit into them, either way up
STRIDE = 32  # its sides are padded to whole multiples
PADDING = 128 / 255  # gray, before the standardization
MOST = 100  # detections of a picture, over all classes
LOWEST_SCORE = 0.05  # GenEval keeps scores above 0.3, or 0.9: what is far below both is not reported
BACKGROUND = 153  # #999, around an object whose color is asked
COCO_NAMES = {"computer mouse": "mouse", "tv remote": "remote", "computer keyboard": "keyboard"}
COLOR_TEMPLATES = ("a photo of a {color} {name}", "a photo of a {color}-colored {name}", "a photo of a {color} object")
SELF_TEST = Path(__file__).with_name("self_test.jpg")
SELF_TEST_FINDS = {"cat": "left", "person": "right"}  # and the half of the picture that each is in

Box = tuple[float, float, float, float, float]


class Mask2Former:
    """Finds COCO's objects with their masks. Raises ValueError, one line, for another model or none."""

    def __init__(self, model: str = DETECTOR, device: str = "cpu") -> None:
        from transformers import Mask2FormerForUniversalSegmentation

        opened = open_model(model, "--detector", Mask2FormerForUniversalSegmentation, device)
        names = [opened.config.id2label.get(i) for i in range(len(CLASSES))]
        expected = [COCO_NAMES.get(name, name) for name in CLASSES]
        if len(opened.config.id2label) != len(CLASSES) or names != expected:
            raise ValueError(
                f"--detector={model}: its {len(opened.config.id2label)} classes are not COCO's {len(CLASSES)} in "
                "order: give a Mask2Former for COCO instances"
            )
        self.name, self.digest = f"Mask2Former {Path(model).name}", opened.digest
        self._model, self._device = opened.model, device

    @torch.inference_mode()
    def detect(self, images: Sequence[np.ndarray]) -> list[tuple[dict[str, list[Box]], dict[str, Tensor]]]:
        """For each picture uint8 (H, W, 3): boxes (x1, y1, x2, y2, score) by class, best first, and their masks.

        Masks are bool (n, H, W) on the CPU, in the order of the boxes. Pictures of one size are computed together.
        """
        found: dict[int, tuple[dict[str, list[Box]], dict[str, Tensor]]] = {}
        by_size: dict[tuple[int, ...], list[int]] = {}
        for i, image in enumerate(images):
            by_size.setdefault(image.shape[:2], []).append(i)
        for places in by_size.values():
            for i, one in zip(places, self._of_one_size([images[i] for i in places]), strict=True):
                found[i] = one
        return [found[i] for i in range(len(images))]

    def _of_one_size(self, images: list[np.ndarray]) -> list[tuple[dict[str, list[Box]], dict[str, Tensor]]]:
        pixels = torch.from_numpy(np.stack(images)).to(self._device).permute(0, 3, 1, 2).float() / 255
        height, width = pixels.shape[2:]
        scaled = F.interpolate(pixels, size=fitted(height, width), mode="bilinear", align_corners=False)
        tall, wide = scaled.shape[2:]
        padded = F.pad(scaled, (0, -wide % STRIDE, 0, -tall % STRIDE), value=PADDING)
        mean, std = (torch.tensor(x, device=padded.device)[:, None, None] for x in (IMAGENET_MEAN, IMAGENET_STD))
        out = self._model(pixel_values=(padded - mean) / std)
        results = []
        for classes, masks in zip(out.class_queries_logits.float(), out.masks_queries_logits.float(), strict=True):
            scores = classes.softmax(-1)[:, :-1].flatten()  # the last class is no object
            best, places = scores.topk(min(MOST, len(scores)))
            kept = best > LOWEST_SCORE  # a mask only lowers it
            best, places = best[kept], places[kept]
            queries, of_class = places // len(CLASSES), places % len(CLASSES)
            used, again = queries.unique(return_inverse=True)  # a query can be of several classes
            upright = F.interpolate(masks[used][:, None], size=padded.shape[2:], mode="bilinear", align_corners=False)
            own = F.interpolate(upright[..., :tall, :wide], size=(height, width), mode="bilinear", align_corners=False)
            results.append(self._boxes(own[:, 0], again, best, of_class))
        return results

    @staticmethod
    def _boxes(
        logits: Tensor, queries: Tensor, scores: Tensor, of_class: Tensor
    ) -> tuple[dict[str, list[Box]], dict[str, Tensor]]:
        """Boxes and masks by class from the logits (queries, H, W) of the masks."""
        inside = logits > 0
        area = inside.flatten(1).sum(1)
        sure = (logits.sigmoid() * inside).flatten(1).sum(1) / (area + 1e-6)
        scores = scores * sure[queries]
        found: dict[str, list[Box]] = {}
        masks: dict[str, list[Tensor]] = {}
        for i in scores.argsort(descending=True, stable=True).tolist():
            query = int(queries[i])
            if not area[query] or scores[i] <= LOWEST_SCORE:
                continue
            mask = inside[query]
            ys, xs = mask.any(1).nonzero()[:, 0], mask.any(0).nonzero()[:, 0]
            box = (float(xs[0]), float(ys[0]), float(xs[-1]) + 1, float(ys[-1]) + 1, float(scores[i]))
            name = CLASSES[int(of_class[i])]
            found.setdefault(name, []).append(box)
            masks.setdefault(name, []).append(mask.cpu())
        return found, {name: torch.stack(group) for name, group in masks.items()}


class ClipColors:
    """Names the color of an object by CLIP: zero-shot among GenEval's ten, three templates a color."""

    def __init__(self, model: str = COLOR_MODEL, device: str = "cpu") -> None:
        from transformers import AutoTokenizer, CLIPModel

        opened = open_model(model, "--colors", CLIPModel, device)
        activations = {opened.config.vision_config.hidden_act, opened.config.text_config.hidden_act}
        if activations != {"quick_gelu"}:
            raise ValueError(
                f"--colors={model}: its activation is {', '.join(sorted(activations))}; OpenAI's CLIP, which GenEval "
                "uses, has quick_gelu"
            )
        self.name, self.digest = clip_name(opened.config), opened.digest
        self._model, self._device = opened.model, device
        self._side = opened.config.vision_config.image_size
        self._tokenizer = AutoTokenizer.from_pretrained(opened.folder)
        self._weights = functools.lru_cache(maxsize=None)(self._embed_colors)

    @torch.inference_mode()
    def colors(self, image: np.ndarray, name: str, boxes: Sequence[Box], masks: Tensor) -> list[str]:
        """The color of each object of a class: of its box, with everything but its mask in gray."""
        crops = torch.stack([self._crop(image, box, mask) for box, mask in zip(boxes, masks, strict=True)])
        mean, std = (torch.tensor(x)[:, None, None] for x in (CLIP_MEAN, CLIP_STD))
        features = self._model.get_image_features((crops / 255 - mean).div(std).to(self._device)).pooler_output.float()
        scores = F.normalize(features, dim=-1) @ self._weights(name).T
        return [COLORS[i] for i in scores.argmax(1).tolist()]

    def _crop(self, image: np.ndarray, box: Box, mask: Tensor) -> Tensor:
        """The middle square of the masked box, as CLIP takes it: float (3, S, S) in [0, 255]."""
        from PIL import Image

        masked = np.where(mask.numpy()[..., None], image, np.uint8(BACKGROUND))
        left, top, right, bottom = map(int, box[:4])
        crop = Image.fromarray(masked).crop((left, top, right, bottom))
        scale = self._side / min(crop.size)
        size = tuple(max(self._side, int(side * scale)) for side in crop.size)
        resized = crop.resize(size, Image.Resampling.BICUBIC)
        left, top = (round((side - self._side) / 2) for side in size)
        square = resized.crop((left, top, left + self._side, top + self._side))
        return torch.from_numpy(np.array(square)).permute(2, 0, 1).float()

    def _embed_colors(self, name: str) -> Tensor:
        """The embedding of each color of a class: (10, F), each of length one."""
        texts = [template.format(color=color, name=name) for color in COLORS for template in COLOR_TEMPLATES]
        tokens = self._tokenizer(texts, padding=True, return_tensors="pt").to(self._device)
        each = F.normalize(self._model.get_text_features(**tokens).pooler_output.float(), dim=-1)
        return F.normalize(each.unflatten(0, (len(COLORS), -1)).mean(1), dim=-1)


class GenEvalJudge:
    """Detector and color model as one judge of pictures."""

    def __init__(self, detector: Mask2Former, colors: ClipColors) -> None:
        self.detector, self._colors = detector, colors
        self.name = f"{detector.name}, {colors.name}"
        self.digest = hashlib.sha256(f"{detector.digest}/{colors.digest}".encode()).hexdigest()

    def look(self, images: Sequence[np.ndarray]) -> list[Seen]:
        """What is in each picture uint8 (H, W, 3)."""
        found = self.detector.detect(images)
        return [Seen(self._colors, image, *one) for image, one in zip(images, found, strict=True)]

    def self_test(self) -> None:
        """Find the objects of a known picture, a cat beside a person. ValueError when they are not found where they
        are: then no score is worth anything, and a broken detector would otherwise show only as scores too low."""
        from PIL import Image

        picture = np.array(Image.open(SELF_TEST).convert("RGB"))
        ((found, _),) = self.detector.detect([picture])
        for name, half in SELF_TEST_FINDS.items():
            box = max(found.get(name, []), key=lambda box: box[4], default=None)
            if box is None or box[4] < 0.5 or ((box[0] + box[2]) / 2 < picture.shape[1] / 2) != (half == "left"):
                seen = ", ".join(f"{key} at {boxes[0][4]:.2f}" for key, boxes in list(found.items())[:4])
                raise ValueError(
                    f"{self.detector.name} did not find {with_article(name)} in the {half} half of its self-test "
                    f"picture (found: {seen or 'nothing'}): its weights or this machine's torch are broken; no scores"
                )


class Seen:
    """What a judge found in a picture; colors are looked at when they are asked for."""

    def __init__(
        self, colors: ClipColors, image: np.ndarray, detections: dict[str, list[Box]], masks: dict[str, Any]
    ) -> None:
        self.detections = detections
        self._colors, self._image, self._masks = colors, image, masks
        self._known: dict[tuple[str, int], str] = {}

    def color(self, name: str, index: int) -> str:
        """The color of detection `index` of a class."""
        if (name, index) not in self._known:
            box, mask = self.detections[name][index], self._masks[name][index]
            (self._known[name, index],) = self._colors.colors(self._image, name, [box], mask[None])
        return self._known[name, index]


def fitted(height: int, width: int) -> tuple[int, int]:
    """The size of a picture scaled to fit into 1333 x 800, either way up, its ratio kept: (height, width)."""
    scale = min(LONG_SIDE / max(height, width), SHORT_SIDE / min(height, width))
    return int(height * scale + 0.5), int(width * scale + 0.5)
