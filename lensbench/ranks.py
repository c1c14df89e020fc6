"""One run in several processes: which of them this one is, and what little they tell each other.

torchrun, srun or lensbench itself (lensbench.sweep.launch) starts them. Each must see the same files. A group of
processes moves tensors on the GPU by NCCL and everything else by gloo; without a GPU all of it by gloo. NCCL itself has
not been tried by the tests, which have no GPU.
"""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

if TYPE_CHECKING:
    import torch

    from lensbench.experiment import Training

T = TypeVar("T")
_store: list[Any] = []  # where the processes of the run have met
MEETING = timedelta(minutes=30)  # for all to start, as torch has it
PATIENCE = timedelta(hours=1)  # of the others while one writes a state or draws samples
BY_LENSBENCH = "LENSBENCH_RANKS"  # set for the processes that lensbench.sweep.launch starts
LISTENING = "LENSBENCH_LISTENING"  # set for the first of them: the descriptor of the socket at which they meet


class PeerLostError(OSError):
    """Another process of this run has ended before its time."""


class Place(NamedTuple):
    """Which process this is: `rank` of `ranks`, and `local_rank` of `local_ranks` on its machine."""

    rank: int
    ranks: int
    local_rank: int
    local_ranks: int
    launcher: str  # torchrun, srun or lensbench

    @property
    def nodes(self) -> int:
        """Machines that take part."""
        return self.ranks // self.local_ranks


