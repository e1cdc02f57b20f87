"""Scores of what a subspace of the training features leaves of a row.

Shapes: N rows, D features, K classes, m rows of a block, q dimensions of the subspace, R random features.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from featurebank.probes._parameters import Fraction, Positive
from featurebank.probes.ood.block import Block
from featurebank.probes.ood.contract import OODScore
from featurebank.probes.ood.head import Head
from featurebank.probes.ood.moments import add_gram, symmetric
from featurebank.probes.ood.statistics import TrainingSet

__all__ = ["PNML", "CoP", "CoRP", "Residual", "ViM"]

ROUNDING = 1e-5  # of a float32 norm, relative to that of the row


class Residual(OODScore):
    """Minus the norm of the row outside the principal subspace (Wang et al., CVPR 2022, arXiv:2203.10807).

    score = - ||R^T (f - u)||, with u = -W^+ b the point whose logits are nearest to zero and R the eigenvectors of
    sum (f - u)(f - u)^T over the training rows without the ``dim`` largest. W^+ is cut at the rounding of float32: the
    rows of a softmax head with an L2 penalty sum to zero, and one singular value is nothing but rounding.

    Args:
        dim: of the principal subspace; if None the paper's 1000 for D >= 2048 and 512 for D >= 768, else D // 2.

    Attributes:
        origin_: (D,) u.
        dim_: the dimension used.
    """

    name = "residual"
    needs: ClassVar[tuple[str, ...]] = ("features", "head")
    candidates: ClassVar = {"dim": (16, 64, 256, 512, 1000)}

    dim: int | None = None

    def _fit(self, train: TrainingSet) -> None:
        moments = train.moments
        d = len(moments.mean)
        self.dim_ = self.dim or (1000 if d >= 2048 else 512 if d >= 768 else d // 2)
        if not 1 <= self.dim_ < d:
            raise ValueError(f"dim must be at least 1 and below D = {d}; found {self.dim_}")
        self.origin_ = origin(train.head).to(moments.mean.device)
        shift = moments.mean - self.origin_
        vectors = torch.linalg.eigh(moments.covariance + torch.outer(shift, shift)).eigenvectors
        self._origin = self.origin_.float()
        self._left = complement_norm(vectors, self.dim_)

    def _score(self, block: Block) -> Tensor:
        return -self._norm(block)

    def _norm(self, block: Block) -> Tensor:
        return self._left(block.features - self._origin).double()


class ViM(Residual):
    """Energy less the virtual logit of the residual (Wang et al., CVPR 2022, arXiv:2203.10807).

    score = log sum_k exp(l_k) - alpha ||R^T (f - u)||, which ranks as one minus the softmax probability of the virtual
    class. alpha is the mean largest training logit over the mean training residual.

    Args:
        dim: as for `Residual`.

    Attributes:
        alpha_: alpha.
    """

    name = "vim"
    needs = ("features", "logits", "head")

    def _fit(self, train: TrainingSet) -> None:
        super()._fit(train)
        total = whole = largest = 0.0
        for _, block in train.training_blocks("features", "logits"):
            largest += float(block.logits.amax(1).double().sum())
            total += float(self._norm(block).sum())
            whole += float((block.features - self._origin).norm(dim=1).double().sum())
        if total <= ROUNDING * whole:
            raise ValueError(
                f"the training rows must reach outside the principal subspace; found {train.rows} rows within "
                f"{self.dim_} dimensions: take a smaller dim"
            )
        self.alpha_ = largest / total

    def _score(self, block: Block) -> Tensor:
        return block.energy - self.alpha_ * self._norm(block)


class CoP(OODScore):
    """Minus the reconstruction error of unit rows by principal components (Fang et al., NeurIPS 2024).

    arXiv:2402.02949. score = - ||z - U_q U_q^T z||, z = f / ||f|| - mean: kernel PCA with a cosine kernel. q is the
    smallest number of components that explain ``explained`` of the variance.

    Args:
        explained: share of the variance, the paper's 0.99 for ImageNet (0.85 for CIFAR-10).

    Attributes:
        dim_: q.
    """

    name = "cop"
    needs = ("features",)
    candidates: ClassVar = {"explained": (0.85, 0.9, 0.95, 0.99)}

    explained: Fraction = 0.99

    def _fit(self, train: TrainingSet) -> None:
        moments = train.unit_moments
        spectrum = moments.spectrum
        self.dim_ = explaining(spectrum.values, self.explained)
        self._mean = moments.mean.float()
        self._left = complement_norm(spectrum.ascending, self.dim_)

    def _score(self, block: Block) -> Tensor:
        return -self._left(block.unit - self._mean)


class CoRP(OODScore):
    """`CoP` of random Fourier features, a Gaussian kernel on unit rows (Fang et al., NeurIPS 2024, arXiv:2402.02949).

    z = sqrt(2 / R) cos(w f / ||f|| + t) - mean, with w normal of variance 2 gamma and t uniform in 0..2 pi.

    Args:
        gamma: of the kernel exp(-gamma ||a - b||^2), the paper's 3 for ImageNet.
        explained: share of the variance, the paper's 0.5 for ImageNet.
        samples: R; if None 2 D, as the paper's 4,096 for D = 2,048.
        random_state: of the random features.

    Attributes:
        dim_: q.
    """

    name = "corp"
    needs = ("features",)
    candidates: ClassVar = {"explained": (0.5, 0.9)}

    gamma: Positive = 3.0
    explained: Fraction = 0.5
    samples: int | None = None
    random_state: int = 0

    def _fit(self, train: TrainingSet) -> None:
        d = train.features.shape[1]
        r = self.samples or 2 * d
        generator = np.random.default_rng(self.random_state)
        frequencies = generator.standard_normal((r, d), np.float32) * np.float32(math.sqrt(2 * self.gamma))
        self._frequencies = train.on_device(frequencies).T.contiguous()
        self._phases = train.on_device(generator.random(r, np.float32) * np.float32(2 * math.pi))
        about = None
        total = torch.zeros(r, dtype=torch.float64, device=train.device)
        second = torch.zeros(r, r, dtype=torch.float64, device=train.device)
        for _, block in train.training_blocks("features"):
            rows = self._mapped(block)
            about = rows.mean(0) if about is None else about
            rows -= about
            total += rows.double().sum(0)
            add_gram(second, rows)
        assert about is not None  # noqa: S101 - there are rows
        offset = total / train.rows
        values, vectors = torch.linalg.eigh(symmetric(second).div_(train.rows).sub_(torch.outer(offset, offset)))
        del second
        if not values[-1] > 0:
            raise ValueError("the training features must vary; found none that does; extract them again")
        self.dim_ = explaining(values.clamp(min=0), self.explained)
        self._mean = (about.double() + offset).float()
        self._left = complement_norm(vectors, self.dim_)

    def _mapped(self, block: Block) -> Tensor:
        mapped = torch.addmm(self._phases, block.unit, self._frequencies)
        return mapped.cos_().mul_(math.sqrt(2 / mapped.shape[1]))

    def _score(self, block: Block) -> Tensor:
        return -self._left(self._mapped(block) - self._mean)


class PNML(OODScore):
    """Minus the regret of the predictive normalised maximum likelihood (Bibas et al., NeurIPS 2021, arXiv:2110.09246).

    score = - log sum_k p_k / (p_k + p_k^g (1 - p_k)), with p the softmax of the head on z = f / ||f||,
    g = x / (1 + x) and x = z^T (Z^T Z)^+ z over the unit training rows Z.
    """

    name = "pnml"
    needs = ("features", "head")

    def _fit(self, train: TrainingSet) -> None:
        moments = train.unit_moments
        second = moments.covariance + torch.outer(moments.mean, moments.mean)
        self._spectrum = moments.decompose(second)
        self._rows = moments.rows

    def _score(self, block: Block) -> Tensor:
        unit = Block(None, torch.addmm(block.head.bias, block.unit, block.head.weight.T))
        x = self._spectrum.whitened(block.unit.double(), mixed=True).square_().sum(1) / self._rows
        exponent = x / (1 + x) - 1
        split = unit.peak
        log_sum = split.log_sum
        log_p = split.shifted - log_sum.float()[:, None]
        terms = 1 / (1 + (log_p * exponent.float()[:, None]).exp() * -torch.expm1(log_p))
        terms.scatter_(1, split.predicted[:, None], 0.0)
        top = (-log_sum * exponent).exp() * (split.rest / (1 + split.rest))
        return -torch.log1p(terms.sum(1).double() - top / (1 + top))


def origin(head: Head) -> Tensor:
    """-W^+ b (D,) float64, with W^+ cut at the rounding of the weights, at least of float32."""
    weight = torch.from_numpy(np.array(head.weight, np.float64))
    precision = max(np.finfo(np.float32).eps, np.finfo(np.result_type(head.weight, np.float16)).eps)
    inverse: Tensor = torch.linalg.pinv(weight, rtol=max(weight.shape) * float(precision))
    return -(inverse @ torch.from_numpy(np.array(head.bias, np.float64)))


def explaining(values: Tensor, share: float) -> int:
    """How many of the largest variances, ascending, make up a share of all."""
    shares = values.flip(0).cumsum(0) / values.sum()
    return min(int((shares < share).sum()) + 1, len(values))


def complement_norm(vectors: Tensor, q: int) -> Callable[[Tensor], Tensor]:
    """The norm (m,) of rows (m, D) outside the span of the last q of D orthonormal columns.

    Projects on the other columns, or takes the projection on these off, whichever is less work; both keep small norms.
    """
    split = vectors.shape[1] - q
    if split <= 2 * q:
        outside = vectors[:, :split].float().contiguous()
        return lambda rows: (rows @ outside).norm(dim=1)
    inside = vectors[:, split:].float().contiguous()
    return lambda rows: torch.addmm(rows, rows @ inside, inside.T, alpha=-1).norm(dim=1)
