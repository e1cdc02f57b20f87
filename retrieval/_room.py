"""What a GPU has room for, and features that stay there.

Shapes: N rows, D features.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from featurebank.retrieval._features import BLOCK_VALUES

if TYPE_CHECKING:
    import torch


def room(device: torch.device, *, on_cpu: int) -> int:
    """Bytes that may be kept on a device: half of what a GPU has free now, so that the rest is left to the arithmetic.

    Args:
        device: of torch.
        on_cpu: the answer for all that is no GPU.
    """
    if device.type != "cuda":
        return on_cpu
    import torch

    cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return int(torch.cuda.mem_get_info(device)[0] + cached) // 2


def held_on(device: torch.device, features: NDArray[Any], *, memory: int | None = None) -> torch.Tensor | None:
    """Features (N, …) on a GPU, in the dtype that they come in; None on a CPU and where there is no room for them.

    Args:
        device: of torch.
        features: (N, …), a memory map included.
        memory: bytes that they may take; `room` if None.
    """
    if device.type != "cuda" or features.nbytes > (room(device, on_cpu=0) if memory is None else memory):
        return None
    import torch

    dtype = torch.from_numpy(np.empty(0, features.dtype)).dtype
    held = torch.empty(features.shape, dtype=dtype, device=device)
    step = max(1, BLOCK_VALUES // features[0].size)
    for start in range(0, len(features), step):
        held[start : start + step] = as_they_come(features, slice(start, start + step)).to(device)
    return held


def as_they_come(features: NDArray[Any], rows: slice) -> torch.Tensor:
    """A fresh copy of rows, in their own dtype."""
    import torch

    return torch.from_numpy(np.array(features[rows], order="C"))
