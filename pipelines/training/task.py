"""What is trained: the contract between the loop and a job."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray
    from torch import nn

    from featurebank.pipelines.training.phase import Phase

__all__ = ["Batch", "Task", "TrainingError"]


class TrainingError(ValueError):
    """Training cannot go on, or not go on from there."""


@dataclass(kw_only=True)
class Batch:
    """Rows on their way through the network.

    Attributes:
        rows: (B,) their numbers, for messages.
        inputs: (B, …) what the network takes.
        targets: what the loss compares with, (B, …); or one per row.
    """

    rows: NDArray[np.int64]
    inputs: Any
    targets: Any

    def __len__(self) -> int:
        return len(self.rows)

    def part(self, start: int, stop: int) -> Batch:
        """Some of its rows."""
        own = slice(start, stop)
        return Batch(rows=self.rows[own], inputs=self.inputs[own], targets=self.targets[own])


class Task(Protocol):
    """A network, its rows and what is asked of it; everything random in it is a function of seed, epoch and row."""

    model: nn.Module
    """Called with a batch's inputs."""
    n_rows: int
    """That are trained on."""

    def groups(self, phase: Phase) -> list[dict[str, Any]]:
        """Parameter groups for an optimiser, each with its real ``lr`` at the phase's full rate."""
        ...

    def batches(self, epoch: int, windows: Sequence[NDArray[np.int64]], first_step: int) -> Iterator[Batch]:
        """The batch of each window, in order; ``first_step`` is the number of the first in the whole run."""
        ...

    def losses(self, model: nn.Module, batch: Batch) -> torch.Tensor:
        """(B,) the loss of each row, with gradients, of a batch that is on the model's device."""
        ...

    def validate(self, model: nn.Module) -> Mapping[str, float]:
        """Metrics on the validation rows, the first higher for better networks; none to take the last weights."""
        ...
