"""Many linear heads in one pass: the linear probe by gradient steps, its learning rate and weight decay from a grid.

Shapes: N training rows, M test rows, D features, K classes, B rows of a batch,
H heads, one for each learning rate and weight decay.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Any, Literal, Self

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, ClassifierMixin  # type: ignore[import-untyped]
from torch import Tensor

from featurebank.probes._labels import class_codes
from featurebank.probes._parameters import Count, NotNegative, NotNegatives, Pair, Positive, Positives, check_parameters
from featurebank.probes._prediction import SoftmaxClassifier
from featurebank.probes._rows import query_data, training_data
from featurebank.probes._training import (
    EPS,
    Held,
    checked_array,
    in_blocks,
    reader,
    split_rows,
    to_torch,
    train,
)

__all__ = ["LinearHeads"]

LEARNING_RATES = (1e-5, 2e-5, 5e-5, 1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 1e-2, 2e-2, 5e-2, 1e-1)
RUNNING, INIT_STD = 0.1, 0.01


@dataclass(eq=False, repr=False)
class LinearHeads(SoftmaxClassifier, ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """Linear classifiers trained side by side on the same batches; the best on validation rows is the classifier.

    The protocol of DINOv2 (Oquab et al. 2023, arXiv:2304.07193: a grid of learning rates, SGD, cosine schedule) and of
    Battle of the Backbones (Goldblum et al. 2023, arXiv:2310.19909: LARS, no weight decay), on cached features. All
    heads take one matrix product a step, and each ends where it would have ended alone. Features go through a batch
    normalisation without learned scale and shift, for every backbone: statistics of the batch while training, running
    ones (momentum .1) afterwards, eps 1e-6. Heads start at the same weights, normal with deviation .01 (truncated at
    +-2), and bias 0. The loss is cross-entropy.

    With ``lars`` (You et al. 2017, arXiv:1708.03888) a head's weights w with gradient g and decay b move by
    v = m v + r l (g + b w), where l = trust |w| / (|g| + b |w|) and r is the learning rate; biases take plain momentum
    steps without decay, as in MAE. With ``sgd`` the step is that of ``torch.optim.SGD``, biases decay too.

    Args:
        learning_rates: For 256 rows; the rate of a run is that times min(batch_size, N) / 256.
        weight_decays: Each is combined with each learning rate.
        optimizer: ``sgd`` or ``lars``.
        momentum: m.
        trust_coefficient: Of LARS.
        epochs: Passes over the training rows.
        warmup_epochs: Of them at the beginning with a rising learning rate.
        batch_size: B at most; the batches of an epoch are of as equal a size as possible.
        validation_fraction: Of the rows of each class, where `fit` gets no validation rows; the best head is then
            trained again on all rows.
        device: Of torch.
        random_state: Seed of the weights, the batches and the validation rows.

    Attributes:
        classes_: (K,) the labels found in fit, sorted.
        n_features_in_: D.
        best_: ``learning_rate`` and ``weight_decay`` of the best head; of equal ones the first in the grid.
        validation_accuracy_: (learning rates, weight decays), NaN where a head diverged.
        coef_: (K, D) float32 of the best head, for normalised features.
        intercept_: (K,) float32.
        mean_: (D,) float32, the running mean.
        variance_: (D,) float32, the running variance.

    >>> X = np.repeat([[0.0, 1.0], [1.0, 0.0]], 20, axis=0)
    >>> heads = LinearHeads(epochs=20).fit(X, np.repeat(["cat", "dog"], 20))
    >>> heads.predict([[0.1, 0.9]]).tolist(), heads.validation_accuracy_.shape
    (['cat'], (13, 1))
    """

    learning_rates: Positives = LEARNING_RATES
    weight_decays: NotNegatives = (0.0,)
    _: KW_ONLY
    optimizer: Literal["sgd", "lars"] = "sgd"
    momentum: NotNegative = 0.9
    trust_coefficient: Positive = 0.001
    epochs: Count = 90
    warmup_epochs: NotNegative = 0.0
    batch_size: Pair = 1024
    validation_fraction: float = 0.2
    device: str = "cpu"
    random_state: int = 0

    def fit(self, X: ArrayLike, y: ArrayLike, validation: tuple[ArrayLike, ArrayLike] | None = None) -> Self:
        """Trains every head on (N, D) features of any float type and chooses one.

        Args:
            X: Training features; a read-only memory map is read in batches.
            y: (N,) classes.
            validation: Features and classes that choose the head; a part of the training rows if None.

        Raises:
            ValueError: NaN or infinity, one class only, other widths, classes or parameters than allowed, or no head
                that stayed finite.
        """
        check_parameters(self)
        if self.warmup_epochs >= self.epochs:
            raise ValueError(f"warmup_epochs must be below epochs, {self.epochs}; found {self.warmup_epochs!r}")
        grid = [(float(rate), float(b)) for rate, b in itertools.product(self.learning_rates, self.weight_decays)]
        features, labels = training_data(self, X, y)
        checked_array(features, "N, D", "features")
        self.classes_, codes = class_codes(labels)
        given = None
        if validation is not None:
            given = checked_array(query_data(self, validation[0]), "N, D", "validation features"), validation[1]
        rows, held = split_rows(self, features, codes, given)
        trained = self._train(features, codes, rows, grid)
        accuracy = trained.accuracy(held)
        if np.isnan(accuracy).all():
            raise ValueError(
                f"no head stayed finite; found learning rates {tuple(self.learning_rates)}; add lower ones"
            )
        best = int(np.nanargmax(accuracy))
        if validation is None:
            trained = self._train(features, codes, np.arange(len(features)), [grid[best]])
        self.validation_accuracy_ = accuracy.reshape(len(self.learning_rates), len(self.weight_decays))
        self.best_ = dict(zip(("learning_rate", "weight_decay"), grid[best], strict=True))
        self.coef_, self.intercept_ = trained.head(0 if validation is None else best)
        self.mean_, self.variance_ = trained.mean.cpu().numpy(), trained.variance.cpu().numpy()
        return self

    def logits(self, X: ArrayLike) -> NDArray[np.float32]:
        """The best head's logits (M, K), computed in blocks of rows."""
        features = query_data(self, X)
        checked_array(features, "N, D", "features")
        heads = _Heads.of(self.coef_, self.intercept_, self.mean_, self.variance_, self.device)
        return in_blocks(features, len(self.classes_), lambda rows: heads.logits(features, rows)[:, 0].cpu().numpy())

    def _train(
        self,
        features: NDArray[Any],
        codes: NDArray[np.int64],
        rows: NDArray[np.int64],
        grid: Sequence[tuple[float, float]],
    ) -> _Heads:
        heads = _Heads.initial(len(grid), len(self.classes_), features.shape[1], self.random_state, self.device)
        steps_of = _Sgd if self.optimizer == "sgd" else _Lars
        optimizer = steps_of(heads, grid, self.momentum, self.trust_coefficient)
        labels, read = torch.from_numpy(codes), reader(features, self.device)
        scale = min(self.batch_size, len(rows)) / 256

        def step(batch: NDArray[np.int64], factor: float) -> None:
            optimizer.step(heads.gradients(read(batch), labels[batch].to(self.device)), scale * factor)

        for _ in train(self, step, rows, seed=(self.random_state, 0)):
            pass
        return heads


