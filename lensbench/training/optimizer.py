"""The optimiser of a recipe: AdamW, or Muon for the matrices of the blocks and AdamW for everything else.

Muon (Jordan et al. 2024, https://kellerjordan.github.io/posts/muon/) makes the update of a matrix nearly orthogonal. At
the sizes of the demo it learns in half of AdamW's steps (LOG.md).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.optim import AdamW, Muon, Optimizer
from torch.optim._muon import _adjust_lr, _zeropower_via_newtonschulz

from lensbench.experiment import Training


def new_optimizer(denoiser: nn.Module, recipe: Training, depth: int) -> Optimizer:
    """The optimiser of all parameters of `denoiser`, of `depth` blocks, as `recipe` says.

    With `recipe.rate_depth`, AdamW's rate of matrices falls as one over the width, which is 32 x depth (Yang et al.
    2022, arXiv 2203.03466, table 8); vectors keep theirs, and so does Muon, whose updates have one size at any width.
    """
    named = list(denoiser.named_parameters())
    block_matrices = [p for name, p in named if p.ndim > 1 and name.startswith("transformer_blocks.")]
    by_muon = block_matrices if recipe.optimizer == "muon" else []
    taken = {id(p) for p in by_muon}
    matrices = [p for _, p in named if p.ndim > 1 and id(p) not in taken]
    others = [p for _, p in named if p.ndim <= 1]
    rate = recipe.learning_rate * (recipe.rate_depth / depth if recipe.rate_depth else 1.0)
    groups = [
        {"params": matrices, "weight_decay": recipe.weight_decay, "lr": rate},
        {"params": others, "weight_decay": 0.0},
    ]
    adamw = AdamW(groups, lr=recipe.learning_rate, betas=recipe.betas, fused=True)
    if not by_muon:
        return adamw
    kind = ShardedMuon if isinstance(by_muon[0], DTensor) else Muon
    return Together(adamw, kind(by_muon, lr=recipe.muon_learning_rate, weight_decay=recipe.weight_decay))


class ShardedMuon(Muon):
    """Muon on matrices of which every process has some rows, to the bit as on whole ones.

    The momentum is divided as the weights are. What is made orthogonal is gathered first, one matrix at a time, and
    every process computes all of it: torch's own, given such matrices, works on the parts and adds them up in bfloat16.
    """

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step; `closure` is for what calls optimisers with one, and is not called."""
        assert closure is None
        for group in self.param_groups:
            rate, momentum = float(group["lr"]), group["momentum"]
            parameters: list[Any] = []
            gradients: list[Any] = []
            buffers: list[Any] = []
            self._init_group(group, parameters, gradients, buffers)
            for parameter, gradient, buffer in zip(parameters, gradients, buffers, strict=True):
                buffer.lerp_(gradient, 1 - momentum)
                update = gradient.lerp(buffer, momentum) if group["nesterov"] else buffer
                update = _zeropower_via_newtonschulz(
                    update.full_tensor(), group["ns_coefficients"], group["ns_steps"], group["eps"]
                )
                update = distribute_tensor(update, parameter.device_mesh, parameter.placements, src_data_rank=None)
                parameter.mul_(1 - rate * group["weight_decay"])
                parameter.add_(update, alpha=-_adjust_lr(rate, group["adjust_lr_fn"], parameter.shape))
        return None


class Together(Optimizer):
    """Several optimisers as one, for schedulers and trainers that take one: their groups, stepped in turn."""

    def __init__(self, *optimizers: Optimizer) -> None:
        self.optimizers = optimizers
        # The groups are the same dicts: a rate that a scheduler sets here is set there.
        super().__init__([group for optimizer in optimizers for group in optimizer.param_groups], {})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step of each; `closure` (which computes the gradients) is called once, before them."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for optimizer in self.optimizers:
            optimizer.step()
        return loss

    def state_dict(self) -> dict[str, Any]:
        """The state of each, in order."""
        return {"optimizers": [optimizer.state_dict() for optimizer in self.optimizers]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up the states of `state_dict()`."""
        for optimizer, state in zip(self.optimizers, state_dict["optimizers"], strict=True):
            optimizer.load_state_dict(state)
        self.param_groups = [group for optimizer in self.optimizers for group in optimizer.param_groups]
