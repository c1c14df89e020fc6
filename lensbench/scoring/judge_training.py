"""Train the shapes judge from nothing: `lensbench judge train`, minutes on one CPU core.

First the detector, on pictures wider than the world's (`judge_pictures`); then, with the detector frozen, the towers of
the alignment, on scenes that differ in one thing and texts whose truth is computed (`judge_captions`). Nothing in it
sees a sample of any model or knows a training arm. One thread throughout, so that a seed gives the same weights again.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from lensbench.captions.scene_writer import wording
from lensbench.data.scenes import Object, Scene
from lensbench.data.shapes import render
from lensbench.scoring.judge_alignment import Alignment, late_interaction, words_of
from lensbench.scoring.judge_captions import MEMBERS, TEXTS, Families, families, said
from lensbench.scoring.judge_check import error_table, markdown, write_table
from lensbench.scoring.judge_network import Detector, to_canvas
from lensbench.scoring.judge_pictures import TRAINING, Batch, batch, degrade, judge_scene
from lensbench.streams import numpy_stream, stream_key

__all__ = ["error_table", "markdown", "train", "train_alignment", "train_detector"]

DETECTOR_STEPS, ALIGNMENT_STEPS = 1500, 1000
_PICTURES = 128  # a step of the detector
_FAMILIES = 32  # a step of the towers
_RANK_SHARPNESS = 30.0  # a gap of a thirtieth in alignment is one unit of the ranking loss's logit


def train(out: Path, steps: int | None = None, seed: int = 0, report: Callable[[str], None] = print) -> None:
    """Train a judge, write its weights to `out` and its measured error beside them (the same name, .md).

    `steps` overrides both lengths, for tests. Raises nothing of its own; `report` gets a line of progress now and then.
    """
    from safetensors.torch import save

    from lensbench.scoring.detectors import ShapesJudge

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        detector = train_detector(steps or DETECTOR_STEPS, seed, report)
        alignment = train_alignment(detector, steps or ALIGNMENT_STEPS, seed, report)
    finally:
        torch.set_num_threads(threads)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_bytes(save(packed(detector, alignment)))
    write_table(ShapesJudge.load(out), out.with_suffix(".md"))


def packed(detector: Detector, alignment: Alignment) -> dict[str, Tensor]:
    """All that `ShapesJudge.load` reads, floats in half precision: half the file, and the error is measured on it."""
    parts = {"detector": detector.state_dict(), "alignment": alignment.state_dict()}
    weights = {
        f"{part}.{name}": (tensor.half() if tensor.is_floating_point() else tensor).contiguous()
        for part, state in parts.items()
        for name, tensor in state.items()
    }
    # The vocabulary travels with the weights: a text of words in the order of their numbers.
    weights["vocabulary"] = torch.frombuffer(bytearray(" ".join(alignment.vocabulary).encode()), dtype=torch.uint8)
    return weights


def train_detector(steps: int, seed: int, report: Callable[[str], None] = print) -> Detector:
    """Train the detector on `steps` batches of 128 pictures."""
    torch.manual_seed(stream_key(seed, "judge/detector/weights"))
    detector = Detector()
    optimizer, schedule = _optimizer(detector, steps, rate=3e-3)
    for step in range(steps):
        pictures = batch(numpy_stream(seed, "judge/detector/pictures", step), _PICTURES, first_index=step * _PICTURES)
        predictions, _ = detector(pictures.canvas.contiguous(memory_format=torch.channels_last))
        loss = detection_loss(predictions, pictures)
        _step(detector, optimizer, schedule, loss)
        if step % 100 == 0 or step == steps - 1:
            report(f"detector: step {step + 1} of {steps}, loss {loss.item():.4f}")
    return detector.eval().requires_grad_(False)


def train_alignment(
    detector: Detector, steps: int, seed: int, report: Callable[[str], None] = print, groups: int = _FAMILIES
) -> Alignment:
    """Train the towers on `steps` batches of 32 families, on what the frozen detector sees."""
    torch.manual_seed(stream_key(seed, "judge/alignment/weights"))
    alignment = Alignment(vocabulary(seed))
    optimizer, schedule = _optimizer(alignment, steps, rate=2e-3)
    for step in range(steps):
        rng = numpy_stream(seed, "judge/alignment/families", step)
        found = families([judge_scene(TRAINING, step * groups + i) for i in range(groups)], rng)
        canvas = _canvas(found.scenes, rng)
        with torch.no_grad():
            predictions, _ = detector(canvas)
        parts, there = alignment.embed_parts(canvas, predictions)
        words, weights = alignment.embed_words(alignment.tokens([_with_noise(text, rng) for text in found.texts]))
        loss = alignment_loss(words, weights, parts, there, found)
        _step(alignment, optimizer, schedule, loss)
        if step % 100 == 0 or step == steps - 1:
            report(f"alignment: step {step + 1} of {steps}, loss {loss.item():.4f}")
    return alignment.eval().requires_grad_(False)


def detection_loss(predictions: Tensor, pictures: Batch) -> Tensor:
    """Objectness over all cells that are not ignored; box, shape and color where an object is taught."""
    known, taught = pictures.objectness >= 0, pictures.taught
    objectness = functional.binary_cross_entropy_with_logits(predictions[..., 0][known], pictures.objectness[known])
    box = functional.smooth_l1_loss(predictions[..., 1:5][taught], pictures.box[taught], beta=0.1)
    shape = functional.cross_entropy(predictions[..., 5:10][taught], pictures.shape[taught])
    color = functional.cross_entropy(predictions[..., 10:][taught], pictures.color[taught], ignore_index=-1)
    return 10 * objectness + 2 * box + shape + 0.5 * color


def alignment_loss(words: Tensor, weights: Tensor, parts: Tensor, there: Tensor, found: Families) -> Tensor:
    """The alignment should be the share of the text's claims that the picture bears out, and rank pictures and texts.

    Each text is compared with its family's pictures and with the next family's.
    """
    parts, there = (tensor.unflatten(0, (-1, MEMBERS)) for tensor in (parts, there))
    parts, there = torch.cat([parts, parts.roll(1, 0)], 1), torch.cat([there, there.roll(1, 0)], 1)
    cosine = late_interaction(words.unflatten(0, (-1, TEXTS)), weights.unflatten(0, (-1, TEXTS)), parts, there)
    errors = torch.from_numpy(found.errors)
    share = (1 - errors / torch.from_numpy(found.claims)[:, None]).clamp(0, 1)
    loss = 10 * (cosine - share).square().mean()
    # A text's pictures are ranked by its false claims, a picture's texts by whether they are true.
    of_pictures = errors[:, :, None] < errors[:, None]
    of_texts = (errors == 0)[..., :, None] & (errors > 0)[..., None, :]
    for gap, better in (
        (cosine[:, :, None] - cosine[:, None], of_pictures),
        (cosine[..., :, None] - cosine[..., None, :], of_texts),
    ):
        loss = loss + functional.softplus(-_RANK_SHARPNESS * gap)[better].mean()
    return loss


def vocabulary(seed: int, captions: int = 3000) -> list[str]:
    """Every word of 3,000 training captions, sorted."""
    found: set[str] = set()
    for index in range(captions):
        rng = numpy_stream(seed, "judge/vocabulary", index)
        found.update(words_of(wording(said(judge_scene(TRAINING, index), rng), rng)))
    return sorted(found)


def _canvas(scenes: list[Scene], rng: np.random.Generator) -> Tensor:
    """The scenes drawn, half of them with objects off their places, and degraded as far as they stay visible."""
    size_px = int(rng.choice([16, 24, 24, 32, 48]))
    loose = rng.random(len(scenes)) < 0.5
    drawn = [render(_loosened(one, rng) if off else one, size_px) for one, off in zip(scenes, loose, strict=True)]
    pixels = torch.from_numpy(np.stack(drawn)).permute(0, 3, 1, 2) / 255
    return to_canvas(degrade(rng, pixels, clean=torch.from_numpy(rng.random(len(scenes)) < 0.4)))


def _loosened(one: Scene, rng: np.random.Generator) -> Scene:
    def moved(item: Object) -> Object:
        dx, dy = rng.uniform(-0.05, 0.05, size=2)
        return replace(item, x=item.x + float(dx), y=item.y + float(dy))

    return Scene(tuple(moved(item) for item in one.objects), one.background)


def _with_noise(text: str, rng: np.random.Generator) -> str:
    """Now and then a word that no caption has, so that the number of unknown words is a trained one."""
    if rng.random() > 0.1:
        return text
    words = text.split()
    words.insert(int(rng.integers(len(words) + 1)), "unknownword")
    return " ".join(words)


def _optimizer(
    network: torch.nn.Module, steps: int, rate: float
) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LambdaLR]:
    """AdamW with a short warm-up and a cosine to zero."""
    optimizer = torch.optim.AdamW(network.parameters(), lr=rate, weight_decay=1e-2, betas=(0.9, 0.98))
    warmup = min(100, steps // 10 + 1)

    def factor(step: int) -> float:
        return min(1.0, (step + 1) / warmup) * 0.5 * (1 + math.cos(math.pi * min(1.0, step / steps)))

    return optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, factor)


def _step(
    network: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.LambdaLR,
    loss: Tensor,
) -> None:
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
    optimizer.step()
    schedule.step()
