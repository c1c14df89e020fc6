"""Flow matching: what is learnt, the noise levels, guidance, and sampling where the exact velocity is known."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lensbench.model.flow import (
    draw_timesteps,
    flow_loss,
    guidance_schedule,
    guide,
    sample,
    shift_exponent,
    sigmas,
    timestep_mean,
)

GRID = (2, 3)
TEXT = [torch.zeros(4, 5, 7)]
MASK = torch.ones(4, 5, dtype=torch.bool)


def test_timestep_mean_is_the_papers_line():
    assert timestep_mean(256) == pytest.approx(1.0)
    assert timestep_mean(4096) == pytest.approx(1.3)
    assert timestep_mean(1024) == pytest.approx(1.06)  # the paper's value at 512x512


def test_timesteps_are_logit_normal_and_repeat():
    drawn = draw_timesteps(torch.Generator().manual_seed(3), 40_000, 1.06)
    assert torch.equal(drawn, draw_timesteps(torch.Generator().manual_seed(3), 40_000, 1.06))
    assert drawn.min() > 0
    assert drawn.max() < 1
    logits = torch.logit(drawn.double())
    assert logits.mean().item() == pytest.approx(1.06, abs=0.02)
    assert logits.std().item() == pytest.approx(1.0, abs=0.02)


def test_loss_is_zero_for_the_true_velocity_and_counts_each_sample():
    latents, noise, t = torch.randn(4, 6, 2), torch.randn(4, 6, 2), torch.tensor([0.0, 0.3, 0.9, 1.0])
    off = torch.tensor([0.0, 1.0, 2.0, 3.0])

    def model(x, timestep, features, mask, grid):
        assert torch.equal(timestep, t)
        torch.testing.assert_close(x, (1 - t)[:, None, None] * latents + t[:, None, None] * noise)
        return noise - latents + off[:, None, None]

    losses = flow_loss(model, latents, noise, t, TEXT, MASK, GRID)
    torch.testing.assert_close(losses, off**2)


@given(steps=st.integers(1, 300), tokens=st.integers(1, 20_000))
def test_sigmas_fall_from_one_to_zero(steps, tokens):
    levels = sigmas(steps, tokens)
    assert len(levels) == steps + 1
    assert levels[0] == 1.0
    assert levels[-1] == 0.0
    assert all(high > low for high, low in itertools.pairwise(levels))


@pytest.mark.parametrize(
    ("steps", "tokens", "mu"),
    [
        (10, 1024, 8.73809524e-05 * 1024 + 1.89833333),
        (200, 1024, 0.00016927 * 1024 + 0.45666666),
        (105, 1024, (8.73809524e-05 * 1024 + 1.89833333 + 0.00016927 * 1024 + 0.45666666) / 2),
        (20, 6000, 0.00016927 * 6000 + 0.45666666),
    ],
)
def test_shift_is_flux2s(steps, tokens, mu):
    assert shift_exponent(steps, tokens) == pytest.approx(mu)
    even = np.linspace(1, 1 / steps, steps)
    expected = [*(math.exp(mu) / (math.exp(mu) + (1 / even - 1))), 0.0]
    np.testing.assert_allclose(sigmas(steps, tokens), expected, rtol=1e-12)


def test_no_steps_are_refused():
    with pytest.raises(ValueError, match="steps=0"):
        sigmas(0, 16)


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 10**6), scale=st.floats(0, 20))
def test_guidance_turns_tokens_and_keeps_their_norms(seed, scale):
    generator = torch.Generator().manual_seed(seed)
    conditional, unconditional = torch.randn(2, 3, 4, 8, generator=generator, dtype=torch.float64)
    out = guide(conditional, unconditional, scale)
    torch.testing.assert_close(out.norm(dim=-1), conditional.norm(dim=-1))
    raw = unconditional + scale * (conditional - unconditional)
    torch.testing.assert_close(torch.cosine_similarity(out, raw, dim=-1), torch.ones(3, 4, dtype=torch.float64))
    # Each token is on its own: what happens elsewhere is nothing to it.
    torch.testing.assert_close(guide(conditional[:, :1], unconditional[:, :1], scale), out[:, :1])


def test_guidance_of_nothing_is_finite():
    zero = torch.zeros(1, 2, 3)
    assert torch.equal(guide(zero, zero, 5.0), zero)


@pytest.mark.parametrize("guidance", [1.0, 4.0])
def test_sampling_finds_the_only_point(guidance):
    # All data is one point x0, so at level t the velocity is (x - x0) / t and Euler is exact in any number of steps.
    point = torch.randn(1, 6, 3)

    def model(x, timestep, features, mask, grid):
        return (x - point) / timestep[:, None, None]

    for steps in (1, 7):
        got = sample(model, torch.randn(4, 6, 3), TEXT, MASK, GRID, steps, guidance)
        torch.testing.assert_close(got, point.expand(4, -1, -1), atol=1e-5, rtol=1e-5)


def test_sampling_a_gaussian_has_its_mean_and_spread():
    # Data N(m, s^2): the velocity is E[eps - x0 | x_t], linear in x_t.
    m, s = 0.7, 0.4

    def model(x, timestep, features, mask, grid):
        t = timestep[:, None, None]
        variance = (1 - t) ** 2 * s**2 + t**2
        off = (x - (1 - t) * m) / variance
        return t * off - (m + (1 - t) * s**2 * off)

    noise = torch.randn(4, 5000, 2, generator=torch.Generator().manual_seed(0))
    got = sample(model, noise, TEXT, MASK, (50, 100), 400, 1.0)
    assert got.mean().item() == pytest.approx(m, abs=0.02)
    assert got.std().item() == pytest.approx(s, abs=0.02)


def test_guidance_rides_in_one_batch_and_one_needs_none():
    calls = []

    def model(x, timestep, features, mask, grid):
        calls.append((len(x), [f.abs().sum(dim=(1, 2)) for f in features], mask.any(dim=1)))
        return torch.ones_like(x)

    features = [torch.ones(4, 5, 7), torch.ones(4, 5, 7)]
    sample(model, torch.randn(4, 6, 3), features, MASK, GRID, 3, 1.0)
    assert [size for size, _, _ in calls] == [4, 4, 4]
    calls.clear()
    sample(model, torch.randn(4, 6, 3), features, MASK, GRID, 3, 5.0)
    assert [size for size, _, _ in calls] == [8, 8, 8]
    for _, sums, real in calls:
        assert real.tolist() == [True] * 4 + [False] * 4
        for layer in sums:
            assert layer.tolist() == [35.0] * 4 + [0.0] * 4


def test_a_schedule_guides_the_steps_it_says_and_the_others_have_no_unconditional_half():
    calls = []

    def model(x, timestep, features, mask, grid):
        calls.append((len(x), len(features[0]), len(mask)))
        # The two halves differ, so that guidance shows.
        return torch.where(mask.any(dim=1)[:, None, None], x, torch.ones_like(x))

    noise = torch.randn(4, 6, 3, generator=torch.Generator().manual_seed(0))
    scheduled = sample(model, noise, TEXT, MASK, GRID, 4, [1.0, 5.0, 1.0, 2.0])
    assert calls == [(n, n, n) for n in (4, 8, 4, 8)]
    assert torch.equal(
        sample(model, noise, TEXT, MASK, GRID, 4, [5.0] * 4), sample(model, noise, TEXT, MASK, GRID, 4, 5.0)
    )
    assert not torch.equal(scheduled, sample(model, noise, TEXT, MASK, GRID, 4, 5.0))
    assert not torch.equal(scheduled, sample(model, noise, TEXT, MASK, GRID, 4, 1.0))


@pytest.mark.parametrize("scales", [[], [2.0, 2.0], [2.0] * 4])
def test_a_schedule_has_one_scale_a_step(scales):
    with pytest.raises(ValueError, match=f"guidance has {len(scales)} scales for 3 steps"):
        sample(lambda x, *_: x, torch.randn(4, 6, 3), TEXT, MASK, GRID, 3, scales)


@given(
    scale=st.floats(1, 20),
    ends=st.tuples(st.floats(0, 1), st.floats(0, 1)).map(sorted).filter(lambda ends: ends[0] < ends[1]),
    steps=st.integers(1, 60),
    tokens=st.integers(1, 5000),
)
def test_an_interval_guides_between_its_noise_levels_alone(scale, ends, steps, tokens):
    scales = guidance_schedule(scale, tuple(ends), steps, tokens)
    assert len(scales) == steps
    for level, used in zip(sigmas(steps, tokens), scales, strict=False):
        assert used == (scale if ends[0] <= level <= ends[1] else 1.0)
    assert guidance_schedule(scale, (0.0, 1.0), steps, tokens) == (scale,) * steps


@pytest.mark.parametrize(
    ("scale", "interval", "said"),
    [
        (0.9, (0, 1), "guidance=0.9: must be at least 1"),
        (math.nan, (0, 1), "guidance=nan"),
        (math.inf, (0, 1), "guidance=inf"),
        (2.0, (0.5, 0.5), "guidance_interval=0.5 0.5"),
        (2.0, (-0.1, 1), "guidance_interval=-0.1 1"),
        (2.0, (0, math.nan), "guidance_interval=0 nan"),
    ],
)
def test_guidance_that_cannot_be_is_refused(scale, interval, said):
    with pytest.raises(ValueError, match=said):
        guidance_schedule(scale, interval, 4, 16)


def test_the_model_computes_in_the_type_of_the_text_and_the_state_stays_exact():
    seen = set()

    def model(x, timestep, features, mask, grid):
        seen.update({x.dtype, features[0].dtype})
        return torch.ones_like(x)

    got = sample(model, torch.zeros(4, 6, 3), [TEXT[0].bfloat16()], MASK, GRID, 3, 5.0)
    assert seen == {torch.bfloat16}
    assert got.dtype == torch.float32
    # Steps from 1 to 0 along a velocity of 1: bfloat16 would have added up to something else.
    torch.testing.assert_close(got, -torch.ones(4, 6, 3), atol=1e-6, rtol=0)


def test_latents_of_another_scale_are_the_same_to_the_bit_with_the_first_step_that_is_kept():
    noise = torch.randn(4, 6, 3, generator=torch.Generator().manual_seed(0))

    def model(latents, timestep, features, mask, grid):
        return torch.sin(3 * latents + timestep[:, None, None] + mask.float().mean(1)[:, None, None])

    kept: list[torch.Tensor] = []
    for scale in (1.0, 3.0, 6.0):
        alone = sample(model, noise, TEXT, MASK, GRID, 5, scale)
        assert torch.equal(sample(model, noise, TEXT, MASK, GRID, 5, scale, kept), alone)
    assert [first.shape for first in kept] == [(8, 6, 3)]
