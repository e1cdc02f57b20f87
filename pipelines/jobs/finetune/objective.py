"""What training makes small: a loss for each row, so that the parts of a batch add up to the whole.

Shapes: B rows, K classes, or labels of a row that has several.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import torch

    from featurebank.pipelines.jobs.finetune.recipe import Recipe

__all__ = ["Objective", "objective", "targets"]

Objective = Callable[["torch.Tensor", "torch.Tensor"], "torch.Tensor"]
"""(B, K) logits and targets to (B,) losses."""


def targets(labels: NDArray[np.int64], recipe: Recipe, class_names: Sequence[str] = ()) -> NDArray[np.int64]:
    """The labels as the recipe's loss takes them: unknown ones of rows that have several are 0, 1 or still -1.

    Args:
        labels: (N,) classes, from 0 on; or (N, K) of several labels a row: 1, 0, and -1 for unknown.
        recipe: whose ``unknown`` and ``unknown_ones`` count.
        class_names: of the K labels.

    Raises:
        ValueError: rows of one class that are not labelled, or several labels a row for a loss of one class.
    """
    if labels.ndim == 1:
        if count := int((labels < 0).sum()):
            raise ValueError(f"every row must have a class; found {count:,} without: leave them out")
        return labels
    if recipe.loss != "bce":
        raise ValueError(f"the loss of rows with several labels must be bce; found {recipe.loss}: take such a recipe")
    instead = np.full(labels.shape[1], {"ignore": -1, "zero": 0, "one": 1}[recipe.unknown])
    if class_names:
        instead[np.isin(class_names, recipe.unknown_ones)] = 1
    return np.where(labels < 0, instead, labels)


def objective(recipe: Recipe) -> Objective:
    """The loss of each row, (B,) float32, of (B, K) logits and targets.

    Whole numbers are labels, which are smoothed here: (B,) classes, or (B, K) of several labels a row. Other numbers
    are (B, K) targets as mixing makes them, and taken as they are. Of several labels those of -1 are left out, and the
    loss is the mean over the others; 0 where there are none.
    """
    return _cross_entropy(recipe.smoothing) if recipe.loss == "ce" else _binary_cross_entropy(recipe.smoothing)


def _cross_entropy(smoothing: float) -> Objective:
    from torch.nn import functional

    def loss(logits: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
        share = 0.0 if wanted.is_floating_point() else smoothing
        return functional.cross_entropy(logits, wanted, label_smoothing=share, reduction="none")

    return loss


def _binary_cross_entropy(smoothing: float) -> Objective:
    """That of timm's ``BinaryCrossEntropy(smooth_dense=True)``, but with labels that may be left out."""
    from torch.nn import functional

    def loss(logits: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
        middle = 0.5
        if wanted.ndim == 1:
            wanted, middle = functional.one_hot(wanted, logits.shape[1]), 1 / logits.shape[1]
        known = (wanted >= 0).to(logits.dtype)
        share = 0.0 if wanted.is_floating_point() else smoothing
        smooth = wanted.to(logits.dtype) * (1.0 - share) + share * middle
        every = functional.binary_cross_entropy_with_logits(logits, smooth, reduction="none")
        return (every * known).sum(1) / known.sum(1).clamp(min=1.0)

    return loss
