"""One model in several processes: each holds a share of every weight, which come together layer by layer in a forward pass. Knows
torch's process groups and how they add up, nothing of rows and steps.

torch's own `fully_shard` is called, which is what accelerate calls for FSDP: accelerate does so on GPUs only (its MULTI_CPU is
plain data parallelism), and what two processes on a CPU show is to be what GPUs run.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from headrace_trainer.model import head
from headrace_trainer.model.targets import AdapterInvalid


class Ranks(NamedTuple):
    """Which of the processes of a run this one is (`rank` from 0), and of how many. Every one of them must call the same methods
    in the same order."""

    rank: int = 0
    size: int = 1

    @property
    def first(self) -> bool:
        """The one that tells and writes."""
        return self.rank == 0

    def sums(self, values: Sequence[float]) -> list[float]:
        """Of each value its sum over all processes, the same in each."""
        if self.size == 1:
            return list(values)
        tensor = torch.tensor(values, dtype=torch.float64, device=_device())
        dist.all_reduce(tensor)
        return [float(value) for value in tensor.tolist()]

    def agree(self, here: bool) -> bool:
        """What the first process says."""
        return self.sums([float(here and self.first)])[0] > 0

    def all_of(self, value: Any) -> list[Any]:
        """What each process has, by rank."""
        if self.size == 1:
            return [value]
        values = [None] * self.size
        dist.all_gather_object(values, value)
        return values


ALONE = Ranks()


def _device() -> str:
    return f"cuda:{torch.cuda.current_device()}" if dist.get_backend() == "nccl" else "cpu"


def shard(wrapped: Any, ranks: Ranks, device: str) -> None:
    """Leaves of a PeftModel on the CPU this process's share of every weight, on `device`. After it `head.token_losses` is its
    only forward. AdapterInvalid for what would be wrong in pieces."""
    causal = head.causal_of(wrapped)
    if any(config.target_parameters for config in wrapped.peft_config.values()):
        raise AdapterInvalid(f"processes = {ranks.size}: experts are trained in one process; leave them out of target_modules")
    head.find_way(causal)  # by whole weights, on a few tokens
    mesh = init_device_mesh(device.split(":")[0], (ranks.size,))
    layers = set(causal._no_split_modules or ())
    for module in [module for module in wrapped.modules() if type(module).__name__ in layers]:
        fully_shard(module, mesh=mesh)
    wrapped.forward = partial(head.losses_of, wrapped)
    fully_shard(wrapped, mesh=mesh)


def whole(tensor: Tensor) -> Tensor:
    """The tensor of which this may be a share; every process must ask for it."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def for_file(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Whole tensors on the CPU; every process must ask for them."""
    return {name: whole(tensor.detach()).contiguous().cpu() for name, tensor in tensors.items()}


def as_part_of(tensor: Tensor, other: Tensor) -> Tensor:
    """A whole tensor in the shares and on the device of `other`."""
    if not isinstance(other, DTensor):
        return tensor.to(other.device)
    return distribute_tensor(tensor.to(other.device), other.device_mesh, other.placements, src_data_rank=None)
