"""What training leaves in a cell's directory, and what it needs there to go on after a stop."""

from __future__ import annotations

import shutil
from pathlib import Path

CHECKPOINTS = "checkpoints"  # the averaged weights at every step that is scored
LOSSES = "train.csv"
SUMMARY = "training.json"  # how fast it was, and what that is of what the machine can do
AMOUNTS = "amounts.json"  # images seen and FLOPs at every checkpoint
WATCHED = "watch.csv"  # the held-out loss of each prompt form along training
SAMPLES = "samples"  # the same prompts drawn from the same noise along training
REPRODUCER = "no_number.pt"  # the batch and the weights of a loss that is no number
TRAINED = "trained.json"  # that training has ended, where, and the sha256 of what it left
RESUME = "resume"  # the state of a run that is not finished
ALL = (CHECKPOINTS, LOSSES, SUMMARY, AMOUNTS, WATCHED, SAMPLES, REPRODUCER, TRAINED, RESUME)


def checkpoint(directory: Path, step: int) -> Path:
    """The folder of the averaged weights after `step` steps."""
    return directory / CHECKPOINTS / f"step-{step:06d}"


def kept_steps(directory: Path) -> set[int]:
    """The steps whose checkpoints are there."""
    return {int(path.name.removeprefix("step-")) for path in (directory / CHECKPOINTS).glob("step-*") if path.is_dir()}


def samples(directory: Path, step: int) -> Path:
    """The sheet of pictures drawn after `step` steps."""
    return directory / SAMPLES / f"step-{step:06d}.png"


def remove(directory: Path) -> None:
    """Remove all that training left."""
    for name in ALL:
        path = directory / name
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