def place() -> Place | None:
    """The place that a launcher gave this process; None for one that runs alone."""
    given = os.environ
    if "RANK" in given and "LOCAL_WORLD_SIZE" in given:
        launcher = "lensbench" if BY_LENSBENCH in given else "torchrun"
        names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
    elif int(given.get("SLURM_STEP_NUM_TASKS", "1")) > 1:  # of a step: a batch script is none
        launcher, nodes = "srun", int(given["SLURM_STEP_NUM_NODES"])
        tasks = int(given["SLURM_STEP_NUM_TASKS"])
        if tasks % nodes:
            raise ValueError(f"srun started {tasks} processes on {nodes} machines: start as many on each")
        return Place(int(given["SLURM_PROCID"]), tasks, int(given["SLURM_LOCALID"]), tasks // nodes, launcher)
    else:
        return None
    rank, ranks, local_rank, local_ranks = (int(given[name]) for name in names)
    found = Place(rank, ranks, local_rank, local_ranks, launcher)
    return found if found.ranks > 1 or launcher == "torchrun" else None


def to_start(training: Training) -> int:
    """How many processes lensbench has to start for this recipe; 0 when it runs in those that are there.

    Raises ValueError when a launcher has started another number of them on this machine than the recipe says.
    """
    here = place()
    if here is None:
        return training.devices if training.devices > 1 else 0
    if training.devices not in (1, here.local_ranks):
        raise ValueError(
            f"training.devices={training.devices}, but {here.launcher} started {here.local_ranks} process(es) on this "
            f"machine: start {training.devices}, or leave the field out"
        )
    return 0


@contextmanager
def joined() -> Iterator[None]:
    """Be one of the run's processes in the block, together with all others; alone, or within such a block, nothing.

    Raises ValueError where this process has no GPU of its own on a machine with GPUs.
    """
    import torch
    from torch import distributed

    here = place()
    if here is None or here.ranks == 1 or distributed.is_initialized():
        yield
        return
    gpus = torch.cuda.device_count()
    if gpus:
        if gpus < here.local_ranks:
            raise ValueError(
                f"{here.local_ranks} processes on a machine, but this one sees {gpus} GPU(s): start one process a "
                "GPU, each of which may see all of them (with srun: --gpus-per-node, not --gpus-per-task)"
            )
        torch.cuda.set_device(here.local_rank)
    if here.launcher == "srun":
        _name_the_first()
    _store.append(_meeting(here))
    distributed.init_process_group(
        "cpu:gloo,cuda:nccl" if gpus else "gloo",
        store=_store[-1],
        rank=here.rank,
        world_size=here.ranks,
        timeout=PATIENCE,
    )
    yield
    leave()  # not after an error: others may be gone, or wait for what will not come


@contextmanager
def meeting_point() -> Iterator[tuple[socket.socket, int]]:
    """A socket at which processes of this machine can meet, and its port: the first must inherit its descriptor.

    Nobody else can take the port, as they could a free one that is told and bound later.
    """
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield listener, int(listener.getsockname()[1])


def environment(rank: int, ranks: int, listener: socket.socket, port: int) -> dict[str, str]:
    """What tells a process of this machine its place, and where the others are."""
    first = {LISTENING: str(listener.fileno())} if rank == 0 else {}
    return first | {
        BY_LENSBENCH: str(ranks),
        "RANK": str(rank),
        "WORLD_SIZE": str(ranks),
        "LOCAL_RANK": str(rank),
        "LOCAL_WORLD_SIZE": str(ranks),
        "NODE_RANK": "0",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }


def _meeting(here: Place) -> Any:
    """The store at which the processes of the run meet."""
    from torch import distributed

    if LISTENING not in os.environ:
        store, *_ = next(distributed.rendezvous("env://", here.rank, here.ranks))
        return store
    address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    own = int(os.environ.pop(LISTENING))  # no child of this process inherits the socket
    return distributed.TCPStore(address, port, here.ranks, is_master=True, timeout=MEETING, master_listen_fd=own)


def _name_the_first() -> None:
    """Slurm gives no address to meet at: as Lightning finds it, from the job's nodes and its number."""
    from lightning.fabric.plugins.environments import SLURMEnvironment

    job = int(os.environ["SLURM_JOB_ID"])
    os.environ.setdefault("MASTER_ADDR", SLURMEnvironment.resolve_root_node_address(os.environ["SLURM_STEP_NODELIST"]))
    os.environ.setdefault("MASTER_PORT", str(15000 + job % 10000))


def leave() -> None:
    """Part from the other processes, all at the same time."""
    from torch import distributed

    if distributed.is_initialized():
        distributed.barrier()
        distributed.destroy_process_group()


def rank() -> int:
    """The number of this process among those that have joined; 0 alone."""
    from torch import distributed

    return distributed.get_rank() if distributed.is_initialized() else 0


def ranks() -> int:
    """How many processes have joined; 1 alone."""
    from torch import distributed

    return distributed.get_world_size() if distributed.is_initialized() else 1


def summed(numbers: torch.Tensor) -> torch.Tensor:
    """The sum of a tensor of all processes, in every one."""
    from torch import distributed

    if ranks() > 1:
        distributed.all_reduce(numbers)
    return numbers


def highest(*numbers: int) -> list[int]:
    """The largest of each number in any process, in every one; no GPU is waited for."""
    import torch
    from torch import distributed

    if ranks() == 1:
        return list(numbers)
    agreed = torch.tensor(numbers)
    distributed.all_reduce(agreed, op=distributed.ReduceOp.MAX)
    return [int(number) for number in agreed]


def told(value: T) -> T:
    """The value of process 0, in every one."""
    from torch import distributed

    if ranks() == 1:
        return value
    carried: list[Any] = [value]
    distributed.broadcast_object_list(carried, src=0, device=_cpu())
    return carried[0]


def _cpu() -> torch.device:
    import torch

    return torch.device("cpu")


def wait_for_all() -> None:
    """Return when every process has come here."""
    highest(0)


def first_to_fail() -> bool:
    """Whether no other process has asked this before: one line says why a run has ended, not one a process."""
    if not _store:
        return True
    try:
        return bool(_store[0].add("lensbench/failed", 1) == 1)
    except RuntimeError:  # whoever kept the store is gone
        return False


@contextmanager
def peers_watched() -> Iterator[None]:
    """What torch raises when another process is gone becomes PeerLostError, in one line."""
    try:
        yield
    except RuntimeError as error:
        if ranks() == 1 or not _of_a_lost_peer(error):
            raise
        raise PeerLostError(
            f"another process of this run has ended before its time, so process {rank()} of {ranks()} ends too"
        ) from error


def _of_a_lost_peer(error: RuntimeError) -> bool:
    import torch

    if isinstance(error, torch.distributed.DistError):
        return True
    text = str(error)
    return any(
        words in text for words in ("onnection closed by peer", "onnection reset by peer", "Broken pipe", "gloo")
    )


def cause_of_death(code: int) -> str:
    """An exit code for people: `exit code 1`, `SIGKILL`."""
    return f"exit code {code}" if code >= 0 else signal.Signals(-code).name
