"""Scores of distances to class means, by shared and by own covariances.

Shapes: N rows, D features, K classes, m rows of a block, n rows of a class, r directions with variance. Distances are
float64: a small eigenvalue of a covariance magnifies float32's rounding.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import ClassVar, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from featurebank.probes._parameters import Positive
from featurebank.probes.ood.block import Block
from featurebank.probes.ood.contract import OODScore
from featurebank.probes.ood.moments import Moments, add_gram, symmetric
from featurebank.probes.ood.statistics import TrainingSet

__all__ = ["GMM", "MDS", "RMDS", "MDSPlusPlus", "RMDSPlusPlus"]

GROUP_VALUES = 2**21  # of training rows that a GMM holds at once: 16 MiB


class MDS(OODScore):
    """Minus the squared Mahalanobis distance to the nearest class mean (Lee et al., NeurIPS 2018, arXiv:1807.03888).

    score = - min_k (f - mu_k)^T S^+ (f - mu_k), with S the covariance about the class means, divided by N, and S^+ its
    pseudo-inverse, cut where eigenvalues are rounding errors; directions without variance do not count.
    """

    name = "mds"
    needs = ("features", "labels")
    _unit: ClassVar[bool] = False

    def _fit(self, train: TrainingSet) -> None:
        moments = train.unit_moments if self._unit else train.moments
        self._mean = moments.mean
        self._within = moments.within
        means = self._within.whitened(moments.class_means[moments.counts > 0] - moments.mean)
        self._means, self._squares = means.T.contiguous(), means.square().sum(1)

    def _score(self, block: Block) -> Tensor:
        return -self._nearest(self._rows(block))

    def _rows(self, block: Block) -> Tensor:
        return (block.unit if self._unit else block.features).double() - self._mean

    def _nearest(self, rows: Tensor) -> Tensor:
        """The squared distance of centred rows (m, D) to the nearest class mean (m,)."""
        white = self._within.whitened(rows)
        closest = (white @ self._means).mul_(2).sub_(self._squares).max(1).values
        return (white.square_().sum(1) - closest).clamp_(min=0)


class MDSPlusPlus(MDS):
    """`MDS` of features scaled to unit length (Mueller and Hein, 2025, arXiv:2505.18032)."""

    name = "mds++"
    _unit = True


class RMDS(MDS):
    """Minus the Mahalanobis distance relative to that from all rows (Ren et al., 2021, arXiv:2106.09022).

    score = - min_k (MD_k - MD_0), where MD_k is the squared distance of `MDS` and MD_0 that to the mean of all rows by
    their covariance. Needs two classes: with one the two are the same.
    """

    name = "rmds"

    def _fit(self, train: TrainingSet) -> None:
        if len(np.unique(train.labels)) < 2:
            raise ValueError(f"the score {self.name!r} needs at least two classes; found one, {train.labels[0]}")
        super()._fit(train)
        moments: Moments = train.unit_moments if self._unit else train.moments
        self._background = moments.spectrum

    def _score(self, block: Block) -> Tensor:
        rows = self._rows(block)
        return self._background.whitened(rows).square_().sum(1) - self._nearest(rows)


class RMDSPlusPlus(RMDS):
    """`RMDS` of features scaled to unit length (Mueller and Hein, 2025, arXiv:2505.18032)."""

    name = "rmds++"
    _unit = True


class _Gaussian(NamedTuple):
    """What one class of a `GMM` is scored with.

    Attributes:
        members: (n,) its training rows where products with them give the directions; none where D < n.
        factor: (n, r) from those products, or (D, r) from the features, to the directions with variance.
        offset: (r,) the class mean along the directions.
        values: (r,) variances.
        constant: log weight, log determinant and the power of 2 pi.
    """

    members: NDArray[np.int64]
    factor: Tensor
    offset: Tensor
    values: Tensor
    constant: float


class GMM(OODScore):
    """The log-likelihood of one Gaussian per class with a covariance of its own.

    score = log sum_k w_k N(f; mu_k, S_k + reg I), with w_k the share of class k, S_k its covariance divided by its
    rows: the evidence in quadratic discriminant analysis. It has no paper; the definition is pytorch-ood's. Classes
    with at most D rows are scored through products with these rows, which are read again for every block, so that no
    D x D matrix is kept for them.

    Args:
        reg: added to the covariances' diagonals, as scikit-learn's ``reg_covar``.
    """

    name = "gmm"
    needs = ("features", "labels")

    reg: Positive = 1e-6

    def _fit(self, train: TrainingSet) -> None:
        moments = train.moments
        order = np.argsort(train.labels, kind="stable")
        counts = moments.counts.long().cpu().numpy()
        members = [part for part in np.split(order, counts.cumsum()[:-1]) if len(part)]
        self._mean = moments.mean
        self._means = moments.class_means[moments.counts > 0] - moments.mean
        self._gaussians = [self._gaussian(train, at, mean) for at, mean in zip(members, self._means, strict=True)]

    def _gaussian(self, train: TrainingSet, members: NDArray[np.int64], mean: Tensor) -> _Gaussian:
        d, n = len(mean), len(members)
        few = n <= d
        if few:
            rows = self._centred(train, members)
            along = rows @ mean
            rows -= mean
            values, vectors = torch.linalg.eigh(rows @ rows.T / n)
        else:
            scatter = torch.zeros(d, d, dtype=torch.float64, device=mean.device)
            for part in np.array_split(members, math.ceil(n * d / GROUP_VALUES)):
                add_gram(scatter, self._centred(train, part).sub_(mean))
            values, vectors = torch.linalg.eigh(symmetric(scatter) / n)
        kept = values > values[-1] * max(n, d) * torch.finfo(torch.float64).eps
        values, vectors = values[kept], vectors[:, kept]
        factor = vectors / (n * values).sqrt() if few else vectors
        log_det = float((values + self.reg).log().sum()) + (d - len(values)) * math.log(self.reg)
        return _Gaussian(
            members=members if few else members[:0],
            factor=factor,
            offset=(along if few else mean) @ factor,
            values=values,
            constant=math.log(n / train.rows) - 0.5 * (log_det + d * math.log(2 * math.pi)),
        )

    def _score(self, block: Block) -> Tensor:
        rows = block.features.double() - self._mean
        squares = rows.square().sum(1)[:, None] - 2 * rows @ self._means.T + self._means.square().sum(1)
        for group in self._groups(rows.shape[1]):
            members = np.concatenate([self._gaussians[k].members for k in group])
            products = rows @ self._centred(self._train, members).T if len(members) else rows[:, :0]
            start = 0
            for k in group:
                one = self._gaussians[k]
                source = products[:, start : start + len(one.members)] if len(one.members) else rows
                start += len(one.members)
                along = (source @ one.factor - one.offset).square_()
                left = (squares[:, k] - along.sum(1)).clamp_(min=0)
                if len(one.values) == rows.shape[1]:
                    left.zero_()
                squares[:, k] = one.constant - 0.5 * (along @ (1 / (one.values + self.reg)) + left / self.reg)
        return squares.logsumexp(1)

    def _groups(self, width: int) -> Iterator[list[int]]:
        """Classes whose rows are read together."""
        group: list[int] = []
        held = 0
        for k, one in enumerate(self._gaussians):
            if group and (held + len(one.members)) * width > GROUP_VALUES:
                yield group
                group, held = [], 0
            group.append(k)
            held += len(one.members)
        yield group

    def _centred(self, train: TrainingSet, members: NDArray[np.int64]) -> Tensor:
        """Training rows (n, D) less the mean of all."""
        rows = np.asarray(train.features[members], np.float32).astype(np.float64)
        return torch.from_numpy(rows).to(self._mean.device).sub_(self._mean)
