"""What a machine reaches at most, to hold a model's speed against: the FLOP/s of one large matrix product."""

from __future__ import annotations

import statistics
import time

import torch

SIDE, SIDE_ON_GPU = 1024, 8192  # of the square matrices: large enough for the device to reach its best


def matmul_peak(dtype: torch.dtype, device: torch.device | str, seconds: float = 0.2) -> float:
    """FLOP/s of a product of square matrices in `dtype`, measured here for about `seconds`; the median.

    Global random state is left as it was, and so is the device's memory.
    """
    device = torch.device(device)
    side = SIDE if device.type == "cpu" else SIDE_ON_GPU
    draw = torch.Generator(device).manual_seed(0)
    a, b = (torch.randn(side, side, device=device, generator=draw).to(dtype) for _ in range(2))
    out = torch.empty_like(a)
    times: list[float] = []
    began = time.perf_counter()
    # The first two are not counted: they make the device ready.
    while len(times) < 5 or time.perf_counter() - began < seconds:
        start = time.perf_counter()
        torch.mm(a, b, out=out)
        if device.type != "cpu":
            torch.accelerator.synchronize(device)
        times.append(time.perf_counter() - start)
    if device.type == "cuda":
        del a, b, out
        torch.cuda.empty_cache()
    return 2 * side**3 / statistics.median(times[2:])
