"""The closed forms of memory against what torch keeps: states exactly, activations within a tenth."""

from __future__ import annotations

import contextlib
import copy
import functools
import weakref
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.checkpoint import checkpoint

from lensbench.experiment import Training
from lensbench.model import attention, layers
from lensbench.model.memory import HEADROOM, Setting, TrainingMemory, activation_bytes, training_memory
from lensbench.model.sizes import lens
from lensbench.model.transformer import LensConfig, LensTransformer
from lensbench.training.optimizer import new_optimizer

CPU = Setting(precision="fp32", device="cpu")
SHAPES = [  # depth, side in image tokens, text tokens of each image, width and layers of the encoder
    (3, 4, (23, 7, 22, 0), 384, 3),
    (4, 16, (40, 39), 384, 3),
    (6, 6, (100, 60), 1024, 4),
    (8, 12, (30, 29), 96, 1),
]


def small(depth: int, encoder: int = 384, count: int = 3) -> LensConfig:
    return lens(depth, enc_hidden_dim=encoder, selected_layer_index=tuple(range(count)))


def inputs(config: LensConfig, side: int, lengths: Sequence[int], device: str = "cpu") -> tuple[Any, ...]:
    mask = torch.arange(max(lengths))[None] < torch.tensor(lengths)[:, None]
    features = [torch.randn(*mask.shape, config.enc_hidden_dim) * mask[..., None] for _ in config.selected_layer_index]
    latents = torch.randn(len(lengths), side * side, config.in_channels)
    moved = [x.to(device) for x in features]
    return latents.to(device), torch.rand(len(lengths)).to(device), moved, mask.to(device), (side, side)


def loss_of(model: LensTransformer, given_: tuple[Any, ...]) -> torch.Tensor:
    return model(*given_).float().square().mean()


def saved_bytes(model: LensTransformer, given_: tuple[Any, ...], context: Any = contextlib.nullcontext) -> int:
    """Bytes of the distinct storages that autograd saves, but for the weights themselves."""
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    storages: dict[int, torch.UntypedStorage] = {}

    def keep(x: torch.Tensor) -> torch.Tensor:
        storages[x.untyped_storage().data_ptr()] = x.untyped_storage()
        return x

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x), context():
        loss = loss_of(model, given_)
    assert loss.requires_grad
    return sum(storage.nbytes() for address, storage in storages.items() if address not in weights)


def expected(config: LensConfig, side: int, lengths: Sequence[int], setting: Setting) -> int:
    return sum(activation_bytes(config, side * side, n, setting) for n in lengths)


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_weights_gradients_and_optimizer_states_are_exact(optimizer):
    config = small(3)
    model = LensTransformer(config)
    states = new_optimizer(model, Training(optimizer=optimizer), 3)
    loss_of(model, inputs(config, 4, (5, 3))).backward()
    states.step()
    parts = getattr(states, "optimizers", [states])
    moments = [x for part in parts for state in part.state.values() for x in state.values() if x.ndim]
    memory = training_memory(config, 16, 5, Setting(optimizer=optimizer, precision="fp32"))
    assert memory.weights == memory.average == sum(p.nbytes for p in model.parameters())
    assert memory.gradients == sum(p.grad.nbytes for p in model.parameters() if p.grad is not None)
    assert memory.optimizer == sum(moment.nbytes for moment in moments)
    assert memory.copies == 0


@pytest.mark.parametrize(("depth", "side", "lengths", "encoder", "count"), SHAPES)
def test_activations_are_what_autograd_saves(depth, side, lengths, encoder, count):
    config = small(depth, encoder, count)
    measured = saved_bytes(LensTransformer(config), inputs(config, side, lengths))
    assert expected(config, side, lengths, CPU) == pytest.approx(measured, rel=0.1)


def test_activations_of_texts_of_one_length():
    config = small(4)
    measured = saved_bytes(LensTransformer(config), inputs(config, 8, (20, 20)))
    setting = Setting(precision="fp32", device="cpu", equal_texts=True)
    assert expected(config, 8, (20, 20), setting) == pytest.approx(measured, rel=0.1)


