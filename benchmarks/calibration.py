"""How often a test finds a difference that is not there, in the tail that decides, and how often an interval covers.

Command: python benchmarks/calibration.py [--trials 20000] [--only NAME]
A study has GenEval's six tasks with the prompts of sweeps/caption_quality.py (24, 24, 5, 24, 5 and 20) and 2 or 10
images a prompt. Two arms are judged on the same prompts; neither is better. What moves a logit: the prompt, the
training seed of an arm (over all tasks and by task), a seed and a prompt together and, in some studies, an arm and a
prompt. The spreads give seeds' differences a standard deviation of 3 to 9 points, as in results/.

Rules: `sum` is what lensbench.scoring.statistics does, the sum of two t's; `one t` has Satterthwaite's degrees of
freedom; `seeds` is the t-test on the seeds' differences; `pooled` moderates the seeds' variance over 12 comparisons
of a scale, as limma does, with prior degrees of freedom estimated from them: 12 comparisons of one and the same
spread, which a real scale does not have.

`covers`: how often the 95 % interval holds the truth, in percent. `x .05` and so on: how many times more often p is
below that level than it should be; 1 is right, and more than 1.3 too often. `finds`: how often a difference of 10
points is found, alone and as one of eight, in percent.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import special, stats

from lensbench.scoring.statistics import Variances, spread_of_variances, variances
from lensbench.stats.spread import Spread
from lensbench.sweep.provenance import hardware

Floats = NDArray[np.float64]
TASKS = ((24, 2), (24, 2), (5, 10), (24, 2), (5, 10), (20, 2))  # prompts, and images of each
SEEDS = (2, 3, 5, 8, 10)
LEVELS = (0.05, 0.00625, 0.00056)  # one test, one of eight, one of ninety
DIFFERENCE = 0.1  # that is looked for
COMPARISONS = 12  # of a scale, that `pooled` looks at together


class Study(NamedTuple):
    """Standard deviations of the logit, and its mean."""

    name: str
    mean: float
    seed: float  # of an arm's seed, over all tasks
    seed_task: float  # and by task
    both: float  # of a seed and a prompt together
    arm: float  # of an arm and a prompt


STUDIES = (
    Study("seeds matter most", -1.2, 0.35, 0.35, 0.5, 0.0),
    Study("scores near the floor", -3.0, 0.25, 0.3, 0.5, 0.0),
    Study("seeds do nothing", 0.0, 0.0, 0.0, 0.0, 0.0),
    Study("arms differ by prompt, and seeds", -0.5, 0.2, 0.2, 0.5, 1.0),
    Study("arms differ by prompt alone", 0.0, 0.0, 0.0, 0.0, 1.5),
)


def simulate(study: Study, seeds: int, rng: np.random.Generator) -> tuple[Floats, Floats, Floats, Floats]:
    """Differences of prompts' means, true mean zero, with clusters, strata and seeds, all (S * C,)."""
    strata = np.repeat(np.arange(len(TASKS)), [n for n, _ in TASKS])
    images = np.repeat([k for _, k in TASKS], [n for n, _ in TASKS])
    c = len(strata)
    of_prompt = rng.standard_normal(c)
    arms = []
    for _ in range(2):
        of_seed = study.seed * rng.standard_normal((seeds, 1))
        of_task = study.seed_task * rng.standard_normal((seeds, len(TASKS)))[:, strata]
        of_both = study.both * rng.standard_normal((seeds, c))
        logit = study.mean + of_prompt + of_seed + of_task + of_both + study.arm * rng.standard_normal(c)
        arms.append(rng.binomial(images, special.expit(logit)) / images)
    values = (arms[0] - arms[1]).ravel()
    return values, np.tile(np.arange(c), seeds), np.tile(strata, seeds), np.repeat(np.arange(seeds), c)


def measured(study: Study, seeds: int, trials: int) -> tuple[Floats, list[Variances]]:
    """The estimates (T,) and the variances of so many studies."""
    rng = np.random.default_rng([seeds, STUDIES.index(study)])
    estimates, found = [], []
    for _ in range(trials):
        values, *design = simulate(study, seeds, rng)
        estimates.append(np.mean([values[design[1] == task].mean() for task in range(len(TASKS))]))
        found.append(variances(values, *design))
    return np.array(estimates), found


