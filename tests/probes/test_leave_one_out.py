"""Rows left out in closed form, against regressions that are fitted without them."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.linear_model import Ridge  # type: ignore[import-untyped]

from featurebank.probes.leave_one_out import predict_left_out

Made = tuple[NDArray[np.float64], NDArray[np.int64]]


def made(rows: int, columns: int) -> Made:
    generator = np.random.default_rng(rows)
    labels = generator.integers(0, 4, rows)
    return generator.normal(size=(rows, columns)) * 3 + labels[:, None] * generator.random(columns) + 5, labels


def refitted(X: NDArray[np.float64], y: NDArray[np.int64], groups: NDArray[np.int64], penalty: float) -> Made:
    """Predictions and squared errors of scikit-learn's ridge, fitted anew without each group."""
    rows = (X - X.mean(0)) / X.std(0)
    alpha = penalty * np.square(rows).sum() / len(rows)
    targets = np.eye(4)[y]
    predicted = np.empty_like(targets)
    for group in np.unique(groups):
        out = groups == group
        predicted[out] = Ridge(alpha=alpha).fit(rows[~out], targets[~out]).predict(rows[out])
    return np.square(predicted - targets), predicted.argmax(1)


@pytest.mark.parametrize(("rows", "columns"), [(60, 8), (30, 50), (24, 23), (24, 24)])
@pytest.mark.parametrize("together", [False, True])
def test_a_row_left_out_is_predicted_as_by_a_fit_without_it(rows: int, columns: int, together: bool) -> None:
    X, y = made(rows, columns)
    groups = np.arange(rows) // 3 if together else np.arange(rows)
    for penalty in (1e-3, 0.1, 3.0):
        errors, predictions = refitted(X, y, groups, penalty)
        found = predict_left_out(X, y, groups=groups, penalties=[penalty])
        np.testing.assert_array_equal(found.predictions, predictions)
        assert found.errors[penalty] == pytest.approx(errors.mean(), rel=1e-8)


def test_the_penalty_of_least_error_is_taken() -> None:
    X, y = made(60, 40)
    found = predict_left_out(X, y, penalties=[1e-4, 0.3, 10.0])
    assert found.errors[found.penalty] == min(found.errors.values())
    assert len(set(found.errors.values())) == 3
    np.testing.assert_array_equal(found.predictions, predict_left_out(X, y, penalties=[found.penalty]).predictions)


def test_neither_scale_nor_constant_nor_repeated_columns_matter() -> None:
    X, y = made(40, 12)
    plain = predict_left_out(X, y + 7)
    assert set(plain.predictions) <= {7, 8, 9, 10}
    for other in (X * 1e-3 - 2, np.hstack([X, np.full((40, 3), 9.0)]), np.hstack([X, X])):
        found = predict_left_out(other, y + 7)
        np.testing.assert_array_equal(found.predictions, plain.predictions)
        assert found.errors[found.penalty] == pytest.approx(plain.errors[plain.penalty], rel=1e-6)


def test_a_near_duplicate_in_the_fit_makes_noise_look_good() -> None:
    X, y = made(40, 60)
    y = np.random.default_rng(0).integers(0, 4, 40)
    twice, labels, pairs = np.vstack([X, X + 1e-6]), np.tile(y, 2), np.tile(np.arange(40), 2)
    assert (predict_left_out(twice, labels).predictions == labels).mean() > 0.95
    assert (predict_left_out(twice, labels, groups=pairs).predictions == labels).mean() < 0.5


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": [0, 1]}, "labels must be 4 whole numbers"),
        ({"labels": [0.0, 1.0, 0.0, 1.0]}, "labels must be 4 whole numbers"),
        ({"features": np.full((4, 2), np.nan)}, "two finite rows"),
        ({"features": np.ones((1, 2)), "labels": [0]}, "two finite rows"),
        ({"groups": [1, 1, 1, 1]}, "groups must be two or more"),
        ({"groups": [1, 2]}, r"groups must be \(4,\)"),
        ({"penalties": [0.0]}, "above 0"),
        ({"penalties": []}, "above 0"),
    ],
)
def test_what_does_not_fit_is_refused(change: dict[str, object], message: str) -> None:
    given = {"features": np.eye(4, 2), "labels": [0, 1, 0, 1], **change}
    with pytest.raises(ValueError, match=message):
        predict_left_out(given.pop("features"), given.pop("labels"), **given)  # type: ignore[arg-type]
