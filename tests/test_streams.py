"""Named random streams: a draw depends on (seed, name, index) and on nothing else."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lensbench.streams import numpy_stream, stream_key, torch_stream

keys = st.tuples(st.integers(0, 2**40), st.sampled_from(["order", "noise", "timesteps"]), st.integers(0, 10**6))


@given(st.lists(keys, min_size=2, max_size=50, unique=True))
def test_different_streams_have_different_keys_that_torch_can_take(streams: list[tuple[int, str, int]]) -> None:
    found = [stream_key(*stream) for stream in streams]
    assert len(set(found)) == len(streams)
    assert all(0 <= key < 2**63 for key in found)


@given(keys)
def test_a_stream_gives_the_same_numbers_again_whatever_was_drawn_elsewhere(stream: tuple[int, str, int]) -> None:
    first, first_torch = numpy_stream(*stream).normal(size=4), torch.randn(4, generator=torch_stream(*stream))
    np.random.default_rng().normal(size=3)
    torch.randn(3)
    numpy_stream(stream[0], "another").normal(size=3)
    assert np.array_equal(first, numpy_stream(*stream).normal(size=4))
    assert torch.equal(first_torch, torch.randn(4, generator=torch_stream(*stream)))


def test_a_draw_leaves_the_global_generators_alone() -> None:
    before = torch.get_rng_state()
    torch.randn(5, generator=torch_stream(0, "noise"))
    numpy_stream(0, "noise").normal(size=5)
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("other", [(1, "noise", 0), (0, "order", 0), (0, "noise", 1)])
def test_streams_are_uncorrelated(other: tuple[int, str, int]) -> None:
    n = 20_000
    a, b = numpy_stream(0, "noise", 0).normal(size=n), numpy_stream(*other).normal(size=n)
    assert abs(np.corrcoef(a, b)[0, 1]) < 4 / np.sqrt(n)


def test_indices_of_one_stream_are_uncorrelated_with_each_other() -> None:
    draws = np.stack([numpy_stream(0, "noise", index).normal(size=64) for index in range(400)])
    correlations = np.corrcoef(draws)[np.triu_indices(400, 1)]
    assert abs(correlations.mean()) < 0.005
    assert abs(correlations.std() - 1 / np.sqrt(63)) < 0.01  # what independent normals give


def test_streams_are_equal_across_processes_and_machines() -> None:
    # written down once: a change would break the pairing of new cells with old ones
    assert stream_key(0, "noise", 0) == 8369501531652801859
    assert numpy_stream(0, "noise", 0).integers(10**9) == 202000015
    code = (
        "import torch; from lensbench.streams import *;"
        "print(stream_key(3, 'order', 5), numpy_stream(3, 'order', 5).integers(10**9),"
        "torch.randint(10**9, (), generator=torch_stream(3, 'order', 5)).item())"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    here = torch.randint(10**9, (), generator=torch_stream(3, "order", 5)).item()
    assert out == [str(stream_key(3, "order", 5)), str(numpy_stream(3, "order", 5).integers(10**9)), str(here)]
