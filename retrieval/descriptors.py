"""Global descriptors made of features: normalised, joined, averaged over scales, whitened.

Every function returns new float32 rows of unit length (a zero row stays zero), computed in blocks.

Shapes: N rows, D features of one output, C components.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, TransformerMixin  # type: ignore[import-untyped]
from sklearn.utils.validation import check_is_fitted, validate_data  # type: ignore[import-untyped]

from featurebank.retrieval._features import as_features, row_blocks, unit

__all__ = ["PCAWhitening", "average_scales", "concatenate", "l2_normalise", "power_normalise"]

RANK_TOLERANCE = 1e-6  # of the largest variance: float16 features carry about as much noise


def l2_normalise(features: ArrayLike) -> NDArray[np.float32]:
    """Each row (N, D) divided by its Euclidean length.

    >>> l2_normalise([[3.0, 4.0]]).tolist()
    [[0.6000000238418579, 0.800000011920929]]

    Raises:
        ValueError: not (N, D), NaN or infinity.
    """
    rows = as_features(features)
    return _filled(rows, rows.shape[1], lambda block: block)


def power_normalise(features: ArrayLike, power: float = 0.5) -> NDArray[np.float32]:
    """Each value x as sign(x) |x|^power, then unit length (Perronnin et al. 2010, doi:10.1007/978-3-642-15561-1_11).

    Raises:
        ValueError: as `l2_normalise`, or a power outside (0, 1].
    """
    rows = as_features(features)
    if not 0 < power <= 1:
        raise ValueError(f"power must be above 0 and at most 1; found {power}")
    return _filled(rows, rows.shape[1], lambda block: np.sign(block) * np.abs(block) ** np.float32(power))


def concatenate(*outputs: ArrayLike, weights: Sequence[float] | None = None) -> NDArray[np.float32]:
    """Several outputs of the same N rows side by side: the cosine is the weighted mean of their cosines.

    Output i is scaled to unit length, then by sqrt(w_i / sum of w).

    Args:
        outputs: (N, D_i) each.
        weights: one positive w for each output, by default equal.

    Raises:
        ValueError: as `l2_normalise`, other numbers of rows, or weights that are not positive, one for each.
    """
    arrays = _alike(outputs, same_width=False)
    shares = np.ones(len(arrays)) if weights is None else np.asarray(weights, np.float64)
    if shares.shape != (len(arrays),) or not (np.isfinite(shares) & (shares > 0)).all():
        raise ValueError(f"weights must be positive, one for each of {len(arrays)} outputs; found {weights}")
    joined = np.empty((len(arrays[0]), sum(array.shape[1] for array in arrays)), np.float32)
    left = 0
    for array, share in zip(arrays, shares / shares.sum(), strict=True):
        for at, block in row_blocks(array, "cosine"):
            np.multiply(block, np.float32(np.sqrt(share)), out=joined[at, left : left + array.shape[1]])
        left += array.shape[1]
    return joined


def average_scales(*scales: ArrayLike) -> NDArray[np.float32]:
    """One descriptor of the same N images at several scales: the mean of the unit rows, of unit length again.

    Raises:
        ValueError: as `l2_normalise`, or features of other shapes.
    """
    arrays = _alike(scales, same_width=True)
    total = np.zeros(arrays[0].shape, np.float32)
    for array in arrays:
        for at, block in row_blocks(array, "cosine"):
            total[at] += block
    return unit(total)


class PCAWhitening(TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """PCA-whitening learned on one feature set and applied to others.

    Jégou & Chum 2012, doi:10.1007/978-3-642-33709-3_55. A row x becomes diag(variances^-power) P (x - mean), of unit
    length; P holds the principal directions. Rows are taken as they are: normalise them first where that is wanted.
    Sums are float64.

    Args:
        n_components: C; None keeps all directions whose variance is above 1e-6 of the largest.
        power: 0.5 whitens, 0 only rotates; between them the smallest components are boosted less.

    Attributes:
        mean_: (D,) float64.
        components_: (C, D) float64, the directions, largest variance first.
        variances_: (C,) float64, unbiased.
        n_features_in_: D.
    """

    def __init__(self, n_components: int | None = None, *, power: float = 0.5) -> None:
        self.n_components = n_components
        self.power = power

    def fit(self, X: ArrayLike, y: object = None) -> Self:  # noqa: ARG002 - scikit-learn's signature
        """Learns from rows (N, D).

        Raises:
            ValueError: NaN or infinity, fewer than two rows, equal rows, or more components than the rows span.
        """
        if not 0 <= self.power <= 1:
            raise ValueError(f"power must be between 0 and 1; found {self.power}")
        rows = as_features(validate_data(self, X, dtype="numeric", ensure_all_finite=False, ensure_min_samples=2))
        total = np.zeros(rows.shape[1])
        for _, block in row_blocks(rows):
            total += block.sum(0, dtype=np.float64)
        self.mean_ = total / len(rows)
        scatter = np.zeros((rows.shape[1],) * 2)
        for _, block in row_blocks(rows):
            centred = block - self.mean_
            scatter += centred.T @ centred
        variances, directions = np.linalg.eigh(scatter / (len(rows) - 1))
        variances, directions = variances[::-1], directions[:, ::-1].T
        rank = int((variances > RANK_TOLERANCE * variances[0]).sum()) if variances[0] > 0 else 0
        count = rank if self.n_components is None else self.n_components
        if rank == 0 or not 1 <= count <= rank:
            raise ValueError(
                f"n_components must be between 1 and the rank of the {len(rows)} rows, {rank}; found {count}; "
                "learn on more rows or keep fewer components"
            )
        largest = np.abs(directions).argmax(1)  # signs are arbitrary: the largest weight of a direction is positive
        directions = directions * np.sign(directions[np.arange(len(directions)), largest])[:, None]
        self.components_, self.variances_ = directions[:count], variances[:count]
        return self

    def transform(self, X: ArrayLike) -> NDArray[np.float32]:
        """Whitened rows (M, C) of unit length.

        Raises:
            ValueError: NaN or infinity, or another D.
        """
        check_is_fitted(self)
        rows = as_features(validate_data(self, X, reset=False, dtype="numeric", ensure_all_finite=False))
        projection = (self.components_ / self.variances_[:, None] ** self.power).T
        return _filled(rows, len(self.components_), lambda block: (block - self.mean_) @ projection)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = []  # float32, whatever comes
        return tags


def _filled(rows: NDArray[Any], width: int, change: Callable[[NDArray[Any]], NDArray[Any]]) -> NDArray[np.float32]:
    result = np.empty((len(rows), width), np.float32)
    for at, block in row_blocks(rows):
        result[at] = unit(change(block))
    return result


def _alike(features: Sequence[ArrayLike], *, same_width: bool) -> list[NDArray[Any]]:
    if not features:
        raise ValueError("at least one (N, D) array of features must be given; found none")
    arrays = [as_features(array) for array in features]
    if len({array.shape if same_width else len(array) for array in arrays}) > 1:
        wanted = "shape" if same_width else "number of rows"
        raise ValueError(f"all features must have the same {wanted}; found {[array.shape for array in arrays]}")
    return arrays
