"""The caption policy's draws during training: which image visits go without text."""

from __future__ import annotations

import numpy as np

from lensbench.experiment import Captions
from lensbench.streams import numpy_stream


def dropped_text(policy: Captions, seed: int, step: int, batch: int) -> np.ndarray:
    """Which images of a step are trained without text, for classifier-free guidance: bool (batch,).

    The stream knows the seed and the step, not the caption set: two arms with one seed drop the same visits.
    """
    return numpy_stream(seed, "caption dropout", step).random(batch) < policy.dropout
