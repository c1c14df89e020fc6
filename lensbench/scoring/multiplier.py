"""The caption multiplier: how many times the data, the parameters or the compute the reference captions need.

Two estimators of one number, from the same draws of the cells (lensbench.scoring.resampling), so that their difference
has an interval as well:

direct: on the measured curves, made to fall (lensbench.scoring.isotonic). Of the two arms one is better at the end of
    its axis. The multiplier is how much further along the axis the other arm is when it reaches its own last score
    than the better one was there, straight between the points in log error over log scale. Where the better arm is
    there from its first point on, all that is known is a bound. Nothing is extrapolated.
joint: the scaling law of lensbench.scoring.scaling_fit with a multiplier on each axis.

A score with a chance is not on the scale of its error, on which chance is one floor more and the best another. Its
share above chance, (score - chance) / (1 - chance), is. Curves are straight in its logit. The law is of what is missed
of that share or of the odds of missing it, whichever predicts held-out cells better: of a curve that rises from chance
to the best a law of shares says that the arms end on floors of their own, and of floors a law of odds that they do not
(benchmarks/multiplier.py).

A multiplier exists where one curve is the other, shifted. Where the arms end on floors of their own no factor makes
them equal, so the law with own floors is compared with those with multipliers by the error on held-out cells.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import exp, inf, isinf, isnan, nan
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from lensbench.scoring.isotonic import falling, reach
from lensbench.scoring.resampling import Draws, odds_of
from lensbench.scoring.scaling_fit import Law, Points, fit, held_out, refit, residuals
from lensbench.scoring.statistics import LEVEL

Floats = NDArray[np.float64]
RISES = 3.0  # standard errors by which an error that grows along its axis is no accident of the many pairs
POOR = 2.0  # root mean square residual, in standard errors, from which the law does not describe the cells
LEVELS = 3  # of an axis, for a law along it
FEWEST = 8  # cells of two arms, for a law of them
SMALLEST = 0.05  # of a cell's error: what its draws are held above, for the logarithm
ERROR, SHARE, ODDS = "error", "share", "odds"
SCALES = (ODDS, SHARE)  # of a score with a chance, that a law is tried on
MULTIPLIERS, FLOOR, NOTHING = "multipliers", "own floor", "no difference"


class Multiplier(NamedTuple):
    """A multiplier with its 95 % interval. `estimate` is inf or 0 where only `limits`, the multipliers that the
    measured range can tell (from, to), bound it; so are low and high. NaN: unknown."""

    estimate: float
    low: float
    high: float
    limits: tuple[float, float] = (0.0, inf)

    @property
    def outside(self) -> bool:
        """Whether the number, or an end of its interval, is one that the measured range cannot tell."""
        low, high = self.limits
        return any(value < low or value > high for value in self[:3])


@dataclass(frozen=True)
class Direct:
    """`level`: the error that both arms reach, at which they are compared; `ahead`: whether the reference is the worse.
    `rises`: the error of an arm grows along the axis by more than its noise, so the curve is not what it was made.
    `deciding`: the points of the reference and of the arm that the number comes from; `scale`: what the curves are
    straight in between their points."""

    multiplier: Multiplier
    log_draws: Floats  # (D,)
    level: float
    ahead: bool
    rises: bool
    deciding: tuple[tuple[int, ...], tuple[int, ...]]
    scale: str = ERROR


@dataclass(frozen=True)
class Joint:
    """A multiplier for each axis. `held_out`: mean loss of a left-out cell, by law; `verdict`: what that says;
    `clear`: whether it says so by more than its own standard error; `scale`: what the law is of."""

    multipliers: tuple[Multiplier, ...]
    log_draws: Floats  # (D, J)
    held_out: dict[str, float]
    verdict: str
    clear: bool
    poor: bool
    scale: str = ERROR


def direct(reference_x: Floats, arm_x: Floats, reference: Draws, arm: Draws, *, scale: str | None = None) -> Direct:
    """The multiplier on measured curves: natural logs of the scale, rising, and the error at each point of both arms.

    `scale` is what curves are straight in between their points. Raises ValueError for fewer than two points.
    """
    if min(len(reference_x), len(arm_x)) < 2:
        raise ValueError("a curve has at least two points")
    scale = scale or scale_of(reference, arm)
    error_of = 1.0
    if scale != ERROR:
        reference, arm = reference.missed(), arm.missed()

    def shift(reference_errors: Floats, arm_errors: Floats) -> Floats:
        a, b = falling(reference_errors), falling(arm_errors)
        worse = np.maximum(a[:, -1], b[:, -1])
        floor = SMALLEST * min(reference.mean.min(), arm.mean.min())
        a, b, level = (_log(np.maximum(e, floor), scale) for e in (a, b, worse))
        ahead = b[:, -1] <= a[:, -1]
        return np.where(ahead, reference_x[-1] - reach(b, arm_x, level), reach(a, reference_x, level) - arm_x[-1])

    limits = (exp(reference_x[0] - arm_x[-1]), exp(reference_x[-1] - arm_x[0]))
    draws = shift(reference.draws, arm.draws)
    estimate = nan if _flat(reference, arm) else float(shift(reference.mean[None], arm.mean[None])[0])
    known = bool(reference.errors.any() and arm.errors.any()) and not isnan(estimate)
    curves = [falling(curve.mean) for curve in (reference, arm)]
    last = [float(curve[-1]) for curve in curves]
    rises, ahead = _rises(reference) or _rises(arm), last[1] <= last[0]
    deciding = [_around(curve, max(last)) for curve in curves]
    deciding[0 if ahead else 1] = (len(curves[0 if ahead else 1]) - 1,)
    worse = reference if ahead else arm
    if scale != ERROR and worse.chance is not None:
        error_of = float(worse.chance[-1])
    found = _multiplier(estimate, draws, limits, known)
    return Direct(found, draws, error_of * max(last), ahead, rises, (deciding[0], deciding[1]), scale)


def scale_of(reference: Draws, arm: Draws) -> str:
    """What curves are compared and fitted on: the odds where both have a chance, else the error."""
    return ERROR if reference.chance is None or arm.chance is None else ODDS


def _log(errors: Floats, scale: str) -> Floats:
    return np.asarray(np.log(odds_of(errors) if scale == ODDS else errors))


def _around(curve: Floats, level: float) -> tuple[int, ...]:
    """The points of a falling curve between which it reaches a level: one where it is there from its first on."""
    place = int((curve <= level).argmax())
    return (place - 1, place) if place else (0,)


def _flat(reference: Draws, arm: Draws) -> bool:
    """Whether both arms have the error that they are compared at from their first points on: then nobody gained
    anything along the axis, as where every score is zero."""
    first, last = ([float(falling(curve.mean)[place]) for curve in (reference, arm)] for place in (0, -1))
    return max(first) <= max(last) and min(first) >= max(last)


def joint(
    reference_x: Sequence[Floats],
    arm_x: Sequence[Floats],
    reference: Draws,
    arm: Draws,
    *,
    rng_seed: int = 0,
    scale: str | None = None,
) -> Joint | None:
    """The multipliers by the joint law: for each axis the natural logs of the scale at each cell of both arms.

    The two arms alone: with all arms in one fit, one on a floor of its own would bend the others. `scale` is what the
    law is of; by default the error or, where both arms have a chance, the better of `SCALES` by the error on held-out
    cells. None where there are no errors to weigh the cells by, or fewer than `LEVELS` levels of an axis.
    """
    log_x = np.array([np.concatenate(both) for both in zip(reference_x, arm_x, strict=True)])
    if log_x.shape[1] < FEWEST:
        return None
    if any(len(np.unique(np.round(np.asarray(x), 6))) < LEVELS for x in (*reference_x, *arm_x)):
        return None
    limits = [
        (exp(a.min() - b.max()), exp(a.max() - b.min()))
        for a, b in zip(map(np.asarray, reference_x), map(np.asarray, arm_x), strict=True)
    ]
    known = reference.chance is not None and arm.chance is not None
    scales = (scale,) if scale else SCALES if known else (ERROR,)
    found = [_joint(log_x, limits, _on(reference, one), _on(arm, one), rng_seed, one) for one in scales]
    return predicts_best([one for one in found if one is not None])


def predicts_best(fits: Sequence[Joint]) -> Joint | None:
    """The fit whose best law predicts held-out cells best; residuals are in standard errors, so that scales compare."""
    return min(fits, key=lambda one: min(one.held_out.values()), default=None)


def _on(draws: Draws, scale: str) -> Draws:
    return draws if scale == ERROR else draws.odds() if scale == ODDS else draws.missed()


def _joint(
    log_x: Floats, limits: list[tuple[float, float]], reference: Draws, arm: Draws, rng_seed: int, scale: str
) -> Joint | None:
    mean = np.concatenate([reference.mean, arm.mean])
    errors = np.maximum(np.concatenate([reference.draws, arm.draws], axis=1), SMALLEST * mean)
    if not (mean > 0).all() or not np.median(np.concatenate([reference.errors, arm.errors])) > 0:
        return None
    own = np.log(errors).std(0)
    sigma = np.sqrt((own**2 + np.median(own) ** 2) / 2)  # few seeds tell a cell's own noise roughly
    who = np.repeat([0, 1], [len(reference.mean), len(arm.mean)])
    points = Points(mean, sigma, who, log_x - log_x.mean(1, keepdims=True))
    axes = tuple(range(len(log_x)))
    laws = {NOTHING: Law(), FLOOR: Law(own_floor=True), MULTIPLIERS: Law(axes)}
    if len(axes) > 1:
        laws |= {f"axis {axis}": Law((axis,)) for axis in axes}
    fits = {name: fit(points, law, rng_seed=rng_seed) for name, law in laws.items()}
    left_out = {name: held_out(points, law, fits[name]) for name, law in laws.items()}
    verdict, clear = _verdict(left_out)
    if verdict == FLOOR:
        floors = refit(points, laws[FLOOR], errors, fits[FLOOR]).parameters
        low, high = np.quantile(floors[:, 1] - floors[:, 0], _TAILS)
        if low <= 0 <= high:  # other prompts could make the floors one, which held-out cells of these cannot tell
            verdict, clear = MULTIPLIERS, False
    full = laws[MULTIPLIERS]
    drawn = refit(points, full, errors, fits[MULTIPLIERS]).parameters
    places = [full.multiplier(points, axis, 1) for axis in axes]
    estimates = fits[MULTIPLIERS].parameters[0, places]
    found = [_multiplier(float(estimates[j]), drawn[:, places[j]], limits[j], True) for j in axes]
    rms = float(np.sqrt((residuals(points, full, fits[MULTIPLIERS]) ** 2).mean()))
    scores = {name: float(of_cells.mean()) for name, of_cells in left_out.items()}
    return Joint(tuple(found), drawn[:, places], scores, verdict, clear, rms > POOR, scale)


def disagree(measured: Direct, fitted: Joint, axis: int) -> bool:
    """Whether the two estimators differ by more than the draws, which they share, let them."""
    of_fit = fitted.log_draws[:, axis]
    gap = np.where(np.isinf(measured.log_draws), 0.0, measured.log_draws) - of_fit
    low, high = (np.log(limit) for limit in measured.multiplier.limits)
    # a bound agrees with whatever lies beyond it
    gap = np.where(measured.log_draws == inf, np.maximum(high - of_fit, 0), gap)
    gap = np.where(measured.log_draws == -inf, np.minimum(low - of_fit, 0), gap)
    below, above = np.quantile(gap, _TAILS)
    return bool(below > 0 or above < 0)


_TAILS = ((1 - LEVEL) / 2, (1 + LEVEL) / 2)


def _multiplier(log_estimate: float, log_draws: Floats, limits: tuple[float, float], known: bool) -> Multiplier:
    if not known:
        return Multiplier(_exp(log_estimate), nan, nan, limits)
    low = np.quantile(log_draws, _TAILS[0], method="lower")
    high = np.quantile(log_draws, _TAILS[1], method="higher")
    return Multiplier(_exp(log_estimate), _exp(float(low)), _exp(float(high)), limits)


def _exp(log: float) -> float:
    return log if isinf(log) and log > 0 else exp(log)


def _rises(curve: Draws) -> bool:
    later, earlier = np.tril_indices(len(curve.mean), -1)
    gap = curve.mean[later] - curve.mean[earlier]
    spread = (curve.draws[:, later] - curve.draws[:, earlier]).std(0)
    return bool((gap > RISES * spread).any() and curve.errors.any())


def _verdict(left_out: dict[str, Floats]) -> tuple[str, bool]:
    """Which kind of law predicts left-out cells best, and whether better than the other kind by a standard error.

    No difference, unless a law with one beats it by that much: of equal arms either kind is right.
    """
    means = {name: float(of_cells.mean()) for name, of_cells in left_out.items()}
    shift = min((name for name in means if name not in (FLOOR, NOTHING)), key=lambda name: means[name])
    best, other = sorted((shift, FLOOR), key=lambda name: means[name])
    if not _better(left_out[best], left_out[NOTHING]):
        return NOTHING, False
    return (MULTIPLIERS if best == shift else FLOOR), _better(left_out[best], left_out[other])


def _better(losses: Floats, others: Floats) -> bool:
    """Whether cells are predicted better by more than the standard error of the mean difference."""
    gap = others - losses
    return float(gap.mean()) > float(gap.std(ddof=1) / np.sqrt(len(gap)))
