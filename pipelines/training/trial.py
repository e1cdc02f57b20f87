"""In which precision and memory layout a network is trained: whatever a trial of a few steps finds fastest."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

__all__ = ["Numerics", "tried"]

Precision = Literal["float32", "bfloat16"]


@dataclass(frozen=True, kw_only=True)
class Numerics:
    """How the arithmetic is done.

    Attributes:
        device: of torch.
        precision: of the forward pass under autocast; weights and updates are float32.
        channels_last: whether weights and images lie with their channels last.
        micro: rows at once, at most; a batch of more is accumulated.
    """

    device: str = "cpu"
    precision: Precision = "float32"
    channels_last: bool = False
    micro: int = 1 << 30

    def autocast(self) -> AbstractContextManager[object]:
        """What a forward pass runs in."""
        if self.precision == "float32":
            return nullcontext()
        return torch.autocast(torch.device(self.device).type, dtype=torch.bfloat16)

    def laid_out(self, inputs: torch.Tensor) -> torch.Tensor:
        """Inputs on the device, in the layout of the weights."""
        format_ = torch.channels_last if self.channels_last and inputs.ndim == 4 else torch.contiguous_format
        return inputs.to(self.device, non_blocking=True, memory_format=format_)


def tried(
    step: Callable[[Numerics], None],
    candidates: Sequence[Numerics],
    *,
    steps: int = 3,
    clock: Callable[[], float] = time.perf_counter,
) -> tuple[Numerics, dict[str, float]]:
    """The fastest of some numerics, and the seconds of a step of each.

    Rounds alternate, so that a busy machine slows all of them; the best step of each counts. One that fails is out.

    Args:
        step: does one training step that leaves no trace.
        candidates: at least one; the first is taken where all are as fast.
        steps: of each, after one that does not count.
        clock: in seconds.
    """
    best: dict[Numerics, float] = {}
    failed: set[Numerics] = set()
    for number in range(steps + 1):
        for one in candidates:
            if one in failed:
                continue
            start = clock()
            try:
                step(one)
            except (RuntimeError, NotImplementedError):
                failed.add(one)
                best.pop(one, None)
                continue
            if one.device.startswith("cuda"):
                torch.cuda.synchronize()
            if number:
                best[one] = min(clock() - start, best.get(one, float("inf")))
    if not best:
        step(candidates[0])  # says why
        return candidates[0], {}
    fastest = min(best, key=lambda one: best[one])
    return fastest, {_called(one): round(seconds, 4) for one, seconds in best.items()}


def _called(one: Numerics) -> str:
    return f"{one.precision}, channels {'last' if one.channels_last else 'first'}"


def put(model: nn.Module, numerics: Numerics) -> nn.Module:
    """The model on the device, in its layout."""
    layout = torch.channels_last if numerics.channels_last else torch.contiguous_format
    placed: nn.Module = model.to(device=numerics.device, memory_format=layout)  # type: ignore[call-overload]
    return placed
