"""Ridge regression on frozen features: every alpha from one eigendecomposition, chosen by leave-one-out.

Shapes: N rows, D features, T targets, A alphas.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import KW_ONLY, dataclass
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, MultiOutputMixin, RegressorMixin  # type: ignore[import-untyped]

from featurebank.probes._design import Standardised
from featurebank.probes._parameters import Positives, check_parameters
from featurebank.probes._prediction import affine
from featurebank.probes._rows import query_data, training_data
from featurebank.retrieval._features import as_features

__all__ = ["RegressionScores", "RidgePath", "RidgeProbe", "regression_scores"]

ALPHAS = tuple(10.0**power for power in range(-3, 7))

Matrix = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class RegressionScores:
    """How far predictions are from targets, each averaged over the T targets.

    Attributes:
        r2: 1 - residual / total sum of squares; for a constant target 1 where it is met exactly, else 0.
        mae: mean absolute error, in the targets' unit.
        rmse: root mean squared error, in the targets' unit.
    """

    r2: float
    mae: float
    rmse: float


def regression_scores(targets: ArrayLike, predictions: ArrayLike) -> RegressionScores:
    """R², MAE and RMSE of predictions for targets, both (M,) or (M, T).

    >>> regression_scores([1.0, 2.0, 3.0], [1.0, 2.0, 4.0])
    RegressionScores(r2=0.5, mae=0.3333333333333333, rmse=0.5773502691896257)

    Raises:
        ValueError: shapes that differ, no row, NaN or infinity.
    """
    y, predicted = np.asarray(targets, np.float64), np.asarray(predictions, np.float64)
    if y.shape != predicted.shape or y.ndim not in (1, 2) or y.size == 0:
        raise ValueError(f"targets and predictions must both be (M,) or (M, T); found {y.shape} and {predicted.shape}")
    if not (np.isfinite(y).all() and np.isfinite(predicted).all()):
        raise ValueError("targets and predictions must be finite; found NaN or infinity")
    error = (y - predicted).reshape(len(y), -1)
    residual = np.square(error).sum(0)
    total = np.square(y - y.mean(0)).reshape(len(y), -1).sum(0)
    r2 = np.where(total > 0, 1 - residual / np.where(total > 0, total, 1.0), residual == 0)
    return RegressionScores(
        r2=float(r2.mean()), mae=float(np.abs(error).mean()), rmse=float(np.sqrt(residual / len(y)).mean())
    )


@dataclass(eq=False, repr=False)
class RidgePath(BaseEstimator):  # type: ignore[misc]
    """Ridge regressions for several alphas at the cost of one.

    Each minimises ||y - Xw - b||² + alpha ||w||², as scikit-learn's ``Ridge`` does; b is not penalised. The D x D Gram
    matrix of these rows, or the N x N one where N <= D, is summed over blocks in float64 and decomposed once.

    Features are standardised first unless told otherwise, so that no answer depends on their scale; the coefficients
    are those of the features as given.

    Args:
        alphas: A penalties above 0.
        standardize: Whether features are divided by their standard deviation before they are penalised.

    Attributes:
        coef_: (A, T, D) float64, or (A, D) for targets (N,).
        intercept_: (A, T), or (A,).
        loo_: (A,) mean squared error of leave-one-out predictions, over all targets.
        n_features_in_: D.
    """

    alphas: Positives = ALPHAS
    _: KW_ONLY
    standardize: bool = True

    def fit(self, X: ArrayLike, y: ArrayLike) -> Self:
        """Fits features (N, D) to targets (N,) or (N, T).

        Raises:
            ValueError: fewer than two rows, NaN or infinity, or an alpha that is not above 0.
        """
        self.coef_, self.intercept_, self.loo_ = _path(self, X, y)
        return self

    def predict(self, X: ArrayLike) -> Matrix:
        """Predictions of each alpha (A, M, T), or (A, M) for targets (N,)."""
        return np.moveaxis(_predicted(query_data(self, X), self.coef_, self.intercept_), 0, 1)


class RidgeProbe(MultiOutputMixin, RegressorMixin, RidgePath):  # type: ignore[misc]
    """Ridge regression whose alpha has the least squared error on rows that it was not fitted on.

    By default those are the training rows left out one by one, which costs no further fit and equals scikit-learn's
    ``RidgeCV``; validation rows given to `fit` take their place. Of equal errors the alpha that is named first wins.

    Args:
        alphas: Candidates above 0.
        standardize: As in `RidgePath`.

    Attributes:
        alpha_: The chosen one.
        coef_: (T, D) float64, or (D,) for targets (N,).
        intercept_: (T,), or a number.
        validation_: Mean squared error of each candidate, by alpha.
        n_features_in_: D.
    """

    def fit(self, X: ArrayLike, y: ArrayLike, validation: tuple[ArrayLike, ArrayLike] | None = None) -> Self:
        """Fits features (N, D) to targets (N,) or (N, T) and chooses alpha.

        Args:
            X: features.
            y: targets.
            validation: features (V, D) and targets (V,) or (V, T); leave-one-out if None.

        Raises:
            ValueError: as `RidgePath`, or validation rows of other shapes.
        """
        coef, intercept, errors = _path(self, X, y)
        if validation is not None:
            held = as_features(validation[0], "validation features")
            if held.shape[1] != coef.shape[-1]:
                raise ValueError(f"validation features must have {coef.shape[-1]} columns; found shape {held.shape}")
            predictions = _predicted(held, coef, intercept)
            targets = np.asarray(validation[1], np.float64)[:, None]
            if targets.shape[:1] + targets.shape[2:] != predictions.shape[:1] + predictions.shape[2:]:
                wanted = predictions[:, 0].shape
                raise ValueError(f"validation targets must be {wanted}; found {targets[:, 0].shape}")
            errors = np.square(predictions - targets).reshape(len(targets), len(errors), -1).mean((0, 2))
        best = int(np.argmin(errors))
        self.alpha_ = float(self.alphas[best])
        self.coef_, self.intercept_ = coef[best], intercept[best]
        self.validation_ = {float(alpha): float(error) for alpha, error in zip(self.alphas, errors, strict=True)}
        return self

    def predict(self, X: ArrayLike) -> Matrix:
        """Predictions (M, T), or (M,) for targets (N,)."""
        return _predicted(query_data(self, X), self.coef_, self.intercept_)


def _path(estimator: Any, X: ArrayLike, y: ArrayLike) -> tuple[Matrix, Matrix, Matrix]:
    """Coefficients (A, T, D), intercepts (A, T) and leave-one-out errors (A,); without T for targets (N,)."""
    check_parameters(estimator)
    alphas = np.asarray(estimator.alphas, np.float64)
    features, targets = training_data(estimator, X, y, multi_output=True, y_numeric=True, ensure_min_samples=2)
    columns = np.asarray(targets, np.float64).reshape(len(features), -1)
    rows = Standardised(features, standardize=estimator.standardize)
    solver = (_Primal if len(features) > features.shape[1] else _Dual)(rows, columns)
    coef = solver.coef(alphas) / rows.scale.numpy()
    intercept = columns.mean(0) - coef @ rows.mean.numpy()
    if targets.ndim == 1:
        coef, intercept = coef[:, 0], intercept[:, 0]
    return coef, intercept, solver.loo(alphas)


def _predicted(features: NDArray[Any], coef: Matrix, intercept: Matrix) -> Matrix:
    """(M, D) features through coefficients (..., D) and intercepts (...): (M, ...)."""
    flat = coef.reshape(-1, coef.shape[-1])
    return affine(features, flat, np.ravel(intercept)).reshape(len(features), *coef.shape[:-1])


class _Primal:
    """X'X = V diag(s) V' of the centred rows: coefficients V diag(1 / (s + alpha)) V'X'y."""

    def __init__(self, rows: Standardised, targets: Matrix) -> None:
        self.rows, self.targets = rows, targets - targets.mean(0)
        gram = np.zeros((rows.features.shape[1],) * 2)
        products = np.zeros((rows.features.shape[1], targets.shape[1]))
        for where, block in _blocks(rows):
            gram += block.T @ block
            products += block.T @ self.targets[where]
        self.values, self.vectors = _eigh(gram)
        self.rotated = self.vectors.T @ products

    def coef(self, alphas: Matrix) -> Matrix:
        """(A, T, D)."""
        return np.stack([(self.vectors @ (self.rotated / (self.values + alpha)[:, None])).T for alpha in alphas])

    def loo(self, alphas: Matrix) -> Matrix:
        """(A,): residuals over 1 - leverage, squared."""
        totals = np.zeros(len(alphas))
        for where, block in _blocks(self.rows):
            scores = block @ self.vectors
            squares = np.square(scores)
            for at, alpha in enumerate(alphas):
                shrunk = 1 / (self.values + alpha)
                left = 1 - 1 / len(self.targets) - squares @ shrunk
                residuals = self.targets[where] - scores @ (self.rotated * shrunk[:, None])
                totals[at] += np.square(residuals / left[:, None]).sum()
        totals /= self.targets.size
        return totals


class _Dual:
    """XX' = U diag(s) U' of the centred rows: coefficients X'c with c = U diag(1 / (s + alpha)) U'y.

    The direction of ones, along which centred rows have no extent, is told apart by an eigenvalue above all others
    and dropped, because at a small alpha it would swamp the rest.
    """

    def __init__(self, rows: Standardised, targets: Matrix) -> None:
        self.rows = rows
        n = len(targets)
        gram = np.empty((n, n))
        for where, block in _blocks(rows):
            for columns, other in _blocks(rows):
                gram[where, columns] = block @ other.T
        values, vectors = _eigh(gram + (2 * np.trace(gram) + 1) / n)
        self.values, self.vectors = values[:-1], vectors[:, :-1]
        self.rotated = self.vectors.T @ (targets - targets.mean(0))

    def coef(self, alphas: Matrix) -> Matrix:
        """(A, T, D)."""
        dual = np.stack([self._dual(alpha).T for alpha in alphas])
        coef = np.zeros((*dual.shape[:2], self.rows.features.shape[1]))
        for where, block in _blocks(self.rows):
            coef += dual[..., where] @ block
        return coef

    def loo(self, alphas: Matrix) -> Matrix:
        """(A,): c over the diagonal of the inverse, squared; the residuals over 1 - leverage, without cancellation."""
        squares = np.square(self.vectors)
        errors = [
            np.square(self._dual(alpha) / (squares @ (1 / (self.values + alpha)))[:, None]).mean() for alpha in alphas
        ]
        return np.array(errors)

    def _dual(self, alpha: float) -> Matrix:
        dual: Matrix = self.vectors @ (self.rotated / (self.values + alpha)[:, None])
        return dual


def _blocks(rows: Standardised) -> Iterator[tuple[slice, Matrix]]:
    return ((where, block.numpy()) for where, block in rows.blocks(torch.float64))


def _eigh(gram: Matrix) -> tuple[Matrix, Matrix]:
    """Eigenvalues, ascending and not below 0, and eigenvectors in columns."""
    values, vectors = np.linalg.eigh(gram)
    return np.maximum(values, 0.0), vectors
