"""Temperature scaling against SciPy's minimiser, and the reliability diagram against a loop."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import optimize, special  # type: ignore[import-untyped]
from sklearn.base import clone  # type: ignore[import-untyped]
from sklearn.exceptions import ConvergenceWarning, NotFittedError  # type: ignore[import-untyped]
from sklearn.utils import estimator_checks  # type: ignore[import-untyped]

from featurebank.probes import _rows
from featurebank.probes.calibration import TemperatureScaling, reliability_diagram
from featurebank.probes.metrics import ece, nll


def overconfident(temperature: float, dtype: str = "float64") -> tuple[NDArray[np.floating], NDArray[np.int64]]:
    """Logits whose labels are drawn at the given temperature."""
    generator = np.random.default_rng(0)
    logits = (generator.normal(size=(2000, 6)) * 3 + 5).astype(dtype)
    drawn = generator.gumbel(size=logits.shape) + logits.astype(np.float64) / temperature
    return logits, drawn.argmax(1)


def mean_nll(temperature: float, logits: NDArray[np.floating], labels: NDArray[np.int64]) -> float:
    log_p = special.log_softmax(logits.astype(np.float64) / temperature, axis=1)
    return float(-log_p[np.arange(len(labels)), labels].mean())


@pytest.mark.parametrize("block", [1 << 20, 100])
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize(("true", "passes"), [(0.02, 10), (0.5, 5), (1.0, 5), (3.0, 8), (40.0, 14)])
def test_the_temperature_is_the_one_scipy_finds(
    true: float, passes: int, dtype: str, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_rows, "SLICE_VALUES", block)
    logits, labels = overconfident(true, dtype)
    scaling = TemperatureScaling().fit(logits, labels)
    best = optimize.minimize_scalar(
        lambda log_t: mean_nll(np.exp(log_t), logits, labels), bounds=(-8, 8), method="bounded", options={"xatol": 1e-9}
    )
    assert np.log(scaling.temperature_) == pytest.approx(best.x, abs=1e-5)
    assert scaling.nll_ <= best.fun + 1e-14
    assert scaling.nll_ == pytest.approx(mean_nll(scaling.temperature_, logits, labels), rel=1e-12)
    assert scaling.temperature_ == pytest.approx(true, rel=0.35)
    assert scaling.n_iter_ <= passes  # as Newton's method needs, and a wrong second derivative does not


@pytest.mark.parametrize("scale", [1e-3, 1e3])
def test_scaled_logits_scale_the_temperature(scale: float) -> None:
    logits, labels = overconfident(2.0)
    plain, scaled = (TemperatureScaling().fit(values, labels) for values in (logits, logits * scale))
    assert scaled.temperature_ == pytest.approx(plain.temperature_ * scale, rel=1e-9)
    np.testing.assert_allclose(scaled.predict_proba(logits * scale), plain.predict_proba(logits), rtol=1e-7)


@pytest.mark.parametrize(("dtype", "given"), [("float16", "float32"), ("float32", "float32"), ("float64", "float64")])
def test_scaling_calibrates_and_keeps_predictions(dtype: str, given: str) -> None:
    logits, labels = overconfident(3.0, dtype)
    scaling = TemperatureScaling().fit(logits, labels)
    scaled, probabilities = scaling.transform(logits), scaling.predict_proba(logits)
    assert scaled.dtype == probabilities.dtype == given
    np.testing.assert_allclose(scaled, logits.astype(np.float64) / scaling.temperature_, rtol=1e-6)
    np.testing.assert_allclose(probabilities, special.softmax(scaled.astype(np.float64), axis=1), rtol=1e-5)
    assert (probabilities.argmax(1) == logits.argmax(1)).mean() > 0.999
    raw = special.softmax(logits.astype(np.float64), axis=1)
    assert ece(labels, probabilities) < 0.03
    assert ece(labels, raw) > 0.2
    assert nll(labels, np.log(probabilities)) < nll(labels, np.log(raw))


def test_one_wrong_row_among_many_still_has_a_minimum() -> None:
    logits = np.tile([[10.0, 0.0]], (1000, 1))
    labels = np.zeros(1000, np.int64)
    labels[0] = 1
    assert TemperatureScaling().fit(logits, labels).temperature_ == pytest.approx(10 / np.log(999), rel=1e-10)


def test_it_reproduces_to_the_last_digit() -> None:
    first, second = (TemperatureScaling().fit(*overconfident(3.0)).temperature_ for _ in range(2))
    assert first == second


def test_too_few_passes_warn() -> None:
    with pytest.warns(ConvergenceWarning, match="settle within 2 passes"):
        TemperatureScaling(max_iter=2).fit(*overconfident(3.0))


@pytest.mark.parametrize(
    "check",
    [
        estimator_checks.check_no_attributes_set_in_init,
        estimator_checks.check_parameters_default_constructible,
        estimator_checks.check_get_params_invariance,
        estimator_checks.check_set_params,
        estimator_checks.check_estimator_repr,
    ],
    ids=lambda check: check.__name__,
)
def test_it_is_a_scikit_learn_estimator(check: Callable[[str, Any], None]) -> None:
    check("TemperatureScaling", TemperatureScaling())


def test_clones_are_not_fitted() -> None:
    scaling = TemperatureScaling(tol=1e-6).fit(*overconfident(3.0))
    fresh = clone(scaling)
    assert fresh.get_params() == {"tol": 1e-6, "max_iter": 100}
    with pytest.raises(NotFittedError):
        fresh.transform(overconfident(3.0)[0])


def test_the_diagram_is_the_one_of_a_loop() -> None:
    logits, labels = overconfident(3.0)
    probabilities = special.softmax(logits, axis=1)
    diagram = reliability_diagram(labels, probabilities, bins=10)
    confidence, correct = probabilities.max(1), probabilities.argmax(1) == labels
    assert diagram.edges.tolist() == [b / 10 for b in range(11)]
    assert diagram.count.sum() == len(labels)
    for b in range(10):
        rows = (confidence > diagram.edges[b]) & (confidence <= diagram.edges[b + 1])
        assert diagram.count[b] == rows.sum()
        if rows.any():
            assert diagram.confidence[b] == pytest.approx(confidence[rows].mean(), rel=1e-12)
            assert diagram.accuracy[b] == pytest.approx(correct[rows].mean(), rel=1e-12)
        else:
            assert np.isnan([diagram.confidence[b], diagram.accuracy[b]]).all()
    gaps = np.abs(diagram.confidence - diagram.accuracy) * diagram.count / len(labels)
    assert np.nansum(gaps) == pytest.approx(ece(labels, probabilities, bins=10), rel=1e-12)


LOGITS = np.array([[2.0, 1.0, 0.0], [0.0, 1.0, 2.0], [3.0, 0.0, 1.0]])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: TemperatureScaling().fit(LOGITS, [0, 2, 0]), "NLL falls until T is 0, got none of 3 rows"),
        (lambda: TemperatureScaling().fit(LOGITS, [2, 0, 1]), "until T is infinite, got -1.11111 above the mean"),
        (lambda: TemperatureScaling().fit(np.zeros((3, 3)), [0, 1, 2]), "NLL falls until T is 0"),
        (lambda: TemperatureScaling().fit(LOGITS * np.nan, [0, 1, 2]), "logits must be finite, got nan"),
        (lambda: TemperatureScaling().fit(LOGITS - [np.inf, 0, 0], [1, 1, 2]), "logits must be finite, got -inf"),
        (lambda: TemperatureScaling().fit(LOGITS, [0, 1, 3]), r"labels must be in 0\.\.2"),
        (lambda: TemperatureScaling().fit(LOGITS, [0, 1]), "one value per row, 3, got 2"),
        (lambda: TemperatureScaling().fit(LOGITS, [0, 1, 0]).transform(LOGITS[:, :2]), "the 3 classes of fit, got 2"),
        (lambda: TemperatureScaling(max_iter=0).fit(LOGITS, [0, 1, 0]), "max_iter must be at least 1"),
        (lambda: TemperatureScaling(tol=0.0).fit(LOGITS, [0, 1, 0]), "tol must be above 0"),
        (lambda: reliability_diagram([0, 1, 2], LOGITS), "probabilities must sum to 1"),
    ],
)
def test_bad_input_is_one_clear_error(call: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
