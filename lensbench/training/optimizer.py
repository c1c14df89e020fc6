"""The optimiser of a recipe: AdamW, or Muon for the matrices of the blocks and AdamW for everything else.

Muon (Jordan et al. 2024, https://kellerjordan.github.io/posts/muon/) makes the update of a matrix nearly orthogonal. At
the sizes of the demo it learns in half of AdamW's steps (LOG.md).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.optim import AdamW, Muon, Optimizer

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
    return Together(adamw, Muon(by_muon, lr=recipe.muon_learning_rate, weight_decay=recipe.weight_decay))


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
