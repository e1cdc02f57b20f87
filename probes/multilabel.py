"""Multi-label probe: a logistic regression for each of many labels, fitted together on shared features.

Shapes: N rows, D features, L labels, a of them still being fitted.
"""

from __future__ import annotations

import itertools
import warnings
from dataclasses import KW_ONLY, dataclass
from typing import Any, Literal, Self

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from scipy.special import expit  # type: ignore[import-untyped]
from sklearn.base import BaseEstimator  # type: ignore[import-untyped]
from sklearn.exceptions import ConvergenceWarning  # type: ignore[import-untyped]
from torch import Tensor

from featurebank.probes._design import Standardised
from featurebank.probes._parameters import Count, Positive, check_parameters
from featurebank.probes._prediction import affine
from featurebank.probes._rows import check_finite, query_data, training_data

__all__ = ["MultiLabelProbe"]

Missing = Literal["ignore", "zero", "one"]

MISSING = -1
POLICIES = {"ignore": MISSING, "zero": 0, "one": 1}

INNER_STEPS = 100  # of conjugate gradients in one Newton step
FORCING = (1e-4, 0.1)  # how far they reduce the residual; float32 products reach no further than the lower one
HALVINGS = 40
ARMIJO = 1e-4
ROUNDING = 1e-13  # of the objective, relative
EXACT_LOGIT = 40.0  # from here on log(1 + exp(z)) is z in float64
TINY = 1e-10


@dataclass(eq=False, repr=False)
class MultiLabelProbe(BaseEstimator):  # type: ignore[misc]
    """L binary logistic regressions with an L2 penalty, fitted jointly.

    Each label's minimises ½||w||² + C Σ log(1 + exp(-±(w·x + b))), as scikit-learn's ``LogisticRegression`` does; b is
    not penalised. Features are standardised first, as in `LogisticProbe`, so that no answer depends on their scale; the
    coefficients are those of the features as given. Newton's method with conjugate gradients passes over the features
    in blocks, one matrix product for all labels, preconditioned by the eigenvectors of the features' Gram matrix.
    Gradients are float64; the products that only shape a step are float32. As the penalty makes the objective strongly
    convex, a gradient of norm g means coefficients within g of the minimum; the intercept's distance is g over C times
    the sum of p (1 - p) instead.

    Labels are 1, 0, or -1 where they are missing or uncertain. ``missing`` says what -1 counts as, after CheXpert
    (Irvin et al. 2019, arXiv:1901.07031): ``ignore`` leaves the row out for that label (U-Ignore), ``zero`` takes it as
    negative (U-Zeros), ``one`` as positive (U-Ones). A label of which one class only, or no row, is left has no
    minimum: it is reported in ``constant_``, with coefficients 0 and an infinite intercept, or NaN without any row.

    Args:
        C: Inverse strength of the penalty.
        missing: ``ignore``, ``zero`` or ``one``.
        standardize: Whether features are divided by their standard deviation before they are penalised.
        tol: Norm of the gradient at which a label counts as converged.
        max_iter: Newton steps.
        device: Of torch.

    Attributes:
        coef_: (L, D) float64.
        intercept_: (L,) float64.
        constant_: The only class of each constant label, by column; -1 where no row is labelled.
        convergence_: (L,) norm of each label's gradient at the end, in standardised features; 0 for a constant label.
        n_iter_: Newton steps taken.
        n_features_in_: D.
    """

    C: Positive = 1.0
    _: KW_ONLY
    missing: Missing = "ignore"
    standardize: bool = True
    tol: Positive = 1e-7
    max_iter: Count = 100
    device: str = "cpu"

    def fit(self, X: ArrayLike, y: ArrayLike) -> Self:
        """Fits features (N, D) to labels (N, L) in {0, 1, -1}.

        On a GPU the features are held in the dtype they come in; elsewhere they are read in blocks. Beside them, some
        arrays of N x L float64 are needed. A label that does not reach ``tol`` is a ``ConvergenceWarning``.

        Raises:
            ValueError: other labels, NaN or infinity, no label with both classes, or a parameter that is not allowed.
        """
        check_parameters(self)
        features, given = training_data(self, X, y, multi_output=True)
        labels = _resolved(given, self.missing)
        positive, negative = (labels == 1).sum(0), (labels == 0).sum(0)
        fitted = np.flatnonzero((positive > 0) & (negative > 0))
        if len(fitted) == 0:
            raise ValueError("at least one label must have rows of class 0 and of class 1; found none")
        check_finite(features)
        columns = torch.from_numpy(labels[:, fitted]).to(self.device)
        rows = _Rows(features, self.device, standardize=self.standardize)
        coef, intercept, norms, self.n_iter_ = _newton(rows, columns, self.C, self.tol, self.max_iter)
        self.constant_ = {
            int(at): 1 if positive[at] else 0 if negative[at] else MISSING
            for at in range(labels.shape[1])
            if at not in set(fitted.tolist())
        }
        self.coef_ = np.zeros((labels.shape[1], features.shape[1]))
        self.intercept_, self.convergence_ = np.zeros((2, labels.shape[1]))
        self.coef_[fitted], self.intercept_[fitted], self.convergence_[fitted] = coef, intercept, norms
        for at, value in self.constant_.items():
            self.intercept_[at] = {1: np.inf, 0: -np.inf, MISSING: np.nan}[value]
        self._warn(norms)
        return self

    def decision_function(self, X: ArrayLike) -> NDArray[np.float64]:
        """w·x + b of each label (M, L)."""
        return affine(query_data(self, X), self.coef_, self.intercept_)

    def predict_proba(self, X: ArrayLike) -> NDArray[np.float64]:
        """Probability that each label is 1 (M, L); 0 or 1 for a constant label, NaN for one without labelled rows."""
        return expit(self.decision_function(X))  # type: ignore[no-any-return]

    def predict(self, X: ArrayLike) -> NDArray[np.int64]:
        """1 where that probability is above a half, else 0 (M, L); -1 for a label without labelled rows."""
        logits = self.decision_function(X)
        return np.where(np.isnan(logits), MISSING, logits > 0).astype(np.int64)

    def score(self, X: ArrayLike, y: ArrayLike) -> float:
        """The share of the entries labelled 0 or 1 that are predicted right."""
        labels, predictions = _resolved(np.asarray(y), "ignore"), self.predict(X)
        if labels.shape != predictions.shape or not (known := labels != MISSING).any():
            raise ValueError(f"labels must be {predictions.shape} with a 0 or 1 among them; found {labels.shape}")
        return float((labels == predictions)[known].mean())

    def _warn(self, norms: NDArray[np.float64]) -> None:
        if (norms > self.tol).any():
            warnings.warn(
                f"{(norms > self.tol).sum()} labels stopped at a gradient norm of up to {norms.max():.2g} after "
                f"{self.n_iter_} steps, above tol = {self.tol:g}; raise max_iter or tol, or lower C",
                ConvergenceWarning,
                stacklevel=3,
            )


