"""The state of a run of which every process has a part: written by all, read by any number of processes.

A state is Lightning's checkpoint: dicts and lists with tensors. On disk it is a folder: the divided tensors as
torch.distributed.checkpoint keeps them, under their places in the state, and `state.pt` with everything else, the
shapes of the divided tensors in their stead.
"""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.distributed import checkpoint as dcp
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Shard, distribute_tensor

from lensbench import ranks

REST = "state.pt"
DIVIDED = "divided"  # the key of a dict that stands for a tensor: its place, shape and type
OF_WEIGHTS = ("state_dict", "optimizer_states")  # where a state has tensors that are divided as the weights are


def write(state: dict[str, Any], folder: Path) -> None:
    """Write a state to a folder. Every process calls this; raises OSError in all of them when one cannot write."""
    if ranks.rank() == 0:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
    ranks.wait_for_all()
    tensors: dict[str, Tensor] = {}

    def take_out(place: str, tensor: Tensor) -> Any:
        if not isinstance(tensor, DTensor):
            return tensor
        tensors[place] = tensor
        return {DIVIDED: place, "shape": list(tensor.shape), "dtype": tensor.dtype}

    rest = _mapped(state, take_out)
    try:
        dcp.save(tensors, storage_writer=dcp.FileSystemWriter(folder))
    except dcp.CheckpointException as error:
        raise _as_os_error(error, folder) from error
    if ranks.rank() == 0:
        torch.save(rest, folder / REST)


def read(path: Path, mesh: DeviceMesh | None = None) -> dict[str, Any]:
    """The state of a folder, or of a file that one process wrote: whole, or this process's part on the mesh.

    With a mesh every process calls this.
    """
    if not path.is_dir():
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        assert mesh is not None, "a whole state in one file is Lightning's own to read"
        parts = {name: _mapped(state[name], lambda _, tensor: _divided(tensor, mesh)) for name in OF_WEIGHTS}
        return state | parts
    rest = torch.load(path / REST, map_location="cpu", weights_only=True)
    tensors: dict[str, Tensor] = {}

    def put_in(said: dict[str, Any]) -> Tensor:
        place, shape, dtype = said[DIVIDED], said["shape"], said["dtype"]
        if mesh is None:
            tensors[place] = torch.empty(shape, dtype=dtype)
        else:
            tensors[place] = torch.distributed.tensor.zeros(shape, dtype=dtype, device_mesh=mesh, placements=[Shard(0)])
        return tensors[place]

    state = _mapped(rest, lambda _, tensor: tensor, put_in)
    with warnings.catch_warnings(action="ignore"):  # without a mesh each process reads for itself, and is warned of it
        dcp.load(tensors, storage_reader=dcp.FileSystemReader(path), no_dist=mesh is None)
    return dict(state)


def _divided(tensor: Tensor, mesh: DeviceMesh) -> Tensor:
    if tensor.ndim == 0:  # how many steps AdamW has made
        return tensor
    return distribute_tensor(tensor.to(mesh.device_type), mesh, [Shard(0)], src_data_rank=None)


def _mapped(
    tree: Any,
    of_tensor: Callable[[str, Tensor], Any],
    of_divided: Callable[[dict[str, Any]], Any] | None = None,
    place: str = "",
) -> Any:
    """A tree with its tensors, and what stands for them, replaced."""
    if isinstance(tree, Tensor):
        return of_tensor(place, tree)
    if isinstance(tree, dict):
        if of_divided is not None and DIVIDED in tree:
            return of_divided(tree)
        return type(tree)((key, _mapped(value, of_tensor, of_divided, f"{place}/{key}")) for key, value in tree.items())
    if type(tree) in (list, tuple):
        return type(tree)(_mapped(value, of_tensor, of_divided, f"{place}/{n}") for n, value in enumerate(tree))
    return tree


def _as_os_error(error: dcp.CheckpointException, folder: Path) -> OSError:
    for cause, _ in error.failures.values():
        if isinstance(cause, OSError):
            return OSError(cause.errno, cause.strerror or str(cause), str(folder))
    rank, (cause, _) = next(iter(error.failures.items()))
    return OSError(f"process {rank} cannot write {folder}: {' '.join(str(cause).split())}")
