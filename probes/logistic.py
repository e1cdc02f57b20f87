"""Logistic probes: multinomial logistic regression with an L2 penalty, exact, for a whole path of penalties at once.

Objective, as scikit-learn's ``LogisticRegression``: C * sum of s_i * loss_i + |w|^2 / 2 with a free intercept; two
classes have one weight vector. Features may be standardised on the way; the coefficients are those of the features as
given.

Shapes: N rows, D features, K classes.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, replace
from typing import Any, Literal, Self

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, ClassifierMixin  # type: ignore[import-untyped]
from sklearn.exceptions import ConvergenceWarning  # type: ignore[import-untyped]
from sklearn.utils.class_weight import compute_class_weight  # type: ignore[import-untyped]
from sklearn.utils.validation import _check_sample_weight  # type: ignore[import-untyped]

from featurebank.probes._design import Design
from featurebank.probes._holding import stratified_part
from featurebank.probes._labels import check_classes
from featurebank.probes._lbfgs import Convergence, solve_path
from featurebank.probes._parameters import Positive, Positives, check_parameters
from featurebank.probes._prediction import LinearPredictor, log_probabilities
from featurebank.probes._rows import training_data
from featurebank.probes.choice import CS
from featurebank.retrieval._room import room

__all__ = ["Convergence", "LogisticProbe", "LogisticProbeCV", "logistic_path"]

SMALL = 2e7
"""Problems of fewer rows x features x classes are solved in float64."""

MEMORY = 4 * 2**30
"""Bytes that the rows may take on a CPU."""

TOL = 3e-5


Fit = tuple[NDArray[np.float64], NDArray[np.float64], Convergence]
"""Coefficients (K, D) and intercepts (K,) of the features as given, one of two classes alone; how good they are."""


@dataclass(eq=False, repr=False, kw_only=True)
class _Logistic(LinearPredictor, ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """What both probes share: the settings of the solver, and probabilities."""

    standardize: bool = True
    fit_intercept: bool = True
    class_weight: str | Mapping[Any, float] | None = None
    tol: float = TOL
    max_iter: int = 2000
    dtype: Literal["auto", "float32", "float64"] = "auto"
    device: str = "cpu"
    memory: int | None = None

    def _fits(
        self, X: NDArray[Any], y: NDArray[Any], Cs: Sequence[float], sample_weight: ArrayLike | None
    ) -> list[Fit]:
        """At each C, in the order of ``Cs``; sets ``classes_``."""
        encoded, weights = self._weighted(X, y, sample_weight)
        k = len(self.classes_)
        device = torch.device(self.device)
        design = Design(
            X,
            weights,
            centre=self.fit_intercept,
            standardize=self.standardize,
            dtype=self._dtype(X, k),
            device=device,
            memory=room(device, on_cpu=MEMORY) if self.memory is None else self.memory,
        )
        # With two classes one weight vector, the difference, is penalised: the softmax form at half the C.
        share = 2 if k == 2 else 1
        order = np.argsort(Cs, kind="stable")
        solved = solve_path(
            design,
            torch.from_numpy(encoded).to(device),
            torch.from_numpy(weights).to(device, design.dtype),
            k,
            [Cs[index] / share for index in order],
            intercept=self.fit_intercept,
            tol=self.tol,
            max_iter=self.max_iter,
        )
        fits: list[Any] = [None] * len(Cs)
        for index, solution in zip(order, solved, strict=True):
            W = solution.W.double().cpu().numpy() * design.scale
            b = solution.b.double().cpu().numpy()
            if self.fit_intercept:
                b = b - W @ design.shift
                b -= b.mean()
            if k == 2:
                W, b = W[1:] - W[:1], b[1:] - b[:1]
            at = solution.convergence
            fits[index] = W, b, replace(at, C=Cs[index], objective=share * at.objective, gap=share * at.gap)
        return fits

    def _weighted(
        self, X: NDArray[Any], y: NDArray[Any], sample_weight: ArrayLike | None
    ) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Each row's class, by its position in ``classes_``, and its weight."""
        check_classes(y)
        self.classes_, encoded = np.unique(y, return_inverse=True)
        if len(self.classes_) < 2:
            raise ValueError(
                f"a probe needs at least two classes; found 1 class in the training rows: {self.classes_[0]!r}"
            )
        weights: NDArray[np.float64] = _check_sample_weight(
            sample_weight, X, dtype=np.float64, ensure_non_negative=True
        )
        if self.class_weight is not None:
            factors = compute_class_weight(self.class_weight, classes=self.classes_, y=y, sample_weight=weights)
            weights = weights * factors[encoded]
        absent = np.bincount(encoded, weights, minlength=len(self.classes_)) <= 0
        if absent.any():
            raise ValueError(
                f"every class needs a row of positive weight; found none for {self.classes_[absent].tolist()}"
            )
        return encoded.astype(np.int64), weights

    def _dtype(self, X: NDArray[Any], k: int) -> torch.dtype:
        if self.dtype == "auto":
            return torch.float64 if X.shape[0] * X.shape[1] * k <= SMALL else torch.float32
        return torch.float32 if self.dtype == "float32" else torch.float64

    def predict_log_proba(self, X: ArrayLike) -> NDArray[np.float64]:
        """(N, K) log probabilities."""
        return log_probabilities(self.logits(X))

    def predict_proba(self, X: ArrayLike) -> NDArray[np.float64]:
        """(N, K) probabilities."""
        return np.exp(self.predict_log_proba(X))


