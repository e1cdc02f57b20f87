"""Several processes that train one network, as ``torchrun`` starts them; one process is a group of one."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

__all__ = ["gathered", "is_first", "rank", "started", "together", "wait", "world"]


def world() -> int:
    """How many processes train together."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    """The number of this process among them."""
    return dist.get_rank() if dist.is_initialized() else 0


def is_first() -> bool:
    """Whether this process writes files and talks."""
    return rank() == 0


@contextmanager
def started(device: str) -> Iterator[str]:
    """Joins the group that ``torchrun`` describes in the environment, if any; yields this process's device."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 or dist.is_initialized():
        yield device
        return
    cuda = device.startswith("cuda")
    own = f"cuda:{os.environ.get('LOCAL_RANK', '0')}" if cuda else device
    if cuda:
        torch.cuda.set_device(own)
    dist.init_process_group("nccl" if cuda else "gloo")
    try:
        yield own
    finally:
        dist.destroy_process_group()


def together(model: nn.Module) -> nn.Module:
    """The model with its gradients averaged over the processes; itself where there is one."""
    if world() == 1:
        return model
    return nn.parallel.DistributedDataParallel(model, broadcast_buffers=False)


def gathered(values: Any) -> list[Any]:
    """What every process has, in the order of their ranks, in every process."""
    if world() == 1:
        return [values]
    every: list[Any] = [None] * world()
    dist.all_gather_object(every, values)
    return every


def wait() -> None:
    """Until all processes are here."""
    if world() > 1:
        dist.barrier()