def by_sum(estimates: Floats, found: list[Variances]) -> Floats:
    """The rule of the package."""
    spreads: list[Spread] = [spread_of_variances(one) for one in found]
    return np.array([spread.p(estimate) for spread, estimate in zip(spreads, estimates, strict=True)])


def by_one_t(estimates: Floats, found: list[Variances]) -> Floats:
    """Satterthwaite's degrees of freedom for the two-way variance."""
    columns = {name: np.array([getattr(one, name) for one in found]) for name in Variances._fields}
    seeds, prompts, both = (columns[name] for name in ("seeds", "prompts", "interaction"))
    variance = np.maximum.reduce([seeds + prompts - both, seeds, prompts])
    over = seeds**2 / (columns["n_seeds"] - 1) + columns["prompts_over_df"] + both**2 / columns["interaction_df"]
    return _t(estimates, variance, np.maximum(variance**2 / over, 1))


def by_seeds(estimates: Floats, found: list[Variances]) -> Floats:
    """The t-test on the seeds' differences: prompts are taken as fixed."""
    return _t(estimates, np.array([one.seeds for one in found]), np.array([one.n_seeds - 1 for one in found]))


def pooled(estimates: Floats, found: list[Variances]) -> Floats:
    """Moderated variances of the seeds (Smyth 2004, section 6.2), with the prompts' own part added."""
    df = found[0].n_seeds - 1
    seeds = np.maximum([one.seeds for one in found], 1e-12)
    groups = np.arange(len(seeds)) // COMPARISONS
    prior, prior_df = np.empty(len(seeds)), np.empty(len(seeds))
    for group in range(groups[-1] + 1):
        inside = groups == group
        e = np.log(seeds[inside]) - special.digamma(df / 2) + np.log(df / 2)
        excess = e.var(ddof=1) - special.polygamma(1, df / 2) if inside.sum() > 1 else 0.0
        d = 2 * _inverse_trigamma(float(excess)) if excess > 0 else 1e6
        prior_df[inside] = d
        prior[inside] = np.exp(e.mean() + special.digamma(d / 2) - np.log(d / 2))
    moderated = (prior_df * prior + df * seeds) / (prior_df + df)
    rest = np.maximum([one.prompts - one.interaction for one in found], 0)
    return _t(estimates, moderated + rest, np.minimum(prior_df + df, COMPARISONS * df))


def _inverse_trigamma(value: float) -> float:
    y = 0.5 + 1 / value
    for _ in range(50):
        y += special.polygamma(1, y) * (1 - special.polygamma(1, y) / value) / special.polygamma(2, y)
    return float(y)


def _t(estimates: Floats, variance: Floats, df: Floats) -> Floats:
    with np.errstate(divide="ignore", invalid="ignore"):
        p = 2 * stats.t.sf(np.abs(estimates) / np.sqrt(variance), df)
    return np.where(estimates == 0, 1.0, p)


RULES: dict[str, Callable[[Floats, list[Variances]], Floats]] = {
    "sum": by_sum,
    "one t": by_one_t,
    "seeds": by_seeds,
    "pooled": pooled,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=20_000)
    parser.add_argument("--only", default="", help="studies whose name holds this")
    options = parser.parse_args()
    print(f"{hardware()}; {options.trials:,} trials a line")
    heads = ("covers", *(f"x {level:g}" for level in LEVELS), "finds", "of 8")
    print(f"{'study':34}{'seeds':>6}  {'rule':7}{''.join(f'{head:>10}' for head in heads)}")
    for study in STUDIES:
        if options.only not in study.name:
            continue
        for seeds in SEEDS:
            estimates, found = measured(study, seeds, options.trials)
            for name, rule in RULES.items():
                p, there = rule(estimates, found), rule(estimates + DIFFERENCE, found)
                often = "".join(f"{float((p < level).mean()) / level:10.2f}" for level in LEVELS)
                finds = "".join(f"{100 * float((there < level).mean()):10.1f}" for level in LEVELS[:2])
                where = f"{study.name:34}{seeds:6}" if name == "sum" else " " * 40
                print(f"{where}  {name:7}{100 * float((p >= 0.05).mean()):10.1f}{often}{finds}", flush=True)


if __name__ == "__main__":
    main()
