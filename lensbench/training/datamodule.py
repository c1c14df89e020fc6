"""Steps: everything a training step needs, as a function of (experiment, step) and nothing else.

Images, order, sizes, timesteps and noise come from streams that do not know the captions, so two arms with one seed
differ in their text alone. How a step is divided, among ranks and into parts, changes where an image is computed and
nothing about it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import lightning
import numpy as np
import torch
from torch.utils.data import Dataset

from lensbench.captions.policy import drawn_sets, dropped_text
from lensbench.data.features import TextFeatures
from lensbench.data.latents import Latents
from lensbench.data.sized import SizedLatents
from lensbench.experiment import Experiment
from lensbench.model.flow import draw_timesteps, timestep_mean
from lensbench.streams import torch_stream
from lensbench.training.order import ImageOrder, dealt
from lensbench.training.workers import StepLoader


@dataclass(frozen=True)
class Batch:
    """Images of one size that are computed together: latents (B, H*W, C), their grid (H, W), noise (B, H*W, C),
    timesteps (B,), text features K x (B, T, E) and their mask (B, T)."""

    latents: torch.Tensor
    grid: tuple[int, int]
    noise: torch.Tensor
    timesteps: torch.Tensor
    text_features: list[torch.Tensor]
    text_mask: torch.Tensor
    text_tokens: tuple[int, ...]  # of each image, padding not counted
    keys: tuple[str, ...]  # of the images

    def __len__(self) -> int:
        return len(self.latents)

    def split(self, parts: int) -> Iterator[Batch]:
        """The batch in `parts` of nearly equal size, each padded to its own longest text."""
        for rows in torch.arange(len(self)).tensor_split(parts):
            if len(rows):
                some = slice(int(rows[0]), int(rows[-1]) + 1)
                longest = max(1, *self.text_tokens[some])
                yield Batch(
                    self.latents[some],
                    self.grid,
                    self.noise[some],
                    self.timesteps[some],
                    [layer[some, :longest] for layer in self.text_features],
                    self.text_mask[some, :longest],
                    self.text_tokens[some],
                    self.keys[some],
                )

    def to(self, device: torch.device) -> Batch:
        """The batch on a device."""

        def move(tensor: torch.Tensor) -> torch.Tensor:
            return tensor.to(device, non_blocking=True)

        latents, noise, timesteps = move(self.latents), move(self.noise), move(self.timesteps)
        features = [move(layer) for layer in self.text_features]
        mask = move(self.text_mask)
        return Batch(latents, self.grid, noise, timesteps, features, mask, self.text_tokens, self.keys)


@dataclass(frozen=True)
class Step:
    """What one process computes of a step, and how many images the step has in all processes."""

    parts: tuple[Batch, ...]
    images: int

    @property
    def tokens(self) -> int:
        """Tokens of this process's images and their texts."""
        return sum(len(part) * part.latents.shape[1] + sum(part.text_tokens) for part in self.parts)

    @property
    def padded_tokens(self) -> int:
        """The same with the padding that texts are given to be computed together."""
        return sum(len(part) * (part.latents.shape[1] + part.text_mask.shape[1]) for part in self.parts)


def flow_input(
    seed: int, step: int, batch: int, image_tokens: int, channels: int, group: int = 0
) -> tuple[torch.Tensor, torch.Tensor]:
    """The noise (B, N, C) and the timesteps (B,) of a group of a step."""
    of_group = f"/{group}" if group else ""
    noise = torch.randn(batch, image_tokens, channels, generator=torch_stream(seed, f"noise{of_group}", step))
    generator = torch_stream(seed, f"timesteps{of_group}", step)
    return noise, draw_timesteps(generator, batch, timestep_mean(image_tokens))


