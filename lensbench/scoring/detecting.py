"""The judge of GenEval's prompts that a name stands for: the shapes judge, a Mask2Former with CLIP, or a user's own."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from lensbench.scoring.geneval_folder import Judge

if TYPE_CHECKING:
    from lensbench.experiment import Evaluation

SHAPES = "shapes"


def open_judge(detector: str | None, colors: str | None, device: str) -> Judge:
    """The judge of "shapes", FILE.py, or a Mask2Former's folder or hub id (None: GenEval's) with a CLIP for colors.

    Raises ValueError, one line, where it cannot be opened.
    """
    if detector is not None and (detector == SHAPES or detector.endswith(".py")):
        if colors is not None:
            raise ValueError(f"--colors is for Mask2Former; --detector={detector} names colors itself")
        if detector == SHAPES:
            from lensbench.scoring.detectors import ShapesJudge

            return ShapesJudge.load()
        from lensbench.scoring.own_detector import open_own

        return open_own(Path(detector))
    from lensbench.scoring.mask2former import COLOR_MODEL, DETECTOR, ClipColors, GenEvalJudge, Mask2Former

    return GenEvalJudge(Mask2Former(detector or DETECTOR, device), ClipColors(colors or COLOR_MODEL, device))


def open_detector(plan: Evaluation, device: str) -> Judge:
    """The judge of an evaluation on photographs. Raises ValueError as `open_judge`."""
    return open_judge(plan.detector_model or None, plan.color_model or None, device)
