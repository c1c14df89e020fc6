"""The Frechet distance of 2,048-dimensional features against clean-fid's own function, and the memory of streaming.

Command: python benchmarks/frechet.py [--images 10000] [--dimensions 2048] [--repeats 3]
Both sides get the same means and covariances (float64), in turn, with the same threads; the ratio is of medians, and
the values are compared. The features are random ones with a spectrum over four orders of magnitude, in place of
Inception's, whose weights are not needed for this. clean-fid's distance imports torchvision without using it; an empty
module stands in for it here.

Streaming: the mean and covariance of 50,000 features of 2,048 dimensions in batches of 1,024, in a process of its own;
what it adds to the memory of the process before it.
"""

from __future__ import annotations

import argparse
import importlib
import multiprocessing
import resource
import statistics
import sys
import time
import types
from typing import Any

import numpy as np

from lensbench.scoring.frechet import Moments, frechet_distance
from lensbench.sweep.provenance import hardware

STREAMED = 50_000
BATCH = 1024


def clean_fid() -> Any:
    """clean-fid's module of distances, without torchvision."""
    networks: Any = types.ModuleType("cleanfid.inception_pytorch")
    networks.InceptionV3 = None
    sys.modules.setdefault("torchvision", types.ModuleType("torchvision"))
    sys.modules["cleanfid.inception_pytorch"] = networks
    return importlib.import_module("cleanfid.fid")


def moments(seed: int, images: int, dimensions: int, shift: float) -> Moments:
    """Of random features."""
    rng, seen = np.random.default_rng(seed), Moments()
    scale = np.geomspace(1e-2, 1, dimensions)
    for start in range(0, images, BATCH):
        seen.update(rng.standard_normal((min(BATCH, images - start), dimensions)) * scale + shift)
    return seen


def seconds(function: Any, *arguments: Any) -> tuple[float, float]:
    """What it takes, and what it gives."""
    start = time.perf_counter()
    value = float(function(*arguments))
    return time.perf_counter() - start, value


def streaming(dimensions: int) -> float:
    """MiB that streaming adds to the peak of this process."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    rng, seen = np.random.default_rng(0), Moments()
    for start in range(0, STREAMED, BATCH):
        seen.update(rng.standard_normal((min(BATCH, STREAMED - start), dimensions), dtype=np.float32))
    assert seen.count == STREAMED
    return float(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--dimensions", type=int, default=2048)
    parser.add_argument("--repeats", type=int, default=3)
    asked = parser.parse_args()
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        added = pool.apply(streaming, (asked.dimensions,))
    a = moments(0, asked.images, asked.dimensions, 0.0)
    b = moments(1, asked.images, asked.dimensions, 0.02)
    given = (a.mean, a.covariance, b.mean, b.covariance)
    theirs_of = clean_fid().frechet_distance
    ours, theirs, values = [], [], (0.0, 0.0)
    for _ in range(asked.repeats):
        took, value = seconds(frechet_distance, *given)
        ours.append(took)
        took, their_value = seconds(theirs_of, *given)
        theirs.append(took)
        values = (value, their_value)
    print(f"{hardware()}; {asked.dimensions:,} dimensions from {asked.images:,} images; median of {asked.repeats}")
    print(f"lensbench {statistics.median(ours):7.2f} s   {values[0]:.9f}")
    print(f"clean-fid {statistics.median(theirs):7.2f} s   {values[1]:.9f}")
    ratio = statistics.median(theirs) / statistics.median(ours)
    print(f"ratio     {ratio:7.1f}     relative difference {abs(values[0] / values[1] - 1):.1e}")
    print(f"streaming {STREAMED:,} x {asked.dimensions:,}: {added:.0f} MiB")


if __name__ == "__main__":
    main()