class TrainingBatches(Dataset[Step]):
    """Every step, by its number.

    `texts` has a text for each image in every caption set that the policy draws from, `features` those of the texts.
    A process of several is given its share of each step: see `share`.
    """

    def __init__(
        self,
        experiment: Experiment,
        latents: Latents | SizedLatents,
        texts: Mapping[str, Sequence[str]],
        features: Mapping[str, TextFeatures],
        keys: Sequence[str],
    ) -> None:
        for name in experiment.captions.shares:
            if len(latents) != len(texts[name]):
                raise ValueError(f"{len(latents)} images but {len(texts[name])} captions")
        self.experiment, self.texts, self.features, self.keys = experiment, texts, features, keys
        recipe = experiment.training
        self.groups = recipe.buckets.groups if recipe.buckets else 1
        self.channels = experiment.autoencoder.latents.channels * experiment.model.patch_size**2
        self.latents = latents if isinstance(latents, SizedLatents) else SizedLatents.of_one_size(latents)
        sides = self.latents.side_of
        batches = [experiment.group_images(side) for side in sides] if recipe.buckets else [recipe.batch]
        self.order = ImageOrder(experiment.seed, self.latents.choices, batches)
        self.share(0, 1)

    def share(self, rank: int, ranks: int) -> None:
        """From now on give the share of process `rank` of `ranks`. ValueError when a step is too small to be shared."""
        parts = self.experiment.training.accumulate
        fewest = min(self.order.batches)
        among = 1 if self.groups % ranks == 0 else ranks
        if fewest < parts * among:
            raise ValueError(
                f"{fewest} images computed together cannot be divided among {among} processes in "
                f"training.accumulate={parts} parts: raise training.batch"
            )
        self.rank, self.ranks = rank, ranks

    def __len__(self) -> int:
        return self.experiment.training.steps

    def seen(self, steps: int) -> np.ndarray:
        """How many images are seen in the first `steps` steps, by size: int64 (sizes,)."""
        return self.order.seen(steps * self.groups)

    def __getitem__(self, step: int) -> Step:
        e = self.experiment
        groups = [self.order.group(step * self.groups + n) for n in range(self.groups)]
        starts = np.cumsum([0, *(len(group.images) for group in groups)])
        images = int(starts[-1])
        dropped = dropped_text(e.captions, e.seed, step, images)
        drawn = drawn_sets(e.captions, e.seed, step, images)
        names = list(e.captions.shares)
        parts = []
        for place, whole in dealt(groups, self.rank, self.ranks):
            group, start = groups[place], starts[place]
            said = [
                (names[of_set], "" if silent else self.texts[names[of_set]][image])
                for of_set, silent, image in zip(drawn[start:], dropped[start:], group.images, strict=False)
            ]
            tokens = self._token_counts(said)
            height, width = grid = self.latents.grid(group.size)
            noise, timesteps = flow_input(e.seed, step, len(tokens), height * width, self.channels, place)
            for rows in self._parts(tokens, whole):
                text_features, text_mask = self._text([said[row] for row in rows])
                parts.append(
                    Batch(
                        self.latents.gather(group.size, group.images[rows]),
                        grid,
                        noise[rows],
                        timesteps[rows],
                        text_features,
                        text_mask,
                        tuple(tokens[rows].tolist()),
                        tuple(self.keys[image] for image in group.images[rows]),
                    )
                )
        return Step(tuple(parts), images)

    def _parts(self, tokens: np.ndarray, whole: bool) -> Iterator[np.ndarray]:
        """The rows of a group that this process computes, by parts.

        Texts of like length share a part, so that little of it is padding, and every process has its like of them.
        """
        parts, among = self.experiment.training.accumulate, 1 if whole else self.ranks
        rows = np.arange(len(tokens))
        if parts * among > 1:
            rows = np.argsort(tokens, kind="stable")
        for part in np.array_split(rows, parts):
            yield part if whole else part[self.rank :: self.ranks]

    def _token_counts(self, said: Sequence[tuple[str, str]]) -> np.ndarray:
        """Tokens of texts, each of a caption set: int64 (len(said),)."""
        counts = np.zeros(len(said), dtype=np.int64)
        for name in self.experiment.captions.shares:
            of_set = [visit for visit, (from_set, _) in enumerate(said) if from_set == name]
            counts[of_set] = self.features[name].token_counts([said[visit][1] for visit in of_set])
        return counts

    def _text(self, said: Sequence[tuple[str, str]]) -> tuple[list[torch.Tensor], torch.Tensor]:
        """The features and mask of texts, each of a caption set."""
        parts = []
        for name in self.experiment.captions.shares:
            visits = [visit for visit, (of_set, _) in enumerate(said) if of_set == name]
            if visits:
                parts.append((torch.tensor(visits), *self.features[name].gather([said[visit][1] for visit in visits])))
        return _merged(parts, len(said))


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


class LensData(lightning.LightningDataModule):
    """Lightning's view of the training batches."""

    def __init__(self, batches: TrainingBatches) -> None:
        super().__init__()
        self.batches = batches
        self.start = 0
        self.loader: StepLoader[Step] | None = None  # of this process, once training has begun

    def state_dict(self) -> dict[str, Any]:
        """How many steps are done."""
        assert self.trainer is not None
        return {"step": self.trainer.lightning_module.steps}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on after the steps of `state_dict()`."""
        self.start = state_dict["step"]

    def train_dataloader(self) -> StepLoader[Step]:
        assert self.trainer is not None
        self.batches.share(self.trainer.global_rank, self.trainer.world_size)
        self.loader = StepLoader(self.batches, self.start, self.batches.experiment.training.data_workers)
        return self.loader

    def transfer_batch_to_device(self, batch: Step, device: torch.device, dataloader_idx: int) -> Step:
        return Step(tuple(part.to(device) for part in batch.parts), batch.images)
