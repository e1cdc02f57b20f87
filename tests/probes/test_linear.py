"""The linear probe against scikit-learn, and what it refuses."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from sklearn.datasets import load_digits  # type: ignore[import-untyped]
from sklearn.linear_model import LogisticRegression  # type: ignore[import-untyped]
from sklearn.preprocessing import StandardScaler  # type: ignore[import-untyped]

from featurebank.probes.bootstrap import bootstrap_interval
from featurebank.probes.linear import linear_probe


def digits() -> tuple[Any, Any, Any, Any]:
    x, y = load_digits(return_X_y=True)
    return x[:900].astype(np.float16), y[:900], x[900:].astype(np.float16), y[900:]


def test_it_is_the_probe_scikit_learn_gives_at_the_chosen_c() -> None:
    x, y, x_test, y_test = digits()
    probe = linear_probe(x, y, x_test, y_test)
    scaler = StandardScaler().fit(x.astype(np.float64))
    model = LogisticRegression(C=probe.C, max_iter=5000, tol=1e-8).fit(scaler.transform(x), y)
    expected = model.predict(scaler.transform(x_test))
    assert (probe.predictions == expected).mean() > 0.99
    assert probe.accuracy == (probe.predictions == y_test).mean()
    assert probe.low < probe.accuracy < probe.high
    assert probe.accuracy > 0.9


def test_c_is_chosen_on_validation_rows_and_the_test_rows_do_not_matter() -> None:
    x, y, x_test, y_test = digits()
    probe = linear_probe(x, y, x_test, y_test)
    other = linear_probe(x, y, x_test[:10], y_test[:10])
    assert other.C == probe.C
    assert other.validation == probe.validation
    assert probe.validation[probe.C] == max(probe.validation.values())


def test_it_reproduces_to_the_last_digit() -> None:
    first, second = (linear_probe(*digits()) for _ in range(2))
    assert first.accuracy == second.accuracy
    assert first.predictions.tolist() == second.predictions.tolist()


def test_constant_features_do_no_harm() -> None:
    x, y, x_test, y_test = digits()
    x, x_test = (np.concatenate([part, np.full((len(part), 1), 3.0, np.float16)], 1) for part in (x, x_test))
    assert linear_probe(x, y, x_test, y_test).accuracy > 0.9


def test_the_interval_is_the_one_of_resampled_rows() -> None:
    correct = np.arange(500) % 5 != 0
    low, high = bootstrap_interval(correct, draws=20000)
    generator = np.random.default_rng(1)
    means = [correct[generator.integers(0, 500, 500)].mean() for _ in range(4000)]
    np.testing.assert_allclose((low, high), np.quantile(means, (0.025, 0.975)), atol=0.005)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda a: (a[0], a[1] * 0, a[2], a[3]), "at least two classes, got only class 0"),
        (lambda a: (a[0], a[1] - 1, a[2], a[3]), "train rows must exist and be labelled"),
        (lambda a: (a[0], a[1], a[2][:, :5], a[3]), "same D"),
        (lambda a: (a[0], a[1][:-1], a[2], a[3]), "train labels must be one class per row"),
        (lambda a: (a[0], a[1], a[2][:0], a[3][:0]), "test rows must exist"),
    ],
)
def test_bad_input_is_one_clear_error(change: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        linear_probe(*change(digits()))
