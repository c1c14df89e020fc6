"""Named random streams: every draw in lensbench comes from (seed, stream name, index), never from global state.

Because a stream depends on nothing else, two arms with one seed share images, order, noise and timesteps whatever
their captions, and an interrupted run continues exactly where it stopped.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import torch


def stream_key(seed: int, name: str, index: int = 0) -> int:
    """The 63-bit key of one stream (63, because torch seeds are signed)."""
    digest = hashlib.sha256(f"{seed}/{name}/{index}".encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1


def numpy_stream(seed: int, name: str, index: int = 0) -> np.random.Generator:
    """A numpy generator for (seed, name, index)."""
    import numpy as np

    return np.random.Generator(np.random.PCG64(stream_key(seed, name, index)))


def torch_stream(seed: int, name: str, index: int = 0) -> torch.Generator:
    """A CPU torch generator for (seed, name, index): the same numbers whatever device the model is on."""
    import torch

    return torch.Generator().manual_seed(stream_key(seed, name, index))