def _resolved(labels: Any, missing: str) -> NDArray[np.int8]:
    """The labels (N, L) as int8, -1 replaced as the policy says."""
    given = np.asarray(labels)
    if given.ndim != 2 or given.shape[1] == 0:
        raise ValueError(f"labels must be (N, L) with at least one label; found shape {given.shape}")
    if not (allowed := np.isin(given, (0, 1, MISSING))).all():
        row, column = np.argwhere(~allowed)[0]
        raise ValueError(
            f"labels must be 0, 1 or -1 (missing); found {given[row, column]} in row {row}, column {column}"
        )
    return np.where(given == MISSING, POLICIES[missing], given).astype(np.int8)


class _Rows(Standardised):
    """Standardised features with a column of ones, X (N, D + 1), in products."""

    def gram(self) -> Tensor:
        """The Gram matrix of these features (D, D): float32 products, summed in float64."""
        total = torch.zeros((len(self.mean),) * 2, dtype=torch.float64, device=self.mean.device)
        for _, block in self.blocks(torch.float32):
            total += block.T @ block
        return total

    def times(self, weights: Tensor) -> Tensor:
        """X W (N, a)."""
        return torch.cat([block @ weights[:-1] + weights[-1] for _, block in self.blocks(weights.dtype)])

    def transposed_times(self, values: Tensor) -> Tensor:
        """X'V (D + 1, a) for V (N, a)."""
        total = values.new_zeros(len(self.mean), values.shape[1])
        for rows, block in self.blocks(values.dtype):
            total += block.T @ values[rows]
        return torch.cat([total, values.sum(0, keepdim=True)])

    def curved(self, curvature: Tensor, weights: Tensor) -> Tensor:
        """X'(S ∘ XW) (D + 1, a) float64, for S (N, a): float32 products, summed in float64."""
        weights = weights.float()
        total = torch.zeros(weights.shape, dtype=torch.float64, device=weights.device)
        for rows, block in self.blocks(torch.float32):
            values = curvature[rows] * (block @ weights[:-1] + weights[-1])
            total[:-1] += block.T @ values
            total[-1] += values.sum(0)
        return total


