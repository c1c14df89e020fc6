"""The protocol of a number: everything that must be known to compare it, as a record keeps it and as a line says it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from lensbench.scoring.geneval import COUNTING_THRESHOLD, THRESHOLD

if TYPE_CHECKING:
    import torch

    from lensbench.metrics import Metric
    from lensbench.scoring.evaluation_plan import Plan
    from lensbench.scoring.geneval_folder import Judge
    from lensbench.scoring.real_images import RealImages
    from lensbench.scoring.set_scores import Row

DIGITS = 12  # of a digest


def of_sampling(plan: Plan, weights: torch.Tensor, guidance: float | None) -> dict[str, Any]:
    """How the images were sampled; None is the evaluation's own guidance."""
    e = plan.experiment.evaluation
    return {
        "prompts": plan.digest()[:DIGITS],
        "guidance": e.guidance if guidance is None else guidance,
        "sampler": "Euler",
        "sampling_steps": e.sampling_steps,
        "prompt_seed": e.prompt_seed,
        "size_px": plan.experiment.corpus.size_px,
        "precision": str(weights.dtype).removeprefix("torch."),
        "device": weights.device.type,
    }


def of_judge(judge: Judge) -> dict[str, Any]:
    """Who judged the images, and above which score a detection counts."""
    threshold = [THRESHOLD, COUNTING_THRESHOLD]
    return {"judge": judge.name, "weights": judge.digest[:DIGITS], "threshold": threshold}


def of_distance(row: Row, real: RealImages, doubts: Sequence[str]) -> dict[str, Any]:
    """What the features are of, which real images the distance is taken to, and what makes it doubtful."""
    told: dict[str, Any] = {"extractor": row.extractor, "weights": row.weights[:DIGITS], "resize": row.resize}
    told |= {"reference": real.name, "reference_digest": real.digest[:DIGITS]}
    told |= {"reference_images": row.reference_images, "floor_of": row.floor_of}
    return told | ({"doubts": list(doubts)} if doubts else {})


def protocol_line(
    of: Metric, protocol: str, images: Sequence[int], forms: str = "", floors: Sequence[float] = ()
) -> str:
    """All of a record's protocol in one line for people, e.g. `FID: inception (weights f58cb9b6ec32, ...), ...`.

    `images` are the numbers of images that the cells' numbers are of, `forms` the prompt forms in words, `floors` the
    same distance between real images and real ones.
    """
    told = json.loads(protocol)
    parts = []
    if "extractor" in told:
        parts.append(f"{told['extractor']} (weights {told['weights']}, {told['resize']})")
    if "judge" in told:
        parts.append(f"{told['judge']} (weights {told['weights']})")
    if "threshold" in told:
        usual, counting = told["threshold"]
        parts.append(f"detections above {usual:g}, in counting above {counting:g}")
    if "compared_with" in told:
        parts.append(f"compared with the {told['compared_with']} texts of the same scenes")
    if "window" in told:
        parts.append(f"texts of at most {told['window']} tokens, {told['cut']:,} cut")
    words = f"{_span(images)} images"
    if "reference" in told:
        real = f"{told['reference_images']:,} " if told["reference_images"] is not None else ""
        words += f" against {real}{told['reference']} (digest {told['reference_digest']})"
    parts.append(words)
    if floors:
        between = f"{of.factor * floors[0]:.{of.digits}f}"
        between += f" to {of.factor * floors[-1]:.{of.digits}f}" if len(floors) > 1 else ""
        parts.append(f"real against real {between} ({told['floor_of']})")
    if "held_out" in told:
        parts.append(f"held-out texts {told['held_out']}")
    if "prompts" in told:
        parts.append(f"prompts {told['prompts']}{f' ({forms})' if forms else ''}")
    if "guidance" in told:
        parts += [f"guidance {told['guidance']:g}", f"{told['sampler']}, {told['sampling_steps']} steps"]
        parts.append(f"{told['size_px']} px")
    if "prompt_seed" in told:
        parts.append(f"prompt seed {told['prompt_seed']}")
    if "precision" in told:
        parts.append(f"{told['precision']} on {told['device'].upper()}")
    return f"{of.label}: {', '.join(parts)}."


def _span(numbers: Sequence[int]) -> str:
    return f"{numbers[0]:,}" if numbers[0] == numbers[-1] else f"{numbers[0]:,} to {numbers[-1]:,}"
