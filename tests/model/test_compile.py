"""The compiled denoiser: one graph without breaks, few compilations, and the same numbers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend

from lensbench.model.sizes import lens
from lensbench.model.transformer import LensTransformer

SMALL = lens(2, patch_size=2, in_channels=12, out_channels=3, enc_hidden_dim=20, selected_layer_index=(0, 2))
BUCKETS = [(4, 4), (3, 6), (6, 3), (5, 5)]  # grids of image tokens
PADDED = [[5, 9, 2], [7, 7, 12], [0, 3, 4]]
UNPADDED = [[6, 6, 6], [11, 11, 11]]


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def make() -> LensTransformer:
    torch.manual_seed(0)
    model = LensTransformer(SMALL)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def given(grid: tuple[int, int], lengths: list[int]) -> tuple[Any, ...]:
    generator = torch.Generator().manual_seed(sum(lengths))
    longest = max(lengths)
    mask = torch.arange(longest)[None] < torch.tensor(lengths)[:, None]
    features = [torch.randn(len(lengths), longest, 20, generator=generator) * mask[..., None] for _ in range(2)]
    latents = torch.randn(len(lengths), grid[0] * grid[1], 12, generator=generator)
    return latents, torch.rand(len(lengths), generator=generator), features, mask, grid


def test_no_more_compilations_than_buckets_and_none_for_a_new_text_length(monkeypatch: pytest.MonkeyPatch) -> None:
    counter = CompileCounterWithBackend("eager")
    real = torch.compile
    monkeypatch.setattr(torch, "compile", lambda function, **options: real(function, **options, backend=counter))
    model = make()
    model.compile_velocity()  # fullgraph=True: a graph break is an error
    with torch.no_grad():
        for lengths in (*PADDED, *UNPADDED):
            for grid in BUCKETS:
                model(*given(grid, lengths))
    assert 1 <= counter.frame_count <= 2 * len(BUCKETS)  # a bucket is a grid, with padding or without
    before = counter.frame_count
    with torch.no_grad():
        model(*given((4, 4), [8, 3, 14]))
        model(*given((4, 4), [13, 13, 13]))
        model(*given((2, 8), [4, 4, 9]))
    assert counter.frame_count == before


@pytest.mark.slow
def test_compiled_outputs_and_gradients_are_those_of_the_plain_way() -> None:
    eager, compiled = make(), make()
    compiled.compile_velocity()
    for lengths in (PADDED[0], UNPADDED[0]):
        outputs = []
        for model in (eager, compiled):
            model.zero_grad()
            output = model(*given((3, 6), lengths))
            output.square().mean().backward()
            outputs.append(output.detach())
        torch.testing.assert_close(*outputs, rtol=1e-5, atol=1e-5)
        named = zip(eager.named_parameters(), compiled.named_parameters(), strict=True)
        for (name, mine), (_, theirs) in named:
            if mine.grad is None or theirs.grad is None:
                assert mine.grad is theirs.grad, name
            else:
                torch.testing.assert_close(mine.grad, theirs.grad, rtol=1e-4, atol=1e-6, msg=name)
