"""Going on where training stopped: the whole state of a run on disk, now and then and when it is asked to stop.

A resume point is Lightning's checkpoint (weights, averages, optimiser, schedule, position, loss curve) and a manifest
written after it, which says whose it is and what its bytes must be. No random state is kept: every draw of a step is a
function of the seed and the step (lensbench.streams), so what follows is to the bit what would have followed.

What it goes on from must be of the same science: the experiment, its data and the frozen models. The commit and the
hardware (threads too) may have changed since. Then the run goes on all the same, not promised to the bit, and says so,
and where each part of it was trained is kept (`Part`).

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
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import lightning

from lensbench import ranks
from lensbench.publishing import publish, publish_text
from lensbench.stopping import StopRequest
from lensbench.training import files
from lensbench.training.module import LensModule

WHERE = ("commit", "hardware")  # of an identity: what may change while a run is stopped
KEPT = 2  # resume points: the last, and one more should its file be damaged


class Part(NamedTuple):
    """The steps of a run up to `until` that were trained in another place than those after them."""

    until: int
    commit: str
    hardware: str


class ResumePoint(NamedTuple):
    """A state on disk after `step` steps: a file, or a folder that several processes wrote.

    `parts`: what was trained elsewhere, in order, as `identity` says where the run goes on.
    """

    step: int
    state: Path
    parts: tuple[Part, ...] = ()


class Trained(NamedTuple):
    """A training that has ended: where its last part was trained, and the parts before."""

    commit: str
    hardware: str
    parts: tuple[Part, ...]
    digests: dict[str, str]  # path in the cell's directory -> sha256

    def elsewhere(self) -> str:
        """The parts before the last in words; empty where there is one part alone."""
        return "; ".join(f"until step {part.until}: commit {part.commit}, {part.hardware}" for part in self.parts)


class ResumePoints(lightning.Callback):
    """Writes a resume point every `seconds` and when any process is asked to stop, which then ends training in all.

    Must be the last callback, so that what the others keep is of the same step. Raises OSError or RuntimeError when
    the disk is full; the points before it stay.
    """

    def __init__(
        self,
        folder: Path,
        identity: Mapping[str, str],
        seconds: float,
        stop: StopRequest,
        parts: Sequence[Part] = (),
    ) -> None:
        self.folder, self.identity, self.seconds, self.stop = folder, dict(identity), seconds, stop
        self.parts = parts
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
        manifest = {"step": step, "sha256": _sha256(state), "identity": self.identity, "parts": self.parts}
        publish_text(state.with_suffix(".json"), json.dumps(manifest, indent=1))
        for old in sorted(self.folder.glob("step-*.json"))[:-KEPT]:
            old.unlink()  # the manifest first: a state without one is no resume point
            _remove(old.with_suffix(".ckpt"))


def newest(folder: Path, identity: Mapping[str, str]) -> ResumePoint | None:
    """The furthest whole resume point of this science, or None. Damaged ones are passed over."""
    for manifest in sorted(folder.glob("step-*.json"), reverse=True):
        state = manifest.with_suffix(".ckpt")
        try:
            said = json.loads(manifest.read_text())
            if science(said["identity"]) == science(identity) and said["sha256"] == _sha256(state):
                return ResumePoint(int(said["step"]), state, _parts(said, int(said["step"]), identity))
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            continue
    return None


def other_science(manifests: Iterable[Path], identity: Mapping[str, str]) -> str | None:
    """What one of the manifests is of and this run is not, in words; None where each is of this science or damaged."""
    for manifest in manifests:
        try:
            said = science(json.loads(manifest.read_text())["identity"])
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            continue
        ours = science(identity)
        for name in ours | said:
            if said.get(name) != ours.get(name):
                return f"{name} {str(said.get(name))[:12]}, now {str(ours.get(name))[:12]}"
    return None


def science(identity: Mapping[str, str]) -> dict[str, str]:
    """An identity without the place."""
    return {name: value for name, value in identity.items() if name not in WHERE}


def finish(directory: Path, identity: Mapping[str, str], parts: Sequence[Part], left: Iterable[Path]) -> None:
    """Note that training has ended and left these files and folders, so that a stop in scoring does not cost it."""
    every = [file for path in left for file in (sorted(path.iterdir()) if path.is_dir() else [path])]
    digests = {file.relative_to(directory).as_posix(): _sha256(file) for file in every}
    told = {"identity": dict(identity), "parts": parts, "files": digests}
    publish_text(directory / files.TRAINED, json.dumps(told, indent=1))
    for state in (directory / files.RESUME).glob("step-*"):
        _remove(state)


def also_left(directory: Path, path: Path) -> None:
    """Add a file to those that a training that has ended has left."""
    told = json.loads((directory / files.TRAINED).read_text())
    told["files"][path.relative_to(directory).as_posix()] = _sha256(path)
    publish_text(directory / files.TRAINED, json.dumps(told, indent=1))


def trained(directory: Path, identity: Mapping[str, str] | None = None) -> Trained | None:
    """What `finish` noted, of this science where one is given; None where nothing readable."""
    try:
        told = json.loads((directory / files.TRAINED).read_text())
        if identity is not None and science(told["identity"]) != science(identity):
            return None
        commit, hardware = (str(told["identity"].get(name, "")) for name in WHERE)
        return Trained(commit, hardware, tuple(Part(*part) for part in told["parts"]), dict(told["files"]))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def damaged(directory: Path, noted: Trained, wanted: Iterable[Path]) -> list[Path]:
    """Those of the files and folders that are not as the training left them. A file it did not note is not judged."""
    found = []
    for path in wanted:
        name = path.relative_to(directory).as_posix()
        within = {file: digest for file, digest in noted.digests.items() if file == name or file.startswith(f"{name}/")}
        try:
            if any(_sha256(directory / file) != digest for file, digest in within.items()) or not path.exists():
                found.append(path)
        except OSError:
            found.append(path)
    return found


def _parts(said: Mapping[str, Any], step: int, identity: Mapping[str, str]) -> tuple[Part, ...]:
    """The parts of a run that goes on after `step` from what a manifest said."""
    before = tuple(Part(*part) for part in said.get("parts", ()))
    was = {name: str(said["identity"].get(name, "")) for name in WHERE}
    if all(was[name] == identity.get(name, "") for name in WHERE):
        return before
    return (*before, Part(step, **was))


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
