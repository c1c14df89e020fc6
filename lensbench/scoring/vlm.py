"""Vision-language models of transformers as judges: the probability of an answer's first token.

The Qwen-VL family (GenEval 2's judge is Qwen3-VL-8B) is put together from its tokenizer and its picture processor: its
own processor needs torchvision for videos. Any other model is used through AutoProcessor.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lensbench.model.pretrained import WANTED, ModelFiles, brief, digest, model_folder

JUDGE = "Qwen/Qwen3-VL-8B-Instruct"
QWEN = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl", "qwen3_vl_moe")
BESIDE = ("preprocessor_config.json", "processor_config.json", "chat_template.json", "chat_template.jinja")


class TransformersVlm:
    """A model from a folder or the hub. Tested with small random models of the same classes; not tried on a GPU."""

    def __init__(self, model: str = JUDGE, device: str = "cpu") -> None:
        """Raises ValueError, one line, when `model` is no vision-language model that can be opened."""
        from transformers import (
            AutoConfig,
            AutoImageProcessor,
            AutoModelForImageTextToText,
            AutoProcessor,
            AutoTokenizer,
        )

        folder = model_folder(model, "--judge", [*WANTED, *BESIDE, "vocab.json", "merges.txt"])
        try:
            self._qwen = AutoConfig.from_pretrained(folder).model_type in QWEN
            if self._qwen:
                self._tokenizer = AutoTokenizer.from_pretrained(folder)
                self._images = AutoImageProcessor.from_pretrained(folder)
            else:
                self._processor = AutoProcessor.from_pretrained(folder)
                self._tokenizer = self._processor.tokenizer
            opened: Any = AutoModelForImageTextToText.from_pretrained(folder, dtype="auto")
            self._model = opened.to(device).eval()
        except Exception as error:  # the library has no one class for files that are none or do not fit
            raise ValueError(
                f"--judge={model}: no vision-language model that can be opened ({brief(error)})"
            ) from error
        self._tokenizer.padding_side = "left"
        if self._tokenizer.pad_token is None:
            self._tokenizer.pad_token = self._tokenizer.eos_token
        self._device = device
        self.name = model if not Path(model).is_dir() else folder.resolve().name
        told = [(folder / name).read_text() for name in BESIDE if (folder / name).is_file()]
        self.digest = digest(ModelFiles(folder, folder), *told)

    @torch.inference_mode()
    def answer(
        self, image: np.ndarray, questions: Sequence[str], accepted: Sequence[Sequence[str]]
    ) -> list[tuple[str, float]]:
        """The likeliest next token and the probability of an accepted one, for each question: see `geneval2.Vlm`.

        A token that begins several of the accepted spellings counts once.
        """
        inputs = self._inputs(image, questions)
        moved = {name: value.to(self._device) for name, value in inputs.items()}
        logits = self._model(**moved, logits_to_keep=1).logits[:, -1].float()  # (N, vocabulary)
        probabilities = torch.softmax(logits, dim=-1)
        out = []
        for row, spelled in zip(probabilities, accepted, strict=True):
            first = {self._tokenizer.encode(text, add_special_tokens=False)[0] for text in spelled}
            word = str(self._tokenizer.decode([int(row.argmax())])).strip()
            out.append((word, float(row[sorted(first)].sum())))
        return out

    def _inputs(self, image: np.ndarray, questions: Sequence[str]) -> Mapping[str, Tensor]:
        from PIL import Image

        picture = Image.fromarray(image)
        asked: list[Any] = [
            [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": question}]}]
            for question in questions
        ]
        if not self._qwen:
            texts = [self._processor.apply_chat_template(chat, add_generation_prompt=True) for chat in asked]
            made = self._processor(images=[[picture]] * len(texts), text=texts, padding=True, return_tensors="pt")
            return self._floating(made)
        texts = [
            self._tokenizer.apply_chat_template(chat, add_generation_prompt=True, tokenize=False) for chat in asked
        ]
        one = self._images(images=[picture], return_tensors="pt")
        grid, pixels = one["image_grid_thw"], one["pixel_values"]
        pad = self._tokenizer.convert_ids_to_tokens(self._model.config.image_token_id)
        tokens = int(grid.prod()) // self._images.merge_size**2
        tokenized = self._tokenizer([text.replace(pad, pad * tokens) for text in texts], padding=True)
        ids = torch.tensor(tokenized["input_ids"])
        return self._floating(
            {
                "input_ids": ids,
                "attention_mask": torch.tensor(tokenized["attention_mask"]),
                "mm_token_type_ids": (ids == self._model.config.image_token_id).int(),
                "pixel_values": pixels.repeat(len(texts), 1),
                "image_grid_thw": grid.repeat(len(texts), 1),
            }
        )

    def _floating(self, inputs: Mapping[str, Any]) -> dict[str, Tensor]:
        kind = self._model.dtype
        return {name: value.to(kind) if value.is_floating_point() else value for name, value in inputs.items()}
