"""Whether the multiplier's intervals keep their promise: simulated studies with a known answer.

Command: python benchmarks/multiplier.py [--trials 100] [--only NAME] [--scale odds error share]
A study: a reference and an arm that are one curve, shifted, along the law of lensbench.scoring.scaling_fit. The law is
that of the share missed of what is above chance (shape "error"), of its odds ("odds": a curve from chance to the best),
or of its cumulative hazard ("hazard": another such curve, that no scale makes straight). It is judged as GenEval is:
prompts in six tasks, four images each, right or wrong. Prompts (some hard for both arms, some for one) and training
seeds (half of them shared by the arms) move the logit of a success, by about as much as in results/demo. Where the arms
have floors of their own no multiplier exists, and what counts is how often that is said. Where the reference is at
chance none can be known, and what counts is how often a number is given.
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import dataclass, replace
from itertools import product
from typing import NamedTuple

import numpy as np

from lensbench.report.chance import chance_of
from lensbench.scoring.multiplier import ERROR, FLOOR, ODDS, SHARE, Direct, Joint, direct, joint, predicts_best
from lensbench.scoring.resampling import Draws, draw_images
from lensbench.sweep.provenance import hardware

TASKS = 6
EITHER = "either"  # the odds between points; the law of what predicts held-out cells better, odds or share
SCALES = (ERROR, SHARE, ODDS, EITHER)
PAIRINGS = 9  # of an image with another prompt, that chance is the mean of


@dataclass(frozen=True)
class Study:
    """The law of two arms, the cells that are measured, and their noise (standard deviations of the logit)."""

    name: str
    data: float = 3.0  # the arm's multipliers
    parameters: float = 1.0
    floors: tuple[float, float] = (0.1, 0.1)  # of the reference and the arm
    sizes: tuple[float, float] = (0.15, 0.8)  # the law's term of parameters and its exponent
    needs: tuple[float, float] = (0.5, 0.5)  # the same of images
    shape: str = "error"
    chance: tuple[float, float] = (0.02, 0.02)  # of the reference and the arm
    learns: bool = True  # False: the reference is at chance whatever it is given
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
        if not arm and not self.learns:
            return 1 - self.chance[0]
        if arm:
            size, images = size * self.parameters, images * self.data
        law = self.floors[arm] + self.sizes[0] * size ** -self.sizes[1] + self.needs[0] * images ** -self.needs[1]
        missed = {"error": law, "odds": law / (1 + law), "hazard": 1 - np.exp(-law)}[self.shape]
        return float((1 - self.chance[arm]) * missed)


RISING = Study("", shape="odds", floors=(0.02, 0.02), sizes=(0.5, 0.8), needs=(30.0, 1.5))
FLAT = Study("", shape="odds", floors=(1.5, 1.5), sizes=(1.0, 0.8), needs=(10.0, 1.0))
LOW = Study("", shape="odds", floors=(0.5, 0.5), sizes=(1.0, 0.8), needs=(60.0, 0.9))
HIGH = Study("", shape="odds", floors=(0.0, 0.0), sizes=(0.02, 0.8), needs=(0.6, 1.0))
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
    replace(RISING, name="another ceiling, 70 and 90 %", data=1.0, floors=(0.43, 0.11)),
    replace(FLAT, name="another plateau, 40 and 55 %", data=1.0, floors=(1.5, 0.8)),
    *(replace(RISING, name=f"from chance to the best, {n} seeds", seeds=n) for n in (2, 3, 5)),
    replace(RISING, name="the same by hazard, 3 seeds", shape="hazard", needs=(15.0, 1.2)),
    *(replace(LOW, name=f"reference near chance, {n} seeds", seeds=n) for n in (2, 3, 5)),
    replace(LOW, name="near chance, chances 2 and 10 %", chance=(0.02, 0.1)),
    *(replace(HIGH, name=f"arm near 100 %, {n} seeds", seeds=n) for n in (2, 3, 5)),
    replace(HIGH, name="arm near 100 % by hazard, 3 seeds", shape="hazard"),
    replace(HIGH, name="arm near 100 %, chance 20 %", chance=(0.2, 0.2)),
    *(replace(FLAT, name=f"plateau at 40 %, {n} seeds", seeds=n) for n in (2, 3, 5)),
    replace(RISING, name="worse, from chance to the best", data=0.5),
    replace(RISING, name="no difference, chance to the best", data=1.0),
    replace(RISING, name="shuffled reference, 2 seeds", learns=False, seeds=2),
    replace(RISING, name="shuffled reference, 3 seeds", learns=False),
    replace(RISING, name="shuffled reference, 5 seeds", learns=False, seeds=5),
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
    chances: np.ndarray  # (K, S, C), what the same images answer of other prompts


def simulate(study: Study, trial: int) -> Judged:
    """One study, with the randomness of a trial."""
    rng = np.random.default_rng([study.seeds, trial])
    of_prompt = study.prompt_spread * rng.standard_normal(study.prompts)
    of_arm = study.arm_spread * rng.standard_normal((2, study.prompts))
    spread = float(np.hypot(np.hypot(study.prompt_spread, study.arm_spread), study.seed_spread))
    values, chances, places = [], [], []
    for run, (depth, images) in enumerate(product(study.depths, study.images)):
        if run == 0 or not study.one_run:
            shared = rng.standard_normal(study.seeds)
            own = rng.standard_normal((2, study.seeds))
        for arm in (0, 1):
            wanted = study.error(arm, (depth / study.depths[0]) ** 3, images / study.images[0])
            of_seed = study.seed_spread * (shared + own[arm]) / np.sqrt(2)
            logit = _logit(wanted, spread) + of_prompt + of_arm[arm] + of_seed[:, None]
            values.append(1 - rng.binomial(study.samples, 1 / (1 + np.exp(-logit))) / study.samples)
            others = PAIRINGS * study.samples
            chances.append(rng.binomial(others, study.chance[arm], (study.seeds, study.prompts)) / others)
            places.append((0 if study.one_run else run, arm, 3 * np.log(depth), np.log(images)))
    runs, arms, log_size, log_images = (np.array(column) for column in zip(*places, strict=True))
    counts = np.full(study.prompts, study.samples)
    strata = np.arange(study.prompts) % TASKS
    return Judged(np.array(values), counts, strata, runs, arms, log_size, log_images, np.array(chances))


def _logit(error: float, spread: float) -> float:
    """The logit whose mean error over a normal of that spread is `error`."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(31)
    low, high = -15.0, 15.0
    for _ in range(50):
        middle = (low + high) / 2
        mean = weights @ (1 / (1 + np.exp(-(middle + spread * nodes)))) / weights.sum()
        low, high = (middle, high) if 1 - mean > error else (low, middle)
    return low


