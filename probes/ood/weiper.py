"""WeiPer: densities of a row's features and of its logits under perturbed weights.

Shapes: N rows, D features, K classes, m rows of a block, r perturbations, B bins.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import KW_ONLY
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from featurebank.probes._parameters import Count, Positive
from featurebank.probes.ood.block import Block, peak
from featurebank.probes.ood.contract import OODScore
from featurebank.probes.ood.statistics import TrainingSet

__all__ = ["WeiPerKLD"]

EPSILON, EPSILON_PERTURBED = 0.01, 0.025
WIDTH = 1024  # logits of a product, about


class WeiPerKLD(OODScore):
    """Divergences of a row's densities from the training rows' (Granz, Heurich and Landgraf, NeurIPS 2024).

    arXiv:2405.17164. Each of r perturbations adds to every weight vector w_k noise of length ``distance`` ||w_k|| in a
    random direction. The D features of a row are counted in B equal bins between the smallest and largest training
    feature, its r K perturbed logits between theirs; counts become shares, and the mean training shares p are compared
    with the row's q, smoothed by a moving average, after epsilon is added to both: d = sum (p - q) log(p / q).
    score = -(d + lambda_1 d_perturbed - lambda_2 mean over perturbations of the largest softmax probability).

    Only q is smoothed, as in the authors' code. Where most features of a row lie in a few bins (at zero, after a ReLU),
    what smoothing takes from this peak outweighs all other differences, and rows with a higher peak than the training
    rows' come nearer to them than equal ones. Smooth p too, or choose ``smoothing`` on validation rows.

    The noise is drawn once, from the seed, and again for every block instead of kept. Epsilon is .01 for features, .025
    for logits; a value outside the training range counts in the shares' total but in no bin, as in the authors' code.

    Args:
        repeats: r, the paper's 100.
        distance: the authors' 1.8 for ImageNet.
        bins: B, the paper's 100.
        smoothing: bins of the moving average of features, the authors' 4 for ImageNet.
        smoothing_perturbed: of logits, 15.
        smooth_train: whether the training shares are smoothed too, unlike in the authors' code.
        lambda_1: 2.5.
        lambda_2: 0.1.
        fit_rows: training rows that are read, at most, evenly spaced; the authors' 300,000.
        random_state: of the noise.

    Attributes:
        range_: smallest and largest training feature.
        range_perturbed_: smallest and largest perturbed logit.
        density_: (B,) float64, the mean training shares of features.
        density_perturbed_: (B,) float64, of perturbed logits.
    """

    name = "weiper+kld"
    needs = ("features", "head")
    candidates: ClassVar = {"smoothing": (1, 4), "smooth_train": (False, True)}

    _: KW_ONLY
    repeats: Count = 100
    distance: Positive = 1.8
    bins: Count = 100
    smoothing: Count = 4
    smoothing_perturbed: Count = 15
    smooth_train: bool = False
    lambda_1: float = 2.5
    lambda_2: float = 0.1
    fit_rows: Count = 300_000
    random_state: int = 0

    def _fit(self, train: TrainingSet) -> None:
        self._weight, self._bias = train.affine
        # A GPU keeps them, for drawing would take longer than the products; a CPU draws again in less memory.
        self._kept = None if self._weight.device.type == "cpu" else [*self._drawn()]
        step = -(-train.rows // self.fit_rows)
        rows = train.features[::step]
        self.range_ = self.range_perturbed_ = (np.inf, -np.inf)
        for _, block in train.blocks(rows, None, needs=("features",)):
            self.range_ = _widened(self.range_, block.features)
            for logits in self._perturbed(block):
                self.range_perturbed_ = _widened(self.range_perturbed_, logits)
        if self.range_[0] == self.range_[1]:
            raise ValueError(f"the training features must vary; found {self.range_[0]} only; extract them again")
        sums = torch.zeros(2, self.bins, dtype=torch.float64, device=train.device)
        for _, block in train.blocks(rows, None, needs=("features",)):
            densities = self._densities(block)
            sums += torch.stack([densities[0].sum(0), densities[1].sum(0)])
        self.density_, self.density_perturbed_ = sums / len(rows)
        if self.smooth_train:
            self.density_ = smoothed(self.density_[None], self.smoothing)[0]
            self.density_perturbed_ = smoothed(self.density_perturbed_[None], self.smoothing_perturbed)[0]

    def _score(self, block: Block) -> Tensor:
        own, perturbed, confidence = self._densities(block)
        first = divergence(self.density_, own, self.smoothing, EPSILON)
        second = divergence(self.density_perturbed_, perturbed, self.smoothing_perturbed, EPSILON_PERTURBED)
        return -(first + self.lambda_1 * second - self.lambda_2 * confidence)

    def _densities(self, block: Block) -> tuple[Tensor, Tensor, Tensor]:
        """Shares of features and of perturbed logits (m, B), and the mean largest probability (m,)."""
        own = _counts(block.features, self.range_, self.bins) / block.features.shape[1]
        counts = torch.zeros_like(own)
        confidence = torch.zeros(len(own), dtype=torch.float64, device=own.device)
        for logits in self._perturbed(block):
            counts += _counts(logits, self.range_perturbed_, self.bins)
            confidence += (1 / (1 + peak(logits.view(-1, len(self._bias))).rest)).view(len(own), -1).sum(1)
        return own, counts / (self.repeats * len(self._bias)), confidence / self.repeats

    def _perturbed(self, block: Block) -> Iterator[Tensor]:
        """The logits (m, s K) of s perturbations at a time."""
        for weights in self._drawn() if self._kept is None else self._kept:
            yield torch.addmm(self._bias.repeat(len(weights) // len(self._bias)), block.features, weights.T)

    def _drawn(self) -> Iterator[Tensor]:
        """The perturbed weights (s K, D) of s perturbations at a time, drawn on the CPU: the same on all devices."""
        lengths = self.distance * self._weight.norm(dim=1, keepdim=True)
        generator = torch.Generator().manual_seed(self.random_state)
        together = max(1, WIDTH // len(self._bias))
        for start in range(0, self.repeats, together):
            number = min(together, self.repeats - start)
            noise = torch.randn((number, *self._weight.shape), generator=generator).to(self._weight.device)
            noise *= lengths / noise.norm(dim=2, keepdim=True)
            yield noise.add_(self._weight).flatten(0, 1)


def _widened(limits: tuple[float, float], values: Tensor) -> tuple[float, float]:
    low, high = torch.aminmax(values)
    return min(limits[0], float(low)), max(limits[1], float(high))


def divergence(p: Tensor, q: Tensor, smoothing: int, epsilon: float) -> Tensor:
    """The symmetric divergence of shares p (B,) and q (m, B), q smoothed, epsilon added and normalised; (m,)."""
    smooth = smoothed(q, smoothing) + epsilon
    smooth = smooth / smooth.sum(1, keepdim=True)
    mean = (p + epsilon) / (p + epsilon).sum()
    return ((mean - smooth) * (mean.log() - smooth.log())).sum(1)


def smoothed(shares: Tensor, size: int) -> Tensor:
    """The moving average (m, B) of ``size`` bins; beyond the ends the outermost bins go on."""
    left = (size - 1) // 2
    padded = torch.nn.functional.pad(shares[:, None], (left, size - 1 - left), mode="replicate")
    return torch.nn.functional.avg_pool1d(padded, size, stride=1)[:, 0]


def _counts(values: Tensor, limits: tuple[float, float], bins: int) -> Tensor:
    """How many of each row's values lie in each of equal bins (m, B), float64; those outside in none."""
    low, high = limits
    at = ((values - low) * (bins / (high - low))).floor_().clamp_(-1, bins - 1)
    at = at.masked_fill_(values > high, bins).long().add_(1)
    at += torch.arange(len(values), device=values.device)[:, None] * (bins + 2)
    counts = torch.bincount(at.flatten(), minlength=len(values) * (bins + 2)).view(-1, bins + 2)
    return counts[:, 1:-1].double()
