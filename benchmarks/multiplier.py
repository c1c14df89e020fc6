"""Whether the multiplier's intervals keep their promise: simulated studies with a known answer.

Command: python benchmarks/multiplier.py [--trials 200] [--only NAME]
A study: a reference and an arm whose errors follow the joint law of lensbench.scoring.scaling_fit, judged as GenEval
is: prompts in six tasks, four images each, right or wrong. Prompts (some hard for both arms, some for one) and training
seeds (half of them shared by the arms) move the logit of a success, by about as much as in results/demo. Where the arms
have floors of their own no multiplier exists, and what counts is how often that is said.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass
from itertools import product
from typing import NamedTuple

import numpy as np

from lensbench.scoring.multiplier import FLOOR, Direct, Joint, direct, joint
from lensbench.scoring.resampling import draw_images
from lensbench.sweep.provenance import hardware

TASKS = 6


@dataclass(frozen=True)
class Study:
    """The law of two arms, the cells that are measured, and their noise (standard deviations of the logit)."""

    name: str
    data: float = 3.0  # the arm's multipliers
    parameters: float = 1.0
    floors: tuple[float, float] = (0.1, 0.1)  # of the reference and the arm
    seeds: int = 3
    depths: tuple[int, ...] = (4, 6, 8)
    images: tuple[int, ...] = (1024, 2048, 4096, 8192, 16384)
    one_run: bool = False  # the images are those seen by checkpoints of one run, which share their seeds
    prompts: int = 90
    samples: int = 4
    seed_spread: float = 0.15
    prompt_spread: float = 1.0
    arm_spread: float = 0.5

    def error(self, arm: int, size: float, images: float) -> float:
        """The error of an arm at a size and number of images, in units of the smallest of each."""
        if arm:
            size, images = size * self.parameters, images * self.data
        return self.floors[arm] + 0.15 * size**-0.8 + 0.5 * images**-0.5


STUDIES = (
    Study("two seeds", seeds=2),
    Study("three seeds"),
    Study("five seeds", seeds=5),
    Study("seeds that vary twice as much", seed_spread=0.3),
    Study("seeds that do nothing", seed_spread=0.0),
    Study("worth more parameters too", data=2.0, parameters=1.8),
    Study("worse captions", data=0.5),
    Study("no difference", data=1.0),
    Study("one size", depths=(6,)),
    Study("one size, four points", depths=(6,), images=(1024, 2048, 4096, 8192)),
    Study("checkpoints of one run, two seeds", depths=(6,), one_run=True, seeds=2),
    Study("checkpoints of one run, three seeds", depths=(6,), one_run=True),
    Study("checkpoints of one run, five seeds", depths=(6,), one_run=True, seeds=5),
    Study("another floor, 10 points lower", data=1.0, floors=(0.2, 0.1)),
    Study("another floor, 20 points lower", data=1.0, floors=(0.3, 0.1)),
    Study("another floor, one size", data=1.0, floors=(0.25, 0.05), depths=(6,)),
)


class Judged(NamedTuple):
    """The judged images of a study's K cells, as draw_images takes them, and the place of each cell."""

    values: np.ndarray  # (K, S, C), shares that are wrong
    counts: np.ndarray
    strata: np.ndarray
    runs: np.ndarray
    arm: np.ndarray  # (K,)
    log_size: np.ndarray
    log_images: np.ndarray


def simulate(study: Study, trial: int) -> Judged:
    """One study, with the randomness of a trial."""
    rng = np.random.default_rng([study.seeds, trial])
    of_prompt = study.prompt_spread * rng.standard_normal(study.prompts)
    of_arm = study.arm_spread * rng.standard_normal((2, study.prompts))
    spread = float(np.hypot(np.hypot(study.prompt_spread, study.arm_spread), study.seed_spread))
    values, places = [], []
    for run, (depth, images) in enumerate(product(study.depths, study.images)):
        if run == 0 or not study.one_run:
            shared = rng.standard_normal(study.seeds)
            own = rng.standard_normal((2, study.seeds))
        for arm in (0, 1):
            wanted = study.error(arm, (depth / study.depths[0]) ** 3, images / study.images[0])
            of_seed = study.seed_spread * (shared + own[arm]) / np.sqrt(2)
            logit = _logit(wanted, spread) + of_prompt + of_arm[arm] + of_seed[:, None]
            values.append(1 - rng.binomial(study.samples, 1 / (1 + np.exp(-logit))) / study.samples)
            places.append((0 if study.one_run else run, arm, 3 * np.log(depth), np.log(images)))
    runs, arms, log_size, log_images = (np.array(column) for column in zip(*places, strict=True))
    counts = np.full(study.prompts, study.samples)
    return Judged(np.array(values), counts, np.arange(study.prompts) % TASKS, runs, arms, log_size, log_images)


