"""Batches: everything a training step needs, as a function of (experiment, step) and nothing else.

Images, order, timesteps and noise come from streams that do not know the captions, so two arms with one seed differ in
their text alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import lightning
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from lensbench.captions.policy import dropped_text
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
    """The batch of every step, by step number."""

    def __init__(self, experiment: Experiment, latents: Latents, texts: Sequence[str], features: TextFeatures) -> None:
        if len(latents) != len(texts):
            raise ValueError(f"{len(latents)} images but {len(texts)} captions")
        self.experiment, self.latents, self.texts, self.features = experiment, latents, texts, features

    def __len__(self) -> int:
        return self.experiment.training.steps

    def __getitem__(self, step: int) -> Batch:
        e = self.experiment
        batch = e.training.batch
        chosen = image_order(e.seed, len(self.latents), step, batch)
        dropped = dropped_text(e.captions, e.seed, step, batch)
        texts = ["" if drop else self.texts[i] for i, drop in zip(chosen, dropped, strict=True)]
        latents = self.latents.gather(chosen)
        noise, timesteps = flow_input(e.seed, step, *latents.shape)
        text_features, text_mask = self.features.gather(texts)
        return Batch(latents, self.latents.grid, noise, timesteps, text_features, text_mask)


class LensData(lightning.LightningDataModule):
    """Lightning's view of the training batches."""

    def __init__(self, batches: TrainingBatches) -> None:
        super().__init__()
        self.batches = batches

    def train_dataloader(self) -> DataLoader[Batch]:
        return DataLoader(self.batches, batch_size=None, shuffle=False, num_workers=0)

    def transfer_batch_to_device(self, batch: Batch, device: torch.device, dataloader_idx: int) -> Batch:
        def move(tensor: torch.Tensor) -> torch.Tensor:
            return tensor.to(device, non_blocking=True)

        features = [move(layer) for layer in batch.text_features]
        latents, noise, timesteps = move(batch.latents), move(batch.noise), move(batch.timesteps)
        return Batch(latents, batch.grid, noise, timesteps, features, move(batch.text_mask))
