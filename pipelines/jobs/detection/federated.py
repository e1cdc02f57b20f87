"""Classes that are judged each on its own, of a batch only some: for sets of many classes that no image has all of.

Shapes: R regions, K classes without the background, whose number is 0.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 (as everywhere)

__all__ = ["Federated"]

RARE: Final = 0.01
"""The probability of each class before training."""


class Federated(nn.Module):
    """The federated loss: binary cross-entropies of the classes that a batch shows and of others, drawn by frequency.

    Zhou, Koltun and Krähenbühl, Probabilistic two-stage detection, 2021, arXiv:2103.07461: a class that is not drawn
    has no loss, so that one which an image may show without being annotated is seldom called wrong there.

    Args:
        classes: K.
        judged: how many of them in a batch, more only where it shows more.

    Attributes:
        frequency: (K,) how many images show each class; drawn in proportion to its root.
    """

    frequency: Tensor

    def __init__(self, classes: int, judged: int) -> None:
        super().__init__()
        self.judged = judged
        self.register_buffer("frequency", torch.ones(classes), persistent=False)

    @staticmethod
    def begin(predictors: Iterable[Any]) -> None:
        """Sets the biases of the layers that give logits, so that all classes are rare at first."""
        for predictor in predictors:
            nn.init.constant_(predictor.cls_score.bias, math.log(RARE / (1 - RARE)))

    def loss(self, logits: Tensor, classes: Tensor) -> Tensor:
        """Of logits (R, K + 1) and the class of each region, (R,), 0 for none: summed over classes, averaged over R."""
        chosen = torch.bincount(classes, minlength=logits.shape[1])[1:] > 0
        weights = self.frequency.sqrt() * ~chosen
        more = min(self.judged - int(chosen.sum()), int((weights > 0).sum()))
        if more > 0:
            chosen[torch.multinomial(weights, more)] = True
        wanted = F.one_hot(classes, logits.shape[1])[:, 1:].to(logits.dtype)
        each = F.binary_cross_entropy_with_logits(logits[:, 1:], wanted, reduction="none")
        return (each * chosen).sum() / max(1, len(classes))

    @staticmethod
    def probabilities(logits: Tensor) -> Tensor:
        """(R, K + 1), each class on its own."""
        return logits.sigmoid()
