"""Batches: everything a training step needs, as a function of (experiment, step) and nothing else.

Images, order, timesteps and noise come from streams that do not know the captions, so two arms with one seed differ in
their text alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import lightning
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from lensbench.captions.policy import drawn_sets, dropped_text
from lensbench.data.features import TextFeatures
from lensbench.data.latents import Latents
from lensbench.experiment import Experiment
from lensbench.model.flow import draw_timesteps, timestep_mean
from lensbench.streams import numpy_stream, torch_stream


@dataclass(frozen=True)
class Batch:
    """One step's input: latents (B, H*W, C), their grid (H, W), noise (B, H*W, C), timesteps (B,), text and mask."""

    latents: torch.Tensor
    grid: tuple[int, int]
    noise: torch.Tensor
    timesteps: torch.Tensor
    text_features: list[torch.Tensor]
    text_mask: torch.Tensor
    keys: tuple[str, ...] = ()  # of the images

    def __len__(self) -> int:
        return len(self.latents)

    def split(self, parts: int) -> Iterator[Batch]:
        """The batch in `parts` of nearly equal size."""
        for rows in torch.arange(len(self)).tensor_split(parts):
            if len(rows):
                start, end = int(rows[0]), int(rows[-1]) + 1
                yield Batch(
                    self.latents[start:end],
                    self.grid,
                    self.noise[start:end],
                    self.timesteps[start:end],
                    [layer[start:end] for layer in self.text_features],
                    self.text_mask[start:end],
                    self.keys[start:end],
                )


def image_order(seed: int, images: int, step: int, batch: int) -> np.ndarray:
    """The indices of the images of a step: every image once an epoch, each epoch in its own order."""
    places = np.arange(step * batch, (step + 1) * batch)
    order = np.empty(batch, dtype=np.int64)
    for epoch in np.unique(places // images):
        inside = places // images == epoch
        order[inside] = numpy_stream(seed, "order", int(epoch)).permutation(images)[places[inside] % images]
    return order


def flow_input(seed: int, step: int, batch: int, image_tokens: int, channels: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The noise (B, N, C) and the timesteps (B,) of a step."""
    noise = torch.randn(batch, image_tokens, channels, generator=torch_stream(seed, "noise", step))
    timesteps = draw_timesteps(torch_stream(seed, "timesteps", step), batch, timestep_mean(image_tokens))
    return noise, timesteps


class TrainingBatches(Dataset[Batch]):
    """The batch of every step, by step number.

    `texts` has a text for each image in every caption set that the policy draws from, `features` those of the texts.
    """

    def __init__(
        self,
        experiment: Experiment,
        latents: Latents,
        texts: Mapping[str, Sequence[str]],
        features: Mapping[str, TextFeatures],
        keys: Sequence[str],
    ) -> None:
        for name in experiment.captions.shares:
            if len(latents) != len(texts[name]):
                raise ValueError(f"{len(latents)} images but {len(texts[name])} captions")
        self.experiment, self.latents, self.texts, self.features = experiment, latents, texts, features
        self.keys = keys

    def __len__(self) -> int:
        return self.experiment.training.steps

    def __getitem__(self, step: int) -> Batch:
        e = self.experiment
        batch = e.training.batch
        chosen = image_order(e.seed, len(self.latents), step, batch)
        latents = self.latents.gather(chosen)
        noise, timesteps = flow_input(e.seed, step, *latents.shape)
        text_features, text_mask = self._text(step, chosen)
        keys = tuple(self.keys[row] for row in chosen)
        return Batch(latents, self.latents.grid, noise, timesteps, text_features, text_mask, keys)

    def _text(self, step: int, chosen: np.ndarray) -> tuple[list[torch.Tensor], torch.Tensor]:
        e = self.experiment
        dropped = dropped_text(e.captions, e.seed, step, len(chosen))
        drawn = drawn_sets(e.captions, e.seed, step, len(chosen))
        parts = []
        for place, name in enumerate(e.captions.shares):
            visits = np.flatnonzero(drawn == place)
            texts = ["" if dropped[visit] else self.texts[name][chosen[visit]] for visit in visits]
            if texts:
                parts.append((torch.from_numpy(visits), *self.features[name].gather(texts)))
        return _merged(parts, len(chosen))


def _merged(
    parts: Sequence[tuple[torch.Tensor, list[torch.Tensor], torch.Tensor]], batch: int
) -> tuple[list[torch.Tensor], torch.Tensor]:
    """The features and masks of the parts of a batch, each with its places in it, padded to the longest text."""
    if len(parts) == 1:
        return parts[0][1:]
    longest = max(mask.shape[1] for _, _, mask in parts)
    merged = [layer.new_zeros(batch, longest, layer.shape[2]) for layer in parts[0][1]]
    merged_mask = torch.zeros(batch, longest, dtype=torch.bool)
    for visits, layers, mask in parts:
        merged_mask[visits, : mask.shape[1]] = mask
        for into, layer in zip(merged, layers, strict=True):
            into[visits, : mask.shape[1]] = layer
    return merged, merged_mask


class StepsFrom(Sampler[int]):
    """The numbers of the steps from `start` on. Its length is that of all: Lightning counts those done before."""

    def __init__(self, start: int, steps: int) -> None:
        self.start, self.steps = start, steps

    def __iter__(self) -> Iterator[int]:
        return iter(range(self.start, self.steps))

    def __len__(self) -> int:
        return self.steps


class LensData(lightning.LightningDataModule):
    """Lightning's view of the training batches."""

    def __init__(self, batches: TrainingBatches) -> None:
        super().__init__()
        self.batches = batches
        self.start = 0

    def state_dict(self) -> dict[str, Any]:
        """How many steps are done."""
        assert self.trainer is not None
        return {"step": self.trainer.lightning_module.steps}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on after the steps of `state_dict()`."""
        self.start = state_dict["step"]

    def train_dataloader(self) -> DataLoader[Batch]:
        return DataLoader(
            self.batches, batch_size=None, sampler=StepsFrom(self.start, len(self.batches)), num_workers=0
        )

    def transfer_batch_to_device(self, batch: Batch, device: torch.device, dataloader_idx: int) -> Batch:
        def move(tensor: torch.Tensor) -> torch.Tensor:
            return tensor.to(device, non_blocking=True)

        features = [move(layer) for layer in batch.text_features]
        latents, noise, timesteps = move(batch.latents), move(batch.noise), move(batch.timesteps)
        return Batch(latents, batch.grid, noise, timesteps, features, move(batch.text_mask), batch.keys)
