"""The linear probe against scikit-learn, and what it refuses."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from sklearn.datasets import load_digits  # type: ignore[import-untyped]
from sklearn.linear_model import LogisticRegression  # type: ignore[import-untyped]
from sklearn.preprocessing import StandardScaler  # type: ignore[import-untyped]

from featurebank.probes.calibration import TemperatureScaling
from featurebank.probes.choice import CS
from featurebank.probes.intervals import bootstrap_interval
from featurebank.probes.linear import fit_linear, linear_probe, protocol_heads
from featurebank.probes.logistic import LogisticProbe, LogisticProbeCV


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


def test_log_probabilities_are_those_of_the_predictions() -> None:
    probe = linear_probe(*digits())
    np.testing.assert_allclose(np.exp(probe.log_probabilities).sum(1), 1, rtol=1e-6)
    np.testing.assert_array_equal(probe.classes[probe.log_probabilities.argmax(1)], probe.predictions)


def test_given_validation_rows_choose_and_are_not_fitted() -> None:
    x, y, x_test, y_test = digits()
    probe = linear_probe(x[:600], y[:600], x_test, y_test, validation=(x[600:], y[600:]))
    reference = LogisticProbeCV(CS).fit(x[:600], y[:600], validation=(x[600:], y[600:]))
    assert reference.C_ == probe.C
    assert probe.validation == reference.validation_accuracy_
    np.testing.assert_array_equal(probe.predictions, reference.predict(x_test))
    scaling = TemperatureScaling().fit(reference.decision_function(x[600:]), y[600:])
    assert probe.temperature == pytest.approx(scaling.temperature_, rel=1e-9)


def test_without_validation_rows_all_rows_are_fitted_at_the_chosen_c() -> None:
    x, y, x_test, y_test = digits()
    probe = linear_probe(x, y, x_test, y_test)
    np.testing.assert_array_equal(probe.predictions, LogisticProbe(probe.C).fit(x, y).predict(x_test))


def test_rows_that_separate_perfectly_are_left_uncalibrated() -> None:
    x = np.repeat(np.eye(2, 4), 30, axis=0)
    fit = fit_linear(x, np.repeat([0, 1], 30))
    assert fit.temperature == 1.0
    assert "must not have the greatest logit" in fit.uncalibrated


def test_a_class_of_one_row_is_fitted_but_not_held_out() -> None:
    x, y, _, _ = digits()
    y = np.where(np.arange(len(y)) == 5, 17, y)
    fit = fit_linear(x, y)
    assert fit.classes.tolist() == [*range(10), 17]
    assert fit.logits(x[:3]).shape == (3, 11)


@pytest.mark.parametrize("protocol", ["bob", "dinov2"])
def test_the_protocols_by_gradient_descent_choose_a_head(protocol: Any) -> None:
    x, y, x_test, y_test = digits()
    fit = fit_linear(x[:300], y[:300], protocol=protocol)
    assert fit.chosen["learning_rate"] in fit.validation
    assert fit.validation[fit.chosen["learning_rate"]] == max(fit.validation.values())
    reference = protocol_heads(protocol).set_params(learning_rates=(fit.chosen["learning_rate"],))
    reference.fit(x[:300], y[:300], validation=(x[:20], y[:20]))
    np.testing.assert_array_equal(fit.logits(x_test), reference.logits(x_test))
    assert (fit.classes[fit.logits(x_test).argmax(1)] == y_test).mean() > 0.75


def test_another_protocol_is_refused() -> None:
    with pytest.raises(ValueError, match="protocol must be one of logistic, bob, dinov2; found 'sgd'"):
        fit_linear(*digits()[:2], protocol="sgd")  # type: ignore[arg-type]
