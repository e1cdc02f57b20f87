"""Scores of how a row lies to the head's weights, class patterns or class names.

Shapes: N rows, D features, K classes, m rows of a block; f are the features, l the logits, p their softmax, W and b the
head, c the predicted class, mu the mean training row.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from featurebank.probes._parameters import NotNegative, Positive
from featurebank.probes.ood.block import Block, peak
from featurebank.probes.ood.contract import OODScore
from featurebank.probes.ood.moments import add_by_class
from featurebank.probes.ood.statistics import TrainingSet

__all__ = ["FDBD", "MCM", "NCI", "SHE", "GradNorm"]


class SHE(OODScore):
    """The simplified Hopfield energy (Zhang et al., ICLR 2023): score = f . s_c.

    s_k is the mean of the training rows of class k that are classified correctly; of all its rows where none is.

    Attributes:
        patterns_: (K, D) float64, the s_k.
    """

    name = "she"
    needs = ("features", "labels", "logits")

    def _fit(self, train: TrainingSet) -> None:
        chosen = train.pattern_rows
        sums = torch.zeros(train.classes, train.features.shape[1], dtype=torch.float64, device=train.device)
        counts = torch.zeros(train.classes, dtype=torch.float64, device=train.device)
        for where, block in train.training_blocks("features"):
            at = torch.from_numpy(train.labels[where][chosen[where]]).to(train.device)
            add_by_class(sums, at, block.features[torch.from_numpy(chosen[where]).to(train.device)].double())
            counts += torch.bincount(at, minlength=train.classes)
        self.patterns_ = sums / counts[:, None]
        self._patterns = self.patterns_.float()

    def _score(self, block: Block) -> Tensor:
        scores: Tensor = torch.einsum("md,md->m", block.features, self._patterns[block.predicted])
        return scores


class GradNorm(OODScore):
    """The size of the last layer's gradient of the divergence from uniform (Huang, Geng and Li, NeurIPS 2021).

    arXiv:2110.00218. score = ||f||_1 ||K p - 1||_1: the gradient is an outer product, so no differentiation is needed.
    Its scale is the authors' code's, K times the gradient of the mean.
    """

    name = "gradnorm"
    needs = ("features", "logits")

    def _score(self, block: Block) -> Tensor:
        p = block.probabilities
        return block.l1 * (p * p.shape[1] - 1).abs_().sum(1).double()


class FDBD(OODScore):
    """The mean distance to the decision boundaries over that to the training mean (Liu and Qin, ICML 2024).

    arXiv:2312.11536. score = mean over k != c of (l_c - l_k) / ||w_c - w_k||, divided by ||f - mu||. Classes of equal
    weights have no boundary between them and are left out.
    """

    name = "fdbd"
    needs = ("features", "logits", "head")

    def _fit(self, train: TrainingSet) -> None:
        self._mean = train.mean.float()
        weight = train.affine.weight.double()
        gaps = torch.cdist(weight, weight, compute_mode="donot_use_mm_for_euclid_dist")
        self._inverse = torch.where(gaps > 0, 1 / gaps, 0.0).float()
        self._boundaries = (gaps > 0).sum(1).clamp(min=1)

    def _score(self, block: Block) -> Tensor:
        split = block.peak
        gaps = (split.top[:, None] - block.logits).mul_(self._inverse[split.predicted])
        distance = (block.features - self._mean).norm(dim=1).clamp_(min=torch.finfo(torch.float32).tiny)
        scores: Tensor = gaps.sum(1).double() / (distance.double() * self._boundaries[split.predicted])
        return scores


class NCI(OODScore):
    """How near a centred row lies to the predicted class's weights, and its size (Liu and Qin, CVPR 2025).

    arXiv:2311.01479. score = w_c . (f - mu) / ||f - mu|| + alpha ||f||_1.

    Args:
        alpha: the smallest of the authors' candidates, 0.0001, which is their configuration's; choose it on
            validation rows.
    """

    name = "nci"
    needs = ("features", "logits", "head")
    candidates: ClassVar = {"alpha": (1e-4, 1e-3, 1e-2, 1e-1)}

    alpha: NotNegative = 1e-4

    def _fit(self, train: TrainingSet) -> None:
        self._mean = train.mean.float()

    def _score(self, block: Block) -> Tensor:
        centred = block.features - self._mean
        along: Tensor = torch.einsum("md,md->m", centred, block.head.weight[block.predicted]).double()
        norms = centred.norm(dim=1).clamp_(min=torch.finfo(torch.float32).tiny)
        scores: Tensor = along / norms.double() + self.alpha * block.l1
        return scores


class MCM(OODScore):
    """The largest softmax probability over class names (Ming et al., NeurIPS 2022, arXiv:2211.13445), as its logarithm.

    score = log max_k softmax(cos(f, t_k) / tau), with t_k the text embedding of class k.

    Args:
        temperature: tau, the paper's 1.
    """

    name = "mcm"
    needs = ("features", "text")
    candidates: ClassVar = {"temperature": (0.01, 0.1, 1.0)}

    temperature: Positive = 1.0

    def _fit(self, train: TrainingSet) -> None:
        self._text = Block(train.on_device(train.text)).unit.T / self.temperature

    def _score(self, block: Block) -> Tensor:
        return -peak(block.unit @ self._text).log_sum
