"""A scaling law for the arms of a study together: how far captions move a model along the axes it is scaled on.

    error = E + A / (p_arm P)^a + B / (n_arm N)^b

The form of Hoffmann et al. 2022 (arXiv 2203.15556, section 3.3) with multipliers p_arm and n_arm, 1 for the reference;
E, A, B, a, b are shared. Any number of axes can be given. Residuals of the log error, in units of their standard
errors, enter by Huber's loss. Weak priors (a factor of e^1.5 about 0.5 for exponents, e^4 about 1 for multipliers, a
broad one for E) keep what the data do not say finite and weigh next to nothing where they say it.

All draws of a bootstrap, all starts and all folds are fitted at once, by Levenberg-Marquardt with analytic gradients.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lensbench.streams import numpy_stream

Floats = NDArray[np.float64]
HUBER = 1.345  # standard errors: 95 % efficient for normal noise (Huber 1964)
STEPS = 60
STARTS = 48
TOLERANCE, PATIENCE = 1e-5, 3  # of the loss; steps without such a gain
FLOOR_AT, FLOOR_SPREAD = 0.3, 2.5  # of the smallest error; natural logs
EXPONENT_AT, EXPONENT_SPREAD = 0.5, 1.5
SIZE_SPREAD = 4.0
MULTIPLIER_SPREAD = 4.0


@dataclass(frozen=True)
class Points:
    """K measured cells: errors (K,) > 0, standard errors of their logs (K,), the arm (0 is the reference) of each, and
    their places log_x (J, K) on the J axes."""

    error: Floats
    sigma: Floats
    arm: NDArray[np.int64]
    log_x: Floats

    @property
    def arms(self) -> int:
        """How many arms there are, the reference included."""
        return int(self.arm.max()) + 1

    @property
    def axes(self) -> int:
        """How many axes there are."""
        return len(self.log_x)


@dataclass(frozen=True)
class Law:
    """Which parts are the arms' own: the multipliers of these axes, or the floor E."""

    axes: tuple[int, ...] = ()
    own_floor: bool = False

    def size(self, points: Points) -> int:
        """Number of parameters."""
        return (points.arms if self.own_floor else 1) + 2 * points.axes + len(self.axes) * (points.arms - 1)

    def multiplier(self, points: Points, axis: int, arm: int) -> int:
        """The place of a log multiplier among the parameters."""
        first = (points.arms if self.own_floor else 1) + 2 * points.axes
        return first + self.axes.index(axis) * (points.arms - 1) + arm - 1


@dataclass(frozen=True)
class Fit:
    """Parameters (B, Q) and losses (B,) of B fits."""

    parameters: Floats
    loss: Floats


def fit(points: Points, law: Law, *, rng_seed: int = 0) -> Fit:
    """The best of many starts, as a batch of one."""
    starts = _starts(points, law, rng_seed)
    errors = np.broadcast_to(points.error, (len(starts), len(points.error)))
    found = _minimize(points, law, np.log(errors), np.ones_like(errors), starts)
    best = [int(found.loss.argmin())]
    return Fit(found.parameters[best], found.loss[best])


def refit(points: Points, law: Law, errors: Floats, start: Fit) -> Fit:
    """The law fitted to each row of `errors` (B, K), from the parameters of `start`."""
    starts = np.repeat(start.parameters, len(errors), axis=0)
    return _minimize(points, law, np.log(errors), np.ones_like(errors), starts)


def held_out(points: Points, law: Law, start: Fit) -> Floats:
    """(K,) Huber's loss of each cell as the law predicts it that was fitted without the cell."""
    k = len(points.error)
    log_errors = np.broadcast_to(np.log(points.error), (k, k))
    found = _minimize(points, law, log_errors, 1 - np.eye(k), np.repeat(start.parameters, k, axis=0))
    predicted, _ = _predict(points, law, found.parameters)
    return _huber(np.diagonal(predicted - log_errors) / points.sigma)


def residuals(points: Points, law: Law, found: Fit) -> Floats:
    """(B, K) residuals of the log error in standard errors."""
    return (_predict(points, law, found.parameters)[0] - np.log(points.error)) / points.sigma


def predict(points: Points, law: Law, found: Fit) -> Floats:
    """(B, K) errors by the law."""
    return np.exp(_predict(points, law, found.parameters)[0])


