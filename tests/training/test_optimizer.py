"""The optimiser: every parameter once, each by the rule the recipe says, and resumable."""

import copy

import pytest
import torch
from torch.optim import AdamW, Muon

from lensbench.experiment import Training
from lensbench.model.sizes import lens
from lensbench.model.transformer import LensTransformer
from lensbench.training.optimizer import Together, new_optimizer


def denoiser() -> LensTransformer:
    torch.manual_seed(0)
    return LensTransformer(
        lens(1, in_channels=12, out_channels=3, patch_size=2, enc_hidden_dim=8, selected_layer_index=(0,))
    )


def with_gradients(model: LensTransformer, seed: int = 0) -> LensTransformer:
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=generator)
    return model


@pytest.mark.parametrize("kind", ["adamw", "muon"])
def test_every_parameter_is_stepped_once(kind: str) -> None:
    model = with_gradients(denoiser())
    optimizer = new_optimizer(model, Training(optimizer=kind), 1)
    stepped = [id(p) for group in optimizer.param_groups for p in group["params"]]
    assert sorted(stepped) == sorted(id(p) for p in model.parameters())
    before = copy.deepcopy(model.state_dict())
    optimizer.step()
    assert all(not torch.equal(before[name], p) for name, p in model.named_parameters())


def test_muon_takes_the_matrices_of_the_blocks_and_moves_them_as_it_does_alone() -> None:
    model, alone = with_gradients(denoiser()), with_gradients(denoiser())
    optimizer = new_optimizer(model, Training(optimizer="muon", muon_learning_rate=0.1), 1)
    optimizer.step()
    names = [name for name, p in alone.named_parameters() if "transformer_blocks" in name and p.ndim == 2]
    own = dict(alone.named_parameters())
    Muon([own[name] for name in names], lr=0.1, weight_decay=0.0).step()
    assert "transformer_blocks.0.attn.img_qkv.weight" in names
    for name in names:
        assert torch.equal(dict(model.named_parameters())[name], own[name])
    assert not torch.equal(model.img_in.weight, alone.img_in.weight)


def test_a_scheduler_reaches_both_rates() -> None:
    model = with_gradients(denoiser())
    optimizer = new_optimizer(model, Training(optimizer="muon", learning_rate=0.01, muon_learning_rate=0.1), 1)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.0 if step else 1.0)
    assert isinstance(optimizer, Together)
    assert {group["lr"] for part in optimizer.optimizers for group in part.param_groups} == {0.01, 0.1}
    optimizer.step()
    scheduler.step()
    before = copy.deepcopy(model.state_dict())
    optimizer.step()
    assert all(torch.equal(before[name], p) for name, p in model.named_parameters())


def test_saved_and_loaded_it_goes_on_the_same_way() -> None:
    recipe = Training(optimizer="muon")
    model = denoiser()
    optimizer = new_optimizer(model, recipe, 1)
    with_gradients(model, 1)
    optimizer.step()
    again = copy.deepcopy(model)
    resumed = new_optimizer(again, recipe, 1)
    resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for m, o in ((model, optimizer), (again, resumed)):
        with_gradients(m, 2)
        for group in o.param_groups:
            group["lr"] = group["lr"] / 2
        o.step()
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), again.parameters(), strict=True))


def test_without_muon_it_is_plain_adamw() -> None:
    assert type(new_optimizer(denoiser(), Training(optimizer="adamw"), 1)) is AdamW


def test_matrices_learn_slower_in_wider_models_and_vectors_and_muon_do_not() -> None:
    model = denoiser()
    for kind in ("adamw", "muon"):
        recipe = Training(optimizer=kind, learning_rate=0.01, muon_learning_rate=0.05, rate_depth=2)
        rates = {id(p): group["lr"] for group in new_optimizer(model, recipe, 8).param_groups for p in group["params"]}
        for name, parameter in model.named_parameters():
            by_muon = kind == "muon" and parameter.ndim > 1 and name.startswith("transformer_blocks.")
            expected = 0.05 if by_muon else 0.0025 if parameter.ndim > 1 else 0.01
            assert rates[id(parameter)] == pytest.approx(expected), name
