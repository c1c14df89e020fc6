"""The joint law: gradients, exact recovery without noise, and held-out cells that tell the laws apart."""

from __future__ import annotations

import numpy as np
import pytest

from lensbench.scoring.scaling_fit import Law, Points, _predict, fit, held_out, predict, refit

BOTH = Law((0, 1))


def points(data=3.0, size=1.0, floors=(0.1, 0.1), noise=0.0, sigma=0.02, rng_seed=0):
    """A grid of three sizes and five amounts of data for a reference and an arm."""
    arm, p, n = (x.ravel() for x in np.meshgrid([0, 1], [1.0, 3.4, 8.0], 4.0 ** np.arange(5) / 16, indexing="ij"))
    arm = arm.astype(int)
    error = np.array(floors)[arm] + 0.15 * (p * size**arm) ** -0.8 + 0.3 * (n * data**arm) ** -0.4
    error *= np.exp(noise * np.random.default_rng(rng_seed).standard_normal(len(error)))
    return Points(error, np.full(len(error), sigma), arm, np.log(np.array([p, n])))


@pytest.mark.parametrize("law", [Law(), Law((1,)), BOTH, Law(own_floor=True), Law((0,), own_floor=True)])
def test_the_gradient_is_that_of_the_prediction(law):
    at = points()
    rng = np.random.default_rng(0)
    parameters = 0.5 * rng.standard_normal((3, law.size(at)))
    _, gradient = _predict(at, law, parameters)
    for q in range(law.size(at)):
        step = np.zeros(law.size(at))
        step[q] = 1e-6
        numeric = (_predict(at, law, parameters + step)[0] - _predict(at, law, parameters - step)[0]) / 2e-6
        assert np.allclose(gradient[:, :, q], numeric, atol=1e-7)


@pytest.mark.parametrize(("data", "size"), [(3.0, 1.0), (0.4, 1.0), (2.0, 1.8), (1.0, 1.0)])
def test_multipliers_come_back_without_noise(data, size):
    at = points(data, size, sigma=0.002)
    found = fit(at, BOTH).parameters[0]
    assert np.exp(found[BOTH.multiplier(at, 1, 1)]) == pytest.approx(data, rel=0.02)
    assert np.exp(found[BOTH.multiplier(at, 0, 1)]) == pytest.approx(size, rel=0.02)
    assert np.allclose(predict(at, BOTH, fit(at, BOTH))[0], at.error, rtol=1e-3)


def test_three_arms_have_their_own_multipliers():
    two = points(3.0, sigma=0.005)
    arm, p, n = (np.concatenate([two.arm, np.full(15, 2)]), *np.concatenate([two.log_x, two.log_x[:, :15]], axis=1))
    third = 0.1 + 0.15 * np.exp(p[30:]) ** -0.8 + 0.3 * (0.5 * np.exp(n[30:])) ** -0.4
    at = Points(np.concatenate([two.error, third]), np.full(45, 0.005), arm, np.array([p, n]))
    law = Law((1,))
    found = fit(at, law).parameters[0]
    assert np.exp(found[[law.multiplier(at, 1, k) for k in (1, 2)]]) == pytest.approx([3.0, 0.5], rel=0.05)


def test_one_wild_cell_moves_the_fit_little():
    calm = points(noise=0.02)
    wild = calm.error.copy()
    wild[7] *= 3
    law = Law((1,))
    moved = [
        fit(Points(error, calm.sigma, calm.arm, calm.log_x), law).parameters[0, law.multiplier(calm, 1, 1)]
        for error in (calm.error, wild)
    ]
    assert abs(moved[1] - moved[0]) < 0.15


def test_a_batch_gives_what_each_gives_alone():
    at = points(noise=0.05)
    start = fit(at, BOTH)
    errors = at.error * np.exp(0.05 * np.random.default_rng(1).standard_normal((6, 30)))
    together = refit(at, BOTH, errors, start)
    for row in range(6):
        alone = refit(at, BOTH, errors[row : row + 1], start)
        assert alone.loss[0] == pytest.approx(together.loss[row], rel=1e-3)


def test_held_out_cells_are_predicted_best_by_the_law_that_made_them():
    laws = {"shift": Law((1,)), "size": Law((0,)), "floor": Law(own_floor=True), "none": Law()}
    for made, at in (
        ("shift", points(3.0, noise=0.02)),
        ("size", points(1.0, 3.0, noise=0.02)),
        ("floor", points(1.0, floors=(0.2, 0.1), noise=0.02)),
    ):
        losses = {name: held_out(at, law, fit(at, law)).mean() for name, law in laws.items()}
        assert min(losses, key=losses.__getitem__) == made
