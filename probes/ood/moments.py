"""Means and covariances of rows, and their spectra.

Shapes: N rows, D features, K classes, m rows of a block, r directions with variance.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

STRIPS = 8  # of a symmetric product: the more, the less of the other triangle is computed
FAINT = 1e-6  # share of the variance below which mixed products are float64


@dataclass(frozen=True, kw_only=True, eq=False)
class Spectrum:
    """Eigenvalues of a covariance that are above rounding, ascending, and their eigenvectors.

    Attributes:
        values: (r,) float64.
        vectors: (D, r) float64.
        complement: (D, D - r) float64, the directions without variance.
    """

    values: Tensor
    vectors: Tensor
    complement: Tensor

    def whitened(self, rows: Tensor, *, mixed: bool = False) -> Tensor:
        """Rows (m, D), float64, along the eigenvectors in standard deviations (m, r), float64.

        Their squared norms are Mahalanobis distances by the covariance's pseudo-inverse. Mixed products are float32
        along directions with more than a millionth of the variance, where rounding is below 1e-4 standard deviations.
        """
        if not mixed:
            return (rows @ self.vectors).div_(self.values.sqrt())
        faint = int((self.values < FAINT * self.values.sum()).sum())
        strong = (rows.float() @ self.vectors[:, faint:].float()).double()
        return torch.cat([rows @ self.vectors[:, :faint], strong], 1).div_(self.values.sqrt())

    @property
    def ascending(self) -> Tensor:
        """(D, D) all eigenvectors, those of the smallest eigenvalues first."""
        return torch.cat([self.complement, self.vectors], 1)


@dataclass(frozen=True, kw_only=True, eq=False)
class Moments:
    """Means and covariances of rows, divided by N; float64, on the training set's device.

    Attributes:
        rows: N.
        mean: (D,).
        covariance: (D, D) about the mean.
        counts: (K,) rows of each class; one class without labels.
        class_means: (K, D), zero for a class without rows.
    """

    rows: int
    mean: Tensor
    covariance: Tensor
    counts: Tensor
    class_means: Tensor

    @cached_property
    def spectrum(self) -> Spectrum:
        """Of the covariance about the mean of all rows."""
        return self.decompose(self.covariance)

    @cached_property
    def within(self) -> Spectrum:
        """Of the covariance of the rows about their class means, shared by the classes."""
        offsets = (self.class_means - self.mean) * (self.counts / self.rows).sqrt()[:, None]
        return self.decompose(self.covariance - offsets.T @ offsets)

    def decompose(self, matrix: Tensor) -> Spectrum:
        """The spectrum of a second moment of these rows, cut where eigenvalues are rounding errors of the sums.

        Raises:
            ValueError: nothing is above it, because the features are constant.
        """
        values, vectors = torch.linalg.eigh(matrix)
        largest = torch.maximum(self.covariance.diagonal().sum(), matrix.diagonal().sum())
        scale = largest + torch.finfo(torch.float64).eps * self.mean.square().sum()
        kept = values > scale * max(self.rows, len(matrix)) * torch.finfo(torch.float64).eps
        if not kept.any():
            raise ValueError(
                "the training features must vary (within classes, for distances to class means); found none that "
                "does; extract them again"
            )
        return Spectrum(values=values[kept], vectors=vectors[:, kept], complement=vectors[:, ~kept])


def add_gram(sums: Tensor, rows: Tensor) -> None:
    """Adds rows.T @ rows (D, D) to the upper triangle of the sums, in strips; what is below it is not defined.

    Not through NumPy, which has a routine for one triangle: its threads and torch's, each waiting for work, slow each
    other down.
    """
    height = -(-len(sums) // STRIPS)
    for start in range(0, len(sums), height):
        sums[start : start + height, start:] += rows[:, start : start + height].T @ rows[:, start:]


def symmetric(sums: Tensor) -> Tensor:
    """The whole matrix (D, D) of which the upper triangle is given, in the same memory."""
    return sums.triu_().add_(sums.triu(1).T)


def add_by_class(sums: Tensor, classes: Tensor, rows: Tensor) -> None:
    """Adds rows (m, C) to the sums (K, C) of their classes (m,), in an order that does not vary between runs."""
    if sums.device.type == "cpu":
        sums.index_add_(0, classes, rows)
    else:
        sums += torch.nn.functional.one_hot(classes, len(sums)).to(rows.dtype).T @ rows
