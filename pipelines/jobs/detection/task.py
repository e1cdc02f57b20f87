"""Detection as a task of the trainer.

Shapes: B rows of a batch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from featurebank.pipelines.jobs.detection.evaluation import Detections, evaluate
from featurebank.pipelines.jobs.detection.heads import total
from featurebank.pipelines.jobs.detection.scenes import Scenes
from featurebank.pipelines.jobs.maps.task import MapTask, of_each_row

if TYPE_CHECKING:
    import torch
    from torch import nn

    from featurebank.pipelines.training.task import Batch
    from featurebank.pipelines.training.trial import Numerics

__all__ = ["Detection", "detections_of"]


class Detection(MapTask[Scenes]):
    """A `MapTask` of a detector.

    Args:
        class_names: K.
        options: see `MapTask`.
    """

    def __init__(self, *, class_names: Sequence[str], **options: Any) -> None:
        super().__init__(**options)
        self._names = tuple(class_names)

    def losses(self, model: nn.Module, batch: Batch) -> torch.Tensor:
        """(B,) the mean over the batch, as regions of all images are sampled together."""
        return total(model(batch.inputs, batch.targets)).expand(len(batch))

    def validate(self, model: nn.Module) -> Mapping[str, float]:
        """AP and AP50 on the validation rows, where there are some."""
        if self.validation is None:
            return {}
        found = detections_of(model, self.validation, self.numerics)
        numbers = evaluate(self.validation.objects, found, self._names, resamples=0).numbers
        return {"AP": numbers["AP"], "AP50": numbers["AP50"]}


def detections_of(model: nn.Module, scenes: Scenes, numerics: Numerics) -> list[Detections]:
    """What a detector finds in each row, in pixels of the image."""
    return of_each_row(model, scenes, numerics, scenes.found)
