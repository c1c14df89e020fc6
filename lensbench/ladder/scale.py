"""A scale of the ladder: a whole experiment but for its captions, frozen by its content hash."""

from __future__ import annotations

import hashlib
import runpy
from dataclasses import dataclass
from pathlib import Path

from lensbench.experiment import Captions, Experiment
from lensbench.sweep.sweep import Sweep

REFERENCE = "alt"  # the caption set that a multiplier is told against


@dataclass(frozen=True)
class Scale:
    """One rung. `experiment.captions` says nothing: its dropout alone is part of the scale."""

    name: str
    version: int
    experiment: Experiment
    seeds: tuple[int, ...]
    cost: str  # what one card takes, for people

    def __post_init__(self) -> None:
        if self.experiment.which_images != "first":
            raise ValueError(
                f"scale {self.name}: which_images={self.experiment.which_images!r}: a captioner must know which images "
                "to caption; give which_images='first'"
            )

    @property
    def digest(self) -> str:
        """sha256 of everything that a caption set is not."""
        told = [self.experiment.replace({"captions.set": _neutral(self.experiment)}).canonical_json()]
        return hashlib.sha256("\n".join([*told, f"seeds {self.seeds}"]).encode()).hexdigest()

    def sweep(self, captions: Captions) -> Sweep:
        """The runs of a card: these captions with every seed."""
        own = captions.model_copy(update={"dropout": self.experiment.captions.dropout})
        base = self.experiment.model_copy(update={"captions": own})
        base = Experiment.model_validate(base.model_dump())
        return Sweep(
            name=f"ladder-{self.name}",
            base=base,
            factors={"captions.set": (own.set,), "seed": self.seeds},
            reference={"captions.set": own.set},
        )


def load_scale(name: str, ladder: Path) -> Scale:
    """A scale of a ladder's file, which defines `SCALES`. Raises ValueError, one line, where there is none."""
    if not ladder.is_file():
        raise ValueError(f"{ladder}: no such file; run this where lensbench was checked out, or give --ladder FILE")
    scales = runpy.run_path(str(ladder)).get("SCALES")
    if not isinstance(scales, dict):
        raise ValueError(f"{ladder}: defines no SCALES")
    if name not in scales:
        raise ValueError(f"--scale {name}: {ladder} has {', '.join(scales)}")
    found = scales[name]
    assert isinstance(found, Scale), f"{ladder}: SCALES[{name!r}] is no Scale"
    return found


def _neutral(experiment: Experiment) -> str:
    """A caption set that the corpus has, in place of whichever is compared."""
    return REFERENCE if experiment.corpus.kind == "shapes" else experiment.corpus.caption_sets[0]