def _newton(
    rows: _Rows, labels: Tensor, C: float, tol: float, max_iter: int
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64], int]:
    """Coefficients (a, D), intercepts (a,), norms of the gradients (a,) and steps, for labels (N, a) with both classes.

    Labels that have converged, or whose objective falls no further, leave the iteration.
    """
    known, target = (labels != MISSING).double(), (labels == 1).double()
    spectrum = torch.linalg.eigh(rows.gram())
    penalty = torch.ones_like(rows.mean[:, None])
    penalty = torch.cat([penalty, penalty.new_zeros(1, 1)])
    weights = torch.zeros(len(penalty), labels.shape[1], dtype=torch.float64, device=labels.device)
    weights[-1] = (target.sum(0) / (known - target).sum(0)).log()
    logits = weights[-1].repeat(len(labels), 1)
    solution, norms = torch.zeros_like(weights), torch.zeros_like(weights[-1])
    active = torch.arange(len(norms), device=labels.device)
    moved = torch.ones_like(active, dtype=torch.bool)
    for step in itertools.count():
        probability = logits.sigmoid()
        gradient = penalty * weights + C * rows.transposed_times(known * (probability - target))
        solution[:, active], norms[active] = weights, gradient.norm(dim=0)
        left = moved & (norms[active] > tol)
        if not left.any() or step == max_iter:
            break
        active = active[left]
        weights, gradient, logits, probability, known, target = (
            values[:, left] for values in (weights, gradient, logits, probability, known, target)
        )
        direction = _direction(rows, known * probability * (1 - probability), gradient, C=C, spectrum=spectrum)
        change = rows.times(direction)
        slope = (gradient * direction).sum(0)
        start, move = (weights, logits), (direction, change)
        length = _step_lengths(penalty=penalty, C=C, known=known, target=target, start=start, move=move, slope=slope)
        weights, logits = weights + length * direction, logits + length * change
        moved = length > 0
    coef = solution[:-1].T / rows.scale
    intercept = solution[-1] - coef @ rows.mean
    return coef.cpu().numpy(), intercept.cpu().numpy(), norms.cpu().numpy(), step


def _direction(
    rows: _Rows, curvature: Tensor, gradient: Tensor, *, C: float, spectrum: tuple[Tensor, Tensor]
) -> Tensor:
    """Newton's direction (D + 1, a) by preconditioned conjugate gradients, nearer to exact as the gradient shrinks.

    The preconditioner is the Hessian if every row had the label's mean curvature.
    """
    eigenvalues, eigenvectors = spectrum
    total = curvature.sum(0).clamp_min(TINY)
    scale = 1 + C * eigenvalues.clamp_min(0)[:, None] * total / len(curvature)
    small = curvature.float()

    def preconditioned(r: Tensor) -> Tensor:
        return torch.cat([eigenvectors @ ((eigenvectors.T @ r[:-1]) / scale), r[-1:] / (C * total)])

    def product(p: Tensor) -> Tensor:
        curved = C * rows.curved(small, p)
        curved[:-1] += p[:-1]
        return curved

    residual = -gradient
    search = preconditioned(residual)
    size = (residual * search).sum(0)
    enough = size * size.sqrt().clamp(*FORCING).square()
    direction = torch.zeros_like(gradient)
    for _ in range(INNER_STEPS):
        image = product(search)
        length = torch.where(size > enough, size / (search * image).sum(0), 0.0)
        direction += length * search
        residual -= length * image
        corrected = preconditioned(residual)
        before, size = size, (residual * corrected).sum(0)
        if (size <= enough).all():
            break
        search = corrected + size / before * search
    return direction


def _step_lengths(
    *,
    penalty: Tensor,
    C: float,
    known: Tensor,
    target: Tensor,
    start: tuple[Tensor, Tensor],
    move: tuple[Tensor, Tensor],
    slope: Tensor,
) -> Tensor:
    """The first of 1, 1/2, 1/4 … that lowers each label's objective enough (Armijo), 0 where none does.

    Args:
        penalty: (D + 1, 1), 0 for the intercept.
        C: inverse strength of the penalty.
        known: (N, a) 1 where the label counts.
        target: (N, a) 1 where it is positive.
        start: weights (D + 1, a) and logits (N, a).
        move: the direction's.
        slope: (a,) of the objective along the direction.
    """

    def objective(length: Tensor) -> Tensor:
        weights, logits = (values + length * change for values, change in zip(start, move, strict=True))
        loss = torch.nn.functional.softplus(logits, threshold=EXACT_LOGIT) - target * logits
        return 0.5 * (penalty * weights.square()).sum(0) + C * (known * loss).sum(0)

    length = torch.ones_like(slope)
    first = objective(torch.zeros_like(slope))
    for _ in range(HALVINGS):
        short = objective(length) > first + ARMIJO * length * slope + ROUNDING * first
        if not short.any():
            return length
        length = torch.where(short, length / 2, length)
    return torch.where(short, 0.0, length)