@dataclass(eq=False, repr=False)
class LogisticProbe(_Logistic):
    """Logistic regression at one C.

    Args:
        C: inverse strength of the L2 penalty.
        standardize: whether features are centred and divided by their standard deviation before they are penalised.
        fit_intercept: whether there is an intercept.
        class_weight: ``None``, ``"balanced"`` or class to weight.
        tol: largest component of the gradient of the objective divided by C times the sum of weights, which is what
            scikit-learn means by it (its default is 1e-4).
        max_iter: steps of the solver.
        dtype: ``"float32"``, ``"float64"``, or ``"auto"``: float64 for small problems.
        device: ``"cpu"``, ``"cuda"`` …
        memory: bytes that the rows may take, None for 4 GiB on a CPU and half of what is free on a GPU; beyond it they
            are streamed from ``X``, which may be a memory map, or from a GPU that has room for them as they come.

    Attributes:
        classes_: (K,).
        coef_: (K, D) float64, (1, D) for two classes.
        intercept_: (K,) float64, (1,) for two classes.
        convergence_: objective, duality gap, gradient and iterations.
        n_iter_: steps of the solver.

    >>> import numpy as np
    >>> X = np.array([[0.0], [1.0], [2.0], [3.0]])
    >>> LogisticProbe(C=1.0).fit(X, [0, 0, 1, 1]).predict([[0.5], [2.5]]).tolist()
    [0, 1]
    """

    C: Positive = 1.0

    def fit(self, X: ArrayLike, y: ArrayLike, sample_weight: ArrayLike | None = None) -> Self:
        """Fits on (N, D) features and (N,) labels.

        Raises:
            ValueError: one class, features that are not finite, a class without weight, or C that is not positive.
        """
        features, labels = training_data(self, X, y)
        check_parameters(self)
        ((self.coef_, self.intercept_, self.convergence_),) = self._fits(features, labels, [self.C], sample_weight)
        self.n_iter_ = self.convergence_.iterations
        _warn([self.convergence_], self.tol)
        return self


@dataclass(eq=False, repr=False)
class LogisticProbeCV(_Logistic):
    """Logistic regression, its C chosen on validation rows.

    Without validation rows a stratified part of the training rows is held out for the choice; then all rows are
    fitted at the chosen C. Ties go to the smaller C. Test rows are never asked for.

    Args:
        Cs: candidates.
        validation_fraction: of the training rows, where ``fit`` is given none.
        random_state: of that split.

    The other arguments and attributes are those of `LogisticProbe`; moreover

    Attributes:
        C_: the chosen candidate.
        validation_accuracy_: candidate to accuracy on the validation rows.
        path_: candidate to `Convergence`, of the search.
    """

    Cs: Positives = CS
    _: KW_ONLY
    validation_fraction: float = 0.2
    random_state: int = 0

    def fit(
        self,
        X: ArrayLike,
        y: ArrayLike,
        sample_weight: ArrayLike | None = None,
        *,
        validation: tuple[ArrayLike, ArrayLike] | None = None,
    ) -> Self:
        """Fits on (N, D) features and (N,) labels; ``validation`` is such a pair.

        Raises:
            ValueError: as `LogisticProbe`, and no class with two rows to be split.
        """
        features, labels = training_data(self, X, y)
        check_classes(labels)
        check_parameters(self)
        weights = None if sample_weight is None else np.asarray(sample_weight)
        if validation is None:
            fitting, held = stratified_part(labels, self.validation_fraction, self.random_state)
            part = np.sort(fitting)
            fits = self._fits(features[part], labels[part], self.Cs, None if weights is None else weights[part])
            held_features, held_labels = features[held], labels[held]
        else:
            fits = self._fits(features, labels, self.Cs, weights)
            held_features, held_labels = np.asarray(validation[0]), np.asarray(validation[1])
        self.validation_accuracy_: dict[float, float] = {}
        for self.coef_, self.intercept_, at in fits:
            self.validation_accuracy_[at.C] = float((self.predict(held_features) == held_labels).mean())
        self.path_ = {at.C: at for _, _, at in fits}
        best = min(fits, key=lambda fit: (-self.validation_accuracy_[fit[2].C], fit[2].C))
        self.C_ = best[2].C
        if validation is None:
            (best,) = self._fits(features, labels, [self.C_], weights)
        self.coef_, self.intercept_, self.convergence_ = best
        self.n_iter_ = self.convergence_.iterations
        _warn([*self.path_.values(), self.convergence_], self.tol)
        return self


def logistic_path(
    X: ArrayLike, y: ArrayLike, Cs: Sequence[float] = CS, *, sample_weight: ArrayLike | None = None, **settings: Any
) -> list[Fit]:
    """Coefficients (K, D), intercepts (K,) and convergence at every C, in the order of ``Cs``.

    Args:
        X: (N, D) features.
        y: (N,) labels.
        Cs: inverse strengths of the penalty.
        sample_weight: (N,).
        settings: as `LogisticProbe`'s.

    Raises:
        ValueError: as `LogisticProbe.fit`.
    """
    probe = LogisticProbeCV(Cs, **settings)
    check_parameters(probe)
    features, labels = training_data(probe, X, y)
    fits = probe._fits(features, labels, Cs, sample_weight)
    _warn([convergence for _, _, convergence in fits], probe.tol)
    return fits


def _warn(reached: Sequence[Convergence], tol: float) -> None:
    short = [c for c in reached if not c.converged]
    if short:
        worst = max(short, key=lambda c: c.gradient)
        warnings.warn(
            f"{len(short)} of {len(reached)} fits stopped above tol={tol:g}; the worst, C={worst.C:g}, at a "
            f"gradient of {worst.gradient:.1e}. A larger tol, dtype='float64', more iterations or a smaller C would do",
            ConvergenceWarning,
            stacklevel=3,
        )
