"""The steps of a training at which something is done: scored, or watched."""

from __future__ import annotations

from lensbench.experiment import Experiment


def scoring_steps(experiment: Experiment) -> tuple[int, ...]:
    """The steps after which the model is scored, rising and distinct; the last is the end."""
    steps = experiment.training.steps
    return tuple(sorted({max(1, round(share * steps)) for share in experiment.evaluation.at}))


def watched_steps(experiment: Experiment) -> tuple[int, ...]:
    """The steps after which training is watched, rising: the last, a half of it, a quarter, and so on.

    A run of twice the steps shares all of them.
    """
    last = experiment.training.steps
    halves = (last / 2**n for n in range(experiment.training.watch_steps))
    return tuple(sorted({round(step) for step in halves if step >= 1}))