class Found(NamedTuple):
    """What a study gave on one scale; `given`: whether both arms are above chance where the number comes from."""

    direct: Direct
    joint: Joint
    given: bool


def measure(study: Study, trial: int, scales: tuple[str, ...], draws: int = 400) -> dict[str, Found]:
    """Both estimators of the multiplier of data on each scale; the direct one at the largest size."""
    seen = simulate(study, trial)
    drawn = draw_images(*seen[:4], draws=draws, rng_seed=trial)
    drawn = replace(drawn, chance=1 - seen.chances.mean((1, 2)))
    every = [np.flatnonzero(seen.arm == arm) for arm in (0, 1)]
    largest = [cells[seen.log_size[cells] == seen.log_size.max()] for cells in every]
    axes = (seen.log_images, seen.log_size)[: 1 if len(study.depths) == 1 else 2]
    of_arm: list[Draws] = [drawn.of(cells) for cells in every]
    above: dict[int, bool] = {}
    found: dict[str, Found] = {}
    for scale in scales:
        a, b = largest
        between = ODDS if scale == EITHER else scale
        measured = direct(seen.log_images[a], seen.log_images[b], drawn.of(a), drawn.of(b), scale=between)
        a, b = every
        if scale == EITHER and found.keys() >= {ODDS, SHARE}:
            fitted = predicts_best([found[one].joint for one in (ODDS, SHARE)])
        else:
            own = None if scale == EITHER else scale
            fitted = joint([x[a] for x in axes], [x[b] for x in axes], *of_arm, scale=own)
        assert fitted is not None
        deciding = [int(cells[k]) for cells, few in zip(largest, measured.deciding, strict=True) for k in few]
        above |= {cell: is_above(seen, cell) for cell in deciding if cell not in above}
        found[scale] = Found(measured, fitted, all(above[cell] for cell in deciding))
    return found


