"""Multi-label probe: a logistic regression for each of many labels, fitted together on shared features.

Shapes: N rows, D features, L labels.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Any, Literal, Self

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from scipy.special import expit  # type: ignore[import-untyped]
from sklearn.base import BaseEstimator  # type: ignore[import-untyped]
from sklearn.exceptions import ConvergenceWarning  # type: ignore[import-untyped]

from featurebank.probes._design import Design
from featurebank.probes._parameters import Count, Positive, check_parameters
from featurebank.probes._prediction import affine
from featurebank.probes._rows import query_data, training_data
from featurebank.probes._sigmoid import MISSING, solve_labels
from featurebank.probes.choice import CS
from featurebank.probes.logistic import MEMORY, SMALL, TOL
from featurebank.retrieval._room import room

__all__ = ["MultiLabelProbe", "multilabel_path"]

Missing = Literal["ignore", "zero", "one"]

POLICIES = {"ignore": MISSING, "zero": 0, "one": 1}


@dataclass(eq=False, repr=False)
class MultiLabelProbe(BaseEstimator):  # type: ignore[misc]
    """L binary logistic regressions with an L2 penalty, fitted jointly.

    Each label's minimises ½||w||² + C Σ log(1 + exp(-±(w·x + b))), as scikit-learn's ``LogisticRegression`` does; b is
    not penalised. Features are standardised first, as in `LogisticProbe`, so that no answer depends on their scale; the
    coefficients are those of the features as given. The solver is that of `LogisticProbe`: L-BFGS on all labels
    together, in float64 for small problems.

    Labels are 1, 0, or -1 where they are missing or uncertain. ``missing`` says what -1 counts as, after CheXpert
    (Irvin et al. 2019, arXiv:1901.07031): ``ignore`` leaves the row out for that label (U-Ignore), ``zero`` takes it as
    negative (U-Zeros), ``one`` as positive (U-Ones). A label of which one class only, or no row, is left has no
    minimum: it is reported in ``constant_``, with coefficients 0 and an infinite intercept, or NaN without any row.

    Args:
        C: Inverse strength of the penalty.
        missing: ``ignore``, ``zero`` or ``one``.
        standardize: Whether features are divided by their standard deviation before they are penalised.
        tol: Largest component of the gradient of a label's objective divided by C times its rows at which it counts as
            converged, as in `LogisticProbe`.
        max_iter: Steps of the solver.
        device: Of torch.

    Attributes:
        coef_: (L, D) float64.
        intercept_: (L,) float64.
        constant_: The only class of each constant label, by column; -1 where no row is labelled.
        convergence_: (L,) that component at the end, in standardised features; 0 for a constant label.
        n_iter_: Steps of the solver.
        n_features_in_: D.
    """

    C: Positive = 1.0
    _: KW_ONLY
    missing: Missing = "ignore"
    standardize: bool = True
    tol: Positive = TOL
    max_iter: Count = 2000
    device: str = "cpu"

    def fit(self, X: ArrayLike, y: ArrayLike) -> Self:
        """Fits features (N, D) to labels (N, L) in {0, 1, -1}.

        They are read in blocks where they take more than 4 GiB, or half of what is free on a GPU. A label that does not
        reach ``tol`` is a ``ConvergenceWarning``.

        Raises:
            ValueError: other labels, NaN or infinity, no label with both classes, or a parameter that is not allowed.
        """
        check_parameters(self)
        _fit([self], X, y)
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


def multilabel_path(X: ArrayLike, y: ArrayLike, Cs: Sequence[float] = CS, **settings: Any) -> list[MultiLabelProbe]:
    """Fitted probes at every C, in the order of ``Cs``, all fitted together.

    >>> X, y = np.array([[0.0], [1.0], [2.0], [3.0]]), np.array([[0, 1], [0, 1], [1, 0], [1, 0]])
    >>> [probe.predict([[3.0]]).tolist() for probe in multilabel_path(X, y, (0.1, 1.0))]
    [[[1, 0]], [[1, 0]]]

    Args:
        X: (N, D) features.
        y: (N, L) labels in {0, 1, -1}.
        Cs: inverse strengths of the penalty.
        settings: as `MultiLabelProbe`'s.

    Raises:
        ValueError: as `MultiLabelProbe.fit`, or no C.
    """
    probes = [MultiLabelProbe(C, **settings) for C in Cs]
    if not probes:
        raise ValueError("Cs must have at least one C; found none")
    for probe in probes:
        check_parameters(probe)
    _fit(probes, X, y)
    return probes


def _fit(probes: Sequence[MultiLabelProbe], X: ArrayLike, y: ArrayLike) -> None:
    """Fits probes that differ in C alone."""
    first = probes[0]
    given: NDArray[Any]
    for probe in probes:
        features, given = training_data(probe, X, y, multi_output=True)
    labels = _resolved(given, first.missing)
    positive, negative = (labels == 1).sum(0), (labels == 0).sum(0)
    fitted = np.flatnonzero((positive > 0) & (negative > 0))
    if len(fitted) == 0:
        raise ValueError("at least one label must have rows of class 0 and of class 1; found none")
    constant = {
        int(at): 1 if positive[at] else 0 if negative[at] else MISSING
        for at in np.flatnonzero((positive == 0) | (negative == 0))
    }
    device = torch.device(first.device)
    small = len(features) * features.shape[1] * len(fitted) <= SMALL
    design = Design(
        features,
        np.ones(len(features)),
        centre=True,
        standardize=first.standardize,
        dtype=torch.float64 if small else torch.float32,
        device=device,
        memory=room(device, on_cpu=MEMORY),
    )
    columns = torch.from_numpy(np.ascontiguousarray(labels[:, fitted].T)).to(device)
    solutions = solve_labels(design, columns, [probe.C for probe in probes], tol=first.tol, max_iter=first.max_iter)
    for probe, solution in zip(probes, solutions, strict=True):
        coef = solution.W.double().cpu().numpy() * design.scale
        probe.coef_ = np.zeros((labels.shape[1], features.shape[1]))
        probe.intercept_, probe.convergence_ = np.zeros((2, labels.shape[1]))
        probe.coef_[fitted], probe.convergence_[fitted] = coef, solution.gradient.cpu().numpy()
        probe.intercept_[fitted] = solution.b.double().cpu().numpy() - coef @ design.shift
        probe.constant_, probe.n_iter_ = dict(constant), int(solution.steps.max())
        for at, value in constant.items():
            probe.intercept_[at] = {1: np.inf, 0: -np.inf, MISSING: np.nan}[value]
    _warn(probes)


def _warn(probes: Sequence[MultiLabelProbe]) -> None:
    worst = max(probes, key=lambda probe: float(probe.convergence_.max()))
    if (worst.convergence_ > worst.tol).any():
        warnings.warn(
            f"{(worst.convergence_ > worst.tol).sum()} labels stopped at a gradient of up to "
            f"{worst.convergence_.max():.2g} after {worst.n_iter_} steps, above tol = {worst.tol:g}; raise max_iter or "
            f"tol, or lower C = {worst.C:g}",
            ConvergenceWarning,
            stacklevel=4,
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
