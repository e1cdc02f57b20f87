"""The multi-label probe against scikit-learn's logistic regression of each label, and the policies for missing ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.base import clone  # type: ignore[import-untyped]
from sklearn.datasets import load_digits  # type: ignore[import-untyped]
from sklearn.exceptions import ConvergenceWarning  # type: ignore[import-untyped]
from sklearn.linear_model import LogisticRegression  # type: ignore[import-untyped]
from sklearn.preprocessing import StandardScaler  # type: ignore[import-untyped]

from featurebank.probes import _rows
from featurebank.probes.multilabel import MultiLabelProbe, multilabel_path

UNKNOWN: Any = "unknown"
EXACT = 1e-10  # of the mean loss's gradient, where coefficients are compared


def digits(missing: float = 0.2) -> tuple[Any, Any]:
    """Digits as 10 one-against-the-rest labels and parity, some of them missing."""
    x, y = load_digits(return_X_y=True)
    labels = np.concatenate([y[:, None] == np.arange(10), y[:, None] % 2], 1).astype(np.int64)
    labels[np.random.default_rng(0).random(labels.shape) < missing] = -1
    return (x[:700] / 16).astype(np.float16), labels[:700]


def reference(x: Any, y: Any, C: float) -> LogisticRegression:
    known = y >= 0
    return LogisticRegression(C=C, solver="newton-cholesky", tol=1e-12, max_iter=1000).fit(
        x[known].astype(np.float64), y[known]
    )


@pytest.mark.parametrize("C", [1e-3, 1.0, 100.0])
@pytest.mark.parametrize("blocks", [2**23, 64 * 100])
def test_each_label_is_scikit_learns_without_its_missing_rows(
    C: float, blocks: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("featurebank.probes._design.BLOCK_VALUES", blocks)
    monkeypatch.setattr(_rows, "BLOCK_VALUES", blocks)
    x, y = digits()
    probe = MultiLabelProbe(C, standardize=False, tol=EXACT).fit(x, y)
    assert probe.convergence_.max() <= probe.tol
    assert probe.constant_ == {}
    models = [reference(x, y[:, label], C) for label in range(11)]
    np.testing.assert_allclose(probe.coef_, np.concatenate([m.coef_ for m in models]), atol=1e-5)
    np.testing.assert_allclose(probe.intercept_, np.concatenate([m.intercept_ for m in models]), atol=1e-5)
    expected = np.stack([m.predict_proba(x.astype(np.float64))[:, 1] for m in models], 1)
    np.testing.assert_allclose(probe.predict_proba(x), expected, atol=1e-5)
    np.testing.assert_array_equal(probe.predict(x), expected > 0.5)
    assert probe.score(x, y) == (probe.predict(x) == y)[y >= 0].mean()


def test_the_reported_gradient_is_the_objectives() -> None:
    x, y = digits()
    with pytest.warns(ConvergenceWarning, match="11 labels stopped at a gradient of"):
        probe = MultiLabelProbe(max_iter=1, standardize=False).fit(x, y)
    assert probe.n_iter_ == 1
    wide = np.concatenate([x.astype(np.float64) - x.mean(0, dtype=np.float64), np.ones((len(x), 1))], 1)
    residual = (probe.predict_proba(x) - y) * (y >= 0)
    gradient = wide.T @ residual
    gradient[:-1] += probe.coef_.T
    np.testing.assert_allclose(probe.convergence_, np.abs(gradient).max(0) / (y >= 0).sum(0), rtol=1e-8)


def test_a_label_does_not_depend_on_the_others() -> None:
    x, y = digits()
    together, alone = (MultiLabelProbe(10.0, tol=EXACT).fit(x, labels) for labels in (y, y[:, 3:4]))
    np.testing.assert_allclose(together.coef_[3], alone.coef_[0], atol=1e-7)


def test_a_path_is_the_probe_at_every_c_in_the_order_asked_for() -> None:
    x, y = digits()
    y[:, 2] = 0
    for C, probe in zip((1.0, 0.01, 30.0), multilabel_path(x, y, (1.0, 0.01, 30.0), tol=EXACT), strict=True):
        alone = MultiLabelProbe(C, tol=EXACT).fit(x, y)
        np.testing.assert_allclose(probe.predict_proba(x), alone.predict_proba(x), atol=1e-6)
        assert (probe.C, probe.constant_, probe.n_features_in_) == (C, {2: 0}, 64)


@pytest.mark.parametrize("kept", [0, 700 * 3 * 24])
def test_logits_of_few_labels_or_none_are_kept_with_the_same_result(kept: int, monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = digits()
    expected = multilabel_path(x, y, (0.1, 1.0), tol=EXACT)
    monkeypatch.setattr("featurebank.probes._lbfgs.KEPT", kept)
    for probe, other in zip(multilabel_path(x, y, (0.1, 1.0), tol=EXACT), expected, strict=True):
        np.testing.assert_allclose(probe.coef_, other.coef_, atol=1e-7)


def test_float32_is_as_good_as_it_says(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = digits()
    monkeypatch.setattr("featurebank.probes.multilabel.SMALL", 0)
    probe = MultiLabelProbe(10.0).fit(x, y)
    rows = StandardScaler().fit_transform(x.astype(np.float64))
    coef = probe.coef_ * x.astype(np.float64).std(0)
    residual = (probe.predict_proba(x) - y) * (y >= 0)
    gradient = (residual.T @ rows + coef / 10.0) / (y >= 0).sum(0)[:, None]
    assert np.abs(gradient).max() <= 1.1 * probe.tol


def test_badly_scaled_and_separable_features_converge() -> None:
    generator = np.random.default_rng(1)
    x = generator.standard_normal((300, 20)) * np.logspace(-2, 2, 20) + 50
    y = (x[:, -3:] > 50).astype(np.int8)
    probe = MultiLabelProbe(1e3, tol=1e-10, standardize=False).fit(x, y)
    assert probe.convergence_.max() <= 1e-10
    assert probe.score(x, y) > 0.99
    model = reference(x, y[:, 0], 1e3)
    loss = [
        0.5 * np.square(w).sum() + 1e3 * np.logaddexp(0, -(2 * y[:, 0] - 1) * (x @ w + b)).sum()
        for w, b in ((probe.coef_[0], probe.intercept_[0]), (model.coef_[0], model.intercept_[0]))
    ]
    assert loss[0] <= loss[1] * (1 + 1e-9)


@pytest.mark.parametrize(("missing", "value"), [("zero", 0), ("one", 1)])
def test_a_policy_is_the_replacement_of_what_is_missing(missing: Any, value: int) -> None:
    x, y = digits()
    found = MultiLabelProbe(missing=missing).fit(x, y)
    replaced = MultiLabelProbe().fit(x, np.where(y == -1, value, y))
    np.testing.assert_array_equal(found.coef_, replaced.coef_)
    assert (found.coef_ != MultiLabelProbe().fit(x, y).coef_).any(1).all()


def test_a_label_of_one_class_is_constant_and_the_others_are_fitted() -> None:
    x, y = digits()
    y[:, 1], y[:, 2], y[:, 4] = 0, 1, -1
    probe = MultiLabelProbe(standardize=False, tol=EXACT).fit(x, y)
    assert probe.constant_ == {1: 0, 2: 1, 4: -1}
    probabilities = probe.predict_proba(x)
    assert set(probabilities[:, 1]) == {0.0}
    assert set(probabilities[:, 2]) == {1.0}
    assert np.isnan(probabilities[:, 4]).all()
    assert np.isfinite(np.delete(probabilities, 4, 1)).all()
    assert [set(probe.predict(x)[:, label]) for label in (1, 2, 4)] == [{0}, {1}, {-1}]
    assert probe.convergence_[[1, 2, 4]].tolist() == [0.0] * 3
    np.testing.assert_allclose(probe.coef_[3], reference(x, y[:, 3], 1.0).coef_[0], atol=1e-5)
    assert MultiLabelProbe(missing="one").fit(x, y).constant_ == {1: 0, 2: 1, 4: 1}


def test_it_reproduces_to_the_last_digit_from_a_read_only_map(tmp_path: Path) -> None:
    x, y = digits()
    x.tofile(tmp_path / "raw")
    mapped = np.memmap(tmp_path / "raw", np.float16, "r", shape=x.shape)
    np.testing.assert_array_equal(MultiLabelProbe().fit(mapped, y).coef_, MultiLabelProbe().fit(x, y).coef_)


@pytest.mark.cuda
def test_cuda_finds_the_same() -> None:
    x, y = digits()
    np.testing.assert_allclose(
        MultiLabelProbe(device="cuda", tol=EXACT).fit(x, y).coef_,
        MultiLabelProbe(tol=EXACT).fit(x, y).coef_,
        atol=1e-6,
    )


def test_parameters_are_scikit_learns() -> None:
    probe = clone(MultiLabelProbe(2.0, missing="zero"))
    solver = {"tol": 3e-5, "max_iter": 2000, "device": "cpu"}
    assert probe.get_params() == {"C": 2.0, "missing": "zero", "standardize": True, **solver}


def with_nan(values: Any) -> Any:
    values = values.copy()
    values[3, 2] = np.nan
    return values


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x, y: MultiLabelProbe().fit(x, y + 1), "0, 1 or -1 .missing.; found 2"),
        (lambda x, y: MultiLabelProbe().fit(x, y[:, 0]), r"\(N, L\) with at least one label; found shape \(700,\)"),
        (lambda x, y: MultiLabelProbe().fit(x, np.zeros_like(y)), "rows of class 0 and of class 1; found none"),
        (lambda x, y: MultiLabelProbe().fit(x, y[:9]), "inconsistent numbers of samples"),
        (lambda x, y: MultiLabelProbe().fit(with_nan(x), y), "row 3, column 2"),
        (lambda x, y: MultiLabelProbe(0.0).fit(x, y), "C must be above 0"),
        (lambda x, y: multilabel_path(x, y, ()), "at least one C; found none"),
        (lambda x, y: multilabel_path(x, y, (1.0, -1.0)), "C must be above 0"),
        (lambda x, y: MultiLabelProbe(tol=-1.0).fit(x, y), "tol must be above 0"),
        (lambda x, y: MultiLabelProbe(max_iter=0).fit(x, y), "max_iter must be at least 1"),
        (lambda x, y: MultiLabelProbe(missing=UNKNOWN).fit(x, y), "one of ignore, zero, one; found 'unknown'"),
        (lambda x, y: MultiLabelProbe().fit(x, y).predict(x[:, :5]), "expecting 64 features"),
        (lambda x, y: MultiLabelProbe().fit(x, y).score(x, y[:, :5]), r"labels must be \(700, 11\)"),
    ],
)
def test_bad_input_is_one_clear_error(call: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call(*digits())


def test_a7_features_of_any_scale_give_the_same_probabilities() -> None:
    x, y = digits()
    rows = x.astype(np.float64)
    whole = StandardScaler().fit(rows)
    probe = MultiLabelProbe(tol=EXACT).fit(x, y)
    models = [reference(whole.transform(rows), y[:, label], 1.0) for label in range(11)]
    expected = np.stack([m.predict_proba(whole.transform(rows))[:, 1] for m in models], 1)
    np.testing.assert_allclose(probe.predict_proba(x), expected, atol=1e-5)
    factors = np.logspace(-2, 2, 64)
    scaled = MultiLabelProbe(tol=EXACT).fit(rows * factors - 3, y)
    np.testing.assert_allclose(scaled.predict_proba(rows * factors - 3), probe.predict_proba(x), atol=1e-5)
