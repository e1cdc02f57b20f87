"""Detection as a task of the trainer.

Shapes: B rows of a batch, N rows.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from featurebank.pipelines.jobs.detection.evaluation import Detections, evaluate
from featurebank.pipelines.jobs.detection.heads import total
from featurebank.pipelines.jobs.trunk import parameter_groups
from featurebank.pipelines.training import ranks
from featurebank.pipelines.training.task import Batch

if TYPE_CHECKING:
    from torch import nn

    from featurebank.pipelines.jobs.detection.detector import Detector
    from featurebank.pipelines.jobs.detection.scenes import Scenes
    from featurebank.pipelines.training.phase import Phase
    from featurebank.pipelines.training.trial import Numerics

__all__ = ["Detection", "detections_of"]

AT_ONCE = 8


class Detection:
    """A `featurebank.pipelines.training.task.Task`.

    Args:
        model: the detector.
        train: what is trained on.
        validation: what is chosen by; without any, the last epoch's weights are taken.
        class_names: K.
        layer_decay: of the backbone's rates, see `parameter_groups`.
        numerics: of the run.
    """

    def __init__(
        self,
        *,
        model: Detector,
        train: Scenes,
        validation: Scenes | None,
        class_names: Sequence[str],
        layer_decay: float,
        numerics: Numerics,
    ) -> None:
        self.model: nn.Module = model
        self.n_rows = len(train.repeats)
        self._detector = model
        self._train, self._validation, self._names = train, validation, tuple(class_names)
        self._layer_decay, self._numerics = layer_decay, numerics

    def groups(self, phase: Phase) -> list[dict[str, Any]]:
        """Of the layers, each with its own rate."""
        return parameter_groups(
            self._detector, rate=phase.rate, layer_decay=self._layer_decay, weight_decay=phase.weight_decay
        )

    def batches(self, epoch: int, windows: Sequence[NDArray[np.int64]], first_step: int) -> Iterator[Batch]:  # noqa: ARG002 (of the task)
        """Images or maps of each window, and what they show."""
        for window, inputs in zip(windows, self._train.batches(epoch, windows), strict=True):
            rows = np.array([self._train.row(epoch, place) for place in window.tolist()])
            yield Batch(rows=rows, inputs=inputs, targets=self._train.truth(epoch, window))

    def losses(self, model: nn.Module, batch: Batch) -> torch.Tensor:
        """(B,) the mean over the batch, as regions of all images are sampled together."""
        return total(model(batch.inputs, batch.targets)).expand(len(batch))

    def validate(self, model: nn.Module) -> Mapping[str, float]:
        """AP and AP50 on the validation rows, where there are some."""
        if self._validation is None:
            return {}
        found = detections_of(model, self._validation, self._numerics)
        numbers = evaluate(self._validation.objects, found, self._names, resamples=0).numbers
        return {"AP": numbers["AP"], "AP50": numbers["AP50"]}


def detections_of(model: nn.Module, scenes: Scenes, numerics: Numerics) -> list[Detections]:
    """What a detector finds in each row, in pixels of the image; each process of a group computes its part."""
    own = np.arange(len(scenes))[ranks.rank() :: ranks.world()]
    windows = [own[start : start + AT_ONCE] for start in range(0, len(own), AT_ONCE)]
    model.eval()
    found: list[Detections] = []
    with torch.no_grad():
        for window, inputs in zip(windows, scenes.batches(-1, windows), strict=True):
            laid_out: Any = numerics.laid_out(inputs)  # type: ignore[arg-type]
            with numerics.autocast():
                detected = model(laid_out)
            for row, one in zip(window.tolist(), detected, strict=True):
                found.append(scenes.found(row, one))
    every: list[Any] = [None] * len(scenes)
    for rows, some in ranks.gathered((own, found)):
        for row, one in zip(rows.tolist(), some, strict=True):
            every[row] = one
    return every
