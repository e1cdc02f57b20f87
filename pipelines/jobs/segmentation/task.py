"""Segmentation as a task of the trainer.

Shapes: B rows of a batch, N rows, S side of the canvas, K classes with the background.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F  # noqa: N812 (as everywhere)

from featurebank.extract.datasets.mask_files import IGNORED
from featurebank.pipelines.jobs.segmentation.pictures import Pictures
from featurebank.pipelines.jobs.trunk import parameter_groups
from featurebank.pipelines.training import ranks
from featurebank.pipelines.training.task import Batch
from featurebank.probes.segmentation import confusion_matrix, dice, mean_iou

if TYPE_CHECKING:
    from torch import nn

    from featurebank.pipelines.jobs.segmentation.network import Segmenter
    from featurebank.pipelines.training.phase import Phase
    from featurebank.pipelines.training.trial import Numerics

__all__ = ["Segmentation", "confusions_of", "pixel_losses"]

AT_ONCE = 8


class Segmentation:
    """A `featurebank.pipelines.training.task.Task`.

    Args:
        model: the segmenter.
        train: what is trained on.
        validation: what is chosen by; without any, the last epoch's weights are taken.
        classes: K.
        layer_decay: of the backbone's rates, see `parameter_groups`.
        numerics: of the run.
    """

    def __init__(
        self,
        *,
        model: Segmenter,
        train: Pictures,
        validation: Pictures | None,
        classes: int,
        layer_decay: float,
        numerics: Numerics,
    ) -> None:
        self.model: nn.Module = model
        self.n_rows = len(train)
        self._segmenter = model
        self._train, self._validation, self._classes = train, validation, classes
        self._layer_decay, self._numerics = layer_decay, numerics

    def groups(self, phase: Phase) -> list[dict[str, Any]]:
        """Of the layers, each with its own rate."""
        return parameter_groups(
            self._segmenter, rate=phase.rate, layer_decay=self._layer_decay, weight_decay=phase.weight_decay
        )

    def batches(self, epoch: int, windows: Sequence[NDArray[np.int64]], first_step: int) -> Iterator[Batch]:  # noqa: ARG002 (of the task)
        """Images or maps of each window, and the classes of their pixels."""
        for window, inputs in zip(windows, self._train.batches(epoch, windows), strict=True):
            yield Batch(rows=window, inputs=inputs, targets=self._train.truth(epoch, window))

    def losses(self, model: nn.Module, batch: Batch) -> torch.Tensor:
        """(B,) the mean over the pixels of each image."""
        return pixel_losses(model(batch.inputs), batch.targets)

    def validate(self, model: nn.Module) -> Mapping[str, float]:
        """Mean IoU and Dice of the validation rows, where there are some."""
        if self._validation is None:
            return {}
        parts, _ = confusions_of(model, self._validation, self._classes, self._numerics)
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

    Of a large canvas every second, third … pixel is there, see `Pictures.step`. Each process of a group computes its
    part.
    """
    step = pictures.step
    own = np.arange(len(pictures))[ranks.rank() :: ranks.world()]
    windows = [own[start : start + AT_ONCE] for start in range(0, len(own), AT_ONCE)]
    model.eval()
    judged = []
    with torch.no_grad():
        for window, inputs in zip(windows, pictures.batches(-1, windows), strict=True):
            laid_out: Any = numerics.laid_out(inputs)  # type: ignore[arg-type]
            with numerics.autocast():
                logits = model(laid_out)
            for row, one in zip(window.tolist(), logits, strict=True):
                counts = confusion_matrix(
                    pictures.labels(row), pictures.classes(row, one), classes=classes, ignore_index=IGNORED
                )
                judged.append((row, counts, one[:, ::step, ::step].argmax(0).to(torch.uint8).cpu().numpy()))
    every = sorted((one for some in ranks.gathered(judged) for one in some), key=lambda one: one[0])
    return np.stack([counts for _, counts, _ in every]), np.stack([canvas for _, _, canvas in every])
