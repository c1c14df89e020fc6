"""Going on where training stopped: the whole state of a run on disk, now and then and when it is asked to stop.

A resume point is Lightning's checkpoint (weights, averages, optimiser, schedule, position, loss curve) and a manifest
written after it, which says whose it is and what its bytes must be. No random state is kept: every draw of a step is a
function of the seed and the step (lensbench.streams), so what follows is to the bit what would have followed.

Of several processes the first writes it, or under FSDP all of them, each its part (lensbench.training.sharded). Any
number of processes, under DDP or FSDP, goes on from it: with the same order, noise and texts, but not promised to the
bit, for sums over another number of parts round otherwise.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import lightning

from lensbench import ranks
from lensbench.publishing import publish, publish_text
from lensbench.stopping import StopRequest
from lensbench.training.module import LensModule

KEPT = 2  # resume points: the last, and one more should its file be damaged


class ResumePoint(NamedTuple):
    """A state on disk after `step` steps: a file, or a folder that several processes wrote."""

    step: int
    state: Path


class ResumePoints(lightning.Callback):
    """Writes a resume point every `seconds` and when any process is asked to stop, which then ends training in all.

    Must be the last callback, so that what the others keep is of the same step. Raises OSError or RuntimeError when
    the disk is full; the points before it stay.
    """

    def __init__(self, folder: Path, identity: Mapping[str, str], seconds: float, stop: StopRequest) -> None:
        self.folder, self.identity, self.seconds, self.stop = folder, dict(identity), seconds, stop
        self.last = time.monotonic()

    def on_train_start(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        self.last = time.monotonic()
        self.stop.heed()  # again, for Lightning has put itself before: its handler would wait for other processes

    def on_train_batch_end(
        self, trainer: lightning.Trainer, module: lightning.LightningModule, outputs: Any, batch: Any, step: int
    ) -> None:
        assert isinstance(module, LensModule)
        due = trainer.is_global_zero and time.monotonic() - self.last >= self.seconds
        asked, due_for_all = ranks.highest(self.stop.signal, int(due))
        if asked or due_for_all:
            self.write(trainer, module)
        if asked:
            self.stop.signal = asked
            raise KeyboardInterrupt

    def write(self, trainer: lightning.Trainer, module: LensModule) -> None:
        """Write the state as it is after this step, then forget all but the last two. Every process calls this."""
        step = module.steps
        state = self.folder / f"step-{step:08d}.ckpt"
        partial = state.with_suffix(".partial")
        self.folder.mkdir(parents=True, exist_ok=True)
        try:
            trainer.save_checkpoint(partial)
            if trainer.is_global_zero:
                self._publish(step, partial, state)
        finally:
            if trainer.is_global_zero:
                _remove(partial)
        self.last = time.monotonic()

    def _publish(self, step: int, partial: Path, state: Path) -> None:
        if partial.is_dir() or state.is_dir():  # a folder is in the way of another state after the same step
            state.with_suffix(".json").unlink(missing_ok=True)
            _remove(state)
        if partial.is_dir():
            for file in partial.iterdir():
                publish(file, file)
            os.replace(partial, state)
        else:
            publish(partial, state)
        manifest = {"step": step, "sha256": _sha256(state), "identity": self.identity}
        publish_text(state.with_suffix(".json"), json.dumps(manifest, indent=1))
        for old in sorted(self.folder.glob("step-*.json"))[:-KEPT]:
            old.unlink()  # the manifest first: a state without one is no resume point
            _remove(old.with_suffix(".ckpt"))


def newest(folder: Path, identity: Mapping[str, str]) -> ResumePoint | None:
    """The furthest whole resume point of this very run, or None. Damaged ones are passed over."""
    for manifest in sorted(folder.glob("step-*.json"), reverse=True):
        state = manifest.with_suffix(".ckpt")
        try:
            said = json.loads(manifest.read_text())
            if said["identity"] == dict(identity) and said["sha256"] == _sha256(state):
                return ResumePoint(int(said["step"]), state)
        except (OSError, ValueError, KeyError, TypeError):
            continue
    return None


def finish(folder: Path, identity: Mapping[str, str]) -> None:
    """Note that training has ended, so that a stop while the model is scored does not cost the training."""
    folder.mkdir(parents=True, exist_ok=True)
    publish_text(folder / "trained.json", json.dumps({"identity": dict(identity)}, indent=1))
    for state in folder.glob("step-*"):
        _remove(state)


def finished(folder: Path, identity: Mapping[str, str]) -> bool:
    """Whether `finish` was called for this very run."""
    try:
        return bool(json.loads((folder / "trained.json").read_text())["identity"] == dict(identity))
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _sha256(path: Path) -> str | dict[str, str]:
    """Of a file; of a folder, that of each file in it."""
    if path.is_dir():
        return {file.name: str(_sha256(file)) for file in sorted(path.iterdir())}
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