class GpuNorm(torch.autograd.Function):
    """What torch's fused norm keeps on a GPU: its input, in float32 under autocast, and a scale a row."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, eps: float) -> torch.Tensor:
        inverse = torch.rsqrt(x.square().mean(-1, keepdim=True) + eps)
        ctx.save_for_backward(x, inverse)
        return x * inverse

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> Any:
        raise AssertionError("only what is saved is looked at")


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize(("depth", "side", "lengths", "encoder", "count"), SHAPES)
def test_activations_with_a_gpus_kernels(depth, side, lengths, encoder, count, precision, monkeypatch):
    for module in (layers, attention):
        monkeypatch.setattr(module, "unit_rms", lambda x, eps: GpuNorm.apply(x.float(), eps))
    monkeypatch.setattr(attention, "attention", attention.fused_attention)
    config = small(depth, encoder, count)
    context = functools.partial(torch.autocast, "cpu", torch.bfloat16, enabled=precision == "bf16")
    measured = saved_bytes(LensTransformer(config), inputs(config, side, lengths), context)
    setting = Setting(precision=precision)
    copies = training_memory(config, 1, 1, setting).copies
    assert copies + expected(config, side, lengths, setting) == pytest.approx(measured, rel=0.1)


class Peak(TorchDispatchMode):
    """The most bytes that are alive at once, of the storages made under this mode."""

    def __init__(self) -> None:
        super().__init__()
        self.alive: dict[int, int] = {}
        self.most = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        given_ = {x.untyped_storage()._cdata for x in tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)}
        for x in tree_leaves(out):
            if isinstance(x, torch.Tensor) and (key := x.untyped_storage()._cdata) not in given_ | self.alive.keys():
                self.alive[key] = x.untyped_storage().nbytes()
                weakref.finalize(x.untyped_storage(), self.alive.pop, key)
        self.most = max(self.most, sum(self.alive.values()))
        return out


@pytest.mark.parametrize("checkpointing", [False, True])
def test_the_peak_of_a_step_is_what_is_kept(checkpointing):
    config, side, lengths = small(6), 16, (40, 39, 20, 0)
    model = LensTransformer(config)
    for p in model.parameters():
        p.grad = torch.zeros_like(p)  # there before the step, as after the step before
    if checkpointing:
        for block in model.transformer_blocks:
            block.forward = functools.partial(checkpoint, block.forward, use_reentrant=False)
    given_ = inputs(config, side, lengths)
    with Peak() as peak:
        loss_of(model, given_).backward()
    setting = Setting(precision="fp32", device="cpu", checkpointing=checkpointing)
    assert expected(config, side, lengths, setting) == pytest.approx(peak.most, rel=0.15)


@given(st.integers(1, 10**6), st.integers(1, 10**4), st.integers(1, 10**8))
def test_the_largest_batch_fits_and_the_next_does_not(fixed, image, room):
    memory = TrainingMemory(fixed, 0, 0, 0, 0, activations=image, data=0)
    batch, free = memory.largest_batch(room), int((1 - HEADROOM) * room)
    assert batch == 0 or memory.total(batch) <= free
    assert memory.total(batch + 1) > free


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_step_on_a_gpu(precision):
    config, side, lengths = lens(12), 32, (145, 140, 120, 0) * 4
    setting = Setting(precision=precision)
    model = LensTransformer(config).cuda()
    average = copy.deepcopy(model)
    states = new_optimizer(model, Training(optimizer="adamw"))
    given_ = inputs(config, side, lengths, "cuda")
    for _ in range(2):  # the first step makes the optimizer's states
        torch.cuda.reset_peak_memory_stats()
        with torch.autocast("cuda", torch.bfloat16, enabled=precision == "bf16"):
            loss = loss_of(model, given_)
        loss.backward()
        states.step()
    assert next(average.parameters()).is_cuda  # it was there all the time
    memory = [training_memory(config, side * side, n, setting) for n in lengths]
    expected_ = memory[0].fixed + sum(m.activations + m.data for m in memory)
    assert expected_ == pytest.approx(torch.cuda.max_memory_allocated(), rel=0.15)
