"""Several processes that train one network, as ``torchrun`` starts them; one process is a group of one."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.rendezvous import rendezvous

__all__ = ["apart", "as_the_first", "gathered", "is_first", "rank", "shared", "started", "together", "wait", "world"]

PATIENCE = timedelta(days=7)
"""Of processes that wait while the first extracts; one that is gone is noticed at once."""


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
    """Joins the group that ``torchrun`` describes in the environment, if any; yields this process's device.

    Raises:
        SystemExit: the work within failed after that of another process, whose error is the one to be read.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 or dist.is_initialized():
        yield device
        return
    cuda = device.startswith("cuda")
    own = f"cuda:{os.environ.get('LOCAL_RANK', '0')}" if cuda else device
    if cuda:
        torch.cuda.set_device(own)
    store, own_rank, size = next(iter(rendezvous("env://")))
    backend = "nccl" if cuda else "gloo"
    dist.init_process_group(backend, store=store, rank=own_rank, world_size=size, timeout=PATIENCE)
    try:
        yield own
    except BaseException as error:
        # The group is left as it is: what others wait for will not come, and the end of this process ends their wait.
        if _failed_before(store):
            raise SystemExit(1) from error
        raise
    dist.destroy_process_group()


def _failed_before(store: Any) -> bool:
    """Whether another process of the group failed already; one whose store is gone with it did."""
    try:
        return bool(store.add("failed", 1) > 1)
    except RuntimeError:
        return True


def together(model: nn.Module) -> nn.Module:
    """The model with its gradients averaged over the processes; itself where there is one."""
    if world() == 1:
        return model
    return nn.parallel.DistributedDataParallel(model)


def as_the_first(model: nn.Module) -> None:
    """Buffers, such as the statistics of batch norms, become those of the first process: its are kept."""
    for buffer in model.buffers() if world() > 1 else ():
        dist.broadcast(buffer, src=0)


def apart(model: nn.Module) -> AbstractContextManager[object]:
    """Within it, gradients are not averaged, so that processes may go backward in different numbers of parts."""
    return model.no_sync() if isinstance(model, nn.parallel.DistributedDataParallel) else nullcontext()


def gathered(values: Any) -> list[Any]:
    """What every process has, in the order of their ranks, in every process."""
    if world() == 1:
        return [values]
    every: list[Any] = [None] * world()
    dist.all_gather_object(every, values)
    return every


def shared(value: Any) -> Any:
    """What the first process has, in every process: decided once, though files may change while others look at them."""
    if world() == 1:
        return value
    first = [value]
    dist.broadcast_object_list(first, src=0)
    return first[0]


def wait() -> None:
    """Until all processes are here."""
    if world() > 1:
        dist.barrier()
