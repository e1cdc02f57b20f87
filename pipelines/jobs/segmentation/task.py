"""Segmentation as a task of the trainer.

Shapes: B rows of a batch, N rows, S side of the canvas, K classes with the background.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F  # noqa: N812 (as everywhere)

from featurebank.extract.datasets.mask_files import IGNORED
from featurebank.pipelines.jobs.maps.task import MapTask, of_each_row
from featurebank.pipelines.jobs.segmentation.pictures import Pictures
from featurebank.probes.segmentation import confusion_matrix, dice, mean_iou

if TYPE_CHECKING:
    from torch import nn

    from featurebank.pipelines.training.task import Batch
    from featurebank.pipelines.training.trial import Numerics

__all__ = ["Segmentation", "confusions_of", "pixel_losses"]


class Segmentation(MapTask[Pictures]):
    """A `MapTask` of a segmenter.

    Args:
        classes: K.
        options: see `MapTask`.
    """

    def __init__(self, *, classes: int, **options: Any) -> None:
        super().__init__(**options)
        self._classes = classes

    def losses(self, model: nn.Module, batch: Batch) -> torch.Tensor:
        """(B,) the mean over the pixels of each image."""
        return pixel_losses(model(batch.inputs), batch.targets)

    def validate(self, model: nn.Module) -> Mapping[str, float]:
        """Mean IoU and Dice of the validation rows, where there are some."""
        if self.validation is None:
            return {}
        parts, _ = confusions_of(model, self.validation, self._classes, self.numerics)
        whole = parts.sum(0)
        return {"miou": mean_iou(whole).mean, "dice": dice(whole).mean}


def pixel_losses(logits: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    """(B,) the cross-entropy of logits (B, K, S, S) at classes (B, S, S), meant over pixels that count; 0 of none."""
    each = F.cross_entropy(logits.float(), truth, ignore_index=IGNORED, reduction="none")
    return each.sum((1, 2)) / (truth != IGNORED).sum((1, 2)).clamp(min=1)


def confusions_of(
    model: nn.Module, pictures: Pictures, classes: int, numerics: Numerics
) -> tuple[NDArray[np.int64], NDArray[np.uint8]]:
    """Of each row the confusion matrix of its image's own pixels, (N, K, K), and its canvas in classes, (N, s, s).

    Of a large canvas every second, third … pixel is there, see `Pictures.step`.
    """
    step = pictures.step

    def judge(row: int, logits: torch.Tensor) -> tuple[NDArray[np.integer], NDArray[np.uint8]]:
        counts = confusion_matrix(
            pictures.labels(row), pictures.classes(row, logits), classes=classes, ignore_index=IGNORED
        )
        return counts, logits[:, ::step, ::step].argmax(0).to(torch.uint8).cpu().numpy()

    every = of_each_row(model, pictures, numerics, judge)
    return np.stack([counts for counts, _ in every]), np.stack([canvas for _, canvas in every])
