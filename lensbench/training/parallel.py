"""A run in several processes as Lightning does it: every process has the whole model (DDP), or its part of it (FSDP2).

A step's loss is the mean over the images of all processes, whatever the share of each; both strategies average the
gradients of the processes, so the loss of each is multiplied by their number.

FSDP2 divides every block and what is around the blocks. With bf16, weights are gathered in bf16 and gradients added up
in fp32, within the same autocast that one process uses: the weights of the norms alone are rounded where one process
keeps them in fp32. Every process builds the whole model in its memory, twice with the average, and keeps its part.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins.environments import LightningEnvironment, SLURMEnvironment, TorchElasticEnvironment
from lightning.pytorch.plugins.io import TorchCheckpointIO
from lightning.pytorch.strategies import DDPStrategy, ModelParallelStrategy, Strategy
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor

from lensbench import ranks
from lensbench.experiment import Training
from lensbench.model.transformer import Block, LensTransformer
from lensbench.training import sharded


def trainer_options(recipe: Training) -> dict[str, Any]:
    """What Lightning's Trainer is told of the processes that have joined."""
    here = ranks.place()
    if here is None or ranks.ranks() == 1:
        # Named, because Lightning takes a single process within a Slurm job for one of srun's, and requeues it.
        return {"devices": 1, "plugins": [_Environment(), _StateFiles()]}
    environment: LightningEnvironment | TorchElasticEnvironment | SLURMEnvironment
    if here.launcher == "srun":
        # Lightning asks for what was said of the job; the processes are those of the step.
        os.environ |= {"SLURM_NTASKS_PER_NODE": str(here.local_ranks), "SLURM_NNODES": str(here.nodes)}
        environment = SLURMEnvironment(auto_requeue=False)
    else:
        environment = TorchElasticEnvironment() if TorchElasticEnvironment.detect() else _Environment()
    whole = DDPStrategy(gradient_as_bucket_view=True)
    return {
        "devices": here.local_ranks,
        "num_nodes": here.nodes,
        "strategy": _Sharded(ranks.ranks()) if recipe.strategy == "fsdp" else whole,
        "plugins": [environment, _StateFiles()],
        "use_distributed_sampler": False,  # a process's steps are its share already
    }


class _Environment(LightningEnvironment):
    """As lensbench.sweep.launch describes it, which is not over with one training."""

    def teardown(self) -> None:
        """Lightning's own takes WORLD_SIZE away."""


class _StateFiles(TorchCheckpointIO):
    """States in one file; those that several processes wrote, a folder, are read whole."""

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = None) -> dict[str, Any]:
        if Path(path).is_dir():
            return sharded.read(Path(path))
        return super().load_checkpoint(path, map_location, weights_only)


class _Sharded(ModelParallelStrategy):
    """FSDP2. A state is what it is with one process, but for its tensors, of which every process has a part.

    Lightning's own reading and writing of such states does not know optimisers of two kinds (`optimizer.Together`).
    """

    def __init__(self, processes: int) -> None:
        super().__init__(data_parallel_size=processes, tensor_parallel_size=1)

    @property
    def lightning_restore_optimizer(self) -> bool:
        return True

    def lightning_module_state_dict(self) -> dict[str, Any]:
        return Strategy.lightning_module_state_dict(self)

    def optimizer_state(self, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
        return Strategy.optimizer_state(self, optimizer)

    def load_model_state_dict(self, checkpoint: Mapping[str, Any], strict: bool = True) -> None:
        Strategy.load_model_state_dict(self, checkpoint, strict)

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        Strategy.load_optimizer_state_dict(self, checkpoint)

    def save_checkpoint(self, checkpoint: dict[str, Any], filepath: Any, storage_options: Any = None) -> None:
        sharded.write(checkpoint, Path(filepath))

    def load_checkpoint(self, checkpoint_path: Any, weights_only: bool | None = None) -> dict[str, Any]:
        return sharded.read(Path(checkpoint_path), self.device_mesh["data_parallel"])


def is_sharded(strategy: Strategy) -> bool:
    """Whether every process has its part of the weights alone."""
    return isinstance(strategy, _Sharded)


def shard(model: LensTransformer, mesh: DeviceMesh, bf16: bool) -> None:
    """Leave to this process its part of the model: the first dimension of every tensor is divided among all."""
    policy = MixedPrecisionPolicy(cast_forward_inputs=False)
    if bf16:
        policy = MixedPrecisionPolicy(torch.bfloat16, torch.float32, cast_forward_inputs=False)
    # All is parted with after a forward pass, the root too: the average is read without a backward pass between.
    for block in model.transformer_blocks:
        fully_shard(block, mesh=mesh, reshard_after_forward=True, mp_policy=policy)
    fully_shard(model, mesh=mesh, reshard_after_forward=True, mp_policy=policy)


def compile_denoiser(model: LensTransformer, recipe: Training) -> None:
    """From now on compute by torch.compile: the whole, or each block where weights are gathered between the blocks."""
    if recipe.strategy == "ddp" or ranks.ranks() == 1:
        model.compile_velocity()
        return
    for block in model.transformer_blocks:
        block.forward = torch.compile(block.forward, dynamic=True, fullgraph=True)


def freeze_unread(model: LensTransformer) -> None:
    """What never gets a gradient needs none: DDP waits for every other (see lensbench.model.transformer)."""
    last = model.transformer_blocks[-1]
    assert isinstance(last, Block)
    for part in (last.attn.to_add_out, last.txt_norm2, last.txt_mlp):
        part.requires_grad_(False)


def own(tensors: list[nn.Parameter]) -> list[Tensor]:
    """The parts of the tensors that this process has, to be changed in place; without a gradient."""
    return [tensor.to_local() if isinstance(tensor, DTensor) else tensor for tensor in tensors]


def whole_state(model: nn.Module) -> dict[str, Tensor] | None:
    """The whole weights, on the CPU, in process 0; None in the others, which must call this too."""
    state = {}
    for name, tensor in model.state_dict().items():
        whole = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
        if ranks.rank() == 0:
            state[name] = whole.cpu()
    return state if ranks.rank() == 0 else None


def whole(model: LensTransformer) -> LensTransformer | None:
    """The model with all of its weights in process 0; None in the others, which must call this too."""
    if not any(isinstance(parameter, DTensor) for parameter in model.parameters()):
        return model if ranks.rank() == 0 else None
    state = whole_state(model)
    if state is None:
        return None
    with torch.device("meta"):
        gathered = LensTransformer(model.config)
    gathered.load_state_dict(state, assign=True)
    return gathered
