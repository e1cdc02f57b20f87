"""Learning from maps as a task of the trainer, and looking at every row afterwards.

Shapes: B rows of a batch, N rows.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from featurebank.pipelines.jobs.trunk import Trunk, parameter_groups
from featurebank.pipelines.training import ranks
from featurebank.pipelines.training.task import Batch

if TYPE_CHECKING:
    from torch import nn

    from featurebank.pipelines.jobs.maps.levels import Maps
    from featurebank.pipelines.training.order import Repeats
    from featurebank.pipelines.training.phase import Phase
    from featurebank.pipelines.training.trial import Numerics

__all__ = ["MapTask", "Seen", "of_each_row"]

AT_ONCE = 8


class Images(Protocol):
    """Rows of images with what they show, by the places of an epoch; evaluation is epoch -1."""

    def __len__(self) -> int: ...

    @property
    def repeats(self) -> Repeats:
        """How often an epoch sees each row."""
        ...

    def row(self, epoch: int, place: int) -> int:
        """The row that an epoch sees at a place."""
        ...

    def batches(self, epoch: int, windows: Sequence[NDArray[np.int64]]) -> Iterator[torch.Tensor | Maps]:
        """Images or maps of each window of places."""
        ...

    def truth(self, epoch: int, window: NDArray[np.int64]) -> Any:
        """What the places of a window show."""
        ...


Seen = TypeVar("Seen", bound=Images)
Judged = TypeVar("Judged")


class MapTask(ABC, Generic[Seen]):
    """A `featurebank.pipelines.training.task.Task`.

    Args:
        model: what learns.
        train: what it is trained on.
        validation: what is chosen by; without any, the last epoch's weights are taken.
        layer_decay: of the backbone's rates, see `parameter_groups`.
        numerics: of the run.
    """

    def __init__(
        self, *, model: Trunk, train: Seen, validation: Seen | None, layer_decay: float, numerics: Numerics
    ) -> None:
        self.model: nn.Module = model
        self.n_rows = len(train.repeats)
        self.validation, self.numerics = validation, numerics
        self._trunk, self._train, self._layer_decay = model, train, layer_decay

    def groups(self, phase: Phase) -> list[dict[str, Any]]:
        """Of the layers, each with its own rate."""
        return parameter_groups(
            self._trunk, rate=phase.rate, layer_decay=self._layer_decay, weight_decay=phase.weight_decay
        )

    def batches(self, epoch: int, windows: Sequence[NDArray[np.int64]], first_step: int) -> Iterator[Batch]:  # noqa: ARG002 (of the task)
        """Images or maps of each window, and what they show."""
        for window, inputs in zip(windows, self._train.batches(epoch, windows), strict=True):
            rows = np.array([self._train.row(epoch, place) for place in window.tolist()])
            yield Batch(rows=rows, inputs=inputs, targets=self._train.truth(epoch, window))

    @abstractmethod
    def losses(self, model: nn.Module, batch: Batch) -> torch.Tensor:
        """(B,) the loss of each row."""

    @abstractmethod
    def validate(self, model: nn.Module) -> Mapping[str, float]:
        """What the epoch is chosen by, first, and other numbers; none without validation rows."""


def of_each_row(
    model: nn.Module, images: Images, numerics: Numerics, judge: Callable[[int, Any], Judged]
) -> list[Judged]:
    """What is made of a network's output for each of N rows, in their order; each process of a group makes its part."""
    own = np.arange(len(images))[ranks.rank() :: ranks.world()]
    windows = [own[start : start + AT_ONCE] for start in range(0, len(own), AT_ONCE)]
    model.eval()
    judged: list[tuple[int, Judged]] = []
    with torch.no_grad():
        for window, inputs in zip(windows, images.batches(-1, windows), strict=True):
            laid_out: Any = numerics.laid_out(inputs)  # type: ignore[arg-type]
            with numerics.autocast():
                outputs = model(laid_out)
            judged += [(row, judge(row, one)) for row, one in zip(window.tolist(), outputs, strict=True)]
    every = sorted((one for some in ranks.gathered(judged) for one in some), key=lambda one: one[0])
    return [one for _, one in every]