class _Heads:
    """H heads behind one batch normalisation: weight (H, K, D), bias (H, K, 1), mean and variance (D,), float32."""

    def __init__(self, weight: Tensor, bias: Tensor, mean: Tensor, variance: Tensor) -> None:
        self.weight, self.bias, self.mean, self.variance = weight, bias, mean, variance

    @classmethod
    def initial(cls, n_heads: int, n_classes: int, width: int, seed: int, device: str) -> _Heads:
        generator = torch.Generator().manual_seed(seed)
        weight = torch.nn.init.trunc_normal_(torch.empty(n_classes, width), std=INIT_STD, generator=generator)
        return cls(
            weight.repeat(n_heads, 1, 1).to(device),
            torch.zeros(n_heads, n_classes, 1, device=device),
            torch.zeros(width, device=device),
            torch.ones(width, device=device),
        )

    @classmethod
    def of(
        cls, coef: NDArray[Any], intercept: NDArray[Any], mean: NDArray[Any], var: NDArray[Any], device: str
    ) -> _Heads:
        arrays = (coef[None], intercept[None, :, None], mean, var)
        return cls(*(torch.tensor(array, device=device) for array in arrays))

    def head(self, index: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Weight (K, D) and bias (K,) of one head."""
        return self.weight[index].cpu().numpy().copy(), self.bias[index, :, 0].cpu().numpy().copy()

    def logits(self, features: NDArray[Any], rows: NDArray[np.int64] | slice) -> Tensor:
        """(B, H, K), with the running statistics."""
        return self._scores(self._normalised(to_torch(features, rows, str(self.weight.device)), training=False))

    def gradients(self, x: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Of each head's mean cross-entropy over a batch (B, D) with labels (B,); updates the running statistics."""
        z = self._normalised(x, training=True)
        errors = self._scores(z).softmax(2)
        errors -= torch.nn.functional.one_hot(labels, errors.shape[2])[:, None]
        errors /= len(x)
        return (errors.flatten(1).T @ z).view_as(self.weight), errors.sum(0)[:, :, None]

    def accuracy(self, held: Held) -> NDArray[np.float64]:
        """Of each head (H,) on some rows; NaN for a head that is not finite."""
        correct = torch.zeros(len(self.weight), dtype=torch.int64, device=self.weight.device)
        for rows, codes in held.blocks(self.bias.numel()):
            best = self.logits(held.features, rows).argmax(2)
            correct += (best == torch.from_numpy(codes).to(best.device)[:, None]).sum(0)
        share = correct.cpu().numpy() / len(held.rows)
        finite = self.weight.isfinite().all(2).all(1) & self.bias.isfinite().flatten(1).all(1)
        return np.where(finite.cpu().numpy(), share, np.nan)

    def _normalised(self, x: Tensor, *, training: bool) -> Tensor:
        return torch.nn.functional.batch_norm(x, self.mean, self.variance, training=training, momentum=RUNNING, eps=EPS)

    def _scores(self, z: Tensor) -> Tensor:
        return (z @ self.weight.flatten(0, 1).T).view(len(z), *self.weight.shape[:2]) + self.bias[:, :, 0]


class _Sgd:
    """``torch.optim.SGD`` for all heads: v = m v + (g + b w), w = w - r v, for weights and biases."""

    def __init__(self, heads: _Heads, grid: Sequence[tuple[float, float]], momentum: float, trust: float) -> None:
        self.heads, self.momentum, self.trust = heads, momentum, trust
        self.rates, self.decays = torch.tensor(grid, device=heads.weight.device).T[:, :, None, None]
        self.velocity = torch.zeros_like(heads.weight), torch.zeros_like(heads.bias)

    def step(self, gradients: tuple[Tensor, Tensor], factor: float) -> None:
        """Moves the heads by their gradients, which it overwrites."""
        parameters = (self.heads.weight, self.heads.bias)
        for values, gradient, velocity in zip(parameters, gradients, self.velocity, strict=True):
            velocity.mul_(self.momentum).add_(gradient.addcmul_(self.decays, values))
            values.addcmul_(self.rates * factor, velocity, value=-1)


class _Lars(_Sgd):
    """LARS for the weights, plain momentum for the biases; see `LinearHeads`."""

    def step(self, gradients: tuple[Tensor, Tensor], factor: float) -> None:
        """Moves the heads by their gradients, which it overwrites."""
        weight, (gradient, bias_gradient), rates = self.heads.weight, gradients, self.rates * factor
        size, slope = (values.flatten(1).norm(dim=1)[:, None, None] for values in (weight, gradient))
        scale = slope + self.decays * size
        local = (self.trust * size / scale).where((size > 0) & (scale > 0), 1.0)
        self.velocity[0].mul_(self.momentum).add_(rates * local * gradient.addcmul_(self.decays, weight))
        self.velocity[1].mul_(self.momentum).add_(rates * bias_gradient)
        weight.sub_(self.velocity[0])
        self.heads.bias.sub_(self.velocity[1])