def is_above(seen: Judged, cell: int) -> bool:
    """Whether a cell is above chance, as a report tells it."""
    seeds, prompts = seen.values.shape[1:]
    seed, prompt = (x.ravel() for x in np.indices((seeds, prompts)))
    layout = (prompt, seen.strata[prompt], seed)
    values, chances = 1 - seen.values[cell].ravel(), seen.chances[cell].ravel()
    return chance_of(values, chances, seen.strata[prompt], layout).above


def coverage(study: Study, trials: int, scales: tuple[str, ...] = (EITHER,)) -> dict[str, dict[str, float]]:
    """For each scale shares of the trials: that give a number and, of those, whose intervals hold the truth and that
    say that no multiplier exists; with the median width (high / low) of an interval."""
    every: dict[str, list[Found]] = {scale: [] for scale in scales}
    for trial in range(trials):
        for scale, found in measure(study, trial, scales).items():
            every[scale].append(found)
    return {scale: summed(study, found) for scale, found in every.items()}


def summed(study: Study, every: list[Found]) -> dict[str, float]:
    """The shares and widths of one scale."""
    given = [found for found in every if found.given]
    if not given:
        names = ("direct", "joint", "parameters", "refused", "direct_ratio", "joint_ratio", "direct_bias", "joint_bias")
        return {"given": 0.0} | dict.fromkeys(names, float("nan"))
    data = {"direct": [found.direct.multiplier for found in given], "joint": [f.joint.multipliers[0] for f in given]}
    told = {"given": len(given) / len(every), "refused": float(np.mean([f.joint.verdict == FLOOR for f in given]))}
    held = [all(m.low <= study.parameters <= m.high for m in found.joint.multipliers[1:]) for found in given]
    told["parameters"] = float(np.mean(held))
    for name, those in data.items():
        told[name] = float(np.mean([m.low <= study.data <= m.high for m in those]))
        told[f"{name}_ratio"] = float(np.median([m.high / m.low if m.low else np.inf for m in those]))
        told[f"{name}_bias"] = float(np.median([m.estimate for m in those])) / study.data
    return told


def row(study: Study, scale: str, found: dict[str, float]) -> str:
    """A line of the table."""
    exists = study.floors[0] == study.floors[1] and study.learns

    def percent(name: str, shown: bool) -> str:
        return f"{100 * found[name]:7.0f}" if shown and found["given"] else f"{'-':>7}"

    cells = [f"{100 * found['given']:7.0f}", percent("direct", exists), percent("joint", exists)]
    cells += [percent("parameters", exists and len(study.depths) > 1)]
    names = ("direct_ratio", "joint_ratio", "direct_bias", "joint_bias")
    cells += [f"{found[name]:8.2f}" if found["given"] else f"{'-':>8}" for name in names]
    return f"{study.name:36}{scale:6}{''.join(cells)}{percent('refused', True)}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=100)
    parser.add_argument("--only", default="", help="studies whose name holds this")
    parser.add_argument("--scale", nargs="+", choices=SCALES, default=list(SCALES), help="what curves are compared on")
    options = parser.parse_args()
    print(f"{hardware()}; {options.trials} trials a study, nominal 95 %")
    print("given: % of trials with both arms above chance where the number comes from; the other columns are of those.")
    print("covers: % of 95 % intervals with the truth; refused: % that say that there is no multiplier.")
    heads = f"{'given':>7}{'covers':>14}{'':7}{'high / low':>16}{'median / truth':>16}{'':>7}"
    print(f"{'':42}{heads}")
    names = ("", "direct", "joint", "size")
    print(f"{'study':36}{'scale':6}{''.join(f'{n:>7}' for n in names)}{'direct':>8}{'joint':>8}" * 1, end="")
    print(f"{'direct':>8}{'joint':>8}{'refused':>8}")
    for study in STUDIES:
        if options.only not in study.name:
            continue
        began = time.perf_counter()
        for scale, found in coverage(study, options.trials, tuple(options.scale)).items():
            print(row(study, scale, found), flush=True)
        print(f"{'':36}{(time.perf_counter() - began) / options.trials:.2f} s a study", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
