"""Scores of logits alone.

Shapes: N rows, K classes, m rows of a block; p is the softmax of the logits l.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from featurebank.probes._parameters import Count, Positive
from featurebank.probes.ood.block import Block, energy, peak
from featurebank.probes.ood.contract import OODScore
from featurebank.probes.ood.moments import add_by_class
from featurebank.probes.ood.statistics import TrainingSet

__all__ = ["GEN", "MSP", "Energy", "Entropy", "KLMatching", "MaxLogit", "OpenMax", "ScaledMSP"]

COLDEST, HOTTEST, STEPS = 0.01, 100.0, 100
FARTHEST = float(np.finfo(np.float32).min)
SMALLEST = float(np.finfo(np.float64).tiny)
STEEPEST = 1e4  # shape of a Weibull distribution that is fitted to equal values


class MSP(OODScore):
    """The largest softmax probability (Hendrycks and Gimpel, ICLR 2017, arXiv:1610.02136), as its logarithm.

    score = log max_k p_k. The logarithm ranks as the probability does and does not saturate: it is minus log1p of
    the sum over the other classes of exp(l_k - max l).
    """

    name = "msp"
    needs = ("logits",)

    def _score(self, block: Block) -> Tensor:
        return -block.peak.log_sum


class ScaledMSP(OODScore):
    """The largest softmax probability of l / T (Guo et al., ICML 2017, arXiv:1706.04599), as its logarithm.

    T minimises the negative log-likelihood of held-out labels, a convex problem in 1 / T that is solved to rounding,
    within T = 0.01..100: where every row is classified correctly the minimum may lie at T = 0.

    Attributes:
        temperature_: T.
    """

    name = "temperature"
    needs = ("labels", "logits")

    def _fit(self, train: TrainingSet) -> None:
        low, high = 1 / HOTTEST, 1 / COLDEST
        if _likelihood_slope(train, high)[0] <= 0:
            low = high
        if _likelihood_slope(train, low)[0] >= 0:
            high = low
        inverse = min(max(1.0, low), high)
        for _ in range(STEPS if low < high else 0):
            slope, curvature = _likelihood_slope(train, inverse)
            low, high = (inverse, high) if slope < 0 else (low, inverse)
            step = inverse - slope / curvature if curvature > 0 else high if slope < 0 else low
            following = step if low < step < high else (low + high) / 2
            if abs(following - inverse) <= 1e-12 * inverse:
                break
            inverse = following
        self.temperature_ = 1 / inverse

    def _score(self, block: Block) -> Tensor:
        return -peak(block.logits / self.temperature_, overwrite=True).log_sum


class MaxLogit(OODScore):
    """The largest logit (Hendrycks et al., ICML 2022, arXiv:1911.11132): score = max_k l_k."""

    name = "maxlogit"
    needs = ("logits",)

    def _score(self, block: Block) -> Tensor:
        return block.logits.amax(1)


class Energy(OODScore):
    """The negative free energy (Liu et al., NeurIPS 2020, arXiv:2010.03759): score = T log sum_k exp(l_k / T).

    Args:
        temperature: T.
    """

    name = "energy"
    needs = ("logits",)

    temperature: Positive = 1.0

    def _score(self, block: Block) -> Tensor:
        if self.temperature == 1:
            return block.energy
        return self.temperature * energy(block.logits / self.temperature)


class Entropy(OODScore):
    """Minus the entropy of the softmax: score = sum_k p_k log p_k.

    It is computed as minus (log1p(r) + sum_k (max l - l_k) exp(l_k - max l) / (1 + r)), where r is the sum over the
    other classes of exp(l_k - max l): all terms have one sign, so nothing cancels.
    """

    name = "entropy"
    needs = ("logits",)

    def _score(self, block: Block) -> Tensor:
        split = block.peak
        shifted = split.shifted.clamp(min=FARTHEST)  # its product with an exponential of zero is not NaN
        mean: Tensor = torch.linalg.vecdot(shifted, split.exponentials).double() / (1 + split.rest)
        return mean - split.log_sum


class GEN(OODScore):
    """The generalised entropy of the largest probabilities (Liu, Lochman and Zach, CVPR 2023).

    score = - sum over the M largest p_k of (p_k (1 - p_k)) ** gamma. For the largest, 1 - p is taken from the sum over
    the others, so no probability needs clamping.

    Args:
        gamma: the paper's 0.1.
        top: M, the paper's 100 for 1,000 classes; all classes where there are fewer.
    """

    name = "gen"
    needs = ("logits",)
    candidates: ClassVar = {"gamma": (0.01, 0.1, 0.5, 1.0), "top": (10, 100)}

    gamma: Positive = 0.1
    top: Count = 100

    def _score(self, block: Block) -> Tensor:
        split = block.peak
        log_sum = split.log_sum
        largest = (self.gamma * (split.rest.log() - 2 * log_sum)).exp()  # (1 - p) p = r / (1 + r)^2
        others = min(self.top, split.shifted.shape[1]) - 1
        if not others:
            return -largest
        shifted = split.shifted.scatter(1, split.predicted[:, None], -torch.inf)
        if others < shifted.shape[1] - 1:
            shifted = shifted.topk(others, sorted=False)[0]
        log_p = shifted - log_sum.float()[:, None]
        return -largest - (self.gamma * (log_p + (-log_p.exp()).log1p())).exp().sum(1).double()


class KLMatching(OODScore):
    """Minus the divergence from the nearest typical posterior (Hendrycks et al., ICML 2022, arXiv:1911.11132).

    score = - min_k KL(p || d_k), where d_k is the mean softmax of the held-out rows that are predicted as class k;
    classes that are never predicted have none. The nearest is found in float32, its divergence taken in float64.

    Attributes:
        posteriors_: (C, K) float64, the d_k.
    """

    name = "klm"
    needs = ("logits",)

    def _fit(self, train: TrainingSet) -> None:
        source = train if train.validation is None else TrainingSet(logits=train.validation[0], device=train.device)
        means = source.posteriors
        self.posteriors_ = means[~means[:, 0].isnan()]
        self._log = self.posteriors_.clamp(min=SMALLEST).log()
        self._log32 = self._log.float().T.contiguous()

    def _score(self, block: Block) -> Tensor:
        split = block.peak
        nearest = (block.probabilities @ self._log32).argmax(1)
        log_sum = split.log_sum
        log_p = split.shifted.double().sub_(log_sum[:, None])
        p = log_p.exp()
        return -log_p.sub_(self._log[nearest]).mul_(p).sum(1)


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


def _likelihood_slope(train: TrainingSet, inverse: float) -> tuple[float, float]:
    """First and second derivative of the mean negative log-likelihood of l / T with respect to 1 / T."""
    if train.validation is None:
        labels, blocks = train.labels, train.training_blocks("logits")
    else:
        logits, labels = train.validation
        blocks = train.blocks(None, logits, needs=("logits",))
    slope = curvature = 0.0
    for where, block in blocks:
        values = block.logits.double()
        own = values.gather(1, torch.tensor(labels[where], device=values.device)[:, None])
        values -= own
        p = (values * inverse).softmax(1)
        mean = (p * values).sum(1)
        slope += float(mean.sum())
        curvature += float(((values - mean[:, None]).square() * p).sum())
    return slope / len(labels), curvature / len(labels)


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
