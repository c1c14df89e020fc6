"""The device that a command computes on."""

from __future__ import annotations


def usable_device(asked: str) -> str:
    """`asked`, or for "auto" the GPU if there is one. Raises ValueError for one that this machine lacks."""
    import torch

    if asked == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(0, device=asked)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"--device={asked}: not on this machine ({str(error).splitlines()[0]})") from None
    return asked
