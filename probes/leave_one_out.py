"""What a classifier says of each row that it was not fitted on: ridge regression, left out row by row in closed form.

Shapes: N rows, D features, C classes, R components, A penalties.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from featurebank.retrieval._features import as_features

__all__ = ["LeftOut", "predict_left_out"]

PENALTIES = tuple(10.0 ** (power / 2) for power in range(-8, 3))
"""Eleven, in units of the rows' mean squared length: so neither the scale nor the number of features matters."""

Matrix = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class LeftOut:
    """What was found.

    Attributes:
        predictions: (N,) class of each row, as the regression of the other rows has it.
        penalty: the one of least squared error.
        errors: mean squared error over rows and classes, by penalty.
    """

    predictions: NDArray[np.int64]
    penalty: float
    errors: Mapping[float, float]


def predict_left_out(
    features: ArrayLike, labels: ArrayLike, *, groups: ArrayLike | None = None, penalties: Sequence[float] = PENALTIES
) -> LeftOut:
    """One-vs-rest ridge regression on one-hot targets, each row predicted by that of the others: exactly, from one fit.

    With the hat matrix H of all rows, the intercept in it, the residuals of rows G that are left out together are
    (I - H)_GG^-1 (y - Hy)_G. Features are standardised once, over all rows; the intercept is not penalised.

    >>> predict_left_out([[0.0], [0.1], [0.9], [1.0]], [3, 3, 5, 5]).predictions.tolist()
    [3, 3, 5, 5]

    Args:
        features: (N, D).
        labels: (N,) whole numbers.
        groups: (N,) whole numbers; rows of one group, such as near duplicates, are left out together.
        penalties: A numbers above 0, in units of the mean squared length of the standardised rows.

    Raises:
        ValueError: fewer than two rows or groups, other shapes, NaN or infinity, or a penalty that is not above 0.
    """
    rows, classes, codes = _checked(features, labels)
    if not penalties or min(penalties) <= 0:
        raise ValueError(f"penalties must be numbers above 0; found {list(penalties)}")
    together = _together(groups, len(rows))
    rows = rows - rows.mean(0)
    deviation = rows.std(0)
    rows /= np.where(deviation > 0, deviation, 1.0)
    targets = np.eye(len(classes))[codes]
    basis, values = principal_rows(rows)
    unit = float(np.square(rows).sum()) / len(rows)
    found: dict[float, tuple[float, Matrix]] = {}
    for penalty in penalties:
        errors = _errors(basis, penalty * unit / (values + penalty * unit), targets, together)
        found[float(penalty)] = (float(np.square(errors).mean()), errors)
    best = min(found, key=lambda penalty: found[penalty][0])
    return LeftOut(
        predictions=classes[(targets - found[best][1]).argmax(1)],
        penalty=best,
        errors={penalty: error for penalty, (error, _) in found.items()},
    )


def principal_rows(rows: Matrix) -> tuple[Matrix, Matrix]:
    """Left singular vectors (N, R) of rows (N, D) and the squares of the singular values (R,), without those of 0."""
    n, d = rows.shape
    values, vectors = np.linalg.eigh(rows @ rows.T if n <= d else rows.T @ rows)
    kept = values > max(n, d) * np.finfo(np.float64).eps * max(float(values[-1]), 0.0)
    values, vectors = values[kept], vectors[:, kept]
    basis: Matrix = vectors if n <= d else rows @ vectors / np.sqrt(values)
    return basis, values


def _errors(basis: Matrix, kept: Matrix, targets: Matrix, together: Sequence[NDArray[np.intp]]) -> Matrix:
    """(N, C) what each row misses its target by when it is left out; ``kept`` (R,) is what is left of a component."""
    n = len(targets)
    centred = targets - targets.mean(0)
    inner = basis.T @ centred
    # What the components do not reach is added apart: where they reach everything, differences would be all rounding.
    residuals = (centred - basis @ inner) + basis @ (kept[:, None] * inner)
    squares = np.square(basis)
    left = np.maximum(1 - 1 / n - squares.sum(1), 0.0) + squares @ kept
    errors: Matrix = residuals / np.where(left > 0, left, 1.0)[:, None]
    for group in together:
        own = basis[group]
        block = np.eye(len(group)) - 1 / n - own @ own.T + (own * kept) @ own.T
        errors[group] = np.linalg.solve(block, residuals[group])
    return errors


def _checked(features: ArrayLike, labels: ArrayLike) -> tuple[Matrix, NDArray[np.int64], NDArray[np.intp]]:
    rows = np.asarray(as_features(features), np.float64)
    given = np.asarray(labels)
    if given.shape != (len(rows),) or given.dtype.kind not in "iu":
        raise ValueError(f"labels must be {len(rows)} whole numbers; found shape {given.shape} of {given.dtype}")
    if len(rows) < 2 or not np.isfinite(rows).all():
        raise ValueError(f"features must be two finite rows or more; found {len(rows)}, or NaN or infinity in them")
    classes, codes = np.unique(given.astype(np.int64), return_inverse=True)
    return rows, classes, codes


def _together(groups: ArrayLike | None, n: int) -> list[NDArray[np.intp]]:
    """The rows of each group of several."""
    if groups is None:
        return []
    given = np.asarray(groups)
    if given.shape != (n,):
        raise ValueError(f"groups must be ({n},); found {given.shape}")
    _, codes, counts = np.unique(given, return_inverse=True, return_counts=True)
    if len(counts) < 2:
        raise ValueError("groups must be two or more; found a single one, and no row is left to fit on")
    return [np.flatnonzero(codes == code) for code in np.flatnonzero(counts > 1)]
