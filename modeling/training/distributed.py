"""The ranks of a run, as torchrun starts them; a process of its own is rank 0 of 1."""

from __future__ import annotations

import atexit
import gc
import os
import sys
import traceback
from dataclasses import dataclass

import torch
import torch.distributed as dist
import torch.distributed.nn.functional  # before there is a group: it keeps the one of its import as a default for ever
from torch import Tensor

__all__ = ["Ranks", "join_ranks", "local_rank", "under_torchrun"]


@dataclass(frozen=True)
class Ranks:
    """This process among those that train together.

    Attributes:
        rank: its number, from 0.
        world: how many there are.
    """

    rank: int = 0
    world: int = 1

    @property
    def first(self) -> bool:
        return self.rank == 0

    def share(self, items: int) -> range:
        """This rank's part of `items` things: contiguous; parts differ in size by at most one."""
        return range(items * self.rank // self.world, items * (self.rank + 1) // self.world)

    def sum(self, values: Tensor, device: torch.device) -> Tensor:
        """The sum over all ranks of a tensor on the CPU, by way of `device`."""
        if self.world == 1:
            return values
        values = values.to(device)
        dist.all_reduce(values)
        return values.cpu()

    def any(self, *flags: bool) -> list[bool]:
        """For each flag whether it is set on any rank. Asked through the CPU, so that no GPU is waited for."""
        return self.sum(torch.tensor(flags, dtype=torch.float32), torch.device("cpu")).bool().tolist()

    def barrier(self) -> None:
        """Wait for all ranks."""
        if self.world > 1:
            dist.barrier()


def under_torchrun() -> bool:
    """Whether torchrun started this process."""
    return "TORCHELASTIC_RUN_ID" in os.environ


def local_rank() -> int:
    """This process's number among the ranks of this machine, which is that of its GPU."""
    return int(os.environ.get("LOCAL_RANK", 0))


def join_ranks(device: torch.device) -> Ranks:
    """Join the ranks that torchrun announces in the environment (WORLD_SIZE, RANK, …); a process leaves as it exits."""
    if int(os.environ.get("WORLD_SIZE", 1)) == 1:
        return Ranks()
    if device.type == "cuda":
        torch.cuda.set_device(device)
    dist.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo")
    atexit.register(leave_ranks)
    return Ranks(dist.get_rank(), dist.get_world_size())


def leave_ranks() -> None:
    """Free what trained with the group, then the group.

    A group of gloo, once nothing refers to it, waits for its threads, and these wait for the interpreter's lock to free
    the tensors of their last work. Python gives that lock up where it frees a group. The reducer of DDP does not: if it
    were the last to refer to one, the rank would not end, or be aborted with the interpreter (pytorch/pytorch#56297).
    """
    if failed := getattr(sys, "last_traceback", None):  # its frames hold the model
        traceback.clear_frames(failed)
    gc.collect()
    dist.destroy_process_group()
