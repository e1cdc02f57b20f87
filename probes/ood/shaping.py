"""Scores of a head applied to shaped activations, or to shaped weights: all are energies of the shaped logits.

Shapes: N rows, D features, K classes, m rows of a block; f are the features, W and b the head.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from featurebank.probes._parameters import Fraction
from featurebank.probes.ood.block import Block, energy
from featurebank.probes.ood.contract import OODScore
from featurebank.probes.ood.quantiles import exact_quantiles, feature_quantiles
from featurebank.probes.ood.statistics import TrainingSet

__all__ = ["ASHB", "ASHP", "ASHS", "DICE", "LTS", "SCALE", "VRA", "ReAct"]


class ReAct(OODScore):
    """Energy of clipped activations (Sun, Guo and Li, NeurIPS 2021, arXiv:2111.12797): f' = min(f, c).

    Args:
        percentile: of all training activations, which is c; the paper's 0.9.

    Attributes:
        threshold_: c, an exact quantile.
    """

    name = "react"
    needs = ("features", "head")
    candidates: ClassVar = {"percentile": (0.85, 0.9, 0.95, 0.99)}

    percentile: Fraction = 0.9

    def _fit(self, train: TrainingSet) -> None:
        self.threshold_ = float(exact_quantiles(train.features, [self.percentile])[0])

    def _score(self, block: Block) -> Tensor:
        return head_energy(block, block.features.clamp(max=self.threshold_))


class VRA(OODScore):
    """Energy of activations rectified on both sides (Xu et al., NeurIPS 2023, arXiv:2302.11716).

    f' is 0 where f is below the lower threshold, the upper threshold where f is above that, and f between them: the
    authors' piecewise function. (Clipping low values up to the lower threshold, as libraries do, is another one.)

    Args:
        lower: percentile of each feature's training activations, the authors' 0.6.
        upper: percentile, the authors' 0.95.

    Attributes:
        thresholds_: (2, D) float64, by `feature_quantiles`.
    """

    name = "vra"
    needs = ("features", "head")
    candidates: ClassVar = {"lower": (0.5, 0.6, 0.7), "upper": (0.9, 0.95, 0.99)}

    lower: Fraction = 0.6
    upper: Fraction = 0.95

    def _fit(self, train: TrainingSet) -> None:
        if self.lower > self.upper:
            raise ValueError(f"lower must not be above upper; found {self.lower} and {self.upper}")
        self.thresholds_ = feature_quantiles(train.features, [self.lower, self.upper])
        self._low, self._high = train.on_device(self.thresholds_)

    def _score(self, block: Block) -> Tensor:
        kept = torch.where(block.features < self._low, 0.0, block.features)
        return head_energy(block, torch.minimum(kept, self._high, out=kept))


class DICE(OODScore):
    """Energy with a sparse head (Sun and Li, ECCV 2022, arXiv:2111.09805).

    A weight is kept where its contribution, W times the mean training activation, is above a percentile of all
    contributions.

    Args:
        sparsity: share of the weights that is masked, the paper's 0.9.

    Attributes:
        weight_: (K, D) float32, zero where masked.
    """

    name = "dice"
    needs = ("features", "head")
    candidates: ClassVar = {"sparsity": (0.1, 0.3, 0.5, 0.7, 0.9)}

    sparsity: Fraction = 0.9

    def _fit(self, train: TrainingSet) -> None:
        weight = train.affine.weight
        contribution = train.mean * weight.double()
        place = self.sparsity * (contribution.numel() - 1)
        ordered = contribution.flatten().sort().values
        below, above = ordered[int(place)], ordered[min(int(place) + 1, len(ordered) - 1)]
        threshold = below + (place - int(place)) * (above - below)
        self.weight_ = torch.where(contribution > threshold, weight, 0.0)

    def _score(self, block: Block) -> Tensor:
        return energy(torch.addmm(block.head.bias, block.features, self.weight_.T))


class _Pruned(OODScore):
    needs = ("features", "head")
    candidates: ClassVar = {"percentile": (0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95)}

    percentile: Fraction

    def _kept(self, block: Block) -> int:
        """How many activations of a row stay."""
        width = block.features.shape[1]
        return max(1, width - round(width * self.percentile))


class ASHP(_Pruned):
    """Energy of the largest activations of each row, the others zero (Djurisic et al., ICLR 2023, arXiv:2209.09858).

    Of equal activations at the edge the lower features stay.

    Args:
        percentile: share of a row's activations that is pruned, the paper's 0.6 for ImageNet.
    """

    name = "ash-p"

    percentile: Fraction = 0.6

    def _score(self, block: Block) -> Tensor:
        return head_energy(block, block.features * largest(block, self._kept(block)))


class ASHB(_Pruned):
    """Energy of pruned, binarised activations (Djurisic et al., ICLR 2023): each one kept is sum(f) / their number.

    Args:
        percentile: share of a row's activations that is pruned, the paper's 0.65 for ImageNet.
    """

    name = "ash-b"

    percentile: Fraction = 0.65

    def _score(self, block: Block) -> Tensor:
        kept = self._kept(block)
        level = block.features.sum(1, keepdim=True) / kept
        return head_energy(block, largest(block, kept) * level)


class ASHS(_Pruned):
    """Energy of pruned activations times exp(sum(f) / sum(kept f)) (Djurisic et al., ICLR 2023).

    A row whose kept activations do not sum to more than zero is not scaled.

    Args:
        percentile: share of a row's activations that is pruned, the paper's 0.9 for ImageNet.
    """

    name = "ash-s"

    percentile: Fraction = 0.9

    def _score(self, block: Block) -> Tensor:
        kept = self._kept(block)
        pruned = block.features * largest(block, kept)
        factor = ratio(block.features, block.descending[:, :kept], otherwise=0.0).exp()
        return head_energy(block, pruned.mul_(factor[:, None]))


class SCALE(_Pruned):
    """Energy of all activations times exp(sum(f) / sum(largest f)) (Xu et al., ICLR 2024, arXiv:2310.00227).

    Args:
        percentile: share of a row's activations that the second sum leaves out, the paper's 0.85.
    """

    name = "scale"

    percentile: Fraction = 0.85

    def _score(self, block: Block) -> Tensor:
        factor = ratio(block.features, block.descending[:, : self._kept(block)], otherwise=0.0).exp()
        return energy(torch.addcmul(block.head.bias, block.linear, factor[:, None]))


class LTS(OODScore):
    """Energy of logits times (sum(f) / sum(largest f)) ** 2 (Djurisic et al., 2024, arXiv:2409.01175).

    The sums are over max(f, 0), as in the authors' code.

    Args:
        share: of a row's activations that the second sum takes, the paper's 0.05.
    """

    name = "lts"
    needs = ("features", "head")
    candidates: ClassVar = {"share": (0.01, 0.05, 0.1, 0.2)}

    share: Fraction = 0.05

    def _score(self, block: Block) -> Tensor:
        width = block.features.shape[1]
        kept = max(1, width - round(width * (1 - self.share)))
        factor = ratio(block.features.relu(), block.descending[:, :kept].relu(), otherwise=1.0).square()
        return energy((block.linear + block.head.bias).mul_(factor[:, None]))


def head_energy(block: Block, features: Tensor) -> Tensor:
    """The energy (m,) of the head's logits of shaped features (m, D)."""
    return energy(torch.addmm(block.head.bias, features, block.head.weight.T))


def largest(block: Block, kept: int) -> Tensor:
    """(m, D) bool: the ``kept`` largest features of each row, of equal ones the lower."""
    edge = block.descending[:, kept - 1 : kept]
    inside = block.features >= edge
    if kept == inside.shape[1]:
        return inside
    tied = (block.descending[:, kept] == edge[:, 0]).nonzero()[:, 0]
    if len(tied):
        values = block.features[tied]
        above, level = values > edge[tied], values == edge[tied]
        inside[tied] = above | level & (level.cumsum(1) <= kept - above.sum(1, keepdim=True))
    return inside


def ratio(values: Tensor, part: Tensor, *, otherwise: float) -> Tensor:
    """sum(values) / sum(part) of each row (m,), or what it is where the part does not sum to more than zero."""
    whole, some = values.sum(1), part.sum(1)
    return torch.where(some > 0, whole / some, otherwise)