def _logit(error: float, spread: float) -> float:
    """The logit whose mean error over a normal of that spread is `error`."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(31)
    low, high = -15.0, 15.0
    for _ in range(50):
        middle = (low + high) / 2
        mean = weights @ (1 / (1 + np.exp(-(middle + spread * nodes)))) / weights.sum()
        low, high = (middle, high) if 1 - mean > error else (low, middle)
    return low


def measure(study: Study, trial: int, draws: int = 400) -> tuple[Direct, Joint]:
    """Both estimators of the multiplier of data; the direct one at the largest size."""
    seen = simulate(study, trial)
    found = draw_images(*seen[:4], draws=draws, rng_seed=trial)
    every = [np.flatnonzero(seen.arm == arm) for arm in (0, 1)]
    largest = [cells[seen.log_size[cells] == seen.log_size.max()] for cells in every]
    a, b = largest
    measured = direct(seen.log_images[a], seen.log_images[b], found.of(a), found.of(b))
    axes = (seen.log_images, seen.log_size)[: 1 if len(study.depths) == 1 else 2]
    a, b = every
    fitted = joint([x[a] for x in axes], [x[b] for x in axes], found.of(a), found.of(b))
    assert fitted is not None
    return measured, fitted


def coverage(study: Study, trials: int) -> dict[str, float]:
    """Shares of the trials: whose intervals hold the truth, and in which no multiplier is said to exist."""
    held = {"direct": 0, "joint": 0, "parameters": 0, "refused": 0}
    widths = []
    for trial in range(trials):
        measured, fitted = measure(study, trial)
        data, *sizes = fitted.multipliers
        held["direct"] += measured.multiplier.low <= study.data <= measured.multiplier.high
        held["joint"] += data.low <= study.data <= data.high
        held["parameters"] += all(size.low <= study.parameters <= size.high for size in sizes)
        held["refused"] += fitted.verdict == FLOOR
        widths.append([found.high / found.low if found.low else np.inf for found in (measured.multiplier, data)])
    shares = {name: count / trials for name, count in held.items()}
    wide, narrow = np.median(widths, axis=0)
    return shares | {"direct_ratio": float(wide), "joint_ratio": float(narrow)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=200)
    parser.add_argument("--only", default="", help="studies whose name holds this")
    options = parser.parse_args()
    print(f"{hardware()}; {options.trials} trials a study, nominal 95 %, so chance alone gives 92 to 98 %")
    print(f"{'':36}{'interval covers (%)':>26}{'high / low':>16}{'says: no':>12}{'s a':>7}")
    print(f"{'study':36}{'direct':>8}{'joint':>8}{'size':>10}{'direct':>9}{'joint':>7}{'multiplier':>12}{'study':>7}")
    for study in STUDIES:
        if options.only not in study.name:
            continue
        began = time.perf_counter()
        found = coverage(study, options.trials)
        took = (time.perf_counter() - began) / options.trials
        exists = study.floors[0] == study.floors[1]
        percent = {name: 100 * found[name] for name in ("direct", "joint", "parameters", "refused")}
        cells = [f"{percent['direct']:8.1f}", f"{percent['joint']:8.1f}"] if exists else [f"{'-':>8}"] * 2
        cells.append(f"{percent['parameters']:10.1f}" if exists and len(study.depths) > 1 else f"{'-':>10}")
        cells += [f"{found['direct_ratio']:9.1f}", f"{found['joint_ratio']:7.1f}", f"{percent['refused']:10.1f} %"]
        print(f"{study.name:36}{''.join(cells)}{took:7.2f}", flush=True)


if __name__ == "__main__":
    main()
