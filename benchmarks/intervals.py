"""How long intervals and tests of a whole GenEval study take, against a loop over resamples.

Command: python benchmarks/intervals.py [--draws 10000] [--arms 6]
A study: 553 prompts in six tasks, four images each, three training seeds. Ours: every arm's mean
with an interval of so many resamples of its prompts, and every arm's difference to the first with its interval and p.
The loop computes one resample of one arm's mean at a time, of which 100 are timed and the rest reckoned.
"""

from __future__ import annotations

import argparse
import statistics
import time

import numpy as np

from lensbench.scoring.statistics import paired_difference, stratified_mean
from lensbench.sweep.provenance import hardware

TASKS = (80, 99, 80, 94, 100, 100)
IMAGES, SEEDS, TIMED = 4, 3, 100


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=10_000)
    parser.add_argument("--arms", type=int, default=6)
    options = parser.parse_args()
    rng = np.random.default_rng(0)
    prompts = sum(TASKS)
    clusters = np.tile(np.repeat(np.arange(prompts), IMAGES), SEEDS)
    strata = np.tile(np.repeat(np.repeat(np.arange(len(TASKS)), TASKS), IMAGES), SEEDS)
    seeds = np.repeat(np.arange(SEEDS), prompts * IMAGES)
    arms = [(rng.random(len(clusters)) < 0.5).astype(float) for _ in range(options.arms)]

    def ours() -> None:
        for arm in arms:
            stratified_mean(arm, clusters, strata, seeds, draws=options.draws)
        for arm in arms[1:]:
            paired_difference(arm, arms[0], clusters, strata, seeds)

    def one_resample(arm: np.ndarray) -> float:
        means = []
        for task in range(len(TASKS)):
            inside = np.unique(clusters[strata == task])
            drawn = rng.choice(inside, len(inside))
            means.append(np.concatenate([arm[clusters == prompt] for prompt in drawn]).mean())
        return float(np.mean(means))

    took = []
    for _ in range(5):
        began = time.perf_counter()
        ours()
        took.append(time.perf_counter() - began)
    began = time.perf_counter()
    for _ in range(TIMED):
        one_resample(arms[0])
    loop = (time.perf_counter() - began) / TIMED * options.draws * (2 * options.arms - 1)
    median = statistics.median(took)
    print(f"{hardware()}; {options.draws:,} resamples, {options.arms} arms, {len(clusters):,} images an arm")
    print(f"{options.arms} means and {options.arms - 1} differences: {median:.2f} s (goal 2), the loop {loop:,.0f} s")


if __name__ == "__main__":
    main()
