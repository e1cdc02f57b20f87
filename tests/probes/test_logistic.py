"""The logistic probe against scikit-learn's Newton solver in float64, and what an estimator owes its users."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.datasets import load_digits  # type: ignore[import-untyped]
from sklearn.exceptions import ConvergenceWarning  # type: ignore[import-untyped]
from sklearn.linear_model import LogisticRegression  # type: ignore[import-untyped]
from sklearn.pipeline import make_pipeline  # type: ignore[import-untyped]
from sklearn.preprocessing import StandardScaler  # type: ignore[import-untyped]
from sklearn.utils.estimator_checks import parametrize_with_checks  # type: ignore[import-untyped]

from featurebank.probes import _lbfgs, _preconditioner, _softmax
from featurebank.probes.logistic import LogisticProbe, LogisticProbeCV, logistic_path

Data = tuple[NDArray[Any], NDArray[Any]]


def made(n: int, d: int, k: int, seed: int = 0) -> Data:
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, d))
    return X, (X @ rng.normal(size=(d, k)) / np.sqrt(d) + rng.gumbel(size=(n, k))).argmax(1)


def collinear() -> Data:
    X, y = made(400, 20, 4)
    return np.hstack([X, 2 * X[:, :10], X @ np.random.default_rng(1).normal(size=(20, 5))]), y


def unbalanced() -> Data:
    X, y = made(3000, 10, 3)
    keep = (y != 2) | (np.random.default_rng(1).random(len(y)) < 0.02)
    return X[keep], y[keep]


def many_classes() -> Data:
    X, y = made(2500, 12, 1000)
    return X, np.unique(y, return_inverse=True)[1]


PROBLEMS = {
    "fewer rows than features": made(60, 120, 3),
    "many rows": made(5000, 8, 5),
    "two classes": made(400, 20, 2),
    "collinear": collinear(),
    "unbalanced": unbalanced(),
}


def objective(C: float, X: NDArray[Any], y: NDArray[Any], W: NDArray[Any], b: NDArray[Any]) -> float:
    """The definition, in float64."""
    z = X.astype(np.float64) @ W.T + b
    if z.shape[1] == 1:
        z = np.hstack([np.zeros_like(z), z])
    top = z.max(1)
    loss = np.log(np.exp(z - top[:, None]).sum(1)) + top - z[np.arange(len(y)), y]
    return float(C * loss.sum() + 0.5 * (W**2).sum())


def reference(C: float, X: NDArray[Any], y: NDArray[Any]) -> LogisticRegression:
    return LogisticRegression(C=C, tol=1e-10, max_iter=10_000, solver="newton-cholesky").fit(X, y)


@pytest.mark.parametrize("C", [1e-3, 1.0, 100.0])
@pytest.mark.parametrize("name", PROBLEMS)
def test_it_finds_the_minimum_that_newton_finds(name: str, C: float) -> None:
    X, y = PROBLEMS[name]
    probe = LogisticProbe(C, standardize=False, tol=1e-12).fit(X, y)
    expected = reference(C, X, y)
    np.testing.assert_allclose(probe.coef_, expected.coef_, atol=1e-7)
    at = probe.convergence_
    mine, theirs = (objective(C, X, y, m.coef_, m.intercept_) for m in (probe, expected))
    assert mine <= theirs * (1 + 1e-9)
    assert at.objective == pytest.approx(mine, rel=1e-9)
    assert at.converged
    np.testing.assert_allclose(probe.predict_proba(X), expected.predict_proba(X), atol=1e-6)
    assert (probe.predict(X) == expected.predict(X)).mean() > 0.999


def test_a_thousand_classes() -> None:
    X, y = many_classes()
    probe = LogisticProbe(1.0, standardize=False, tol=1e-9, dtype="float64").fit(X, y)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = LogisticRegression(C=1.0, tol=1e-10, max_iter=1000).fit(X, y)
    mine, theirs = (objective(1.0, X, y, m.coef_, m.intercept_) for m in (probe, expected))
    assert mine <= theirs * (1 + 1e-6)


def test_classes_taken_one_by_one_in_the_preconditioner_give_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    X, y = PROBLEMS["unbalanced"]
    together = LogisticProbe(1.0, tol=1e-10).fit(X, y)
    monkeypatch.setattr(_preconditioner, "MANY_CLASSES", 2)
    np.testing.assert_allclose(LogisticProbe(1.0, tol=1e-10).fit(X, y).coef_, together.coef_, atol=1e-8)


def test_ten_thousand_classes_of_one_row() -> None:
    X = np.random.default_rng(0).standard_normal((10_000, 16)).astype(np.float16)
    probe = LogisticProbe(1e3, dtype="float32", tol=5e-5).fit(X, np.arange(10_000))
    assert probe.coef_.shape == (10_000, 16)
    assert probe.convergence_.converged
    assert (probe.predict(X[:1000]) == np.arange(1000)).mean() > 0.5


@pytest.mark.parametrize("tol", [1e-2, 1e-4])
def test_the_certificates_hold(tol: float) -> None:
    X, y = PROBLEMS["many rows"]
    for C in (1e-3, 1.0, 100.0):
        probe = LogisticProbe(C, standardize=False, tol=tol).fit(X, y)
        at = probe.convergence_
        best = LogisticProbe(C, standardize=False, tol=1e-11).fit(X, y).convergence_.objective
        assert -1e-12 * best <= at.objective - best <= at.gap * (1 + 1e-6)
        residual = (probe.predict_proba(X) - np.eye(5)[y]) / len(y)
        gradient = np.hstack([residual.T @ (X - X.mean(0)) + probe.coef_ / (C * len(y)), residual.sum(0)[:, None]])
        assert at.gradient == pytest.approx(np.abs(gradient).max(), rel=1e-6)
        assert at.gradient <= tol


@pytest.mark.parametrize("C", [1e-4, 1e-2, 1.0, 100.0])
def test_float32_is_as_good_as_it_says(C: float) -> None:
    X, y = load_digits(return_X_y=True)
    exact = LogisticProbe(C, tol=1e-10, dtype="float64").fit(X, y)
    probe = LogisticProbe(C, tol=1e-6, dtype="float32").fit(X.astype(np.float16), y)
    assert probe.convergence_.converged
    missing = probe.convergence_.objective - exact.convergence_.objective
    rounding = 1e-6 * exact.convergence_.objective
    assert -rounding <= missing <= probe.convergence_.gap + rounding
    assert missing <= 1e-3 * exact.convergence_.objective


def test_standardisation_is_folded_into_the_coefficients() -> None:
    X, y = made(500, 12, 3)
    X = X * np.linspace(0.1, 30, 12) + np.linspace(-50, 900, 12)
    X[:, 5] = 7.0
    probe = LogisticProbe(0.3, tol=1e-11).fit(X, y)
    expected = make_pipeline(StandardScaler(), LogisticRegression(C=0.3, tol=1e-10, solver="newton-cholesky")).fit(X, y)
    np.testing.assert_allclose(probe.predict_proba(X), expected.predict_proba(X), atol=1e-7)


def test_a_weight_is_as_many_rows() -> None:
    X, y = made(200, 6, 3)
    weights = np.random.default_rng(0).integers(0, 4, 200)
    weighted = LogisticProbe(0.5, tol=1e-12).fit(X, y, sample_weight=weights)
    repeated = LogisticProbe(0.5, tol=1e-12).fit(np.repeat(X, weights, 0), np.repeat(y, weights))
    np.testing.assert_allclose(weighted.coef_, repeated.coef_, atol=1e-8)
    np.testing.assert_allclose(weighted.intercept_, repeated.intercept_, atol=1e-8)


def test_class_weights_are_scikit_learns() -> None:
    X, y = PROBLEMS["unbalanced"]
    probe = LogisticProbe(0.5, standardize=False, class_weight="balanced", tol=1e-12).fit(X, y)
    expected = LogisticRegression(C=0.5, class_weight="balanced", tol=1e-10, solver="newton-cholesky").fit(X, y)
    np.testing.assert_allclose(probe.coef_, expected.coef_, atol=1e-7)


def test_without_an_intercept() -> None:
    X, y = made(300, 6, 3)
    probe = LogisticProbe(0.5, standardize=False, fit_intercept=False, tol=1e-12).fit(X + 1, y)
    expected = LogisticRegression(C=0.5, fit_intercept=False, tol=1e-10, solver="newton-cholesky").fit(X + 1, y)
    np.testing.assert_allclose(probe.coef_, expected.coef_, atol=1e-7)
    assert not probe.intercept_.any()


@pytest.mark.parametrize("memory", [0, 400_000])
def test_rows_that_do_not_fit_are_streamed(tmp_path: Path, memory: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_lbfgs, "FEWEST", 500)
    steps, thinned = [], _softmax.Classes.thinned

    def recorded(rows: _softmax.Classes, step: int) -> _softmax.Classes:
        steps.append(step)
        return thinned(rows, step)

    monkeypatch.setattr(_softmax.Classes, "thinned", recorded)
    X, y = made(6000, 24, 4)
    np.save(tmp_path / "x.npy", X.astype(np.float16))
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    kept = LogisticProbe(0.1, tol=1e-9, dtype="float64").fit(mapped, y)
    streamed = LogisticProbe(0.1, tol=1e-9, dtype="float64", memory=memory).fit(mapped, y)
    np.testing.assert_allclose(streamed.coef_, kept.coef_, atol=1e-6)
    assert streamed.convergence_.objective == pytest.approx(kept.convergence_.objective, rel=1e-12)
    assert steps == ([8] if memory else [])


def test_logits_that_do_not_fit_are_computed_again(monkeypatch: pytest.MonkeyPatch) -> None:
    X, y = load_digits(return_X_y=True)
    Cs = [1e-3, 1e-2, 0.1]
    kept = logistic_path(X, y, Cs, tol=1e-8)
    monkeypatch.setattr(_lbfgs, "KEPT", 0)
    for (W, b, at), (W2, b2, at2) in zip(kept, logistic_path(X, y, Cs, tol=1e-8), strict=True):
        np.testing.assert_allclose(W2, W, atol=1e-5)
        np.testing.assert_allclose(b2, b, atol=1e-5)
        assert at2.objective == pytest.approx(at.objective, rel=1e-9)


def test_the_path_is_every_single_fit() -> None:
    X, y = load_digits(return_X_y=True)
    Cs = [1.0, 1e-4, 1e-2]
    search = LogisticProbeCV(Cs, tol=1e-8).fit(X, y, validation=(X[:100], y[:100]))
    for C in Cs:
        alone = LogisticProbe(C, tol=1e-8).fit(X, y)
        assert search.path_[C].objective == pytest.approx(alone.convergence_.objective, rel=1e-7)
        assert search.validation_accuracy_[C] == (alone.predict(X[:100]) == y[:100]).mean()


def test_the_choice_is_made_on_validation_rows_and_all_rows_are_fitted() -> None:
    X, y = load_digits(return_X_y=True)
    search = LogisticProbeCV().fit(X[:1200], y[:1200])
    best = max(search.validation_accuracy_.values())
    assert search.validation_accuracy_[search.C_] == best
    assert min(C for C, value in search.validation_accuracy_.items() if value == best) == search.C_
    alone = LogisticProbe(search.C_).fit(X[:1200], y[:1200])
    np.testing.assert_array_equal(search.coef_, alone.coef_)
    assert search.score(X[1200:], y[1200:]) > 0.9


def test_it_reproduces_to_the_last_digit() -> None:
    X, y = load_digits(return_X_y=True)
    a, b = (LogisticProbeCV(dtype="float32").fit(X, y) for _ in range(2))
    np.testing.assert_array_equal(a.coef_, b.coef_)


@pytest.mark.parametrize(
    ("X", "y", "settings", "message"),
    [
        ([[0.0], [1.0]], [1, 1], {}, "at least two classes; found 1 class"),
        ([[0.0], [np.nan]], [0, 1], {}, "must be finite"),
        ([[0.0], [1.0]], [0, 1], {"C": 0.0}, "C must be above 0 and finite; found 0.0"),
        ([[0.0], [1.0]], [0, 1], {"dtype": "int8"}, "dtype must be one of auto, float32, float64; found 'int8'"),
        ([[0.0], [1.0], [2.0]], [0, 1], {}, "inconsistent numbers of samples"),
    ],
)
def test_bad_input_is_refused_in_words(X: Any, y: Any, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LogisticProbe(**settings).fit(X, y)


def test_a_class_without_weight_is_refused() -> None:
    with pytest.raises(ValueError, match=r"positive weight; found none for \[1\]"):
        LogisticProbe().fit([[0.0], [1.0], [2.0]], [0, 1, 2], sample_weight=[1.0, 0.0, 1.0])


def test_too_few_iterations_are_said() -> None:
    X, y = load_digits(return_X_y=True)
    with pytest.warns(ConvergenceWarning, match="1 of 1 fits stopped above tol=1e-12"):
        LogisticProbe(100.0, tol=1e-12, max_iter=2).fit(X, y)


# The rows that are held out are others when a row stands for several.
SPLIT = {"check_sample_weight_equivalence_on_dense_data": "the validation rows differ"}


@parametrize_with_checks(  # type: ignore[untyped-decorator]
    [LogisticProbe(tol=1e-12), LogisticProbeCV(Cs=(0.1, 1.0))],
    expected_failed_checks=lambda estimator: SPLIT if isinstance(estimator, LogisticProbeCV) else {},
)
def test_it_is_an_estimator(estimator: Any, check: Any) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        check(estimator)


def test_a_path_on_plain_arrays_comes_in_the_order_asked_for() -> None:
    X, y = PROBLEMS["two classes"]
    Cs = [1.0, 0.01, 10.0]
    for C, (W, b, at) in zip(Cs, logistic_path(X, y, Cs, standardize=False, tol=1e-12), strict=True):
        expected = reference(C, X, y)
        assert at.C == C
        np.testing.assert_allclose(W, expected.coef_, atol=1e-7)
        np.testing.assert_allclose(b, expected.intercept_, atol=1e-7)
