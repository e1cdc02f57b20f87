"""OpenMax: how far a row's logits lie from the class means, by extreme-value theory.

Shapes: N rows, K classes, m rows of a block.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from featurebank.probes._parameters import Count
from featurebank.probes.ood.block import Block
from featurebank.probes.ood.contract import OODScore
from featurebank.probes.ood.moments import add_by_class
from featurebank.probes.ood.statistics import TrainingSet

__all__ = ["OpenMax"]

STEEPEST = 1e4  # shape of a Weibull distribution that is fitted to equal values


class OpenMax(OODScore):
    """The odds against the unknown class (Bendale and Boult, CVPR 2016, arXiv:1511.06233).

    The mean logits of the correctly classified training rows of a class are its activation vector; a Weibull
    distribution W_k is fitted to the ``tail`` largest distances of these rows to it, moved so that the smallest is 1.
    Of the ``alpha`` largest logits the i-th loses the share w_i = W_k(distance) (alpha + 1 - i) / alpha, and the losses
    add up to the logit of the unknown class, l_0. score = logsumexp(l (1 - w)) - l_0, which ranks as one minus the
    softmax probability of the unknown class.

    The weights are those of the authors' code: the paper's Algorithm 2 prints the complement of W. A class without a
    correctly classified row takes all its rows.

    Args:
        alpha: classes to revise, the paper's 10.
        tail: distances to fit, the paper's 20.

    Attributes:
        centres_: (K, K) float64 mean activation vectors.
        smallest_: (K,) smallest distance of the tail.
        shape_: (K,) of the Weibull distribution.
        scale_: (K,).
    """

    name = "openmax"
    needs = ("labels", "logits")

    alpha: Count = 10
    tail: Count = 20

    def _fit(self, train: TrainingSet) -> None:
        chosen, k = train.pattern_rows, train.classes
        counts = np.bincount(train.labels[chosen], minlength=k)
        sums = torch.zeros(k, k, dtype=torch.float64, device=train.device)
        for where, block in train.training_blocks("logits"):
            rows, at = _of(block, train.labels[where], chosen[where])
            add_by_class(sums, at, rows)
        centres = sums / torch.from_numpy(counts).to(sums)[:, None]
        tails = np.full((k, self.tail), -np.inf)
        for where, block in train.training_blocks("logits"):
            rows, at = _of(block, train.labels[where], chosen[where])
            distances = (rows - centres[at]).norm(dim=1).cpu().numpy()
            _keep_largest(tails, at.cpu().numpy(), distances)
        self.centres_ = centres
        self.smallest_ = np.where(np.isfinite(tails), tails, np.inf).min(1)
        self.shape_, self.scale_ = fit_weibull(tails - self.smallest_[:, None] + 1)
        self._centres = centres.float()
        self._weibull = torch.from_numpy(np.stack([self.smallest_, self.shape_, self.scale_], 1)).to(train.device)

    def _score(self, block: Block) -> Tensor:
        alpha = min(self.alpha, block.logits.shape[1])
        values, classes = block.logits.topk(alpha, dim=1)
        values = values.double()
        lost = torch.empty_like(values)
        for rank in range(alpha):
            at = classes[:, rank]
            distance = (block.logits - self._centres[at]).norm(dim=1).double()
            smallest, shape, scale = self._weibull[at].T
            inside = (distance - smallest + 1).clamp(min=0) / scale
            lost[:, rank] = -torch.expm1(-(inside**shape)) * (alpha - rank) / alpha
        lost *= values
        rest = block.logits.scatter(1, classes, -torch.inf).double()
        known = torch.cat([rest, values - lost], 1).logsumexp(1)
        return known - lost.sum(1)


def fit_weibull(values: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The shape and scale (K,) of greatest likelihood of each row of positive values (K, n), minus infinity left out.

    The shape c solves sum(x^c log x) / sum(x^c) - 1 / c = mean(log x), whose left side rises with c: bisection on
    log c, up to 1e4, which is what equal values get.
    """
    known = np.isfinite(values)
    logs = np.log(np.where(known, values, 1.0))
    count = known.sum(1)
    top = np.where(known, logs, -np.inf).max(1, keepdims=True)
    mean = (logs * known).sum(1) / count
    low, high = np.full(len(values), np.log(1e-3)), np.full(len(values), np.log(STEEPEST))
    for _ in range(60):
        middle = (low + high) / 2
        shape = np.exp(middle)
        weights = np.exp(shape[:, None] * (logs - top)) * known
        rises = (weights * logs).sum(1) / weights.sum(1) - 1 / shape > mean
        low, high = np.where(rises, low, middle), np.where(rises, middle, high)
    shape = np.exp((low + high) / 2)
    powers = (np.exp(shape[:, None] * (logs - top)) * known).sum(1) / count
    return shape, np.exp(top[:, 0] + np.log(powers) / shape)


def _of(block: Block, labels: NDArray[np.int64], chosen: NDArray[np.bool_]) -> tuple[Tensor, Tensor]:
    """The chosen rows' logits in float64, and their classes."""
    rows = torch.from_numpy(np.flatnonzero(chosen)).to(block.logits.device)
    return block.logits[rows].double(), torch.from_numpy(labels[chosen]).to(block.logits.device)


def _keep_largest(tails: NDArray[np.float64], classes: NDArray[np.int64], values: NDArray[np.float64]) -> None:
    """Merges values into the largest of each class (K, n)."""
    for k in np.unique(classes):
        tails[k] = np.sort(np.concatenate([tails[k], values[classes == k]]))[-tails.shape[1] :]