def _predict(points: Points, law: Law, parameters: Floats) -> tuple[Floats, Floats]:
    """Log errors (B, K) and their gradients (B, K, Q)."""
    b, k, arms = len(parameters), len(points.arm), points.arms
    floors = arms if law.own_floor else 1
    gradient = np.zeros((b, k, law.size(points)))
    floor_of = points.arm if law.own_floor else np.zeros(k, dtype=int)
    total = np.exp(parameters[:, floor_of])
    gradient[:, np.arange(k), floor_of] = total
    for axis in range(points.axes):
        place = floors + 2 * axis
        size, exponent = parameters[:, place, None], np.exp(parameters[:, place + 1, None])
        at = np.repeat(points.log_x[axis][None], b, axis=0)
        moved = [(points.arm == arm, law.multiplier(points, axis, arm)) for arm in range(1, arms) if axis in law.axes]
        for inside, own in moved:
            at[:, inside] += parameters[:, own, None]
        term = np.exp(np.clip(size - exponent * at, -60, 60))
        total = total + term
        gradient[:, :, place] = term
        gradient[:, :, place + 1] = -exponent * at * term
        for inside, own in moved:
            gradient[:, inside, own] = (-exponent * term)[:, inside]
    return np.log(total), gradient / total[..., None]


def _prior(points: Points, law: Law) -> tuple[Floats, Floats]:
    """Center and spread of each parameter's prior, (Q,) each."""
    smallest = float(np.log(points.error.min()))
    center, spread = np.zeros(law.size(points)), np.full(law.size(points), MULTIPLIER_SPREAD)
    floors = points.arms if law.own_floor else 1
    center[:floors], spread[:floors] = smallest + np.log(FLOOR_AT), FLOOR_SPREAD
    for axis in range(points.axes):
        place = floors + 2 * axis
        center[place : place + 2] = np.log(np.median(points.error)) - np.log(2), np.log(EXPONENT_AT)
        spread[place : place + 2] = SIZE_SPREAD, EXPONENT_SPREAD
    return center, spread


def _starts(points: Points, law: Law, rng_seed: int) -> Floats:
    center, spread = _prior(points, law)
    scattered = numpy_stream(rng_seed, "starts of a fit").standard_normal((STARTS - 1, len(center)))
    return np.concatenate([center[None], center + np.minimum(spread, 1.0) * scattered])


def _huber(residual: Floats) -> Floats:
    size = np.abs(residual)
    return np.where(size <= HUBER, size**2 / 2, HUBER * (size - HUBER / 2))


def _minimize(points: Points, law: Law, log_errors: Floats, weights: Floats, starts: Floats) -> Fit:
    """Levenberg-Marquardt with Huber's weights, each row of the batch with its own damping."""
    center, spread = _prior(points, law)

    def loss_of(parameters: Floats, predicted: Floats) -> Floats:
        residual = (predicted - log_errors) / points.sigma
        return (weights * _huber(residual)).sum(1) + (((parameters - center) / spread) ** 2).sum(1) / 2

    parameters = starts.copy()
    predicted, gradient = _predict(points, law, parameters)
    loss = loss_of(parameters, predicted)
    damping = np.full(len(starts), 1e-2)
    diagonal, waited = np.arange(parameters.shape[1]), 0
    for _ in range(STEPS):
        residual = (predicted - log_errors) / points.sigma
        size = np.abs(residual)
        pull = weights * np.where(size <= HUBER, 1.0, HUBER / np.maximum(size, HUBER))
        slope = gradient / points.sigma[:, None]
        normal = (slope * pull[..., None]).swapaxes(1, 2) @ slope
        normal[:, diagonal, diagonal] += spread**-2
        down = ((pull * residual)[:, None] @ slope)[:, 0] + (parameters - center) / spread**2
        normal[:, diagonal, diagonal] *= 1 + damping[:, None]
        tried = parameters - np.clip(np.linalg.solve(normal, down[..., None])[..., 0], -2, 2)
        there, there_gradient = _predict(points, law, tried)
        reached = loss_of(tried, there)
        better = reached < loss
        gained = np.where(better, loss - reached, 0.0)
        parameters = np.where(better[:, None], tried, parameters)
        predicted = np.where(better[:, None], there, predicted)
        gradient = np.where(better[:, None, None], there_gradient, gradient)
        loss = np.where(better, reached, loss)
        damping = np.clip(np.where(better, damping / 4, damping * 5), 1e-9, 1e6)
        waited = 0 if (gained > TOLERANCE * (1 + loss)).any() else waited + 1
        if waited == PATIENCE:
            break
    return Fit(parameters, loss)
