"""A user's own detector as GenEval's judge: a file with one function, or two.

def detect(image):                # uint8 (H, W, 3)
    return {"cat": [(x1, y1, x2, y2, score), ...]}
def color(image, name, box):      # only where colors are asked for
    return "red"
"""

from __future__ import annotations

import hashlib
import runpy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lensbench.scoring.geneval import COLORS, Detection


@dataclass(frozen=True)
class OwnDetector:
    """The functions of a file; its digest is that of the file alone: what it calls is its author's to name."""

    name: str
    digest: str
    detect: Callable[[np.ndarray], Mapping[str, Sequence[Detection]]]
    color: Callable[[np.ndarray, str, Detection], str] | None

    def look(self, images: Sequence[np.ndarray]) -> list[OwnSeen]:
        """What `detect` finds in each picture. Raises ValueError when it returns something else."""
        return [OwnSeen(self, image, self._checked(self.detect(image))) for image in images]

    def self_test(self) -> None:
        """None: nobody but its author knows what it should find."""

    def _checked(self, found: Any) -> dict[str, list[tuple[float, ...]]]:
        try:
            boxes = {str(name): [tuple(map(float, box)) for box in group] for name, group in found.items()}
        except (AttributeError, TypeError, ValueError) as error:
            raise ValueError(f"{self.name}: detect(image) must give boxes by class ({error})") from None
        for name, group in boxes.items():
            if any(len(box) != 5 for box in group):
                raise ValueError(f"{self.name}: a box of {name!r} is not (x1, y1, x2, y2, score)")
        return boxes


@dataclass(frozen=True)
class OwnSeen:
    """What was found in a picture."""

    judge: OwnDetector
    image: np.ndarray
    detections: Mapping[str, Sequence[Detection]]

    def color(self, name: str, index: int) -> str:
        """The color of detection `index` of a class. Raises ValueError where the file has none, or gives another."""
        if self.judge.color is None:
            raise ValueError(f"{self.judge.name}: has no color(image, name, box), and these prompts ask for colors")
        said = self.judge.color(self.image, name, self.detections[name][index])
        if said not in COLORS:
            raise ValueError(f"{self.judge.name}: color {said!r} is none of {', '.join(COLORS)}")
        return said


def open_own(path: Path) -> OwnDetector:
    """The detector of a file. Raises ValueError, one line, when it cannot be run or has no `detect`."""
    if not path.is_file():
        raise ValueError(f"--detector={path}: no such file")
    try:
        made = runpy.run_path(str(path))
    except Exception as error:  # it is the user's program, which may raise anything
        raise ValueError(f"--detector={path}: {type(error).__name__}: {error}") from error
    if not callable(made.get("detect")):
        raise ValueError(f"--detector={path}: defines no function detect(image)")
    return OwnDetector(path.name, hashlib.sha256(path.read_bytes()).hexdigest(), made["detect"], made.get("color"))
