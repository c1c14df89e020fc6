"""CLIPScore: the cosine between CLIP's embeddings of a picture and of its prompt.

The cosines come from torchmetrics, which is given a model and a processor of ours, because as it is it goes wrong twice
(torchmetrics 1.9): it cuts a text that is too long behind the tokenizer, by slicing, so that the end-of-text token,
where CLIP reads off the embedding, is lost and all long texts get the same embedding; and transformers 5 returns an
output object where it expects a tensor. Here the tokenizer cuts, end-of-text stays, and what was cut is counted.

Two scales are published: 100 * cos (torchmetrics; the mean is clipped at 0) and 2.5 * max(cos, 0) (Hessel et al.
2021, arXiv 2104.08718, section 3, with ViT-B/32 and the prefix "A photo depicts "). Stored is the cosine; both derive
from it.

Tested with tiny random CLIPs saved as the published ones are; the published weights have not been run by this project.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lensbench.metrics import metric
from lensbench.model.pretrained import ModelFiles, load_tokenizer
from lensbench.scoring.image_scores import DIGITS, Number, Opening, Scorer
from lensbench.scoring.statistics import Interval, stratified_mean
from lensbench.scoring.vision_models import PREPROCESSOR, clip_name, open_model

PAPER_PREFIX = "A photo depicts "
PAPER_WEIGHT = 2.5


class ClipScorer(Scorer):
    """A CLIP, and how pictures and texts go into it. `window` is how many tokens a text may have, both ends included.

    77 of them in OpenAI's; a long-context CLIP is any with more positions. `prefix` is put before every text.
    """

    by_text = True

    def __init__(self, model: str, argument: str = "model", device: str = "cpu", prefix: str = "") -> None:
        from transformers import CLIPModel
        from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

        opened = open_model(model, argument, CLIPModel, device)
        self.name, self.digest, self.prefix = clip_name(opened.config), opened.digest, prefix
        super().__init__(metric(f"clip_cosine_{self._of}"))
        self.window: int = opened.config.text_config.max_position_embeddings
        self._model: Any = _TorchmetricsModel(opened.model, opened.config, device)
        self._tokenizer = load_tokenizer(ModelFiles(opened.folder, opened.folder))
        if self._tokenizer.eos_token_id is None:
            raise ValueError(f"{opened.folder}: its tokenizer names no end-of-text token (eos_token)")
        if self._tokenizer.pad_token_id is None:
            self._tokenizer.pad_token = self._tokenizer.eos_token
        side = opened.config.vision_config.image_size
        if (opened.folder / PREPROCESSOR).is_file():
            self._pictures = CLIPImageProcessorPil.from_pretrained(opened.folder, local_files_only=True)
        else:
            square = {"height": side, "width": side}
            self._pictures = CLIPImageProcessorPil(size={"shortest_edge": side}, crop_size=square)
        self.resize = f"shortest side to {side} bicubic, middle square"

    def prepare(self, image: np.ndarray) -> np.ndarray:
        """One picture uint8 (H, W, 3) as CLIP takes it: float32 (3, S, S). Called from several threads."""
        return np.asarray(self._pictures(images=image, return_tensors="np")["pixel_values"][0], dtype=np.float32)

    def too_long(self, texts: Sequence[str]) -> NDArray[np.bool_]:
        """Which texts (N,) do not fit the window and are cut."""
        whole = self._tokenizer([self.prefix + text for text in texts], truncation=False, verbose=False)["input_ids"]
        return np.array([len(ids) > self.window for ids in whole], dtype=bool)

    def cosines(self, prepared: Sequence[np.ndarray], texts: Sequence[str]) -> NDArray[np.float64]:
        """The cosine (N,) of each prepared picture and its text. Raises ValueError for unequal numbers."""
        import torch
        from torchmetrics.functional.multimodal.clip_score import _clip_score_update

        if len(prepared) != len(texts):
            raise ValueError(f"CLIPScore needs one text a picture, got {len(texts)} for {len(prepared)} pictures")
        pixels: Any = [torch.from_numpy(image) for image in prepared]
        processor: Any = self
        with torch.inference_mode():
            # Its public function and class give the mean over the batch alone, clipped at 0.
            scaled, _ = _clip_score_update(pixels, [self.prefix + text for text in texts], self._model, processor)
        found: NDArray[np.float64] = scaled.double().cpu().numpy() / 100
        return found

    score = cosines

    @property
    def _of(self) -> str:
        """What the names of its metrics end in."""
        return self.name.removeprefix("clip_")

    def numbers(self, found: NDArray[np.float64], prompts: Sequence[object]) -> list[Number]:
        """The cosine, and what is published of it on both scales."""
        values, intervals = of_images(found), scales(found, [str(prompt) for prompt in prompts])
        names = {scale: "clip_cosine" if scale == "cosine" else f"clip_score_{scale}" for scale in values}
        return [Number(metric(f"{names[scale]}_{self._of}"), values[scale], intervals[scale]) for scale in values]

    def details(self, texts: Sequence[str]) -> dict[str, Any]:
        """The prefix, the window and how many texts were cut to it."""
        return {"prefix": self.prefix, "window": self.window, "cut": int(self.too_long(texts).sum())}

    def protocol(self, texts: Sequence[str]) -> dict[str, Any]:
        """Which CLIP, how long its window is and how many texts were cut to it."""
        told = {"extractor": self.name, "weights": self.digest[:DIGITS], "resize": self.resize}
        return told | self.details(texts)

    def each(self, found: NDArray[np.float64], texts: Sequence[str]) -> list[dict[str, Any]]:
        """The cosine of every image, and whether its text was cut."""
        return [
            {"cosine": float(cosine), "cut": bool(cut)} for cosine, cut in zip(found, self.too_long(texts), strict=True)
        ]

    def doubts(self, texts: Sequence[str]) -> list[str]:
        """How many texts are cut."""
        cut = int(self.too_long(texts).sum())
        if not cut:
            return []
        return [
            f"CLIPScore {self.name}: {cut:,} of {len(texts):,} prompts are longer than its {self.window} tokens and "
            "are cut, end-of-text kept; a CLIP with more positions reads them whole"
        ]

    def __call__(self, *, images: Any = None, text: Any = None, **options: Any) -> dict[str, Any]:
        """The processor that torchmetrics asks for: prepared pictures, or texts cut by the tokenizer, as tensors."""
        import torch

        if images is not None:
            return {"pixel_values": torch.stack(list(images))}
        cut = self._tokenizer(text, truncation=True, max_length=self.window, padding=True, return_tensors="pt")
        if not bool((cut["input_ids"] == self._tokenizer.eos_token_id).any(1).all()):
            raise ValueError(
                f"{self.name}: its tokenizer puts no end-of-text token behind a text, where CLIP reads off the "
                "embedding; take the tokenizer.json that belongs to the model"
            )
        return {"input_ids": cut["input_ids"], "attention_mask": cut["attention_mask"]}


def open_clip(opening: Opening) -> ClipScorer:
    """The scorer of CLIPScore. Raises ValueError as `ClipScorer`."""
    return ClipScorer(opening.weights, opening.argument, opening.device, opening.prefix)


class _TorchmetricsModel:
    """A CLIPModel as torchmetrics expects it: tensors come back, and it stays on its device."""

    def __init__(self, model: Any, config: Any, device: str) -> None:
        self._model, self.config, self._device = model, config, device

    def to(self, device: Any) -> _TorchmetricsModel:
        return self  # torchmetrics would move it to where the pictures are

    def get_image_features(self, pixels: Any) -> Any:
        return self._model.get_image_features(pixels.to(self._device)).pooler_output.float().cpu()

    def get_text_features(self, ids: Any, mask: Any) -> Any:
        ids, mask = ids.to(self._device), mask.to(self._device)
        return self._model.get_text_features(ids, mask).pooler_output.float().cpu()


def of_images(cosines: np.ndarray) -> dict[str, np.ndarray]:
    """The cosines (N,), and what each image has on both published scales, by the names of `scales`."""
    return {"cosine": cosines, "100": 100 * cosines, "2.5": PAPER_WEIGHT * np.maximum(cosines, 0)}


def scales(cosines: np.ndarray, prompts: Sequence[str]) -> dict[str, Interval]:
    """The mean cosine (N,), and both published scales of it, with 95 % intervals over prompts.

    Pictures of one prompt are a cluster. "100" is torchmetrics' max(mean(100 cos), 0), "2.5" the paper's mean of
    2.5 max(cos, 0).
    """
    clusters = np.unique(np.asarray(prompts, dtype=object).astype(str), return_inverse=True)[1]
    strata = np.zeros(len(cosines), dtype=int)
    raw = stratified_mean(cosines, clusters, strata)
    estimate, low, high = (max(100 * bound, 0.0) for bound in (raw.estimate, raw.low, raw.high))
    paper = stratified_mean(of_images(cosines)["2.5"], clusters, strata)
    return {"cosine": raw, "100": Interval(estimate, low, high), "2.5": paper}
